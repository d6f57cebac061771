"""What a record may hold, checked as it is read: it may be somebody else's, or broken.

Everything that is read has its type, is finite and of a sensible size, and its names hold no control characters.
What does not is refused with a ValueError that says what is wrong; nothing that a record names is imported, followed
or executed.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # whoever asks for no more than a folder's links need not wait for these
    import pyarrow as pa
    import pyarrow.parquet as pq

MOST_VALUES = 10**6
"""Of an axis, and rows of one trial's file."""

MOST_BYTES = 1 << 30
"""Of one file, unpacked."""

MOST_CELLS = 10**7
LONGEST_NAME = 500

LINKS = ("runs", "losses", "failures", "confirm", "init")
"""Folders that may be links: those of a study that is judged by another rule are."""


def refuse_links(folder: Path) -> None:
    """Raises ValueError where something that we write to is a link out of the study's folder."""
    if not folder.is_dir():
        return
    for part in (folder, *(folder / name for name in ("tables", "figures", "rescored", "set_aside"))):
        for path in part.iterdir() if part.is_dir() else ():
            if path.is_symlink() and not (part == folder and path.name in LINKS):
                raise ValueError(f"{path} is a link, and no study makes one there: remove it first")


def definition(content: Any) -> dict[str, Any]:
    """The content of a `study.json`, as it is."""
    _need(isinstance(content, dict), "it is no JSON object")
    study, data = _mapping(content, "study"), _mapping(content, "data")
    for name in ("name", "data"):
        text(study.get(name, ""), name)
    _mapping(study, "data_options")
    axes = {
        "models": list(map(_is(text, "a model"), _list(study, "models"))),
        "arms": [_arm(arm) for arm in _list(study, "arms")],
        "lrs": list(map(_is(number, "an lr"), _list(study, "lrs"))),
        "seeds": list(map(_is(whole, "a seed"), _list(study, "seeds"))),
    }
    cells = math.prod(len(values) for values in axes.values())
    _need(cells <= MOST_CELLS, f"it names {cells:,} runs; {MOST_CELLS:,} are the most")
    for part in ("recipe", "rule"):
        for name, value in _mapping(study, part).items():
            _need(value is None or isinstance(value, int | float | str), f"{part}.{name} is {_shown(value)}")
            _plain(value)
    _plain(study)
    text(data.get("content"), "data.content")
    tasks = _list(data, "tasks")
    _need(0 < len(tasks) < 1000, "it has no tasks, or too many")
    for task in tasks:
        _need(isinstance(task, dict), f"a task is {_shown(task)}")
        text(task.get("name"), "a task's name")
        _need(task.get("kind") in ("binary", "regression"), f"the task {task['name']} is {_shown(task.get('kind'))}")
        for name in ("base", "scale", "constant_loss"):
            number(task.get(name), f"{name} of the task {task['name']}")
    _plain(data)
    for name, version in _mapping(content, "versions").items():
        text(version, f"the version of {name}")
    return content


def confirmation(content: Mapping[str, Any]) -> None:
    for name in ("lr",):
        number(content.get(name), name)
    for name in ("number", "study_seeds"):
        whole(content.get(name), name)
    for seed in _list(content, "seeds"):
        whole(seed, "a seed")
    for model in _list(content, "models"):
        text(model, "a model")
    for arm in _list(content, "arms"):
        _arm(arm)


def failure(content: Mapping[str, Any]) -> None:
    for run_id in _list(content, "run_ids"):
        _run_id(run_id)
    _need(isinstance(content.get("reason"), str), f"its reason is {_shown(content.get('reason'))}")


def size_of_parquet(file: "pq.ParquetFile") -> None:
    """Before it is unpacked: a small file may unpack to anything."""
    meta = file.metadata
    unpacked = sum(meta.row_group(i).total_byte_size for i in range(meta.num_row_groups))
    _need(
        meta.num_rows <= MOST_VALUES and unpacked <= MOST_BYTES, f"it holds {meta.num_rows:,} rows, {unpacked:,} bytes"
    )


def runs(table: "pa.Table") -> None:
    """A file of `runs/`, whose columns have their types already."""
    import pyarrow as pa
    import pyarrow.compute

    pc: Any = pyarrow.compute  # whose functions are made as it is imported
    rows = table.select(
        ["run_id", "data", "model", "method", "options", "thresholds", "lr", "seed", "role", "outcome", "steps"]
    ).to_pylist()
    for row in rows:
        _run_id(row["run_id"])
        for name in ("data", "model", "method"):
            text(row[name], name)
        _need(row["role"] in ("cell", "control"), f"role is {_shown(row['role'])}")
        _need(row["outcome"] in (None, "completed", "diverged", "undertrained"), f"outcome is {_shown(row['outcome'])}")
        _need(number(row["lr"], "lr") > 0, f"lr is {row['lr']}")
        _need(whole(row["seed"], "seed") >= 0, f"seed is {row['seed']}")
        _need(whole(row["steps"], "steps") > 0, f"steps is {row['steps']}")
        for name, value in _object(row["thresholds"], "thresholds").items():
            number(value, f"the threshold {text(name, 'a threshold')}")
        _plain(_object(row["options"], "options"))
    for name in ("diverged_at_step", "micro_episodes", "spikes"):
        _need((pc.min(table[name]).as_py() or 0) >= 0, f"{name} is negative")
    for field in table.schema:
        text(field.name, "a column")
        if pa.types.is_floating(field.type):
            _need(not pc.any(pc.is_inf(table[field.name])).as_py(), f"{field.name} is infinite")
        elif field.name.startswith(("kept_", "auc_", "rmse_")):
            raise ValueError(f"{field.name} holds no numbers")
        if field.name.startswith("diverged_") and field.name != "diverged_at_step":
            _need(pa.types.is_boolean(field.type), f"{field.name} holds no booleans")


def text(value: Any, what: str) -> str:
    """A name: printable, and not a page."""
    _need(isinstance(value, str), f"{what} is {_shown(value)}")
    _need(0 < len(value) <= LONGEST_NAME, f"{what} has {len(value):,} letters")
    _need(value.isprintable(), f"{what} holds control characters: {_shown(value)}")
    return value


def number(value: Any, what: str) -> float:
    _need(isinstance(value, int | float) and not isinstance(value, bool), f"{what} is {_shown(value)}")
    _need(abs(value) < 1e300, f"{what} is {_shown(value)}")
    return float(value)


def whole(value: Any, what: str) -> int:
    _need(isinstance(value, int) and not isinstance(value, bool), f"{what} is {_shown(value)}")
    _need(abs(value) < 1 << 62, f"{what} is {_shown(value)}")
    return value


def _is(check: Callable[[Any, str], Any], what: str) -> Callable[[Any], Any]:
    return lambda value: check(value, what)


def _arm(arm: Any) -> None:
    _need(isinstance(arm, dict), f"an arm is {_shown(arm)}")
    text(arm.get("method"), "a method")
    for name, value in _mapping(arm, "options").items():
        text(name, "an option")
        _need(isinstance(value, str | int | float | None), f"the option {name} is {_shown(value)}")


def _run_id(value: Any) -> None:
    _need(isinstance(value, str) and re.fullmatch(r"[\w-]{1,128}", value) is not None, f"a run's id is {_shown(value)}")


def _object(value: Any, what: str) -> dict[str, Any]:
    found = json.loads(value) if isinstance(value, str) else value
    _need(isinstance(found, dict), f"{what} are {_shown(found)}")
    return found


def _mapping(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = content.get(name)
    _need(isinstance(value, dict), f"{name} is {_shown(value)}")
    return value  # type: ignore[return-value]


def _list(content: Mapping[str, Any], name: str) -> list[Any]:
    value = content.get(name)
    _need(isinstance(value, list), f"{name} is {_shown(value)}")
    assert isinstance(value, list)
    _need(0 < len(value) <= MOST_VALUES, f"{name} has {len(value):,} values")
    return value


def _plain(value: Any) -> None:
    """Finite numbers and printable words, however deep they stand."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            waiting += [*item.keys(), *item.values()]
        elif isinstance(item, list):
            waiting += item
        elif isinstance(item, str):
            _need(item.isprintable(), f"it holds control characters: {_shown(item)}")
        elif isinstance(item, float):
            _need(math.isfinite(item), f"it holds {item}")


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:60]}..."


def _need(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)

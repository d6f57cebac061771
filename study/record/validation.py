"""Validates the content of a record's files as they are read: a record may come from someone else, or be damaged.

Nothing that a record names is imported, followed or executed.
"""

import functools
import json
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from study.config import IMPORTED, check_size
from study.storage.untrusted_input import (
    MAX_FILE_BYTES,
    check_integer,
    check_json,
    check_name,
    check_number,
    require,
    shorten,
)

if TYPE_CHECKING:  # keeps start-up short: `status` and `--help` need no pyarrow
    import pyarrow as pa
    import pyarrow.parquet as pq

MAX_VALUES = 10**6
"""Most values of an axis, and most rows of one trial's file."""


def validate_definition(content: Any) -> None:
    """Check the content of a `study.json`."""
    require(isinstance(content, dict), "it is no JSON object")
    study, data = _mapping(content, "study"), _mapping(content, "data")
    validate_study(study)
    _validate_data(data)
    for name, version in _mapping(content, "versions").items():
        check_name(version, f"the version of {name}")
    for plan in _list(content, "plans") if "plans" in content else ():
        require(isinstance(plan, list) and len(plan) == 2, f"a plan is {shorten(plan)}")
        for word in plan:
            check_name(word, "the time or hash of a plan")


def validate_study(study: dict[str, Any]) -> None:
    """Check the JSON values of a study."""
    for name in ("name", "data"):
        check_name(study.get(name, ""), name)
    _mapping(study, "data_options")
    axes = {name: _list(study, name) for name in ("models", "arms", "lrs", "seeds")}
    for arm in axes["arms"]:
        _validate_arm(arm)
    check_size(
        models=len(axes["models"]),
        arms=[len(arm.get("lrs", axes["lrs"])) for arm in axes["arms"]],
        seeds=len(axes["seeds"]),
        control_lrs=len(_list(study, "control_lrs")) if "control_lrs" in study else 0,
        grid=study.get("search") is None and study.get("trainer") != IMPORTED,
    )
    for model in axes["models"]:
        check_name(model, "a model")
    for lr in axes["lrs"]:
        check_number(lr, "an lr")
    for seed in axes["seeds"]:
        check_integer(seed, "a seed")
    for part in ("recipe", "rule"):
        for name, value in _mapping(study, part).items():
            require(value is None or isinstance(value, int | float | str), f"{part}.{name} is {shorten(value)}")
            check_json(value)
    check_json(study)


def _validate_data(data: dict[str, Any]) -> None:
    check_name(data.get("content"), "data.content")
    tasks = _list(data, "tasks")
    require(len(tasks) < 1000, "it has too many tasks")
    for task in tasks:
        require(isinstance(task, dict), f"a task is {shorten(task)}")
        check_name(task.get("name"), "a task's name")
        kind = task.get("kind")
        require(kind in ("binary", "regression", "loss"), f"the kind of task {task['name']} is {shorten(kind)}")
        for name in ("constant_loss",) if kind == "loss" else ("base", "scale", "constant_loss"):
            check_number(task.get(name), f"{name} of the task {task['name']}")
    for name, value in _mapping(data, "defaults").items() if "defaults" in data else ():
        check_number(value, f"the default of {shorten(name)}")
    check_json(data)


def validate_confirmation(content: Mapping[str, Any]) -> None:
    """Check the content of a file of `confirm/`."""
    check_number(content.get("lr"), "lr")
    for name in ("number", "study_seeds"):
        check_integer(content.get(name), name)
    for seed in _list(content, "seeds"):
        check_integer(seed, "a seed")
    for model in _list(content, "models"):
        check_name(model, "a model")
    for arm in _list(content, "arms"):
        _validate_arm(arm)


def validate_failure(content: Mapping[str, Any]) -> None:
    """Check the content of a file of `failures/`."""
    for run_id in _list(content, "run_ids"):
        _validate_run_id(run_id)
    reason = content.get("reason")
    require(isinstance(reason, str), f"its reason is {shorten(reason)}")
    if "runs" not in content:
        return
    runs = _list(content, "runs")
    require(len(runs) == len(content["run_ids"]), f"it describes {len(runs)} of {len(content['run_ids'])} runs")
    for run in runs:
        require(isinstance(run, dict), f"a run is {shorten(run)}")
        check_name(run.get("model"), "a model")
        _validate_arm(run)
        check_number(run.get("lr"), "an lr")
        require(run["lr"] > 0, f"an lr is {run['lr']:g}")
        check_integer(run.get("seed"), "a seed")


def validate_parquet_size(file: "pq.ParquetFile") -> None:
    """Check, before anything is unpacked, how large the file says that it is."""
    meta = file.metadata
    unpacked = sum(meta.row_group(i).total_byte_size for i in range(meta.num_row_groups))
    fits = meta.num_rows <= MAX_VALUES and unpacked <= MAX_FILE_BYTES
    require(fits, f"it holds {meta.num_rows:,} rows and {unpacked:,} bytes")


def validate_runs(table: "pa.Table") -> None:
    """Check a file of `runs/` whose columns already have their types."""
    import pyarrow as pa
    import pyarrow.compute

    pc: Any = pyarrow.compute  # its functions are generated at import, unknown to type checkers
    for name, check in _CELLS.items():
        for value in table[name].unique().to_pylist():  # a file repeats most values in each of its rows
            check(value)
    for text in table["own_code"].unique().to_pylist() if "own_code" in table.column_names else ():
        for module, code in _object({} if text is None else text, "own_code").items():
            check_name(module, "a module")
            check_name(code, "the hash of a module")
    for name in ("diverged_at_step", "micro_episodes", "spikes"):
        require((pc.min(table[name]).as_py() or 0) >= 0, f"{name} is negative")
    for field in table.schema:
        check_name(field.name, "a column")
        if pa.types.is_floating(field.type):
            require(not pc.any(pc.is_inf(table[field.name])).as_py(), f"{field.name} is infinite")
        elif field.name.startswith(("kept_", "auc_", "rmse_", "score_", "error_")):
            raise ValueError(f"{field.name} holds no numbers")
        if field.name.startswith("diverged_") and field.name != "diverged_at_step":
            require(pa.types.is_boolean(field.type), f"{field.name} holds no booleans")


def _validate_role(value: Any) -> None:
    require(value in ("cell", "control"), f"role is {shorten(value)}")


def _validate_outcome(value: Any) -> None:
    require(value in (None, "completed", "diverged", "undertrained"), f"outcome is {shorten(value)}")


def _validate_thresholds(text: Any) -> None:
    for name, value in _object(text, "thresholds").items():
        check_number(value, f"the threshold {check_name(name, 'a threshold')}")


def _validate_arm(arm: Any) -> None:
    require(isinstance(arm, dict), f"an arm is {shorten(arm)}")
    check_name(arm.get("method"), "a method")
    for name, value in _mapping(arm, "options").items():
        check_name(name, "an option")
        require(isinstance(value, str | int | float | None), f"the option {name} is {shorten(value)}")
    for lr in _list(arm, "lrs") if "lrs" in arm else ():
        check_number(lr, f"an lr of the arm {arm['method']}")


def _validate_run_id(value: Any) -> None:
    if not isinstance(value, str) or _RUN_ID.fullmatch(value) is None:
        raise ValueError(f"a run's id is {shorten(value)}")


_RUN_ID = re.compile(r"[\w-]{1,128}")


_CELLS: Mapping[str, Callable[[Any], object]] = {
    "run_id": _validate_run_id,
    **{name: functools.partial(check_name, what=name) for name in ("data", "model", "method")},
    "role": _validate_role,
    "outcome": _validate_outcome,
    "lr": lambda value: require(check_number(value, "lr") > 0, f"lr is {value}"),
    "seed": lambda value: require(check_integer(value, "seed") >= 0, f"seed is {value}"),
    "steps": lambda value: require(check_integer(value, "steps") > 0, f"steps is {value}"),
    "thresholds": _validate_thresholds,
    "options": lambda text: check_json(_object(text, "options")),
}
"""Column of `runs/` -> the check of each of its values."""


def _object(value: Any, what: str) -> dict[str, Any]:
    found = json.loads(value) if isinstance(value, str) else value
    require(isinstance(found, dict), f"{what} are {shorten(found)}")
    return found


def _mapping(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = content.get(name)
    require(isinstance(value, dict), f"{name} is {shorten(value)}")
    return value  # type: ignore[return-value]


def _list(content: Mapping[str, Any], name: str) -> list[Any]:
    value = content.get(name)
    require(isinstance(value, list), f"{name} is {shorten(value)}")
    assert isinstance(value, list)
    require(0 < len(value) <= MAX_VALUES, f"{name} has {len(value):,} values")
    return value

"""Selects columns of a log: fewer features or fewer tasks, of the same rows."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from study.data._cache import ArrayFile, cached, content_hash
from study.data._dataset import Log

SELECTED = {"only_ids": "ids", "only_numbers": "numbers", "only_tasks": "labels"}
"""Option -> the array whose columns it selects. An option is a list of names, names separated by commas, or a
number: that many, the first of the log. By default all columns are kept."""


def select_columns(log: Log, options: Mapping[str, Any], cache: Path) -> Log:
    """Return a log of some columns, in the order of the log. It is cached, like the log itself.

    Args:
        log: the whole log.
        options: some of `SELECTED`.
        cache: the folder for converted logs.

    Raises:
        ValueError: a name is unknown, a number is not within the columns, or no feature or no task is left.
    """
    have = {
        "only_ids": log.id_names,
        "only_numbers": log.number_names,
        "only_tasks": tuple(task.name for task in log.tasks),
    }
    kept = {option: _kept(option, options.get(option), names) for option, names in have.items()}
    if not kept["only_tasks"]:
        raise ValueError("need at least one task, got only_tasks without any")
    if not (kept["only_ids"] or kept["only_numbers"]):
        raise ValueError("need at least one feature, got only_ids and only_numbers without any")
    if all(len(kept[option]) == len(names) for option, names in have.items()):
        return log
    names = {option: [have[option][i] for i in at] for option, at in kept.items()}
    lists = any(len(log.spans[i]) > 1 for i in kept["only_ids"])
    content = content_hash({"part_of": log.content, **names})

    def convert(into: Path) -> Log:
        arrays = {}
        for option, name in SELECTED.items():
            columns = getattr(log, name)
            with ArrayFile(into, name, len(columns)) as file:
                spans = log.spans if option == "only_ids" else [range(i, i + 1) for i in range(columns.shape[1])]
                for i in kept[option]:
                    for column in spans[i]:
                        file.append(columns[:, column])
            arrays[name] = file.read()
        return replace(
            log,
            **arrays,
            vocabulary=tuple(log.vocabulary[i] for i in kept["only_ids"]),
            id_names=tuple(names["only_ids"]),
            lengths=tuple(len(log.spans[i]) for i in kept["only_ids"]) if lists else (),
            pools=tuple(log.pools[i] for i in kept["only_ids"]) if lists else (),
            number_names=tuple(names["only_numbers"]),
            tasks=tuple(log.tasks[i] for i in kept["only_tasks"]),
            content=content,
        )

    return cached(cache, "part", content, convert)


def _kept(option: str, wanted: Any, have: tuple[str, ...]) -> list[int]:
    """Return the indices of the columns to keep."""
    if wanted is None:
        return list(range(len(have)))
    if isinstance(wanted, int) and not isinstance(wanted, bool):
        if not 1 <= wanted <= len(have):
            raise ValueError(f"{option} keeps the first {wanted}; the data have {len(have)}")
        return list(range(wanted))
    names = [word.strip() for word in wanted.split(",")] if isinstance(wanted, str) else wanted
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{option} is a list of names or a number, got {wanted!r}")
    names = [name for name in names if name]
    if unknown := sorted(set(names) - set(have)):
        raise ValueError(f"{option} names {', '.join(unknown)}; the data have {', '.join(have) or 'none'}")
    return [i for i, name in enumerate(have) if name in names]

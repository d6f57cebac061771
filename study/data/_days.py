"""Selects days of a log. Codes and scales stay those of the whole log, so training can continue on later days.

Vocabularies, codes, standardized numbers and scaled regression targets are learned from the training rows of the whole
log; so a selected day may have a code that was first seen on a later day. The last selected day is held out. The base
rate of a binary task, and so its best constant predictor, is that of the selected training rows. The constant of a
regression stays the mean of the whole log.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from study.data._cache import BLOCK_ROWS, ArrayFile, cached, content_hash
from study.data._dataset import Log, Task

ONLY_DAYS = "only_days"
"""The option: first and last day to keep, counted from 1, such as 8-14."""

OF_THE_WHOLE = ("bayes_loss", "duplicates_dropped", "heldout", "rows_left_out", "warnings")
"""Facts of the whole log that are not true of some of its days."""


@dataclass(frozen=True, kw_only=True)
class Days:
    """The days of a source's log. Its `facts["days"]` must state their number.

    Args:
        of_row: int (N,), the day of each row, counted from 1.
        dates: the date of each day.
    """

    of_row: np.ndarray
    dates: tuple[str, ...]


def select_days(log: Log, wanted: Any, days_of: Callable[[], Days], cache: Path) -> Log:
    """Return a log of some days; the whole log if these are all. It is cached, like the log itself.

    Args:
        log: the whole log.
        wanted: first and last day, such as "8-14".
        days_of: returns the days of the log; called only if the result is not cached.
        cache: the folder for converted logs.

    Raises:
        ValueError: these are no days of the log, they or a task leave nothing to train on or to hold out, or the days
            that the source returns do not match its log.
    """
    first, last = parse_days(wanted, log)
    if (first, last) == (1, days_in(log)) and holds_out_a_day(log):
        return log
    content = content_hash({"days_of": log.content, "first": first, "last": last})

    def convert(into: Path) -> Log:
        days = days_of()
        _check_days(days, log)
        train = np.flatnonzero((days.of_row >= first) & (days.of_row < last))
        heldout = np.flatnonzero(days.of_row == last)
        if not len(train) or not len(heldout):
            what = "to hold out" if len(train) else "to train on"
            raise ValueError(f"{ONLY_DAYS}={wanted} leaves no rows {what}")
        rows = np.concatenate([train, heldout])
        arrays = {name: _rows(into, name, getattr(log, name), rows) for name in ("ids", "numbers", "labels")}
        labels = arrays["labels"]
        return replace(
            log,
            **arrays,
            train_rows=len(train),
            tasks=tuple(_task(task, labels[:, t], len(train), str(wanted)) for t, task in enumerate(log.tasks)),
            content=content,
            facts={name: fact for name, fact in log.facts.items() if name not in OF_THE_WHOLE}
            | {"first_day": days.dates[first - 1], "last_day": days.dates[last - 1], "days": last - first + 1}
            | {"days_kept": [first, last], "days_of_the_whole": days_in(log)},
        )

    return cached(cache, "days", content, convert)


def days_in(log: Log) -> int:
    """Return the number of days of a log. Raises ValueError if its source has `days` but does not state the number."""
    days = log.facts.get("days")
    if not isinstance(days, int) or isinstance(days, bool) or days < 1:
        said = f"is {days!r:.40}" if "days" in log.facts else "is not there"
        raise ValueError(
            f'its data source has `days`, so facts["days"] of its log must be their number, a whole number; it {said}'
        )
    return days


def holds_out_a_day(log: Log) -> bool:
    """Return whether a whole log holds out its last day; otherwise its facts say what it holds out."""
    return "heldout" not in log.facts


def _check_days(days: Days, log: Log) -> None:
    """Raise ValueError unless these can be the days of this log."""
    if not isinstance(days, Days):
        raise ValueError(f"`days` of its data source must return study.data.Days; it returned {days!r:.40}")
    if (rows := np.shape(days.of_row)) != (len(log.labels),):
        raise ValueError(f"its data source returns days of the shape {rows}; its log has {len(log.labels):,} rows")
    if len(days.dates) != days_in(log):
        raise ValueError(f"its data source returns the dates of {len(days.dates)} days; its log has {days_in(log)}")


def parse_days(wanted: Any, log: Log) -> tuple[int, int]:
    """Return the first and the last day. Raises as `select_days` does."""
    if "days" not in log.facts and not holds_out_a_day(log):
        raise ValueError(f"{ONLY_DAYS}={wanted} needs days, and this log has no times")
    found = re.fullmatch(r"([0-9]{1,6})-([0-9]{1,6})", wanted) if isinstance(wanted, str) else None
    if not found:
        raise ValueError(f"{ONLY_DAYS} takes the first and the last day, such as 1-7; got {wanted!r}")
    first, last, days = int(found[1]), int(found[2]), days_in(log)
    if not 1 <= first <= last <= days:
        raise ValueError(f"{ONLY_DAYS}={wanted} are no days of this log: it has 1-{days}")
    if first == last:
        raise ValueError(f"{ONLY_DAYS}={wanted} is one day; need two or more, to hold out the last")
    return first, last


def _rows(into: Path, name: str, whole: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Write some rows of an array to its file, with one column in memory at a time."""
    with ArrayFile(into, name, len(rows)) as file:
        for column in range(whole.shape[1]):
            parts = range(0, len(rows), BLOCK_ROWS)
            file.append(np.concatenate([whole[rows[at : at + BLOCK_ROWS], column] for at in parts]))
    return file.read()


def _task(task: Task, labels: np.ndarray, train_rows: int, wanted: str) -> Task:
    train, heldout = labels[:train_rows].astype(np.float64), labels[train_rows:].astype(np.float64)
    train, heldout = train[~np.isnan(train)], heldout[~np.isnan(heldout)]
    if not len(train) or not len(heldout):
        what = "to judge by" if len(train) else "to learn from"
        raise ValueError(f"the days {wanted} hold no label of {task.name} {what}")
    if task.kind == "regression":
        if not train.any():
            raise ValueError(f"the target {task.name} is the same in every training row of the days {wanted}")
        rmse = float(np.sqrt(np.mean(heldout**2)) * task.scale)
        return replace(task, constant_loss=float(np.mean(train**2)), constant_rmse=rmse)
    rate = float(train.mean())
    if rate in (0.0, 1.0):
        raise ValueError(f"the labels of {task.name} are all {rate:g} in the training rows of the days {wanted}")
    return replace(task, base=rate, constant_loss=-rate * math.log(rate) - (1 - rate) * math.log1p(-rate))

"""From raw columns in time order to a `Log`: codes, standardized numbers and tasks, all learned from training rows."""

import csv
import gzip
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from study.log import Log, Task

NUMBER_CLIP = 5.0
"""Standardized numbers are cut at this many standard deviations: one freak value must not decide a whole study."""


def ranked(column: pa.ChunkedArray | pa.Array) -> tuple[np.ndarray, int]:
    """int32 codes of a column's sorted distinct values, from 0, and how many these are; -1 where missing or NaN."""
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    encoded = column.dictionary_encode()
    order = pc.sort_indices(encoded.dictionary).to_numpy()  # pyright: ignore[reportAttributeAccessIssue]
    rank = np.full(len(order) + 1, -1, dtype=np.int32)  # the last one serves the missing
    rank[order] = np.arange(len(order), dtype=np.int32)
    codes = encoded.indices.fill_null(len(order)).to_numpy(zero_copy_only=False)
    return rank[codes], len(order)


def make_log(
    *,
    ids: Mapping[str, tuple[np.ndarray, int]],
    numbers: Mapping[str, np.ndarray],
    tasks: Mapping[str, tuple[str, np.ndarray, str]],
    train_rows: int,
    content: str,
    facts: dict[str, Any],
) -> Log:
    """A `Log` of N rows that are already in time order.

    ids: name -> codes (N,) from 0, -1 where missing, and the number of distinct values. numbers: name -> (N,), NaN
    where missing. tasks: name -> (kind, target (N,), unit), finite. Raises ValueError on a task that cannot be learned.
    """
    rows = len(next(iter(tasks.values()))[1])
    assert 0 < train_rows < rows
    encoded = np.empty((rows, len(ids)), dtype=np.int32)
    vocabulary = []
    for f, (codes, distinct) in enumerate(ids.values()):
        encoded[:, f], size = _seen_in_training(codes, distinct, train_rows)
        vocabulary.append(size)
    standardized = np.empty((rows, len(numbers)), dtype=np.float32)
    for d, values in enumerate(numbers.values()):
        standardized[:, d] = _standardized(values, train_rows)
    labels = np.empty((rows, len(tasks)), dtype=np.float32)
    made = []
    for t, (name, (kind, target, unit)) in enumerate(tasks.items()):
        task, labels[:, t] = (
            _binary(name, target, train_rows) if kind == "binary" else _regression(name, target, train_rows, unit)
        )
        made.append(task)
    return Log(
        ids=encoded,
        numbers=standardized,
        labels=labels,
        train_rows=train_rows,
        vocabulary=tuple(vocabulary),
        id_names=tuple(ids),
        number_names=tuple(numbers),
        tasks=tuple(made),
        content=content,
        facts=facts,
    )


def _seen_in_training(codes: np.ndarray, distinct: int, train_rows: int) -> tuple[np.ndarray, int]:
    seen = np.bincount(codes[:train_rows] + 1, minlength=distinct + 1) > 0
    seen[0] = False  # the missing share code 0 with the unseen
    return np.where(seen, np.cumsum(seen), 0).astype(np.int32)[codes + 1], 1 + int(seen.sum())


def _standardized(values: np.ndarray, train_rows: int) -> np.ndarray:
    known = values[:train_rows][~np.isnan(values[:train_rows])]
    if len(known) == 0 or known.std() == 0:
        return np.zeros(len(values), dtype=np.float32)
    scaled = np.clip((values - known.mean()) / known.std(), -NUMBER_CLIP, NUMBER_CLIP)
    return np.nan_to_num(scaled, nan=0.0).astype(np.float32)


def _binary(name: str, target: np.ndarray, train_rows: int) -> tuple[Task, np.ndarray]:
    wrong = target[(target != 0) & (target != 1)]
    if len(wrong):
        raise ValueError(f"the labels of {name} are not all 0 or 1: {len(wrong):,} others, for instance {wrong[0]:g}")
    rate = float(np.mean(target[:train_rows], dtype=np.float64))
    if rate in (0.0, 1.0):
        raise ValueError(f"the labels of {name} are all {rate:g} in the training part: nothing to learn")
    loss = -rate * math.log(rate) - (1 - rate) * math.log1p(-rate)
    return Task(name=name, kind="binary", base=rate, constant_loss=loss), target.astype(np.float32)


def _regression(name: str, target: np.ndarray, train_rows: int, unit: str) -> tuple[Task, np.ndarray]:
    mean, scale = float(np.mean(target[:train_rows])), float(np.std(target[:train_rows]))
    if scale == 0:
        raise ValueError(f"the target {name} is {mean:g} in every training row: nothing to learn")
    labels = ((target - mean) / scale).astype(np.float32)
    rmse = float(np.sqrt(np.mean((target[train_rows:] - mean) ** 2)))
    task = Task(name=name, kind="regression", base=mean, scale=scale, constant_loss=1.0, constant_rmse=rmse, unit=unit)
    return task, labels


def csv_header(path: Path) -> list[str]:
    """The column names of a CSV file. Raises ValueError where it is empty or not text."""
    try:
        opened = gzip.open if path.name.lower().endswith(".gz") else open
        with opened(path, "rt", encoding="utf-8-sig", newline="") as file:
            header = next(csv.reader(file), None)
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} does not read as CSV ({_first_line(error)})") from error
    if not header:
        raise ValueError(f"{path} is empty")
    return header


def read_csv(path: Path, types: Mapping[str, pa.DataType], *, only: Sequence[str] | None = None) -> pa.Table:
    """A CSV file, or some of its columns; empty fields are missing. types: by column; others are inferred.

    Raises ValueError that names the file, and the column where one does not read.
    """
    header = csv_header(path)
    try:
        return pyarrow.csv.read_csv(
            path,
            convert_options=pyarrow.csv.ConvertOptions(
                column_types={name: kind for name, kind in types.items() if name in header},
                include_columns=list(only or []),
                strings_can_be_null=True,
                quoted_strings_can_be_null=True,
                null_values=["", "NaN", "nan", "NA", "null", "NULL"],
            ),
        )
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise ValueError(f"{path} does not read ({_name_columns(_first_line(error), header)})") from error


def require_columns(path: Path, present: Sequence[str], needed: Sequence[str]) -> None:
    missing = [name for name in needed if name not in present]
    if missing:
        raise ValueError(f"{path} lacks the columns {', '.join(missing)}; it has {', '.join(present)}")


def _name_columns(message: str, header: list[str]) -> str:
    return re.sub(
        r"CSV column #(\d+)", lambda m: f"column {header[int(m[1])]}" if int(m[1]) < len(header) else m[0], message
    )


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]

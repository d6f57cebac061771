"""Encodes raw columns as a `Log`: codes, standardized numbers and tasks, all learned from training rows."""

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from study.data._cache import ArrayFile
from study.data._dataset import Log, Task

NUMBER_CLIP = 5.0
"""Standardized numbers are clipped at this many standard deviations, so that an outlier cannot dominate a study."""


def ranked(
    column: pa.ChunkedArray | pa.Array, name_of: Callable[[pa.Array], pa.Array] | None = None
) -> tuple[np.ndarray, int]:
    """Return int32 codes of a column's sorted distinct values, from 0, and their number; -1 if missing or NaN.

    Args:
        column: the values.
        name_of: maps distinct values to names; values of one name have one code.
    """
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)  # pyright: ignore[reportAttributeAccessIssue]
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if isinstance(column, pa.Array):
        column = pa.chunked_array([column])
    encoded = column.dictionary_encode().unify_dictionaries()
    values = encoded.chunk(0).dictionary if encoded.num_chunks else pa.array([], column.type)
    named = name_of(values) if name_of else values
    order = pc.sort_indices(named).to_numpy()  # pyright: ignore[reportAttributeAccessIssue]
    ordered = named.take(pa.array(order))
    begins = pc.not_equal(ordered[1:], ordered[:-1]).to_numpy(zero_copy_only=False)  # pyright: ignore[reportAttributeAccessIssue]
    rank = np.full(len(order) + 1, -1, dtype=np.int32)  # the last entry is for missing values
    rank[order] = np.cumsum(np.append(np.zeros(min(len(order), 1), bool), begins), dtype=np.int32)
    codes, start = np.empty(len(column), dtype=np.int32), 0
    for chunk in encoded.chunks:
        found = chunk.indices.fill_null(len(order)).to_numpy(zero_copy_only=False)
        codes[start : start + len(chunk)] = rank[found]
        start += len(chunk)
    return codes, int(rank.max()) + 1


def make_log(
    folder: Path,
    *,
    rows: int,
    train_rows: int,
    ids: Iterable[tuple[str, np.ndarray, int]],
    numbers: Iterable[tuple[str, np.ndarray]],
    tasks: Iterable[tuple[str, str, np.ndarray, str]],
    content: str,
    facts: dict[str, Any],
) -> Log:
    """Return a `Log` of N rows in time order, with its arrays in a folder. Reads one feature or task at a time.

    Args:
        folder: for the arrays.
        rows: N.
        train_rows: number of training rows, which come first.
        ids: name, codes (N,) from 0 (-1 if missing), and the number of distinct values; of lists, codes (N, L) that
            end with -1.
        numbers: name and values (N,), NaN if missing; truth values stay 0 and 1.
        tasks: name, kind, target (N,), NaN if missing, and unit.
        content, facts: as in `Log`.

    Raises:
        ValueError: a task cannot be learned.
    """
    assert 0 < train_rows < rows
    vocabulary: dict[str, int] = {}
    lengths: list[int] = []
    with ArrayFile(folder, "ids", rows) as encoded:
        for name, codes, distinct in ids:
            seen = _seen_in_training if codes.ndim == 1 else _lists_seen_in_training
            columns, vocabulary[name] = seen(codes, distinct, train_rows)
            for column in columns.reshape(rows, -1).T:
                encoded.append(column)
            lengths.append(columns.size // rows)
    number_names: list[str] = []
    with ArrayFile(folder, "numbers", rows) as standardized:
        for name, values in numbers:
            standardized.append(values if values.dtype == bool else _standardized(name, values, train_rows))
            number_names.append(name)
    made: list[Task] = []
    with ArrayFile(folder, "labels", rows) as labels:
        for name, kind, target, unit in tasks:
            task, column = (
                _binary(name, target, train_rows) if kind == "binary" else _regression(name, target, train_rows, unit)
            )
            labels.append(column)
            made.append(task)
    return Log(
        ids=encoded.read(),
        numbers=standardized.read(),
        labels=labels.read(),
        train_rows=train_rows,
        vocabulary=tuple(vocabulary.values()),
        id_names=tuple(vocabulary),
        number_names=tuple(number_names),
        tasks=tuple(made),
        content=content,
        facts=facts,
        lengths=tuple(lengths) if len(lengths) < sum(lengths) else (),
    )


def _seen_in_training(codes: np.ndarray, distinct: int, train_rows: int) -> tuple[np.ndarray, int]:
    seen = np.bincount(codes[:train_rows] + 1, minlength=distinct + 1) > 0
    seen[0] = False  # missing values share code 0 with unseen ones
    return np.where(seen, np.cumsum(seen), 0).astype(np.int32)[codes + 1], 1 + int(seen.sum())


def _lists_seen_in_training(codes_NL: np.ndarray, distinct: int, train_rows: int) -> tuple[np.ndarray, int]:
    train = codes_NL[:train_rows]
    seen = np.bincount(train[train >= 0], minlength=distinct) > 0
    new = np.append(np.where(seen, np.cumsum(seen), 0), -1).astype(np.int32)  # -1, the end of a list, is the last
    encoded = new[codes_NL]
    encoded[:, 0] = np.maximum(encoded[:, 0], 0)  # an empty list is one id that was not seen
    return encoded, 1 + int(seen.sum())


def _standardized(name: str, values: np.ndarray, train_rows: int) -> np.ndarray:
    known = values[:train_rows][~np.isnan(values[:train_rows])]
    with np.errstate(over="ignore", invalid="ignore"):
        mean, scale = (known.mean(), known.std()) if len(known) else (0.0, 0.0)
    if scale == 0:
        return np.zeros(len(values), dtype=np.float32)
    if not np.isfinite(scale):
        raise ValueError(f"the number {name} has values of {np.abs(known).max():g}, too large for a standard deviation")
    scaled = np.clip((values - mean) / scale, -NUMBER_CLIP, NUMBER_CLIP)
    return np.nan_to_num(scaled, nan=0.0).astype(np.float32)


def _binary(name: str, target: np.ndarray, train_rows: int) -> tuple[Task, np.ndarray]:
    wrong = target[(target != 0) & (target != 1) & ~np.isnan(target)]
    if len(wrong):
        raise ValueError(f"the labels of {name} are not all 0 or 1: {len(wrong):,} others, for instance {wrong[0]:g}")
    rate = float(np.mean(_known(name, target[:train_rows]), dtype=np.float64))
    if rate in (0.0, 1.0):
        raise ValueError(f"the labels of {name} are all {rate:g} in the training part: nothing to learn")
    loss = -rate * math.log(rate) - (1 - rate) * math.log1p(-rate)
    return Task(name=name, kind="binary", base=rate, constant_loss=loss), target.astype(np.float32)


def _regression(name: str, target: np.ndarray, train_rows: int, unit: str) -> tuple[Task, np.ndarray]:
    known = _known(name, target[:train_rows])
    with np.errstate(over="ignore", invalid="ignore"):
        mean, scale = float(np.mean(known)), float(np.std(known))
    if not math.isfinite(scale):
        raise ValueError(
            f"the target {name} has values of {np.abs(known).max():g}, too large for a standard deviation: set "
            f'{name} = {{ kind = "regression", clip = 0.999 }}'
        )
    if scale == 0:
        raise ValueError(f"the target {name} is {mean:g} in every training row: nothing to learn")
    labels = ((target - mean) / scale).astype(np.float32)
    rmse = float(np.sqrt(np.mean((_known(name, target[train_rows:], "held-out") - mean) ** 2)))
    task = Task(name=name, kind="regression", base=mean, scale=scale, constant_loss=1.0, constant_rmse=rmse, unit=unit)
    return task, labels


def _known(name: str, target: np.ndarray, part: str = "training") -> np.ndarray:
    known = target[~np.isnan(target)]
    if not len(known):
        raise ValueError(f"no {part} row has a label of {name}")
    return known

"""Encodes raw columns as a `Log`: codes, standardized numbers and tasks, all learned from training rows."""

import contextlib
import csv
import gzip
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from study.data._cache import ArrayFile
from study.data._dataset import Log, Task

NUMBER_CLIP = 5.0
"""Standardized numbers are clipped at this many standard deviations, so that an outlier cannot dominate a study."""

CSV_BLOCK_BYTES = 1 << 23
"""Size of a block of a CSV file. A row must fit into one."""


def ranked(column: pa.ChunkedArray | pa.Array) -> tuple[np.ndarray, int]:
    """Return int32 codes of a column's sorted distinct values, from 0, and their number; -1 if missing or NaN."""
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)  # pyright: ignore[reportAttributeAccessIssue]
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if isinstance(column, pa.Array):
        column = pa.chunked_array([column])
    encoded = column.dictionary_encode().unify_dictionaries()
    values = encoded.chunk(0).dictionary if encoded.num_chunks else pa.array([], column.type)
    order = pc.sort_indices(values).to_numpy()  # pyright: ignore[reportAttributeAccessIssue]
    rank = np.full(len(order) + 1, -1, dtype=np.int32)  # the last entry is for missing values
    rank[order] = np.arange(len(order), dtype=np.int32)
    codes, start = np.empty(len(column), dtype=np.int32), 0
    for chunk in encoded.chunks:
        found = chunk.indices.fill_null(len(order)).to_numpy(zero_copy_only=False)
        codes[start : start + len(chunk)] = rank[found]
        start += len(chunk)
    return codes, len(order)


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
        ids: name, codes (N,) from 0 (-1 if missing), and the number of distinct values.
        numbers: name and values (N,), NaN if missing.
        tasks: name, kind, finite target (N,), and unit.
        content, facts: as in `Log`.

    Raises:
        ValueError: a task cannot be learned.
    """
    assert 0 < train_rows < rows
    vocabulary: dict[str, int] = {}
    with ArrayFile(folder, "ids", rows) as encoded:
        for name, codes, distinct in ids:
            column, vocabulary[name] = _seen_in_training(codes, distinct, train_rows)
            encoded.append(column)
    number_names: list[str] = []
    with ArrayFile(folder, "numbers", rows) as standardized:
        for name, values in numbers:
            standardized.append(_standardized(values, train_rows))
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
    )


def _seen_in_training(codes: np.ndarray, distinct: int, train_rows: int) -> tuple[np.ndarray, int]:
    seen = np.bincount(codes[:train_rows] + 1, minlength=distinct + 1) > 0
    seen[0] = False  # missing values share code 0 with unseen ones
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
    """Return the column names of a CSV file. Raises ValueError if it is empty or not text."""
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
    """Return a CSV file as a table; empty fields are missing.

    Args:
        path: the file.
        types: of some columns; others are inferred.
        only: the columns to read; None reads all.

    Raises:
        ValueError: the file or a column does not read. The message names it.
    """
    with _reading_csv(path) as header:
        return pyarrow.csv.read_csv(path, convert_options=_conversion(header, types, only))


def rewrite_csv(path: Path, into: Path, types: Mapping[str, pa.DataType]) -> None:
    """Write columns of a CSV file as an Arrow file, which can be read column by column. Holds a block at a time.

    Args:
        path: the CSV file.
        into: the Arrow file.
        types: of each wanted column.

    Raises:
        ValueError: as `read_csv`.
    """
    schema = pa.schema(list(types.items()))
    with pa.OSFile(str(into), "wb") as file, pa.ipc.new_file(file, schema) as rewritten:
        for block in _csv_blocks(path, types, list(types)):
            rewritten.write_batch(block)


def csv_type(path: Path, name: str) -> pa.DataType:
    """Return the type of a CSV column that fits all its fields. Raises as `read_csv` does."""
    kind = pa.null()
    try:
        for block in _csv_blocks(path, {}, [name]):
            kind = block.schema.field(name).type
    except ValueError:  # a later block has another type, or does not read: reading the whole file tells which
        return read_csv(path, {}, only=[name])[name].type
    return kind


def _csv_blocks(path: Path, types: Mapping[str, pa.DataType], only: Sequence[str]) -> Iterator[pa.RecordBatch]:
    with _reading_csv(path) as header:
        yield from pyarrow.csv.open_csv(
            path,
            read_options=pyarrow.csv.ReadOptions(block_size=CSV_BLOCK_BYTES),
            convert_options=_conversion(header, types, only),
        )


def _conversion(
    header: list[str], types: Mapping[str, pa.DataType], only: Sequence[str] | None
) -> pyarrow.csv.ConvertOptions:
    return pyarrow.csv.ConvertOptions(
        column_types={name: kind for name, kind in types.items() if name in header},
        include_columns=list(only or []),
        strings_can_be_null=True,
        quoted_strings_can_be_null=True,
        null_values=["", "NaN", "nan", "NA", "null", "NULL"],
    )


@contextlib.contextmanager
def _reading_csv(path: Path) -> Iterator[list[str]]:
    header = csv_header(path)
    try:
        yield header
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise ValueError(f"{path} does not read ({_name_columns(_first_line(error), header)})") from error


def require_columns(path: Path, present: Sequence[str], needed: Sequence[str]) -> None:
    """Raise ValueError if a needed column is missing."""
    missing = [name for name in needed if name not in present]
    if missing:
        raise ValueError(f"{path} lacks the columns {', '.join(missing)}; it has {', '.join(present)}")


def _name_columns(message: str, header: list[str]) -> str:
    return re.sub(
        r"CSV column #(\d+)", lambda m: f"column {header[int(m[1])]}" if int(m[1]) < len(header) else m[0], message
    )


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]

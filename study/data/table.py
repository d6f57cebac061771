"""A user's own log: Parquet or CSV files, and a TOML file that describes their columns.

    files = ["log-*.parquet"]        # beside the TOML file, or absolute; patterns allowed; .csv, .csv.gz or .parquet
    time = "ts"                      # a timestamp (no zone means UTC), or a number
    time_unit = "ms"                 # where time is a number: s, ms, us or ns since 1970
    time_format = "%y%m%d%H"         # where it is another stamp
    time_from = 2022-04-25           # rows before are left out; time_to: rows after
    ids = ["user", "item", "country"]
    numbers = ["price", "age"]       # standardized, cut at 5 standard deviations
    log1p = ["watch_seconds"]        # numbers or regression targets to take log(1 + x) of
    heldout = 0.1                    # the last share of the rows; left out: the last day (UTC)

    [tasks]
    click = "binary"                 # a column of 0 and 1
    watch_seconds = "regression"     # a column of numbers

A missing id counts as unseen; only an empty field (a null in Parquet) is one. A missing number, label or time is an
error. Ids that are whole numbers are equal if their values are (`study.data._ids`).

Rows are sorted by time, and rows of equal time keep their order. No other row is dropped. Days are UTC days that have
rows, counted from 1. If only some days are selected (`study.data._days`), the last of them is held out, whatever
`heldout` says.

Columns are read one at a time: memory holds about 100 bytes a row and the distinct values of one id. A CSV file is
first rewritten by columns on the cache's disk, block by block.
"""

import glob
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from study.data._cache import BUILDING, cached, content_hash, file_hash
from study.data._csv import csv_header, csv_type, require_columns, rewrite_csv
from study.data._dataset import Log
from study.data._days import Days
from study.data._declaration import Declaration, read_declaration
from study.data._encode import make_log
from study.data._ids import id_codes
from study.data._times import Times, in_order
from study.storage.scratch import scratch_folder

T = TypeVar("T")

LEAST_HELDOUT, LEAST_HELDOUT_SHARE = 100, 0.005
"""With fewer held-out rows, or a smaller share, quality would be noise: a stray stamp makes a day of one row."""

VERSION = 2
"""Must be increased if the same files are converted to other arrays. Version 2 reads `1.0` as `1`, and `NA` as text, in
ids; a log that has none keeps the content hash of version 1, and so do the ids of its runs."""


def load(cache: Path, *, dir: str | Path) -> Log:
    """Return the log that a declaration describes.

    Args:
        cache: the folder for converted logs.
        dir: the TOML file, or a folder that holds `table.toml`.

    Raises:
        ValueError: a file cannot be read, a column is missing, a label is not 0 or 1, a number or time is missing or
            not finite, or no rows can be held out.
    """
    files, declared = _declared(dir)
    made_from = {
        "source": "table",
        "declaration": declared.canonical(),
        "files": [[_kind(file), file_hash(file, cache)] for file in files],
    }
    contents = [content_hash(made_from | {"version": version}) for version in range(1, VERSION + 1)]
    return cached(cache, f"table-{VERSION}", contents, lambda into: _convert(into, files, declared, contents))


def days(cache: Path, *, dir: str | Path) -> Days:
    """Return the day (UTC) of each row. Raises as `load` does."""
    files, declared = _declared(dir)
    with scratch_folder(BUILDING, cache) as rewritten:
        days = _in_time_order(_sources(files, rewritten, declared, [declared.time]), declared).days
    begins = np.append(True, np.diff(days) != 0)
    return Days(of_row=np.cumsum(begins), dates=tuple(_iso(day) for day in days[begins]))


def _declared(dir: str | Path) -> tuple[list[Path], Declaration]:
    """Return the files and their declaration."""
    path = Path(dir) if Path(dir).suffix == ".toml" else Path(dir) / "table.toml"
    declared = read_declaration(path)
    return _files(path, declared), declared


def _files(path: Path, declared: Declaration) -> list[Path]:
    found = []
    for pattern in declared.files:
        matches = sorted(glob.glob(str(Path(glob.escape(str(path.parent))) / pattern), recursive=True))
        if not matches:
            raise ValueError(f"{path}: no file {pattern} in {path.parent}")
        found += [Path(match) for match in matches]
    return list(dict.fromkeys(found))


def _kind(file: Path) -> str:
    for kind, endings in {"csv": (".csv", ".csv.gz"), "parquet": (".parquet", ".pq")}.items():
        if file.name.lower().endswith(endings):
            return kind
    raise ValueError(f"{file} is neither .csv, .csv.gz nor .parquet")


def _convert(into: Path, files: list[Path], declared: Declaration, contents: Sequence[str]) -> Log:
    with tempfile.TemporaryDirectory(dir=into) as rewritten:
        sources = _sources(files, Path(rewritten), declared, declared.columns)
        return _log(into, files, sources, declared, contents)


def _log(
    into: Path, files: list[Path], sources: Sequence["_Source"], declared: Declaration, contents: Sequence[str]
) -> Log:
    times = _in_time_order(sources, declared)
    order, days = times.order, times.days
    facts: dict[str, Any] = {
        "files": [file.name for file in files],
        "first_day": _iso(days[0]),
        "last_day": _iso(days[-1]),
        "days": int(np.count_nonzero(np.diff(days))) + 1,
    }
    if declared.heldout is not None:
        facts["heldout"] = f"the last {declared.heldout:.3g} of the rows"
    if times.left_out:
        facts["rows_left_out"] = times.left_out
    rows, train_rows = len(days), _train_rows(days, declared.heldout)
    del days, times

    def values(name: str) -> np.ndarray:
        return _ordered(_numbers(sources, name, name in declared.log1p), order)

    as_before: list[bool] = []

    def ids() -> Iterator[tuple[str, np.ndarray, int]]:
        for name in declared.ids:
            columns = [source.read(name) for source in sources]
            codes, distinct, same = id_codes(name, columns, csv=any(_kind(file) == "csv" for file in files))
            as_before.append(same)
            yield name, _ordered(codes, order), distinct

    log = make_log(
        into,
        rows=rows,
        train_rows=train_rows,
        ids=ids(),
        numbers=((name, values(name)) for name in declared.numbers),
        tasks=(
            (name, kind, values(name), f"log(1 + {name})" if name in declared.log1p else "")
            for name, kind in declared.tasks.items()
        ),
        content=contents[-1],
        facts=facts,
    )
    _check_classes(log)
    return replace(log, content=contents[0]) if all(as_before) else log


def _in_time_order(sources: Sequence["_Source"], declared: Declaration) -> Times:
    columns = [source.read(declared.time) for source in sources]
    if not any(len(column) for column in columns):
        raise ValueError(f"no rows in {', '.join(str(source.file) for source in sources)}")
    return in_order(columns, declared.clock)


def _iso(day: int) -> str:
    return str(np.datetime64(int(day), "D"))


def _ordered(values: np.ndarray, order: np.ndarray | None) -> np.ndarray:
    return values if order is None else values[order]


@dataclass(frozen=True)
class _Source:
    """A file and the function that reads one of its columns."""

    file: Path
    read: Callable[[str], pa.ChunkedArray]

    def read_float(self, name: str) -> pa.ChunkedArray:
        try:
            return self.read(name).cast(pa.float64())
        except pa.ArrowException as error:
            why = str(error).splitlines()[0]
            raise ValueError(f"{self.file}: the column {name} holds no numbers ({why})") from error


def _sources(files: list[Path], rewritten: Path, declared: Declaration, columns: list[str]) -> list[_Source]:
    """Open the files. `rewritten` is a folder for the columns of CSV files."""
    return [_source(file, rewritten / f"{i}.arrow", declared, columns) for i, file in enumerate(files)]


def _source(file: Path, rewritten: Path, declared: Declaration, columns: list[str]) -> _Source:
    """Open one file. Raises ValueError if it cannot be read or lacks a column."""
    if _kind(file) == "parquet":
        require_columns(file, _parquet(file, lambda parquet: parquet.schema_arrow.names), declared.columns)
        return _Source(file, lambda name: _parquet(file, lambda parquet: parquet.read(columns=[name]))[name])
    require_columns(file, csv_header(file), declared.columns)
    known = dict.fromkeys(declared.ids, pa.string()) | dict.fromkeys(declared.values, pa.float64())
    if declared.time_format:  # 05010100 is no number
        known[declared.time] = pa.string()
    types = {name: known.get(name) or csv_type(file, name) for name in columns}
    rewrite_csv(file, rewritten, types)

    def read(name: str) -> pa.ChunkedArray:
        with pa.memory_map(str(rewritten)) as mapped:  # a map reads only what is used
            return pa.ipc.open_file(mapped).read_all()[name]

    return _Source(file, read)


def _parquet(file: Path, read: Callable[[pq.ParquetFile], T]) -> T:
    try:
        with pq.ParquetFile(file, coerce_int96_timestamp_unit="us") as parquet:  # the year 9999 has no nanoseconds
            return read(parquet)
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{file} does not read as Parquet ({(str(error).splitlines() or ['?'])[0]})") from error


def _train_rows(days: np.ndarray, heldout: float | None) -> int:
    rows = len(days)
    if heldout is None:
        train_rows = int(np.searchsorted(days, days[-1]))
        if train_rows == 0:
            raise ValueError("the log holds one day (UTC); hold out a share of its rows instead, like heldout = 0.1")
        what, change = f"the last day, {_iso(days[-1])}, has", "set heldout, like heldout = 0.1, or time_to"
    else:
        train_rows = rows - round(rows * heldout)
        what, change = f"heldout = {heldout:g} holds out", "set another heldout"
    held = rows - train_rows
    least = max(LEAST_HELDOUT, math.ceil(LEAST_HELDOUT_SHARE * rows))
    if held < least:
        raise ValueError(f"{what} {held:,} of {rows:,} rows; need {least:,} to judge by: {change}")
    if train_rows == 0:
        raise ValueError(f"heldout = {heldout:g} of {rows:,} rows leaves nothing to train on")
    return train_rows


def _check_classes(log: Log) -> None:
    """Raise ValueError if a task cannot be judged."""
    for t, task in enumerate(log.tasks):
        held = log.labels[log.train_rows :, t]
        if task.kind == "binary" and held.min() == held.max():
            raise ValueError(
                f"all {len(held):,} held-out labels of {task.name} are {held[0]:g}, so that no AUC can be computed: "
                "hold out more rows, like heldout = 0.2"
            )


def _numbers(sources: Sequence[_Source], name: str, log1p: bool) -> np.ndarray:
    values = np.concatenate([source.read_float(name).to_numpy() for source in sources])
    wrong = int((~np.isfinite(values)).sum())
    if wrong:
        raise ValueError(f"{name} is missing, NaN or infinite in {wrong:,} rows")
    if not log1p:
        return values
    low = int((values <= -1).sum())
    if low:
        raise ValueError(f"log1p of {name} needs values above -1; {low:,} are not")
    return np.log1p(values)

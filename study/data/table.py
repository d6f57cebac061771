"""A user's own log: Parquet or CSV files, and a TOML file that describes their columns.

    files = ["log-*.parquet"]        # beside the TOML file, or absolute; patterns allowed; .csv, .csv.gz or .parquet
    time = "ts"                      # a timestamp (no zone means UTC), or a number
    time_unit = "ms"                 # where time is a number: s, ms, us or ns since 1970
    ids = ["user", "item", "country"]
    numbers = ["price", "age"]       # standardized, cut at 5 standard deviations
    log1p = ["watch_seconds"]        # numbers or regression targets to take log(1 + x) of
    heldout = 0.1                    # the last share of the rows; left out: the last day (UTC)

    [tasks]
    click = "binary"                 # a column of 0 and 1
    watch_seconds = "regression"     # a column of numbers

A missing id counts as unseen; only an empty field (a null in Parquet) is one. A missing number, label or time is an
error. Ids that are whole numbers are equal if their values are (`study.data._ids`).

Rows are sorted by time, and rows of equal time keep their order. No row is dropped. Days are UTC days that have rows,
counted from 1. If only some days are selected (`study.data._days`), the last of them is held out, whatever `heldout`
says.

Columns are read one at a time: memory holds about 100 bytes a row and the distinct values of one id. A CSV file is
first rewritten by columns on the cache's disk, block by block.
"""

import glob
import re
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from study.data._cache import BUILDING, cached, content_hash, file_hash
from study.data._csv import csv_header, csv_type, require_columns, rewrite_csv
from study.data._dataset import Log
from study.data._days import Days
from study.data._encode import make_log
from study.data._ids import id_codes
from study.storage.scratch import scratch_folder

T = TypeVar("T")

VERSION = 2
"""Must be increased if the same files are converted to other arrays. Version 2 reads `1.0` as `1`, and `NA` as text, in
ids; a log that has none keeps the content hash of version 1, and so do the ids of its runs."""

PER_DAY = {unit: 86_400 * per_second for unit, per_second in {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}.items()}


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """The validated content of `table.toml`; the module's docstring explains the keys."""

    files: list[str]
    time: str
    time_unit: str | None = None
    ids: list[str] = field(default_factory=list)
    numbers: list[str] = field(default_factory=list)
    tasks: dict[str, str]
    log1p: list[str] = field(default_factory=list)
    heldout: float | None = None

    def __post_init__(self) -> None:
        for name in ("files", "ids", "numbers", "log1p"):
            value = getattr(self, name)
            if not isinstance(value, list) or not all(isinstance(v, str) and v for v in value):
                raise ValueError(f'{name} is a list of names, like {name} = ["a", "b"]; got {value!r}')
            if len(set(value)) < len(value):
                raise ValueError(f"{name} names {', '.join(sorted({v for v in value if value.count(v) > 1}))} twice")
        if not self.files:
            raise ValueError("files names no file")
        if not isinstance(self.time, str):
            raise ValueError(f"time is the name of a column; got {self.time!r}")
        if self.time_unit is not None and self.time_unit not in PER_DAY:
            raise ValueError(f"time_unit is one of {', '.join(PER_DAY)}; got {self.time_unit!r}")
        if not self.ids and not self.numbers:
            raise ValueError("need at least one column in ids or numbers")
        self._check_tasks()
        if self.heldout is not None and not (type(self.heldout) is float and 0 < self.heldout < 1):
            raise ValueError(f"heldout is a share between 0 and 1; got {self.heldout!r}")

    def _check_tasks(self) -> None:
        if not isinstance(self.tasks, dict) or not self.tasks:
            raise ValueError('need at least one task, like [tasks] click = "binary"')
        for name, kind in self.tasks.items():
            if kind not in ("binary", "regression"):
                raise ValueError(f'the task {name} is "binary" or "regression"; got {kind!r}')
            if not re.fullmatch(r"\w+", name):
                raise ValueError(f"the task {name!r} becomes part of column names: letters, digits and _ only")
        leaked = sorted(set(self.tasks) & {*self.ids, *self.numbers})
        if leaked:
            raise ValueError(f"{', '.join(leaked)} cannot be both a task and a feature")
        known = {*self.numbers, *(name for name, kind in self.tasks.items() if kind == "regression")}
        stray = sorted(set(self.log1p) - known)
        if stray:
            raise ValueError(f"log1p names {', '.join(stray)}, which is no number and no regression target")

    @property
    def values(self) -> list[str]:
        """Return the columns that are read as numbers."""
        return list(dict.fromkeys([*self.numbers, *self.tasks]))

    @property
    def columns(self) -> list[str]:
        return list(dict.fromkeys([self.time, *self.ids, *self.values]))


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
        "declaration": {k: v for k, v in asdict(declared).items() if k != "files"}
        | {"tasks": [*declared.tasks.items()]},
        "files": [[_kind(file), file_hash(file, cache)] for file in files],
    }
    contents = [content_hash(made_from | {"version": version}) for version in range(1, VERSION + 1)]
    return cached(cache, f"table-{VERSION}", contents, lambda into: _convert(into, files, declared, contents))


def days(cache: Path, *, dir: str | Path) -> Days:
    """Return the day (UTC) of each row. Raises as `load` does."""
    files, declared = _declared(dir)
    with scratch_folder(BUILDING, cache) as rewritten:
        _, days = _in_time_order(_sources(files, rewritten, declared, [declared.time]), declared)
    begins = np.append(True, np.diff(days) != 0)
    return Days(of_row=np.cumsum(begins), dates=tuple(_iso(day) for day in days[begins]))


def _declared(dir: str | Path) -> tuple[list[Path], Declaration]:
    """Return the files and their declaration."""
    path = Path(dir) if Path(dir).suffix == ".toml" else Path(dir) / "table.toml"
    declared = read_declaration(path)
    return _files(path, declared), declared


def read_declaration(path: Path) -> Declaration:
    """Return the declaration in a TOML file. Raises ValueError, with the file's name, if it is missing or wrong."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"cannot read {path} ({error.strerror})") from error
    except ValueError as error:
        raise ValueError(f"{path} is not TOML ({error})") from error
    known = list(Declaration.__dataclass_fields__)
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ValueError(f"{path}: unknown key {', '.join(unknown)}; the keys are {', '.join(known)}")
    missing = [name for name in ("files", "time", "tasks") if name not in values]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}")
    try:
        return Declaration(**values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


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
    order, days = _in_time_order(sources, declared)
    facts: dict[str, Any] = {
        "files": [file.name for file in files],
        "first_day": _iso(days[0]),
        "last_day": _iso(days[-1]),
        "days": int(np.count_nonzero(np.diff(days))) + 1,
    }
    if declared.heldout is not None:
        facts["heldout"] = f"the last {declared.heldout:.3g} of the rows"
    rows, train_rows = len(days), _train_rows(days, declared.heldout)
    del days

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
    return replace(log, content=contents[0]) if all(as_before) else log


def _in_time_order(sources: Sequence["_Source"], declared: Declaration) -> tuple[np.ndarray | None, np.ndarray]:
    """Return the order of the rows by time (None if they are sorted), and in that order each row's day since 1970."""
    time, per_day = _times(sources, declared)
    if len(time) == 0:
        raise ValueError(f"no rows in {', '.join(str(source.file) for source in sources)}")
    order = None if (time[1:] >= time[:-1]).all() else np.argsort(time, kind="stable")
    return order, np.floor_divide(_ordered(time, order), per_day).astype(np.int64)


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
    types = {name: known.get(name) or csv_type(file, name) for name in columns}
    rewrite_csv(file, rewritten, types)

    def read(name: str) -> pa.ChunkedArray:
        with pa.memory_map(str(rewritten)) as mapped:  # a map reads only what is used
            return pa.ipc.open_file(mapped).read_all()[name]

    return _Source(file, read)


def _parquet(file: Path, read: Callable[[pq.ParquetFile], T]) -> T:
    try:
        with pq.ParquetFile(file) as parquet:
            return read(parquet)
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{file} does not read as Parquet ({(str(error).splitlines() or ['?'])[0]})") from error


def _times(sources: Sequence[_Source], declared: Declaration) -> tuple[np.ndarray, int]:
    """Return the times of all rows as numbers, and how many of these units make a day."""
    name = declared.time
    columns = [chunk for source in sources for chunk in source.read(name).chunks if len(chunk)]
    if not columns:
        return np.empty(0, np.int64), 1
    missing = sum(column.null_count for column in columns)
    if missing:
        raise ValueError(f"{missing:,} rows have no time ({name})")
    if all(_is_number(column.type) for column in columns):
        if declared.time_unit is None:
            raise ValueError(f'the time {name} is a number: say in which unit, like time_unit = "ms"')
        time = np.concatenate([column.to_numpy(zero_copy_only=False) for column in columns])
        wrong = int((~np.isfinite(time)).sum())
        if wrong:
            raise ValueError(f"the time {name} is NaN or infinite in {wrong:,} rows")
        return time, PER_DAY[declared.time_unit]
    try:
        stamps = [column.cast(pa.timestamp("us"), safe=False).cast(pa.int64()) for column in map(_utc, columns)]
    except pa.ArrowException as error:
        why = str(error).splitlines()[0]
        raise ValueError(f"the time {name} is neither a number nor a timestamp ({why})") from error
    return np.concatenate([stamp.to_numpy(zero_copy_only=False) for stamp in stamps]), PER_DAY["us"]


def _utc(column: pa.Array) -> pa.Array:
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return column
    zoned = pc.match_substring_regex(column, r"(Z|[+-]\d\d:?\d\d)$")  # pyright: ignore[reportAttributeAccessIssue]
    has_zone = bool(len(column)) and zoned[0].as_py()
    return column.cast(pa.timestamp("us", "UTC" if has_zone else None))


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def _train_rows(days: np.ndarray, heldout: float | None) -> int:
    if heldout is None:
        train_rows = int(np.searchsorted(days, days[-1]))
        if train_rows == 0:
            raise ValueError("the log holds one day (UTC); hold out a share of its rows instead, like heldout = 0.1")
        return train_rows
    train_rows = len(days) - round(len(days) * heldout)
    if not 0 < train_rows < len(days):
        raise ValueError(f"heldout = {heldout:g} of {len(days):,} rows leaves nothing to train on or to hold out")
    return train_rows


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

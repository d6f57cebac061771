"""What `table.toml` says: the keys, their values, and what is wrong with them. docs/data.md explains each key."""

import codecs
import datetime
import functools
import itertools
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pyarrow as pa

from study.data._csv import Dialect, listed
from study.data._lists import POOLS, IdList, canonical_list, list_of
from study.data._targets import KINDS, Target, canonical_target, target_of
from study.data._times import PER_DAY, Clock, check_format, day_of
from study.storage.untrusted_input import open_named

ALWAYS = ("time", "time_unit", "ids", "numbers", "log1p", "heldout")
"""Keys that count in the content hash even where they are left out, since version 1 had them."""

HELDOUT_WITHOUT_TIMES = 0.1


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """The validated content of `table.toml`."""

    files: list[str]
    format: str | None = None
    separator: str = ","
    decimal: str = "."
    encoding: str = "utf8"
    columns: list[str] | None = None
    time: str | None = None
    order: str | None = None
    time_unit: str | None = None
    time_format: str | None = None
    time_from: str | None = None
    time_to: str | None = None
    heldout: float | None = None
    ids: list[str] = field(default_factory=list)
    lists: dict[str, Any] = field(default_factory=dict)
    numbers: list[str] = field(default_factory=list)
    log1p: list[str] = field(default_factory=list)
    missing: str = "refuse"
    missing_labels: str = "refuse"
    tasks: dict[str, Any]

    def __post_init__(self) -> None:
        for name in ("files", "ids", "numbers", "log1p", *(["columns"] if self.columns is not None else [])):
            object.__setattr__(self, name, _names(name, getattr(self, name)))
        if not self.files:
            raise ValueError("files names no file")
        self._check_files()
        self._check_times()
        if not isinstance(self.lists, dict):
            raise ValueError(f'lists is a table of columns, like [lists] genres = "mean"; got {self.lists!r}')
        if not self.ids and not self.numbers and not self.id_lists:
            raise ValueError("need at least one column in ids or numbers")
        self._check_tasks()
        self._check_uses()
        if self.missing not in ("refuse", "mean"):
            raise ValueError(f'missing is "refuse" or "mean"; got {self.missing!r}')
        if self.missing_labels not in ("refuse", "skip"):
            raise ValueError(f'missing_labels is "refuse" or "skip"; got {self.missing_labels!r}')
        if self.heldout is not None and not (type(self.heldout) is float and 0 < self.heldout < 1):
            raise ValueError(f"heldout is a share between 0 and 1; got {self.heldout!r}")

    def _check_files(self) -> None:
        if self.format not in (None, "csv", "parquet"):
            raise ValueError(f'format is "csv" or "parquet"; got {self.format!r}')
        if not isinstance(self.separator, str) or not self.separator or set(self.separator) & set('\r\n"'):
            raise ValueError(f'separator is what stands between fields, like separator = "\\t"; got {self.separator!r}')
        if self.decimal not in (".", ",") or self.decimal == self.separator:
            raise ValueError(f'decimal is "." or ",", and not the separator; got {self.decimal!r}')
        try:
            if codecs.lookup(self.encoding).name == "utf-8":
                object.__setattr__(self, "encoding", "utf8")  # its other names are the default too
        except (LookupError, TypeError) as error:
            raise ValueError(f'encoding is like "utf8" or "latin1"; got {self.encoding!r}') from error

    def _check_times(self) -> None:
        if (self.time is None) == (self.order is None):
            raise ValueError('need one of time and order: the column of times, or order = "rows" where there is none')
        if self.order not in (None, "rows"):
            raise ValueError(f'order is "rows", the order of the rows in the files; got {self.order!r}')
        if self.time is not None and (not isinstance(self.time, str) or not self.time):
            raise ValueError(f"time is the name of a column; got {self.time!r}")
        if self.time_unit is not None and self.time_unit not in PER_DAY:
            raise ValueError(f"time_unit is one of {', '.join(PER_DAY)}; got {self.time_unit!r}")
        stray = [
            name for name in ("time_unit", "time_format", "time_from", "time_to") if getattr(self, name) is not None
        ]
        if self.order and stray:
            raise ValueError(f"{stray[0]} needs time, the column of times")
        if self.time_format is not None:
            if self.time_unit is not None:
                raise ValueError("time_unit is for numbers, time_format for stamps: need one of them")
            check_format(self.time_format)
        for name in ("time_from", "time_to"):
            value = getattr(self, name)
            if isinstance(value, datetime.date):  # a datetime is one too
                object.__setattr__(self, name, value := value.isoformat())
            if value is not None:
                day_of(value, name)  # also refuses what is no text

    def _check_tasks(self) -> None:
        if not isinstance(self.tasks, dict) or not self.tasks:
            raise ValueError('need at least one task, like [tasks] click = "binary"')
        for name in self.tasks:
            if not re.fullmatch(r"\w+", name):
                raise ValueError(
                    f"the task {name!r} becomes part of column names: letters, digits and _ only; name its column "
                    f'apart, like like = {{ column = "{name}", kind = "binary" }}'
                )
        known = {*self.numbers, *(target.name for target in self.targets if target.kind == "regression")}
        stray = sorted(set(self.log1p) - known)
        if stray:
            raise ValueError(f"log1p names {listed(stray)}, which is no number and no regression target")

    def _check_uses(self) -> None:
        """Raise ValueError unless each column has one use: it is read as one type, and a label is no feature."""
        uses: dict[str, set[str]] = {"ids": {*self.ids}, "lists": {*self.lists}, "numbers": {*self.numbers}}
        uses |= {"tasks": {target.column for target in self.targets}, "time": {self.time} if self.time else set()}
        for one, other in itertools.combinations(uses, 2):
            if twice := sorted(uses[one] & uses[other]):
                raise ValueError(f"{listed(twice)} cannot be both in {one} and in {other}")

    @property
    def clock(self) -> Clock | None:
        """Return how the times are stated; None if the rows are in order."""
        if self.time is None:
            return None
        return Clock(
            name=self.time, unit=self.time_unit, format=self.time_format, first=self.time_from, last=self.time_to
        )

    @property
    def dialect(self) -> Dialect:
        """Return how the CSV files are written."""
        columns = None if self.columns is None else tuple(self.columns)
        return Dialect(separator=self.separator, decimal=self.decimal, encoding=self.encoding, columns=columns)

    @functools.cached_property
    def targets(self) -> list[Target]:
        """Return what the tasks predict."""
        return [target_of(name, said) for name, said in self.tasks.items()]

    @functools.cached_property
    def id_lists(self) -> list[IdList]:
        """Return the features of several ids."""
        return [list_of(name, said) for name, said in self.lists.items()]

    @property
    def share(self) -> float | None:
        """Return the share of the rows that is held out; None for the last day."""
        return self.heldout or (HELDOUT_WITHOUT_TIMES if self.order else None)

    @property
    def csv_types(self) -> dict[str, pa.DataType]:
        """Return the types of the columns of CSV files. That of the time is not known, unless it is a stamp."""
        types = dict.fromkeys([*self.ids, *self.lists], pa.string()) | dict.fromkeys(self.numbers, pa.float64())
        types |= {target.column: pa.string() if target.is_text else pa.float64() for target in self.targets}
        if self.time and self.time_format:  # 05010100 is no number
            types[self.time] = pa.string()
        return types

    @property
    def used(self) -> list[str]:
        """Return the columns that are read."""
        of_tasks = [target.column for target in self.targets]
        return list(
            dict.fromkeys([*([self.time] if self.time else []), *self.ids, *self.lists, *self.numbers, *of_tasks])
        )

    def canonical(self) -> dict[str, Any]:
        """Return what changes the log, for its content hash. A default that is written counts as one left out."""
        said = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "files"}
        if self.order and self.heldout == HELDOUT_WITHOUT_TIMES:
            said["heldout"] = None
        said["lists"] = {name: canonical_list(value) for name, value in self.lists.items()}
        said["tasks"] = [[name, canonical_target(name, value)] for name, value in self.tasks.items()]
        return {name: value for name, value in said.items() if name in ALWAYS or value != DEFAULTS[name]}


def _names(key: str, value: Any) -> list[str]:
    """Return a list of names, in which C1..C26 stands for C1, C2, ... C26. Raises ValueError."""
    if not isinstance(value, list) or not all(isinstance(v, str) and v for v in value):
        raise ValueError(f'{key} is a list of names, like {key} = ["a", "b"]; got {value!r}')
    names: list[str] = []
    for name in value:
        found = re.fullmatch(r"(.*?)(\d{1,6})\.\.\1(\d{1,6})", name)
        if found and int(found[2]) > int(found[3]):
            raise ValueError(f"{key} names {name}, which holds no column: the first number is the larger one")
        digits = len(found[2]) if found else 0  # C01..C26 are C01, C02, ... C26
        names += [f"{found[1]}{n:0{digits}}" for n in range(int(found[2]), int(found[3]) + 1)] if found else [name]
    if len(set(names)) < len(names):
        raise ValueError(f"{key} names {listed(sorted({v for v in names if names.count(v) > 1}))} twice")
    return names


DEFAULTS = {f.name: f.default_factory() if callable(f.default_factory) else f.default for f in fields(Declaration)}


def _below(values: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield keys of the declaration that stand in a table where they mean nothing, with the table."""
    for table, own, words in (("lists", IdList, POOLS), ("tasks", Target, KINDS)):
        columns = values.get(table)
        for name, said in columns.items() if isinstance(columns, dict) else ():
            if name in DEFAULTS and not isinstance(said, dict) and said not in words:
                yield name, f"[{table}]"
            for key in said if isinstance(said, dict) else ():
                if key in DEFAULTS and key not in own.__dataclass_fields__:
                    yield key, f"[{table}.{name}]"


def read_declaration(path: Path) -> Declaration:
    """Return the declaration in a TOML file. Raises ValueError, with the file's name, if it is missing or wrong."""
    try:
        with open_named(path) as file:
            values = tomllib.load(file)
    except OSError as error:
        raise ValueError(f"cannot read {path} ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not TOML ({error})") from error
    known = list(Declaration.__dataclass_fields__)
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ValueError(f"{path}: unknown key {', '.join(unknown)}; the keys are {', '.join(known)}")
    for name, table in _below(values):
        raise ValueError(
            f"{path}: {name} is below {table} and counts as a part of it: write it above the first [table]"
        )
    missing = [name for name in ("files", "tasks") if name not in values]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}")
    try:
        return Declaration(**values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error

"""What `table.toml` says: the keys, their values, and what is wrong with them. docs/data.md explains each key."""

import datetime
import re
import tomllib
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from study.data._times import PER_DAY, Clock, check_format, day_of


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """The validated content of `table.toml`."""

    files: list[str]
    time: str
    time_unit: str | None = None
    ids: list[str] = field(default_factory=list)
    numbers: list[str] = field(default_factory=list)
    tasks: dict[str, str]
    log1p: list[str] = field(default_factory=list)
    heldout: float | None = None
    time_format: str | None = None
    time_from: str | None = None
    time_to: str | None = None

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
        self._check_times()
        if not self.ids and not self.numbers:
            raise ValueError("need at least one column in ids or numbers")
        self._check_tasks()
        if self.heldout is not None and not (type(self.heldout) is float and 0 < self.heldout < 1):
            raise ValueError(f"heldout is a share between 0 and 1; got {self.heldout!r}")

    def _check_times(self) -> None:
        if self.time_format is not None:
            if self.time_unit is not None:
                raise ValueError("time_unit is for numbers, time_format for stamps: need one of them")
            check_format(self.time_format)
        for name in ("time_from", "time_to"):
            value = getattr(self, name)
            if isinstance(value, datetime.date):  # a datetime is one too
                object.__setattr__(self, name, value := value.isoformat())
            if value is not None:
                day_of(value, name)

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
    def clock(self) -> Clock:
        """Return how the times are stated."""
        return Clock(
            name=self.time, unit=self.time_unit, format=self.time_format, first=self.time_from, last=self.time_to
        )

    def canonical(self) -> dict[str, Any]:
        """Return what changes the log, for its content hash. Keys that version 1 did not have count where they are
        set."""
        always = ("time", "time_unit", "ids", "numbers", "log1p", "heldout")
        said = {name: value for name, value in asdict(self).items() if name in always or value != DEFAULTS.get(name)}
        return {k: v for k, v in said.items() if k != "files"} | {"tasks": [*self.tasks.items()]}

    @property
    def values(self) -> list[str]:
        """Return the columns that are read as numbers."""
        return list(dict.fromkeys([*self.numbers, *self.tasks]))

    @property
    def columns(self) -> list[str]:
        return list(dict.fromkeys([self.time, *self.ids, *self.values]))


DEFAULTS = {f.name: f.default_factory() if callable(f.default_factory) else f.default for f in fields(Declaration)}


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

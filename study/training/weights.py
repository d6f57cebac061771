"""The weights of one trained ranker, from which other runs can start.

    about                  what they are: model, features, vocabularies, tasks, the run that left them, the days it saw
    parameter/<name>       the network's parameters, by name
    buffer/<name>          its running statistics and frozen parameters, by name
    table/<number>         embedding rows (codes, dim) of each id feature, in the order of the features
    accumulator/<name>, table_accumulator/<number>
                           Adagrad's G of each parameter and table: all of them, or none if the method keeps none

`Weights.content` identifies weights. It is a hash of the arrays alone, which decide the bits of a run that starts from
them. Accumulators have a hash of their own. `study.trainers.weights_file` reads and writes files of weights.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from study.config import canonical_json
from study.storage.untrusted_input import (
    MAX_DESCRIPTION_BYTES,
    MAX_FILE_BYTES,
    check_integer,
    check_name,
    check_number,
)

MAX_FEATURES = 10_000
HEADER_BYTES = 1024
"""Bytes of headers for each array of a file, without its name."""

SHOWN_DAYS = 3


@dataclass(frozen=True, kw_only=True)
class About:
    """What weights are, and where they come from.

    Args:
        model, embedding_dim, precision, id_names, vocabulary, number_names, tasks: Must be equal where they are used.
        whole: The content of the log that the codes and scales come from.
        seen: Ranges of days of that log, first and last included, on which they were trained, together with the weights
            that they started from; None is all days.
        run_id, method, lr, seed, steps, data: Of the run that they come from.
        options: Options of that run that differ from the method's defaults; None if the file does not say.
        embeddings: The recipe's `embeddings`; empty if the file does not say.
    """

    model: str
    embedding_dim: int
    precision: str
    id_names: tuple[str, ...]
    vocabulary: tuple[int, ...]
    number_names: tuple[str, ...]
    tasks: tuple[str, ...]
    whole: str
    seen: tuple[tuple[int, int], ...] | None
    run_id: str
    method: str
    lr: float
    seed: int
    steps: int
    data: str
    options: Mapping[str, str | bool | int | float] | None = None
    embeddings: str = ""

    def __post_init__(self) -> None:
        for name in ("model", "whole", "run_id", "method", "data"):
            check_name(getattr(self, name), name)
        for name in ("embedding_dim", "seed", "steps"):
            if check_integer(getattr(self, name), name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}")
        check_number(self.lr, "lr")
        if self.options is not None:
            object.__setattr__(self, "options", _options(self.options))
        if self.embeddings not in ("", "adagrad", "method"):
            raise ValueError(f"embeddings is {self.embeddings!r}"[:100])
        if self.precision not in ("float32", "float64"):
            raise ValueError(f"precision is {self.precision!r}"[:100])
        for name in ("id_names", "number_names", "tasks"):
            names = _list_of(getattr(self, name), name)
            object.__setattr__(self, name, tuple(check_name(word, f"one of {name}") for word in names))
        codes = tuple(check_integer(size, "a vocabulary") for size in _list_of(self.vocabulary, "vocabulary"))
        if len(codes) != len(self.id_names) or min(codes, default=1) < 1:
            raise ValueError("vocabulary is not one positive size for each of id_names")
        object.__setattr__(self, "vocabulary", codes)
        if self.seen is not None:
            object.__setattr__(self, "seen", _merged(map(_days, _list_of(self.seen, "seen"))))

    def saw(self, first: int | None, last: int | None) -> bool:
        """Return whether they were trained on any of these days; None is all days."""
        if self.seen is None or first is None or last is None:
            return True
        return any(a <= last and first <= b for a, b in self.seen)

    @property
    def curve(self) -> str:
        """Return the method with its options: `agc max_ratio=0.05`."""
        return " ".join([self.method, *(f"{name}={value}" for name, value in sorted((self.options or {}).items()))])

    def days_seen(self) -> str:
        """Return `days 1 to 6 and 8 to 13`; only the first few of many ranges."""
        if self.seen is None:
            return "all rows"
        ranges = [f"{first} to {last}" if first < last else str(first) for first, last in self.seen[:SHOWN_DAYS]]
        more = len(self.seen) - SHOWN_DAYS
        rest = f" and {more:,} more ranges, up to {self.seen[-1][1]}" if more > 0 else ""
        return f"days {' and '.join(ranges)}{rest}"


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The weights of one run.

    Args:
        about: What they are.
        arrays: By their names in a file, C-contiguous. Parameters, tables and accumulators are finite, in the precision
            of `about`.
    """

    about: About
    arrays: dict[str, np.ndarray]

    @cached_property
    def content(self) -> str:
        """Return the SHA-256 of names, types, shapes and values of all arrays except the accumulators."""
        return _hash({name: array for name, array in self.arrays.items() if not is_accumulator(name)})

    @cached_property
    def accumulators(self) -> str:
        """Return the same hash of the accumulators; empty if there are none."""
        own = {name: array for name, array in self.arrays.items() if is_accumulator(name)}
        return _hash(own) if own else ""

    @property
    def tables(self) -> list[np.ndarray]:
        """Return the rows (codes, dim) of each id feature, in order."""
        return [self.arrays[f"table/{f}"] for f in range(len(self.about.id_names))]

    @property
    def table_accumulators(self) -> list[np.ndarray]:
        """Return the accumulators (codes, dim) of each id feature, in order. There must be some."""
        return [self.arrays[f"table_accumulator/{f}"] for f in range(len(self.about.id_names))]

    def network(self, kind: str) -> dict[str, np.ndarray]:
        """Return the arrays of one kind by name: "parameter", "buffer" or "accumulator"."""
        return {name.partition("/")[2]: array for name, array in self.arrays.items() if name.startswith(f"{kind}/")}


def check_form(about: About, arrays: Mapping[str, np.ndarray]) -> None:
    """Check names, shapes, types and the size of a file. Reads no values, so arrays may be broadcast placeholders.

    Raises:
        ValueError: If an array is missing, unknown or of another shape or type, or a file cannot hold them all.
    """
    shapes = {f"table/{f}": (codes, about.embedding_dim) for f, codes in enumerate(about.vocabulary)}
    for name in shapes.keys() - arrays.keys():
        raise ValueError(f"{name} is missing")
    if any(map(is_accumulator, arrays)):
        trained = {name: array.shape for name, array in arrays.items() if name.startswith("parameter/")} | shapes
        shapes |= (own := {_accumulator_of(name): shape for name, shape in trained.items()})
        if other := sorted({name for name in arrays if is_accumulator(name)} ^ own.keys()):
            raise ValueError(f"it lacks or adds the accumulator {other[0]!r:.200}: all are there, or none")
    for name, array in arrays.items():
        if name not in shapes and not _of_network(name):
            raise ValueError(f"{name[:100]!r} is no array of weights")
        if name in shapes and array.shape != shapes[name]:
            raise ValueError(f"{name[:100]} has the shape {array.shape}, not {shapes[name]}")
        is_float = array.dtype.kind == "f" or not name.startswith("buffer/")
        if is_float and array.dtype != np.dtype(about.precision).newbyteorder("="):
            raise ValueError(f"{name} is {array.dtype}, not {about.precision}")
    if len(json.dumps(dataclasses.asdict(about))) > MAX_DESCRIPTION_BYTES - HEADER_BYTES:
        raise ValueError(f"the names of their features take more than {MAX_DESCRIPTION_BYTES:,} bytes")
    size = sum(array.nbytes + HEADER_BYTES + 2 * len(name.encode()) for name, array in arrays.items())
    if size > MAX_FILE_BYTES - MAX_DESCRIPTION_BYTES:
        raise ValueError(f"they take {size:,} bytes, and a file of weights has {MAX_FILE_BYTES:,} at most")


def validate(about: About, arrays: dict[str, np.ndarray]) -> Weights:
    """Return weights after all checks.

    Raises:
        ValueError: As `check_form`, or if a value is not finite. Only buffers may hold infinity, as masks do.
    """
    check_form(about, arrays)
    for name, array in arrays.items():
        if not name.startswith("buffer/") and not np.isfinite(array).all():
            raise ValueError(f"{name} holds values that are not finite")
        if is_accumulator(name) and (array < 0).any():
            raise ValueError(f"{name} holds values below 0, which no sum of squares is")
    return Weights(about=about, arrays={name: np.require(array, requirements="C") for name, array in arrays.items()})


def _hash(arrays: Mapping[str, np.ndarray]) -> str:
    parts = {
        name: [array.dtype.str, list(array.shape), hashlib.sha256(array.tobytes()).hexdigest()]
        for name, array in arrays.items()
    }
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()


def is_accumulator(name: str) -> bool:
    return name.startswith(("accumulator/", "table_accumulator/"))


def _accumulator_of(name: str) -> str:
    """The name of the accumulator of a parameter or a table."""
    kind, _, own = name.partition("/")
    return f"accumulator/{own}" if kind == "parameter" else f"table_accumulator/{own}"


def _of_network(name: str) -> bool:
    """Whether this names a parameter or a buffer, which may hold hyphens and letters of any script."""
    kind, _, own = name.partition("/")
    return kind in ("parameter", "buffer") and 0 < len(own) <= 500 and own.isprintable() and "/" not in own


def _options(value: Any) -> dict[str, str | bool | int | float]:
    if not isinstance(value, Mapping) or len(value) > 100:
        raise ValueError("options is no mapping, or too long a one")
    for name, option in value.items():
        check_name(name, "an option")
        if isinstance(option, str):
            check_name(option, f"the option {name}")
        elif not isinstance(option, bool):
            check_number(option, f"the option {name}")
    return dict(value)


def _merged(days: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """The same days in order, with adjacent ranges merged."""
    ranges: list[tuple[int, int]] = []
    for first, last in sorted(days):
        if ranges and first <= ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], max(ranges[-1][1], last))
        else:
            ranges.append((first, last))
    return tuple(ranges)


def _list_of(value: Any, what: str) -> list[Any] | tuple[Any, ...]:
    if not isinstance(value, list | tuple) or len(value) > MAX_FEATURES:
        raise ValueError(f"{what} is no list, or too long a one")
    return value


def _days(value: Any) -> tuple[int, int]:
    if len(_list_of(value, "seen")) != 2:
        raise ValueError("seen is no list of first and last days")
    first, last = (check_integer(day, "a day") for day in value)
    if not 1 <= first <= last:
        raise ValueError(f"seen holds the days {first} to {last}")
    return first, last

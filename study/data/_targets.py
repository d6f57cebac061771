"""Labels of a table: numbers as they are, or the classes and thresholds that `table.toml` declares.

click = "binary"                                                   # a column of 0 and 1
like = { column = "rating", kind = "binary", above = 3 }           # 1 above a threshold
buy = { column = "behaviour", kind = "binary", positive = ["buy"] }    # 1 for these values, 0 for all others
good = { kind = "binary", positive = [1], negative = [-1] }        # other values are an error
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from study.data._csv import MISSING
from study.data._ids import text_of

KINDS = ("binary", "regression")
OF_BINARY = ("above", "positive", "negative")
OF_REGRESSION = ("transform", "clip")

FAR = 1000
"""A value this many robust standard deviations away from the median decides mean and scale alone."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a task predicts."""

    name: str
    kind: str
    column: str
    above: float | None = None
    positive: tuple[Any, ...] = ()
    negative: tuple[Any, ...] = ()
    transform: str | None = None
    clip: float | None = None

    @property
    def is_text(self) -> bool:
        """Return whether the column holds classes, and not numbers."""
        return bool(self.positive)

    def from_text(self, column: pa.ChunkedArray) -> np.ndarray:
        """Return 1, 0, or NaN where missing, for classes as text (`text_of`). Raises ValueError."""
        text = _normal(column)
        positive, negative = (
            _normal(pa.array([word for value in values for word in _words(value)], pa.string()))
            for values in (self.positive, self.negative)
        )
        one = _is_in(text, positive)
        if not one.any() and (found := texts_in(text)):
            expected = " or ".join(map(repr, self.positive))
            raise ValueError(f"no label of {self.name} is {expected}; {self.how_to_declare(found)}")
        known = one | _is_in(text, negative) if self.negative else np.ones(len(one), dtype=bool)
        missing = _is_in(text, pa.array([None, *MISSING], pa.string())) & ~one & ~(known & bool(self.negative))
        if wrong := np.flatnonzero(~known & ~missing).tolist():
            raise ValueError(
                f"the labels of {self.name} are neither positive nor negative in {len(wrong):,} rows, for instance "
                f"{text[wrong[0]].as_py()!r}"
            )
        return np.where(missing, np.nan, one)

    def from_numbers(self, values: np.ndarray) -> np.ndarray:
        """Return labels. Raises ValueError if they are not 0 and 1, and are to be."""
        if self.above is not None:
            return np.where(np.isnan(values), np.nan, values > self.above)
        known = values[~np.isnan(values)]
        if self.kind == "binary" and len(wrong := known[(known != 0) & (known != 1)]):
            found = text_of(pa.chunked_array([np.unique(known)])).to_pylist()
            raise ValueError(
                f"the labels of {self.name} are not all 0 or 1: {len(wrong):,} others, for instance {wrong[0]:g}; "
                f"{self.how_to_declare(found)}"
            )
        return values

    def clipped(self, values: np.ndarray, train_rows: int) -> np.ndarray:
        """Return labels cut at the quantiles `clip` and 1 - `clip` of the training rows, which come first."""
        known = values[:train_rows][~np.isnan(values[:train_rows])]
        if self.clip is None or not len(known):
            return values
        return np.clip(values, *np.quantile(known, [1 - self.clip, self.clip]))

    def how_to_declare(self, found: Sequence[str]) -> str:
        """Return which values a column has, in order, and the line that says which of them are 1."""
        some = [repr(value) for value in found]
        shown = ", ".join(some if len(some) < 8 else [*some[:5], "...", some[-1]])
        line = replace(self, above=None, positive=(found[-1],)).declared()
        return f"its values are {shown}: say which count, like {line}"

    def declared(self) -> str:
        """Return the line of `[tasks]` that says this."""
        column = None if self.column == self.name else self.column
        said = {"column": column, "kind": self.kind, "above": self.above, "positive": list(self.positive)}
        said |= {"negative": list(self.negative), "transform": self.transform, "clip": self.clip}
        keys = [
            f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in said.items() if value or value == 0
        ]
        name = self.name if re.fullmatch(r"[A-Za-z0-9_-]+", self.name) else json.dumps(self.name, ensure_ascii=False)
        return f"{name} = {{ {', '.join(keys)} }}"


def texts_in(column: pa.ChunkedArray) -> list[str]:
    """Return the values of a column of text, in order, without those that stand for a missing one."""
    return sorted(set(column.unique().to_pylist()) - {None, *MISSING})


def target_of(name: str, said: Any) -> Target:
    """Return a target by what `[tasks]` says of it. Raises ValueError."""
    keys: dict[str, Any] = dict(said) if isinstance(said, dict) else {"kind": said}
    known = [key for key in Target.__dataclass_fields__ if key != "name"]
    if unknown := sorted(set(keys) - set(known)):
        raise ValueError(f"the task {name} has no key {', '.join(unknown)}; the keys are {', '.join(known)}")
    kind, column = keys.get("kind"), keys.get("column", name)
    if kind not in KINDS:
        raise ValueError(f'the task {name} is "binary" or "regression"; got {kind!r}')
    if not isinstance(column, str) or not column:
        raise ValueError(f"column of the task {name} is the name of a column; got {column!r}")
    if kind == "regression" and (stray := [key for key in OF_BINARY if key in keys]):
        raise ValueError(f"{stray[0]} is for binary tasks, and {name} is a regression")
    if kind == "binary" and (stray := [key for key in OF_REGRESSION if key in keys]):
        raise ValueError(f"{stray[0]} is for regressions, and {name} is a binary task")
    if keys.get("transform") not in (None, "log1p"):
        raise ValueError(f'transform of the task {name} is "log1p"; got {keys["transform"]!r}')
    clip = keys.get("clip")
    if clip is not None and not (type(clip) is float and 0.5 < clip < 1):
        raise ValueError(f"clip of the task {name} is a quantile, like clip = 0.999; got {clip!r}")
    above = keys.get("above")
    if above is not None and (isinstance(above, bool) or not isinstance(above, int | float)):
        raise ValueError(f"above of the task {name} is a number; got {above!r}")
    for key in ("positive", "negative"):
        values = keys.get(key, [])
        if not isinstance(values, list) or not all(isinstance(v, str | int | float) for v in values):
            raise ValueError(f'{key} of the task {name} is a list of values, like {key} = ["yes"]; got {values!r}')
        keys[key] = tuple(values)
    if above is not None and keys["positive"]:
        raise ValueError(f"the task {name} has above and positive; need one of them")
    if keys["negative"] and not keys["positive"]:
        raise ValueError(f"the task {name} has negative; it needs positive too")
    return Target(**{"name": name, "column": column, **keys})


def canonical_target(name: str, said: Any) -> Any:
    """Return what `[tasks]` says of a target, for the content hash: keys at their default are left out."""
    if not isinstance(said, dict):
        return said
    return {key: value for key, value in said.items() if value != [] and (key, value) != ("column", name)}


def farthest(values: np.ndarray, train_rows: int) -> tuple[int, float] | None:
    """Return the row of the value farthest from the median of the training rows, and that median; None if it is near.

    Near is within `FAR` robust standard deviations: those of the middle half, or of the middle 98% where half of the
    values are equal.
    """
    known = values[:train_rows][~np.isnan(values[:train_rows])]
    if not len(known):
        return None
    low, first, median, third, high = np.quantile(known, [0.01, 0.25, 0.5, 0.75, 0.99])
    scale = (third - first) / 1.349 or (high - low) / 4.653
    row = int(np.nanargmax(np.abs(values - median)))
    return (row, float(median)) if scale and abs(values[row] - median) > FAR * scale else None


def _words(value: Any) -> Sequence[str]:
    """Return the ways to write a value."""
    if isinstance(value, bool):
        text = str(value)
        return text, text.lower(), text.upper()
    return [value if isinstance(value, str) else repr(value)]


def _normal(text: Any) -> Any:
    """Return texts in which a number has one form: `5.50` is `5.5`, and `1.0` is `1`."""
    number = pc.match_substring_regex(text, NUMBER)  # pyright: ignore[reportAttributeAccessIssue]
    for pattern, written in ((r"(\.\d*?)0+$", r"\1"), (r"\.$", "")):
        changed = pc.replace_substring_regex(text, pattern, written)  # pyright: ignore[reportAttributeAccessIssue]
        text = pc.if_else(number, changed, text)  # pyright: ignore[reportAttributeAccessIssue]
    return text


NUMBER = r"^-?(?:0|[1-9]\d*)\.\d*$"


def _is_in(text: pa.ChunkedArray, words: pa.Array) -> np.ndarray:
    return pc.is_in(text, words).to_numpy()  # pyright: ignore[reportAttributeAccessIssue]

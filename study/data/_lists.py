"""Lists of ids: a column of lists in Parquet, or a text with a separator.

[lists]
genres = "mean"                                  # a column of lists: the mean of their embeddings
tags = { separator = "|", pool = "sum", most = 20 }    # a text; of longer lists, the last 20 count
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from study.data._ids import id_codes, plain

POOLS = ("mean", "sum")

SEPARATORS = ("|", ",", ";", "\t", "/", ":", " ")
"""Common ones. Of those in equally many values, the first is named."""

LONGEST = 64
"""Longer lists need `most`: every list takes the columns of the longest."""


READ_OTHERWISE = 4
"""The first version of `table` that takes off brackets, quotes and surrounding spaces."""

ITEM = r"""(?s)^(?:'(.*)'|"(.*)"|None|nan|null|(.*?)),?$"""
"""An item of a printed list. Python prints a tuple of one item with a comma."""


@dataclass(frozen=True, kw_only=True)
class IdList:
    """A feature of several ids."""

    name: str
    pool: str = "mean"
    separator: str | None = None
    most: int | None = None


def list_of(name: str, said: Any) -> IdList:
    """Return a feature by what `[lists]` says of it. Raises ValueError."""
    keys: dict[str, Any] = dict(said) if isinstance(said, dict) else {"pool": said}
    known = [key for key in IdList.__dataclass_fields__ if key != "name"]
    if unknown := sorted(set(keys) - set(known)):
        raise ValueError(f"the list {name} has no key {', '.join(unknown)}; the keys are {', '.join(known)}")
    if keys.get("pool", "mean") not in POOLS:
        raise ValueError(f'pool of the list {name} is "mean" or "sum"; got {keys["pool"]!r}')
    separator, most = keys.get("separator"), keys.get("most")
    if separator is not None and (not isinstance(separator, str) or not separator):
        raise ValueError(f'separator of the list {name} is like "|"; got {separator!r}')
    if most is not None and not (type(most) is int and 1 <= most <= 1000):
        raise ValueError(f"most of the list {name} is a number of ids from 1 to 1000; got {most!r}")
    return IdList(**{"name": name, **keys})


def canonical_list(said: Any) -> Any:
    """Return what `[lists]` says of a feature, for the content hash: the pool where it is the default is left out."""
    if not isinstance(said, dict):
        return said
    return {key: value for key, value in said.items() if (key, value) != ("pool", "mean")} or "mean"


def list_codes(feature: IdList, columns: Sequence[pa.ChunkedArray], *, csv: bool) -> tuple[np.ndarray, int, int]:
    """Return codes (N, L) of lists of ids, -1 after the end of each, and the rest of `id_codes`.

    Missing ids inside a list do not count. Raises ValueError.
    """
    split = [_split(feature, column) for column in columns]
    lists = [column for column, _ in split]
    count_N = np.concatenate([pc.list_value_length(c).fill_null(0).to_numpy() for c in lists]).astype(np.int64)  # pyright: ignore[reportAttributeAccessIssue]
    codes, distinct, version = id_codes(feature.name, [pc.list_flatten(c) for c in lists], csv=csv)  # pyright: ignore[reportAttributeAccessIssue]
    row = np.repeat(np.arange(len(count_N)), count_N)[codes >= 0]
    codes = codes[codes >= 0]
    count_N = np.bincount(row, minlength=len(count_N))
    longest = int(count_N.max(initial=1))
    if feature.most is None and longest > LONGEST:
        raise ValueError(
            f"a list of {feature.name} holds {longest:,} ids: set {feature.name} = {{ most = {LONGEST} }} under "
            "[lists]; of longer lists, the last ones count"
        )
    if any(read_otherwise for _, read_otherwise in split):
        version = READ_OTHERWISE
    width = max(1, min(longest, feature.most or longest))
    first_N = np.cumsum(count_N) - count_N + np.maximum(count_N - width, 0)
    place = np.arange(len(codes)) - np.repeat(first_N, count_N)
    padded = np.full((len(count_N), width), -1, dtype=np.int32)
    kept = place >= 0
    padded[row[kept], place[kept]] = codes[kept]
    return padded, distinct, version


def separator_warning(feature: IdList, columns: Sequence[pa.ChunkedArray]) -> str | None:
    """Return what to set if no text holds the separator, but some hold another common one; else None."""
    texts = [plain(column) for column in columns]
    texts = [text for text in texts if pa.types.is_string(text.type) or pa.types.is_large_string(text.type)]
    if feature.separator is None or not texts or _holding(texts, feature.separator):
        return None
    rows = {other: _holding(texts, other) for other in SEPARATORS if other != feature.separator}
    other = max(rows, key=lambda separator: rows[separator])
    if not rows[other]:
        return None
    said = f"{feature.name} = {{ separator = {json.dumps(other)} }}"
    return (
        f"no value of {feature.name} holds its separator {json.dumps(feature.separator)}, so each is one id; "
        f"{rows[other]:,} hold {json.dumps(other)}: set {said} under [lists]"
    )


def _holding(texts: Sequence[pa.ChunkedArray], separator: str) -> int:
    """Return how many texts hold the separator."""
    return sum(pc.sum(pc.match_substring(text, separator)).as_py() or 0 for text in texts)  # pyright: ignore[reportAttributeAccessIssue]


def is_list(kind: pa.DataType) -> bool:
    """Return whether a column of this type holds lists."""
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _split(feature: IdList, column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, bool]:
    """Return a column of lists, and whether versions before `READ_OTHERWISE` took its texts for other lists."""
    column = plain(column)
    kind = column.type
    if is_list(kind):
        return column.cast(pa.list_(kind.value_type)) if pa.types.is_fixed_size_list(kind) else column, False
    if pa.types.is_null(kind):  # a part without any list
        return column.cast(pa.list_(pa.string())), False
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise ValueError(f"{feature.name} holds {kind}, and no lists")
    if feature.separator is None:
        raise ValueError(f'{feature.name} holds text: set its separator, like {feature.name} = {{ separator = "|" }}')
    lists = [_lists(chunk, feature.separator) for chunk in column.chunks]
    return pa.chunked_array([own for own, _ in lists], pa.list_(kind)), any(other for _, other in lists)


def _lists(texts: pa.Array, separator: str) -> tuple[pa.Array, bool]:
    form, printed = _printed_list(separator), pa.array([], pa.bool_())
    if any(pc.any(pc.starts_with(texts, first)).as_py() for first in "[( \t\n\r\v\f"):  # quicker  # pyright: ignore[reportAttributeAccessIssue]
        printed = pc.fill_null(pc.match_substring_regex(texts, form), False)  # pyright: ignore[reportAttributeAccessIssue]
    any_printed = printed.true_count > 0
    if any_printed:
        texts = pc.if_else(printed, pc.replace_substring_regex(texts, form, r"\1\2"), texts)  # pyright: ignore[reportAttributeAccessIssue]
    lists = pc.split_pattern(texts, separator)  # pyright: ignore[reportAttributeAccessIssue]
    items = pc.ascii_trim_whitespace(lists.values)  # pyright: ignore[reportAttributeAccessIssue]
    read_otherwise = any_printed or not items.equals(lists.values)
    if any_printed:
        of_printed = pc.take(printed, pc.list_parent_indices(lists))  # pyright: ignore[reportAttributeAccessIssue]
        items = pc.if_else(of_printed, pc.replace_substring_regex(items, ITEM, r"\1\2\3"), items)  # pyright: ignore[reportAttributeAccessIssue]
    items = pc.if_else(pc.equal(items, ""), None, items)  # pyright: ignore[reportAttributeAccessIssue]
    return type(lists).from_arrays(lists.offsets, items, mask=lists.is_null()), read_otherwise


def _printed_list(separator: str) -> str:
    """Return the form of `[5, 12]` and `('a', 'b')`, but not of `[a]|[b]`. `(none)` is an id."""
    quoted = r"""\s*['"].*['"],?\s*"""
    several = rf"[^()]*(?:,|{re.escape(separator)})[^()]*"
    return rf"(?s)^\s*(?:\[([^\[\]]*|{quoted})\]|\(({several}|{quoted}|\s*)\))\s*$"

"""Codes of ids: an id has one code in every file, whether it is written `1` or `1.0`.

pandas writes whole numbers as `1.0` as soon as one of a column is missing, so files of one log differ. Ids that are
whole numbers are equal if their values are. A float above 2^53 (2^24 in single precision) is refused, since it cannot
say which whole number was meant. All other ids are text, and text is compared as it is.
"""

import re
from collections.abc import Sequence
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from study.data._csv import MISSING
from study.data._encode import ranked

EXACT = {pa.float16(): 2**11, pa.float32(): 2**24, pa.float64(): 2**53}
"""Up to here every whole number is a float of this type."""

WHOLE = r"^(-?(?:0|[1-9]\d*))\.0*$"
OF_NUMPY = r"^-?\d(?:\.\d+)?[eE]\+\d+$"
SCIENTIFIC = rf"{OF_NUMPY}|^-?\d\.\d+E\d+$"
"""`3.000000e+06` has all digits of its integer. `3e+06` may be another one, rounded. Java and Spark write `1.0E7`,
without a plus, and never round it."""


def id_codes(name: str, columns: Sequence[pa.ChunkedArray], *, csv: bool) -> tuple[np.ndarray, int, int]:
    """Return int32 codes of the sorted distinct ids, from 0 (-1 if missing), and how many there are.

    Args:
        name: of the feature, for messages.
        columns: of each file.
        csv: whether a file is CSV.

    Returns:
        The codes, their number, and the first version of `table` that returned the same.

    Raises:
        ValueError: the ids are no ids, or floats that cannot say which.
    """
    columns = [plain(column) for column in columns]
    kinds = {column.type for column in columns}
    version = 1 if len(kinds) == 1 or kinds.isdisjoint([*EXACT, pa.bool_()]) else 2

    def one_name(distinct: pa.Array) -> pa.Array:
        nonlocal version
        named = _one_name(name, distinct)
        if not named.equals(distinct) or (csv and _any_in(distinct, MISSING)):
            version = 2
        if not named.equals(_one_name(name, distinct, OF_NUMPY)):
            version = 3
        return named

    try:
        for column in columns:
            _require_exact(name, column)
        if len(kinds) > 1:  # numbers in one file, text in another
            columns = [text_of(column) for column in columns]
        together = pa.chunked_array([chunk for column in columns for chunk in column.chunks], columns[0].type)
        codes, count = ranked(together, one_name if _is_text(together.type) else None)
    except pa.ArrowException as error:
        raise ValueError(f"the ids of {name} are neither text nor numbers ({columns[0].type})") from error
    return codes, count, version


def _require_exact(name: str, column: pa.ChunkedArray) -> None:
    if (limit := EXACT.get(column.type)) is None:
        return
    largest = pc.max(pc.abs(column.cast(pa.float64()))).as_py()  # pyright: ignore[reportAttributeAccessIssue]
    if largest is not None and largest > limit:
        raise ValueError(
            f"the ids of {name} are floats up to {largest:.0f}; above {limit:,} a float cannot say which id it is: "
            "write them as integers or as text"
        )


def plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column without categories."""
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def text_of(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return values as text, whole floats like integers, and truth as `True` and `False`."""
    if pa.types.is_boolean(column.type):
        return pc.if_else(column, "True", "False")  # pyright: ignore[reportAttributeAccessIssue]
    if column.type not in EXACT:
        return column.cast(pa.string())
    column = column.cast(pa.float32()) if column.type == pa.float16() else column
    whole = pc.equal(pc.floor(column), column)  # pyright: ignore[reportAttributeAccessIssue]
    integers = pc.if_else(whole, column, None).cast(pa.int64()).cast(pa.string())  # pyright: ignore[reportAttributeAccessIssue]
    others = pc.if_else(pc.is_nan(column), None, column).cast(pa.string())  # pyright: ignore[reportAttributeAccessIssue]
    return pc.coalesce(integers, others)  # pyright: ignore[reportAttributeAccessIssue]


def _one_name(name: str, distinct: pa.Array, scientific_form: str = SCIENTIFIC) -> pa.Array:
    """Return text ids with one name for each whole number: `1` for `1.0`."""
    is_scientific = pc.match_substring_regex(distinct, scientific_form)  # pyright: ignore[reportAttributeAccessIssue]
    scientific = pc.filter(distinct, is_scientific).to_pylist()  # pyright: ignore[reportAttributeAccessIssue]
    exact = [_with_all_digits(text) for text in scientific]
    is_whole = pc.match_substring_regex(distinct, WHOLE)  # pyright: ignore[reportAttributeAccessIssue]
    whole = pc.filter(distinct, is_whole).to_pylist()  # pyright: ignore[reportAttributeAccessIssue]
    lossy = [text for text, integer in zip(scientific, exact, strict=True) if integer is None]
    lossy += [text for text in whole if abs(Decimal(text)) > EXACT[pa.float64()]]
    if lossy:
        raise ValueError(
            f"the ids of {name} are floats like {lossy[0]}, which cannot say which id it is: write them as integers"
        )
    if not whole and not scientific:
        return distinct
    distinct = pc.replace_with_mask(distinct, is_scientific, pa.array(exact, distinct.type))  # pyright: ignore[reportAttributeAccessIssue]
    named = pc.replace_substring_regex(distinct, WHOLE, r"\1")  # pyright: ignore[reportAttributeAccessIssue]
    return pc.if_else(pc.equal(named, "-0"), "0", named)  # pyright: ignore[reportAttributeAccessIssue]


def _with_all_digits(text: str) -> str | None:
    """Return the integer that a float in scientific notation is, as text; None if it does not say which."""
    digits, exponent = re.split("[eE]", text)
    rounded = "+" in exponent and len(digits.partition(".")[2]) < Decimal(exponent)
    if rounded or Decimal(exponent) > 15 or abs(value := Decimal(text)) > EXACT[pa.float64()]:
        return None
    if value != int(value):
        return None if "+" in exponent else text
    return str(int(value))


def _any_in(values: pa.Array, words: Sequence[str]) -> bool:
    return bool(pc.any(pc.is_in(values, pa.array(words, values.type))).as_py())  # pyright: ignore[reportAttributeAccessIssue]


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)

"""Reads CSV files: whole, or rewritten by columns as an Arrow file."""

import contextlib
import csv
import gzip
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

CSV_BLOCK_BYTES = 1 << 23
"""Size of a block of a CSV file. A row must fit into one."""

MISSING = ("NaN", "nan", "NA", "null", "NULL")
"""Words that stand for a missing number."""


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
    """Return a CSV file as a table. Empty fields are missing, and so are `MISSING` in text too.

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

    Text is missing where the field is empty, and only there: `NA` is a country.

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
            rewritten.write_batch(_with_missing_text(block))


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
            convert_options=_conversion(header, types, only, words_in_text=False),
        )


def _with_missing_text(block: pa.RecordBatch) -> pa.RecordBatch:
    columns = [
        pc.if_else(pc.equal(column, ""), None, column) if pa.types.is_string(column.type) else column  # pyright: ignore[reportAttributeAccessIssue]
        for column in block.columns
    ]
    return pa.record_batch(columns, schema=block.schema)


def _conversion(
    header: list[str], types: Mapping[str, pa.DataType], only: Sequence[str] | None, *, words_in_text: bool = True
) -> pyarrow.csv.ConvertOptions:
    return pyarrow.csv.ConvertOptions(
        column_types={name: kind for name, kind in types.items() if name in header},
        include_columns=list(only or []),
        strings_can_be_null=words_in_text,
        quoted_strings_can_be_null=True,
        null_values=["", *MISSING],
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

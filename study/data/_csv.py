"""Reads CSV files of any separator, compression and encoding: whole, or rewritten by columns as an Arrow file."""

import codecs
import contextlib
import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from study.text.console import first_line

CSV_BLOCK_BYTES = 1 << 23
"""Size of a block of a CSV file. A row must fit into one."""

MISSING = ("NaN", "nan", "NA", "null", "NULL")
"""Words that stand for a missing number, or a missing label."""

MISSING_NUMBERS = (*MISSING, "None", r"\N", "N/A", "n/a", "<NA>")
"""Those of a column of numbers in a table. As text they are ids and labels."""

ONE = "\x1f"
"""Stands for a separator of several characters: the unit separator of ASCII."""


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How a CSV file is written.

    Args:
        separator: between fields, one character or more.
        decimal: in numbers.
        encoding: of the text, by Python's name.
        columns: names of the columns of a file without a header; None if its first row names them.
    """

    separator: str = ","
    decimal: str = "."
    encoding: str = "utf8"
    columns: tuple[str, ...] | None = None

    @property
    def delimiter(self) -> str:
        return self.separator if len(self.separator) == 1 else ONE

    @property
    def quote(self) -> str | bool:
        return '"' if len(self.separator) == 1 else False


PLAIN = Dialect()


def csv_header(path: Path, dialect: Dialect = PLAIN) -> list[str]:
    """Return the column names of a CSV file. Raises ValueError if it is empty, not text, or has other columns."""
    quoting = csv.QUOTE_MINIMAL if dialect.quote else csv.QUOTE_NONE
    try:
        with _opened(path, dialect) as file:
            text = io.TextIOWrapper(file, encoding=_encoding(dialect), newline="")
            row = next(csv.reader(text, delimiter=dialect.delimiter, quoting=quoting), None)
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, pa.ArrowException) as error:
        raise ValueError(f"{path} does not read as CSV ({first_line(error)})") from error
    if not row:
        raise ValueError(f"{path} is empty")
    if dialect.columns is None:
        return [name.removeprefix("\ufeff") for name in row]
    names = list(dialect.columns)
    if len(row) != len(names):
        raise ValueError(f"{path} has {len(row)} fields in its first row; columns names {len(names)}")
    if row == names:
        raise ValueError(f"{path} names its columns in its first row: leave columns out")
    return names


def read_csv(path: Path, types: Mapping[str, pa.DataType], *, only: Sequence[str] | None = None) -> pa.Table:
    """Return a CSV file with a header as a table. Empty fields are missing, and so are `MISSING` in text too.

    Args:
        path: the file.
        types: of some columns; others are inferred.
        only: the columns to read; None reads all.

    Raises:
        ValueError: the file or a column does not read. The message names it.
    """
    return _read(path, types, only, PLAIN)


def rewrite_csv(path: Path, into: Path, types: Mapping[str, pa.DataType], dialect: Dialect = PLAIN) -> None:
    """Write columns of a CSV file as an Arrow file, which can be read column by column. Holds a block at a time.

    Text is missing where the field is empty, and only there: `NA` is a country.

    Args:
        path: the CSV file.
        into: the Arrow file.
        types: of each wanted column.
        dialect: of the CSV file.

    Raises:
        ValueError: as `read_csv`.
    """
    schema = pa.schema(list(types.items()))
    with pa.OSFile(str(into), "wb") as file, pa.ipc.new_file(file, schema) as rewritten:
        for block in _csv_blocks(path, types, list(types), dialect):
            rewritten.write_batch(_with_missing_text(block))


def csv_type(path: Path, name: str, dialect: Dialect = PLAIN) -> pa.DataType:
    """Return the type of a CSV column that fits all its fields. Raises as `read_csv` does."""
    kind = pa.null()
    try:
        for block in _csv_blocks(path, {}, [name], dialect):
            kind = block.schema.field(name).type
    except ValueError:  # a later block has another type, or does not read: reading the whole file tells which
        return _read(path, {}, [name], dialect)[name].type
    return kind


def _read(path: Path, types: Mapping[str, pa.DataType], only: Sequence[str] | None, dialect: Dialect) -> pa.Table:
    with _reading_csv(path, dialect) as (header, file):
        return pyarrow.csv.read_csv(
            file,
            read_options=_reading(dialect),
            parse_options=_parsing(dialect),
            convert_options=_conversion(header, types, only, dialect),
        )


def _csv_blocks(
    path: Path, types: Mapping[str, pa.DataType], only: Sequence[str], dialect: Dialect
) -> Iterator[pa.RecordBatch]:
    with _reading_csv(path, dialect) as (header, file):
        yield from pyarrow.csv.open_csv(
            file,
            read_options=_reading(dialect, block_size=CSV_BLOCK_BYTES),
            parse_options=_parsing(dialect),
            convert_options=_conversion(header, types, only, dialect, words_in_text=False),
        )


def _with_missing_text(block: pa.RecordBatch) -> pa.RecordBatch:
    columns = [
        pc.if_else(pc.equal(column, ""), None, column) if pa.types.is_string(column.type) else column  # pyright: ignore[reportAttributeAccessIssue]
        for column in block.columns
    ]
    return pa.record_batch(columns, schema=block.schema)


def _reading(dialect: Dialect, **options: Any) -> pyarrow.csv.ReadOptions:
    if dialect.columns is not None:
        options["column_names"] = list(dialect.columns)
    return pyarrow.csv.ReadOptions(encoding="utf8" if dialect.delimiter == ONE else dialect.encoding, **options)


def _parsing(dialect: Dialect) -> pyarrow.csv.ParseOptions:
    return pyarrow.csv.ParseOptions(delimiter=dialect.delimiter, quote_char=dialect.quote)


def _conversion(
    header: list[str],
    types: Mapping[str, pa.DataType],
    only: Sequence[str] | None,
    dialect: Dialect,
    *,
    words_in_text: bool = True,
) -> pyarrow.csv.ConvertOptions:
    return pyarrow.csv.ConvertOptions(
        column_types={name: kind for name, kind in types.items() if name in header},
        include_columns=list(only or []),
        strings_can_be_null=words_in_text,
        quoted_strings_can_be_null=True,
        null_values=["", *(MISSING if words_in_text else MISSING_NUMBERS)],
        decimal_point=dialect.decimal,
    )


@contextlib.contextmanager
def _reading_csv(path: Path, dialect: Dialect) -> Iterator[tuple[list[str], Any]]:
    header = csv_header(path, dialect)
    try:
        with _opened(path, dialect) as file:
            yield header, file
    except (OSError, EOFError, pa.ArrowException, UnicodeDecodeError) as error:
        raise ValueError(f"{path} does not read ({_name_columns(first_line(error), header)})") from error


def _opened(path: Path, dialect: Dialect) -> Any:
    """Open a file, decompressed by its ending: .gz, .bz2 or .zst."""
    file = pa.input_stream(str(path), compression="detect")
    return file if dialect.delimiter != ONE else io.BufferedReader(_OneSeparator(file, dialect))


def _encoding(dialect: Dialect) -> str:
    return "utf-8-sig" if dialect.delimiter == ONE or dialect.encoding == "utf8" else dialect.encoding


class _OneSeparator(io.RawIOBase):
    """A file as UTF-8, with one character in place of a longer separator."""

    def __init__(self, file: pa.NativeFile, dialect: Dialect) -> None:
        self.file, self.separator = file, dialect.separator
        self.decode = codecs.getincrementaldecoder(dialect.encoding)().decode
        self.held, self.ready, self.at_end = "", b"", False

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int:
        while not self.ready and not self.at_end:
            self._read()
        count = min(len(into), len(self.ready))
        into[:count], self.ready = self.ready[:count], self.ready[count:]
        return count

    def _read(self) -> None:
        block = self.file.read(CSV_BLOCK_BYTES)
        self.at_end = not block
        text = (self.held + self.decode(block, self.at_end)).replace(self.separator, ONE)
        # The end may be the beginning of a separator.
        keep = (
            0
            if self.at_end
            else next((n for n in range(len(self.separator) - 1, 0, -1) if text.endswith(self.separator[:n])), 0)
        )
        self.held = text[len(text) - keep :]
        self.ready = text[: len(text) - keep].encode()

    def close(self) -> None:
        self.file.close()
        super().close()


def require_columns(path: Path, present: Sequence[str], needed: Sequence[str]) -> None:
    """Raise ValueError if a needed column is missing, or stands twice."""
    missing = [name for name in needed if name not in present]
    if missing:
        hint = ""
        if len(present) == 1 and (found := re.search(r"::|[\t;|,^]", present[0])):
            hint = f"; set separator = {found[0]!r}".replace("'", '"')
        raise ValueError(f"{path} lacks the columns {listed(missing)}; it has {listed(present)}{hint}")
    if twice := [name for name in needed if present.count(name) > 1]:
        raise ValueError(f"{path} has two columns with the name {listed(twice)}")


def listed(names: Sequence[str]) -> str:
    """Return names for a message: in quotes if one could not tell where they end."""
    return ", ".join(name if re.fullmatch(r"[\w.:-]+", name) else repr(name) for name in names)


def _name_columns(message: str, header: list[str]) -> str:
    return re.sub(
        r"CSV column #(\d+)", lambda m: f"column {header[int(m[1])]}" if int(m[1]) < len(header) else m[0], message
    )


def encoding_of(error: BaseException) -> str | None:
    """Return an encoding to try, if an error says that a file is not written in that of its dialect."""
    cause = error.__cause__
    if isinstance(cause, UnicodeDecodeError):
        marked = cause.start == 0 and cause.object[:2] in (b"\xff\xfe", b"\xfe\xff")
        return "utf-16" if marked else "utf8" if cause.encoding.startswith("utf-16") else "latin1"
    return "latin1" if "invalid UTF8 data" in str(error) else None

"""The files of a table: which there are, and how a column of them is read."""

import glob
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from study.data._csv import MISSING_NUMBERS, csv_header, csv_type, encoding_of, require_columns, rewrite_csv
from study.data._declaration import Declaration
from study.data._targets import texts_in

T = TypeVar("T")

ENDINGS = {"csv": (".csv", ".tsv", ".txt", ".dat", ".inter"), "parquet": (".parquet", ".pq")}
COMPRESSED = (".gz", ".bz2", ".zst")


class NotNumbersError(ValueError):
    """A column has a value that is no number."""


@dataclass(frozen=True)
class Source:
    """A file and the function that reads one of its columns."""

    file: Path
    read: Callable[[str], pa.ChunkedArray]

    def read_float(self, name: str) -> pa.ChunkedArray:
        """Return a column as numbers. Raises NotNumbersError."""
        try:
            return self.read(name).cast(pa.float64())
        except pa.ArrowException as error:
            why = str(error).splitlines()[0]
            raise NotNumbersError(f"{self.file}: the column {name} holds no numbers ({why})") from error


def files_of(path: Path, declared: Declaration) -> list[Path]:
    """Return the files that a declaration names. A folder stands for the files in it. Raises ValueError."""
    found: list[Path] = []
    for pattern in declared.files:
        matches = sorted(glob.glob(str(Path(glob.escape(str(path.parent))) / pattern), recursive=True))
        files = [file for match in map(Path, matches) for file in (_parts(match) if match.is_dir() else [match])]
        if not files:
            raise ValueError(f"{path}: no file {pattern} in {path.parent}")
        found += files
    return list(dict.fromkeys(found))


def _parts(folder: Path) -> list[Path]:
    """Return the data files of a folder, as Spark writes them: beside `_SUCCESS`, `.crc` files and empty parts."""
    inside = [(file, file.relative_to(folder)) for file in sorted(folder.rglob("*")) if file.is_file()]
    shown = [file for file, below in inside if not any(part.startswith(("_", ".")) for part in below.parts)]
    return [file for file in shown if file.stat().st_size] or shown


def kind_of(file: Path, declared: Declaration) -> str:
    """Return csv or parquet. Raises ValueError if neither the name nor the declaration tells."""
    if kind := declared.format or kind_by_name(file):
        return kind
    known = ", ".join(ending for endings in ENDINGS.values() for ending in endings)
    raise ValueError(f'{file} ends in none of {known}: say what it is, like format = "csv"')


def kind_by_name(file: Path) -> str | None:
    """Return csv or parquet by the ending of a name; None if it does not tell."""
    name = file.name.lower()
    name = name[: name.rindex(".")] if name.endswith(COMPRESSED) else name
    for kind, endings in ENDINGS.items():
        if name.endswith(endings):
            return kind
    return None


def open_sources(files: list[Path], rewritten: Path, declared: Declaration, columns: list[str]) -> list[Source]:
    """Open the files. `rewritten` is a folder for the columns of CSV files. Raises ValueError."""
    return [_source(file, rewritten / f"{i}.arrow", declared, columns) for i, file in enumerate(files)]


def _source(file: Path, rewritten: Path, declared: Declaration, columns: list[str]) -> Source:
    if kind_of(file, declared) == "parquet":
        require_columns(file, _parquet(file, lambda parquet: parquet.schema_arrow.names), declared.used)
        return Source(file, lambda name: _parquet(file, lambda parquet: parquet.read(columns=[name]))[name])
    try:
        return _csv_source(file, rewritten, declared, columns)
    except ValueError as error:
        if encoding := encoding_of(error):
            raise ValueError(f'{error}: set encoding = "{encoding}", or what it is written in') from error
        raise


def _csv_source(file: Path, rewritten: Path, declared: Declaration, columns: list[str]) -> Source:
    dialect = declared.dialect
    require_columns(file, csv_header(file, dialect), declared.used)
    types = {name: declared.csv_types.get(name) or csv_type(file, name, dialect) for name in columns}

    def read(name: str) -> pa.ChunkedArray:
        with pa.memory_map(str(rewritten)) as mapped:  # a map reads only what is used
            return pa.ipc.open_file(mapped).read_all()[name]

    try:
        rewrite_csv(file, rewritten, types, dialect)
    except ValueError as error:
        for target in declared.targets:
            if f"column {target.column}: " in str(error) and target.kind == "binary":
                rewrite_csv(file, rewritten, {target.column: pa.string()}, dialect)
                raise ValueError(f"{error}; {target.how_to_declare(texts_in(read(target.column)))}") from error
        if re.search(r"invalid value '-?\d+,\d+'", str(error)):
            raise ValueError(f'{error}: set decimal = ","') from error
        if "conversion error to double" in str(error):
            missing = ", ".join(MISSING_NUMBERS)
            raise ValueError(f"{error}; a missing number is an empty field or {missing}") from error
        raise
    return Source(file, read)


def _parquet(file: Path, read: Callable[[pq.ParquetFile], T]) -> T:
    try:
        with pq.ParquetFile(file, coerce_int96_timestamp_unit="us") as parquet:  # the year 9999 has no nanoseconds
            return read(parquet)
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{file} does not read as Parquet ({(str(error).splitlines() or ['?'])[0]})") from error

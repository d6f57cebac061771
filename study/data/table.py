"""A user's own log: Parquet or CSV files, and a `table.toml` that describes their columns (docs/data.md: all keys).

    files = ["log-*.parquet"]        # beside the TOML file, or absolute
    time = "ts"                      # a timestamp, or a number with time_unit = "ms"
    ids = ["user", "item", "country"]
    numbers = ["price", "age"]       # standardized, cut at 5 standard deviations

    [tasks]
    click = "binary"                 # a column of 0 and 1
    watch_seconds = "regression"     # a column of numbers

Rows are sorted by time, and rows of equal time keep their order. Only rows outside `time_from` and `time_to` are left
out. Days are UTC days that have rows, counted from 1. If only some days are selected (`study.data._days`), the last of
them is held out, whatever `heldout` says.

Columns are read one at a time: memory holds about 100 bytes a row and the distinct values of one id. A CSV file is
first rewritten by columns on the cache's disk, block by block.
"""

import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from study.data._cache import BUILDING, cached, content_hash, file_hash
from study.data._dataset import Log
from study.data._days import Days
from study.data._declaration import Declaration, read_declaration
from study.data._encode import make_log
from study.data._ids import id_codes, plain, text_of
from study.data._lists import is_list, list_codes, separator_warning
from study.data._sources import NotNumbersError, Source, files_of, kind_by_name, kind_of, open_sources
from study.data._targets import FAR, Target, farthest, texts_in
from study.data._times import in_order
from study.storage.scratch import scratch_folder

LEAST_HELDOUT, LEAST_HELDOUT_SHARE = 100, 0.005
"""With fewer held-out rows, or a smaller share, quality would be noise: a stray stamp makes a day of one row."""

VERSION = 4
"""Must be increased if the same files are converted to other arrays. In ids, version 2 reads `1.0` as `1`, and `NA` as
text, version 3 `1.0E7` as `10000000`, and version 4 the text `[5, 12 ]` as a list of 5 and 12. A log keeps the content
hash of the first version that converts it so, and its runs keep their ids."""


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
    by_name = all(kind_by_name(file) == declared.format for file in files)
    made_from = {
        "source": "table",
        "declaration": (replace(declared, format=None) if by_name else declared).canonical(),
        "files": [[kind_of(file, declared), file_hash(file, cache)] for file in files],
    }
    contents = [content_hash(made_from | {"version": version}) for version in range(1, VERSION + 1)]
    return cached(cache, f"table-{VERSION}", contents, lambda into: _convert(into, files, declared, contents))


def days(cache: Path, *, dir: str | Path) -> Days:
    """Return the day (UTC) of each row. Raises as `load` does."""
    files, declared = _declared(dir)
    if declared.time is None:
        raise ValueError("the log has no times, so it has no days")
    with scratch_folder(BUILDING, cache) as rewritten:
        days = _in_time_order(open_sources(files, rewritten, declared, [declared.time]), declared)[1]
        assert days is not None
    begins = np.append(True, np.diff(days) != 0)
    return Days(of_row=np.cumsum(begins), dates=tuple(_iso(day) for day in days[begins]))


def _declared(dir: str | Path) -> tuple[list[Path], Declaration]:
    """Return the files and their declaration."""
    path = Path(dir) if Path(dir).suffix == ".toml" else Path(dir) / "table.toml"
    declared = read_declaration(path)
    return files_of(path, declared), declared


def _convert(into: Path, files: list[Path], declared: Declaration, contents: Sequence[str]) -> Log:
    with tempfile.TemporaryDirectory(dir=into) as rewritten:
        sources = open_sources(files, Path(rewritten), declared, declared.used)
        return _log(into, files, sources, declared, contents)


def _log(
    into: Path, files: list[Path], sources: Sequence[Source], declared: Declaration, contents: Sequence[str]
) -> Log:
    order, days, rows, left_out = _in_time_order(sources, declared)
    facts: dict[str, Any] = {"files": [file.name for file in files]}
    if days is not None:
        facts |= {"first_day": _iso(days[0]), "last_day": _iso(days[-1])}
        facts["days"] = int(np.count_nonzero(np.diff(days))) + 1
    if declared.share is not None:
        facts["heldout"] = f"the last {declared.share:.3g} of the rows"
    if left_out:
        facts["rows_left_out"] = left_out
    train_rows = _train_rows(rows, days, declared.share)
    del days

    warnings: list[str] = []

    def warn(name: str, values: np.ndarray, changes: Sequence[str]) -> None:
        if found := farthest(values, train_rows):
            row, median = found
            place = _place(sources, row if order is None else int(order[row]), declared.used[0])
            warnings.append(
                f"{name} is {values[row]:.4g} in {place}, over {FAR:,} standard deviations (robust) from its median "
                f"{median:.4g}: it alone decides a mean or an error; {' or '.join(changes)}"
            )

    def refuse_missing(name: str, values: np.ndarray, change: str) -> None:
        if count := int(np.isnan(values).sum()):
            row = int(np.flatnonzero(np.isnan(values)).min() if order is None else order[np.isnan(values)].min())
            place = _place(sources, row, declared.used[0])
            raise ValueError(f"{name} is missing or NaN in {count:,} of {rows:,} rows, the first in {place}; {change}")

    def numbers() -> Iterator[tuple[str, np.ndarray]]:
        for name in declared.numbers:
            logged = name in declared.log1p
            values = _ordered(_numbers(sources, name, logged), order)
            missing = np.isnan(values)
            if declared.missing == "refuse":
                change = 'missing = "mean" takes the mean of the training rows and adds a column that says where'
                refuse_missing(name, values, change)
            if missing[:train_rows].all():
                raise ValueError(f"{name} is missing in every training row")
            log1p = [] if logged or np.nanmin(values) <= -1 else [f'set log1p = ["{name}"],']
            warn(name, values, [*log1p, "leave such rows out"])
            yield name, values
            if missing[:train_rows].any():
                if f"{name}_missing" in declared.numbers:
                    raise ValueError(f'missing = "mean" adds {name}_missing, and numbers has a column of that name')
                yield f"{name}_missing", missing

    def labels() -> Iterator[tuple[str, str, np.ndarray, str]]:
        for target in declared.targets:
            logged = target.name in declared.log1p or target.transform == "log1p"
            unit = f"log(1 + {target.name})" if logged else ""
            labels = _ordered(_labels(sources, target, logged), order)
            if declared.missing_labels == "refuse":
                refuse_missing(target.name, labels, 'missing_labels = "skip" leaves these rows out for this task')
            lowest = np.nanmin(labels, initial=0)
            labels = target.clipped(labels, train_rows)
            if target.kind == "regression":
                ways: list[dict[str, Any]] = [{"clip": 0.999}] if (target.clip or 1) > 0.999 else []
                ways += [{"transform": "log1p"}] if not logged and lowest > -1 else []
                changes = [replace(target, **way).declared() for way in ways]
                warn(target.name, labels, [f"set {changes[0]}", *changes[1:]] if changes else ["leave such rows out"])
            yield target.name, target.kind, labels, unit

    versions = [1]
    is_csv = any(kind_of(file, declared) == "csv" for file in files)

    def ids() -> Iterator[tuple[str, np.ndarray, int]]:
        for name in declared.ids:
            columns = [source.read(name) for source in sources]
            if any(is_list(column.type) for column in columns):
                said = f'set {name} = "mean" under [lists]'
                raise ValueError(f"{name} is a column of lists: take it out of ids, and {said}")
            codes, distinct, version = id_codes(name, columns, csv=is_csv)
            versions.append(version)
            yield name, _ordered(codes, order), distinct
        for feature in declared.id_lists:
            columns = [source.read(feature.name) for source in sources]
            if warning := separator_warning(feature, columns):
                warnings.append(warning)
            codes, distinct, version = list_codes(feature, columns, csv=is_csv)
            versions.append(version if version > 2 else 1)  # no version read lists otherwise than version 2
            yield feature.name, _ordered(codes, order), distinct

    log = make_log(
        into,
        rows=rows,
        train_rows=train_rows,
        ids=ids(),
        numbers=numbers(),
        tasks=labels(),
        content=contents[-1],
        facts=facts,
    )
    if log.lengths:
        log = replace(log, pools=("mean",) * len(declared.ids) + tuple(feature.pool for feature in declared.id_lists))
    _check_classes(log)
    log = replace(log, facts=facts | {"warnings": warnings}) if warnings else log
    return replace(log, content=contents[max(versions) - 1])


def _in_time_order(
    sources: Sequence[Source], declared: Declaration
) -> tuple[np.ndarray | None, np.ndarray | None, int, int]:
    """Return the rows by time (None: all, as they are), their days (None without times), their number, and how many
    are left out."""
    columns = [source.read(declared.time or declared.used[0]) for source in sources]
    rows = sum(len(column) for column in columns)
    if not rows:
        raise ValueError(f"no rows in {', '.join(str(source.file) for source in sources)}")
    if declared.clock is None:
        return None, None, rows, 0
    times = in_order(columns, declared.clock)
    return times.order, times.days, len(times.days), times.left_out


def _iso(day: int) -> str:
    return str(np.datetime64(int(day), "D"))


def _ordered(values: np.ndarray, order: np.ndarray | None) -> np.ndarray:
    return values if order is None else values[order]


def _train_rows(rows: int, days: np.ndarray | None, heldout: float | None) -> int:
    if heldout is None:
        assert days is not None
        train_rows = int(np.searchsorted(days, days[-1]))
        if train_rows == 0:
            raise ValueError("the log holds one day (UTC); hold out a share of its rows instead, like heldout = 0.1")
        what, change = f"the last day, {_iso(days[-1])}, has", "set heldout, like heldout = 0.1, or time_to"
    else:
        train_rows = rows - round(rows * heldout)
        what, change = f"heldout = {heldout:g} holds out", "set another heldout"
    held = rows - train_rows
    least = max(LEAST_HELDOUT, math.ceil(LEAST_HELDOUT_SHARE * rows))
    if held < least:
        raise ValueError(f"{what} {held:,} of {rows:,} rows; need {least:,} to judge by: {change}")
    if train_rows == 0:
        raise ValueError(f"heldout = {heldout:g} of {rows:,} rows leaves nothing to train on")
    return train_rows


def _check_classes(log: Log) -> None:
    """Raise ValueError if a task cannot be judged."""
    for t, task in enumerate(log.tasks):
        held = log.labels[log.train_rows :, t]
        held = held[~np.isnan(held)]
        if len(held) < LEAST_HELDOUT:
            raise ValueError(
                f"{len(held):,} held-out rows have a label of {task.name}; need {LEAST_HELDOUT:,} to judge by: hold "
                "out more rows, like heldout = 0.2"
            )
        if task.kind == "binary" and held.min() == held.max():
            raise ValueError(
                f"all {len(held):,} held-out labels of {task.name} are {held[0]:g}, so that no AUC can be computed: "
                "hold out more rows, like heldout = 0.2"
            )


def _place(sources: Sequence[Source], row: int, column: str) -> str:
    """Return `row 18 of log.csv` for a row: from 1, without a header."""
    for source in sources:
        if row < (rows := len(source.read(column))):
            return f"row {row + 1:,} of {source.file.name}"
        row -= rows
    raise AssertionError


def _labels(sources: Sequence[Source], target: Target, log1p: bool) -> np.ndarray:
    def text() -> pa.ChunkedArray:
        texts = [text_of(plain(source.read(target.column))) for source in sources]
        return pa.chunked_array([chunk for text in texts for chunk in text.chunks], pa.string())

    if target.is_text:
        return target.from_text(text())
    try:
        return target.from_numbers(_numbers(sources, target.column, log1p, target.name))
    except NotNumbersError as error:
        if target.kind == "binary" and (found := texts_in(text())):
            raise ValueError(f"{error}; {target.how_to_declare(found)}") from error
        raise


def _numbers(sources: Sequence[Source], column: str, log1p: bool, name: str = "") -> np.ndarray:
    """Return a column as numbers, NaN where missing."""
    name = name or column
    values = np.concatenate([source.read_float(column).to_numpy() for source in sources])
    if wrong := int(np.isinf(values).sum()):
        first = _place(sources, int(np.isinf(values).argmax()), column)
        raise ValueError(
            f"{name} is infinite in {wrong:,} of {len(values):,} rows, the first in {first}: infinity is not a missing "
            "value; leave such rows out, or write them as missing"
        )
    if not log1p:
        return values
    low = int((values <= -1).sum())
    if low:
        raise ValueError(f"log1p of {name} needs values above -1; {low:,} are not")
    return np.log1p(values)

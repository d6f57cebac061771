"""The times of a table: read in any unit or format, checked, and put in order.

A stamp in the wrong unit, or one stray row, moves the held-out day to where nothing is. So times that no log has are
refused: before 1990, after next year, over 20 years of rows, or a year without any. `time_from` and `time_to` say which
times are right: each replaces its limit, and both together the limits of span and gap.
"""

import contextlib
import datetime
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from study.text.console import first_line

PER_DAY = {unit: 86_400 * per_second for unit, per_second in {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}.items()}

FORMATS = ("%Y%m%d", "%y%m%d%H", "%Y%m%d%H", "%y%m%d", "%Y%m%d%H%M", "%y%m%d%H%M", "%Y%m%d%H%M%S", "%y%m%d%H%M%S")
"""What a number can be that is no count of seconds."""

TEXT_FORMATS = tuple(
    f"{date.replace('-', between)}{time}"
    for date in ("%Y-%m-%d", "%d-%m-%Y", "%m-%d-%Y", "%d-%b-%Y", "%d-%m-%y", "%m-%d-%y")
    for between in "-/."
    for time in ("", " %H:%M", " %H:%M:%S", " %H:%M:%S.%f", " %I:%M:%S %p")
)
"""What a text can be. Where day and month may be either, the day comes first."""

NUMBER = r"[+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?"

FIRST = datetime.date(1990, 1, 1)
MOST_DAYS, LONGEST_GAP_DAYS = 20 * 366, 366


@dataclass(frozen=True, kw_only=True)
class Times:
    """The rows of a log in the order of their times.

    Args:
        order: the rows that are kept, by time; None if these are all rows, and they are sorted.
        days: the day of each kept row since 1970.
        left_out: rows outside `time_from` and `time_to`.
    """

    order: np.ndarray | None
    days: np.ndarray
    left_out: int


@dataclass(frozen=True, kw_only=True)
class Clock:
    """How a table states its times: keys of `table.toml`. `first` and `last` are `time_from` and `time_to`."""

    name: str
    unit: str | None
    format: str | None
    first: str | None
    last: str | None


def in_order(columns: Sequence[pa.ChunkedArray], clock: Clock) -> Times:
    """Return the rows in the order of their times. Raises ValueError if a time is missing or implausible."""
    time, per_day = _numbers(columns, clock)
    rows = np.flatnonzero(_wanted(time, per_day, clock)) if clock.first or clock.last else None
    kept = time if rows is None else time[rows]
    if not len(kept):
        raise ValueError(f"no row lies between time_from and time_to: the times {clock.name} are others")
    _check_limits(kept, per_day, clock)
    if (kept[1:] < kept[:-1]).any():
        order = np.argsort(kept, kind="stable")
        kept = kept[order]
        rows = order if rows is None else rows[order]
    if not (clock.first and clock.last):
        _check_span(kept, per_day, clock)
    if rows is not None and len(rows) == len(time) and (rows[1:] > rows[:-1]).all():
        rows = None
    days = np.floor_divide(kept, per_day).astype(np.int64)
    return Times(order=rows, days=days, left_out=len(time) - len(kept))


def check_format(text: str) -> None:
    """Raise ValueError unless a format of times reads what it writes."""
    now = datetime.datetime(2024, 3, 2, 13, 14, 15).strftime(text)
    try:
        if now == text:
            raise ValueError
        pd.to_datetime([now], format=text)
    except (ValueError, TypeError) as error:
        raise ValueError(f'time_format is like "%Y%m%d" or "%d/%m/%Y %H:%M"; got {text!r}') from error


def day_of(text: str, name: str) -> np.datetime64:
    """Return a limit of times (UTC). Raises ValueError."""
    try:
        if not isinstance(text, str) or len(text) < len("2022-05-08"):  # 1511539200 would count as nanoseconds
            raise ValueError
        stamp = pd.Timestamp(text)
        stamp = stamp.tz_convert(None) if stamp.tz else stamp
        return np.datetime64(stamp.isoformat(), "us")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{name} is a date or a time, like {name} = 2022-05-08; got {text!r}") from error


def _wanted(time: np.ndarray, per_day: int, clock: Clock) -> np.ndarray:
    wanted = np.ones(len(time), dtype=bool)
    if clock.first:
        wanted &= time >= _count(day_of(clock.first, "time_from"), per_day)
    if clock.last:
        last = day_of(clock.last, "time_to")
        whole_day = len(clock.last) <= len("2022-05-08")
        wanted &= time < _count(last + np.timedelta64(1, "D"), per_day) if whole_day else time <= _count(last, per_day)
    return wanted


def _count(stamp: np.datetime64, per_day: int) -> float:
    return (stamp - np.datetime64(0, "us")) / np.timedelta64(1, "D") * per_day


def _last() -> datetime.date:
    return datetime.date(datetime.date.today().year + 2, 1, 1)


def _check_limits(time: np.ndarray, per_day: int, clock: Clock) -> None:
    wrong = np.zeros(len(time), dtype=bool)
    if not clock.first:
        wrong |= time < _count(np.datetime64(FIRST), per_day)
    if not clock.last:
        wrong |= time >= _count(np.datetime64(_last()), per_day)
    count = int(wrong.sum())
    if not count:
        return
    value = time[np.argmax(wrong)]
    set_what = _better_reading(value) if clock.unit else "time_unit or time_format"
    if count < len(time) / 2:
        set_what = "time_from or time_to, and such rows are left out"
    raise ValueError(
        f"the time {clock.name} is before {FIRST.year} or after {_last().year - 1} in {count:,} of {len(time):,} rows, "
        f"for instance {_stamp(value, per_day, clock)}: set {set_what}"
    )


def _check_span(ordered: np.ndarray, per_day: int, clock: Clock) -> None:
    gaps = np.diff(ordered)
    at = int(np.argmax(gaps)) if len(gaps) else 0
    if len(gaps) and gaps[at] > LONGEST_GAP_DAYS * per_day:
        before, after = (_day(value, per_day) for value in ordered[at : at + 2])
        fewer = min(at + 1, len(gaps) - at)
        raise ValueError(
            f"the time {clock.name} has no row between {before} and {after}, and {fewer:,} of {len(ordered):,} rows on "
            "one side: set time_from or time_to to leave rows out, or both if the gap is right"
        )
    if ordered[-1] - ordered[0] > MOST_DAYS * per_day:
        raise ValueError(
            f"the time {clock.name} goes from {_day(ordered[0], per_day)} to {_day(ordered[-1], per_day)}, over 20 "
            "years: set time_unit, or time_from and time_to if that is right"
        )


def _day(value: float, per_day: int) -> str:
    return str(np.datetime64(int(value // per_day), "D"))


def _stamp(value: float, per_day: int, clock: Clock) -> str:
    day = _day(value, per_day) if abs(value / per_day) < 1e8 else ""
    if not clock.unit:
        return day or f"{value:g}"
    return f"{value:.15g}" + (f" ({day} in {clock.unit})" if day else "")


def _better_reading(value: float) -> str:
    """Return the key that makes a number a plausible time."""
    first, last = (_count(np.datetime64(day), 1) for day in (FIRST, _last()))
    for unit, per_day in PER_DAY.items():
        if first <= value / per_day < last:
            return f'time_unit = "{unit}"'
    if text := _format_of([f"{value:.0f}"], FORMATS):
        return f'time_format = "{text}"'
    return 'time_unit, time_format or time_from, or order = "rows"'


def _format_of(stamps: Sequence[str], formats: Sequence[str]) -> str | None:
    """Return the first format that makes all stamps plausible times."""
    first, last = pd.Timestamp(FIRST), pd.Timestamp(_last())
    for text in formats:
        with contextlib.suppress(ValueError):
            exact = pd.to_datetime(stamps[0], format=text).strftime(text) == stamps[0]  # one digit is read for two
            times = pd.to_datetime(pd.Series(stamps), format=text)
            if (exact or text not in FORMATS) and ((first <= times) & (times < last)).all():
                return text
    return None


def _first_unread(stamps: Sequence[str], format: str) -> str:
    times = pd.to_datetime(pd.Series(stamps), format=format, errors="coerce", utc=True)
    return stamps[int(times.isna().to_numpy().argmax())]


def _how_to_read(unread: str, stamps: Sequence[str], key: str = "") -> str:
    """Return, for a message, a stamp that does not read, and what to set in place of a key of the table."""
    shown = f", for instance {unread!r}"
    if text := _format_of(stamps, (*FORMATS, *TEXT_FORMATS)):
        return f'{shown}: set time_format = "{text}"' + (" in place of time_unit" if key == "time_unit" else "")
    is_iso = pd.to_datetime(pd.Series(stamps), format="ISO8601", errors="coerce", utc=True).notna().all()
    return f"{shown}: leave {key} out" if key and is_iso else shown if key else f"{shown}: set time_format"


def _numbers(columns: Sequence[pa.ChunkedArray], clock: Clock) -> tuple[np.ndarray, int]:
    """Return the times of all rows as numbers, and how many of these units make a day."""
    name, chunks = clock.name, [chunk for column in columns for chunk in column.chunks if len(chunk)]
    missing = sum(chunk.null_count for chunk in chunks)
    if missing:
        raise ValueError(f"{missing:,} rows have no time ({name})")
    if clock.format:
        return np.concatenate([_formatted(chunk, clock.format, name) for chunk in chunks]), PER_DAY["us"]
    if clock.unit:
        chunks = [_from_text(chunk, name) if _is_text(chunk.type) else chunk for chunk in chunks]
    if all(pa.types.is_integer(chunk.type) or pa.types.is_floating(chunk.type) for chunk in chunks):
        time = np.concatenate([chunk.to_numpy(zero_copy_only=False) for chunk in chunks])
        wrong = int((~np.isfinite(time)).sum())
        if wrong:
            raise ValueError(f"the time {name} is NaN or infinite in {wrong:,} rows")
        if clock.unit is None:
            raise ValueError(
                f"the time {name} is a number: say in which unit or format, like {_better_reading(time[0])}"
            )
        return time, PER_DAY[clock.unit]
    try:
        stamps = [chunk.cast(pa.timestamp("us"), safe=False).cast(pa.int64()) for chunk in map(_utc, chunks)]
    except pa.ArrowException as error:
        stamps = _distinct([chunk for chunk in chunks if _is_text(chunk.type)])
        why = f" ({first_line(error)}): set time_format"
        why = _how_to_read(_first_unread(stamps, "ISO8601"), stamps) if stamps else why
        raise ValueError(f"the time {name} is neither a number nor a timestamp{why}") from error
    return np.concatenate([stamp.to_numpy(zero_copy_only=False) for stamp in stamps]), PER_DAY["us"]


def _from_text(chunk: pa.Array, name: str) -> pa.Array:
    for kind in (pa.int64(), pa.float64()):
        try:
            return chunk.cast(kind)
        except pa.ArrowException:
            continue
    stamps = _distinct([chunk])
    unread = next((stamp for stamp in stamps if not re.fullmatch(NUMBER, stamp)), stamps[0])
    raise ValueError(f"the time {name} has a time_unit, and is no number{_how_to_read(unread, stamps, 'time_unit')}")


def _formatted(chunk: pa.Array, text: str, name: str) -> np.ndarray:
    """Return microseconds since 1970 of stamps that are text or whole numbers."""
    try:
        chunk = chunk.cast(pa.int64()) if pa.types.is_floating(chunk.type) else chunk
        encoded = chunk.cast(pa.string()).dictionary_encode()
    except pa.ArrowException as error:
        raise ValueError(f"the time {name} does not read by time_format ({first_line(error)})") from error
    try:
        parsed = pd.to_datetime(encoded.dictionary.to_pandas(), format=text, utc=True)
    except ValueError as error:
        stamps = encoded.dictionary.to_pylist()
        how = _how_to_read(_first_unread(stamps, text), stamps, "time_format")
        raise ValueError(f'the time {name} does not read by time_format = "{text}"{how}') from error
    stamps = np.asarray(parsed.dt.tz_localize(None), dtype="datetime64[us]").astype(np.int64)
    return stamps[encoded.indices.to_numpy()]


def _utc(chunk: pa.Array) -> pa.Array:
    if not _is_text(chunk.type):
        return chunk
    zoned = pc.match_substring_regex(chunk, r"(Z|[+-]\d\d:?\d\d)$")  # pyright: ignore[reportAttributeAccessIssue]
    has_zone = bool(len(chunk)) and zoned[0].as_py()
    return chunk.cast(pa.timestamp("us", "UTC" if has_zone else None))


def _distinct(chunks: Sequence[pa.Array]) -> list[str]:
    return pa.chunked_array(chunks, chunks[0].type if chunks else pa.string()).unique().to_pylist()


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)

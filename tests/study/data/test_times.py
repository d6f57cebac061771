"""Times of a table: every way to state them, and what no log has."""

import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from study.data import check, load, rows_of
from study.data._dataset import Log

ROWS = 2000
START = 1_650_844_800  # 2022-04-25
TIMES = START + 600 * np.arange(ROWS)  # two weeks


def convert(folder: Path, times: object, said: str, kind: str = "parquet", clicks: object = None) -> Log:
    folder.mkdir()
    frame = pd.DataFrame({"ts": times, "shop": np.arange(ROWS) % 7})
    frame["click"] = np.arange(ROWS) % 2 if clicks is None else clicks
    frame.to_parquet(folder / "log.parquet") if kind == "parquet" else frame.to_csv(folder / "log.csv", index=False)
    declared = f'files = ["log.*"]\ntime = "ts"\n{said}\nids = ["shop"]\n[tasks]\nclick = "binary"\n'
    (folder / "table.toml").write_text(declared)
    return load("table", {"dir": str(folder)}, folder.parent / "cache")


def stamps(pattern: str) -> list[str]:
    return [datetime.datetime.fromtimestamp(int(t), datetime.UTC).strftime(pattern) for t in TIMES]


def stray(*values: float) -> np.ndarray:
    """Two weeks of seconds, of which the first are replaced."""
    return np.concatenate([values, TIMES[len(values) :]])


def refused(folder: Path, message: str, *arguments: object, **named: object) -> None:
    with pytest.raises(ValueError, match=message) as error:
        convert(folder, *arguments, **named)  # pyright: ignore[reportArgumentType]
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["parquet", "csv"])
@pytest.mark.parametrize(
    ("pattern", "number"),
    [("%y%m%d%H", True), ("%Y%m%d", True), ("%Y%m%d%H%M%S", True), ("%d/%m/%Y %H:%M:%S", False), ("%Y-%j", False)],
)
def test_stamps_of_any_format_are_times(tmp_path, kind, pattern, number):
    times = stamps(pattern)
    log = convert(tmp_path / "t", [int(t) for t in times] if number else times, f'time_format = "{pattern}"', kind)
    assert (log.facts["first_day"], log.facts["last_day"]) == ("2022-04-25", "2022-05-08")
    whole = convert(tmp_path / "s", TIMES, 'time_unit = "s"')
    assert log.train_rows == whole.train_rows
    np.testing.assert_array_equal(log.ids, whole.ids)


@pytest.mark.parametrize(
    ("times", "unit", "change"),
    [
        ([int(t) for t in stamps("%y%m%d%H")], "s", 'time_format = "%y%m%d%H"'),
        ([int(t) for t in stamps("%Y%m%d")], "s", 'time_format = "%Y%m%d"'),
        ([int(t) for t in stamps("%Y%m%d%H")], "s", 'time_format = "%Y%m%d%H"'),
        ([int(t) for t in stamps("%Y%m%d%H%M%S")], "ms", 'time_format = "%Y%m%d%H%M%S"'),
        (TIMES * 1000, "s", 'time_unit = "ms"'),
        (TIMES, "ms", 'time_unit = "s"'),
        (TIMES * 1e9, "ms", 'time_unit = "ns"'),
        (TIMES - START, "s", "time_unit, time_format or time_from, or order"),
    ],
)
@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_a_wrong_unit_is_refused_with_the_right_one(tmp_path, times, unit, change, kind):
    message = f"ts is before 1990 or after {datetime.date.today().year + 1} in 2,000 of 2,000 rows.*: set {change}"
    refused(tmp_path / "t", message, times, f'time_unit = "{unit}"', kind)


@pytest.mark.parametrize(
    ("times", "said"),
    [
        (
            stray(2_145_916_800),
            "in 1 of 2,000 rows, for instance 2145916800 .2038-01-01 in s.: set time_from",
        ),
        (stray(-2_145_916_800, -9), "in 2 of 2,000 rows, for instance -2145916800 .1902-01-01 in s.: set time_from"),
        (stray(0, 0, 0), "in 3 of 2,000 rows, for instance 0 .1970-01-01 in s.: set time_from"),
        (stray(1e30), r"in 1 of 2,000 rows, for instance 1e\+30: set time_from or time_to"),
        (stray(-1e300), r"in 1 of 2,000 rows, for instance -1e\+300: set"),
        (stray(1_000_000_000), "no row between 2001-09-09 and 2022-04-25, and 1 of 2,000 rows on one side: set time_f"),
        (np.linspace(7e8, START, ROWS), "goes from 1992-03-07 to 2022-04-25, over 20 years"),
        (stray(START + 86_400 * 40), "the last day, 2022-06-04, has 1 of 2,000 rows; need 100 .*: set heldout, like"),
    ],
)
def test_times_that_no_log_has_are_refused(tmp_path, times, said):
    refused(tmp_path / "t", said, times, 'time_unit = "s"')


def test_the_year_9999_of_a_spark_file_is_said(tmp_path):
    stamps = pd.to_datetime(pd.Series(TIMES), unit="s").astype("datetime64[us]")
    stamps[5] = datetime.datetime(9999, 12, 31)
    path = tmp_path / "t"
    path.mkdir()
    table = pa.table({"ts": pa.array(stamps, pa.timestamp("us")), "shop": [1, 2] * 1000, "click": [0, 0, 1, 1] * 500})
    pq.write_table(table, path / "log.parquet", use_deprecated_int96_timestamps=True)
    declared = 'files = ["log.*"]\ntime = "ts"\nids = ["shop"]\n[tasks]\nclick = "binary"\n'
    (path / "table.toml").write_text(declared)
    with pytest.raises(ValueError, match="in 1 of 2,000 rows, for instance 9999-12-31: set time_from or time_to"):
        load("table", {"dir": str(path)}, tmp_path / "cache")
    (path / "table.toml").write_text("time_to = 2022-12-31\n" + declared)
    log = load("table", {"dir": str(path)}, tmp_path / "cache")
    assert (len(log.ids), log.facts["rows_left_out"], log.facts["last_day"]) == (1999, 1, "2022-05-08")


@pytest.mark.parametrize(
    ("said", "first", "last"),
    [
        ("time_from = 2022-04-26\ntime_to = 2022-05-01", "2022-04-26", "2022-05-01"),
        ('time_from = "2022-04-26"\ntime_to = "2022-05-01"', "2022-04-26", "2022-05-01"),
        ("time_from = 2022-04-26T00:00:00\ntime_to = 2022-05-02T00:00:00Z", "2022-04-26", "2022-05-02"),
        ("time_to = 2022-05-01T23:59:59", "2022-04-25", "2022-05-01"),
    ],
)
def test_rows_outside_the_stated_times_are_left_out(tmp_path, said, first, last):
    times = np.random.default_rng(0).permutation(stray(0, 2_145_916_800)) if "time_from" in said else TIMES
    log = convert(tmp_path / "t", times, f'time_unit = "s"\nheldout = 0.2\n{said}')
    assert (log.facts["first_day"], log.facts["last_day"]) == (first, last)
    day = TIMES // 86_400
    kept = int(((day >= np.datetime64(first).astype(int)) & (day <= np.datetime64(last).astype(int))).sum())
    assert abs(len(log.ids) - kept) < 144
    assert log.facts["rows_left_out"] == ROWS - len(log.ids)
    whole = convert(tmp_path / "w", TIMES, 'time_unit = "s"')
    assert whole.content != log.content
    said = check("table", {"dir": str(tmp_path / "t")}, tmp_path / "cache")
    assert f"{ROWS - len(log.ids):,} rows left out" in said
    assert rows_of("table", {"dir": str(tmp_path / "t")}, tmp_path / "cache").whole == log.content


def test_a_declared_range_may_be_long_old_or_have_a_gap(tmp_path):
    for i, times in enumerate([TIMES - START, np.linspace(6e8, START, ROWS), stray(8e8)]):
        said = 'time_unit = "s"\nheldout = 0.2\ntime_from = 1970-01-01\ntime_to = 2025-01-01'
        assert len(convert(tmp_path / str(i), times, said).ids) == ROWS


@pytest.mark.parametrize("clicks", [np.arange(ROWS) < 100, np.arange(ROWS) % 2 * (np.arange(ROWS) < 1700) == 1])
def test_a_held_out_part_of_one_class_is_refused(tmp_path, clicks):
    said = 'time_unit = "s"\nheldout = 0.1'
    refused(
        tmp_path / "t", "all 200 held-out labels of click are 0, .*: hold out more rows", TIMES, said, clicks=clicks
    )


@pytest.mark.parametrize("share", [0.001, 0.04])
def test_a_held_out_share_that_is_too_small_is_refused(tmp_path, share):
    said = f'time_unit = "s"\nheldout = {share}'
    refused(tmp_path / "t", f"heldout = {share} holds out {share * ROWS:.0f} of 2,000 rows; need 100 ", TIMES, said)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ('time_unit = "s"\ntime_format = "%Y"', "need one of them"),
        ('time_format = "yyyy"', "time_format is like \"%Y%m%d\" .*; got 'yyyy'"),
        ('time_format = "%d.%m.%Y"', "ts does not read by time_format"),
        ('time_unit = "s"\ntime_from = "soon"', "time_from is a date or a time, like .*; got 'soon'"),
        ('time_unit = "s"\ntime_from = 1511539200', "time_from is a date or a time, like .*; got 1511539200"),
        ('time_unit = "s"\ntime_to = 12:00:00', "time_to is a date or a time, like .*; got datetime.time"),
        ('time_unit = "s"\ntime_from = 2023-01-01', "no row lies between time_from and time_to"),
        ("", 'ts is a number: say in which unit or format, like time_unit = "s"'),
    ],
)
def test_wrong_statements_of_times_are_refused(tmp_path, said, message):
    refused(tmp_path / "t", message, TIMES, said)

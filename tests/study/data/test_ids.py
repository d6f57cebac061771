"""Ids of a table: one user is one code, in whatever way the files write it."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from study.data import check, load, table
from study.data._dataset import Log

DECLARED = """
files = ["log-*"]
time = "ts"
time_unit = "s"
ids = ["user"]
heldout = 0.5
[tasks]
click = "binary"
"""
START = 1_700_000_000


def convert(folder: Path, *files: list | pa.Array, kind: str = "csv") -> Log:
    """Convert files of users, row by row one second apart, to a log whose codes are all seen in training."""
    folder.mkdir()
    start = START
    for i, users in enumerate(files * 2):
        rows = len(users)
        columns = {"ts": np.arange(start, start + rows), "user": users, "click": np.arange(rows) % 2}
        start += rows
        if kind == "csv":
            lines = [",".join(map(str, row)) for row in zip(*columns.values(), strict=True)]
            (folder / f"log-{i}.csv").write_text("\n".join(["ts,user,click", *lines]) + "\n")
        else:
            pq.write_table(pa.table(columns), folder / f"log-{i}.parquet")
    (folder / "table.toml").write_text(DECLARED)
    return load("table", {"dir": str(folder)}, folder.parent / "cache")


def codes(log: Log) -> list[int]:
    return log.ids[: log.train_rows, 0].tolist()


@pytest.fixture(autouse=True)
def few_rows_may_be_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "LEAST_HELDOUT", 1)


@pytest.mark.parametrize("other", [["1.0", "2.0", "30.0"], ["1.", "2.00", "30"], ["1", "2.0", "30.000"]])
def test_whole_numbers_are_one_id_in_csv_files(tmp_path, other):
    log = convert(tmp_path / "t", ["1", "30", "2"], other)
    assert codes(log) == [1, 3, 2, 1, 2, 3]
    assert log.vocabulary == (4,)
    unseen = check("table", {"dir": str(tmp_path / "t")}, tmp_path / "cache")
    assert "user: 4, 0.0%" in unseen


@pytest.mark.parametrize("one", [pa.int32(), pa.int64(), pa.uint64(), pa.float32(), pa.string(), pa.decimal128(21, 2)])
@pytest.mark.parametrize("other", [pa.int64(), pa.float16(), pa.float32(), pa.float64(), pa.large_string()])
def test_whole_numbers_are_one_id_in_parquet_files_of_all_types(tmp_path, one, other):
    users = pa.array([1, 30, 2], pa.int64())
    log = convert(tmp_path / "t", users.cast(one), pa.array([2, 1, 30], pa.int64()).cast(other), kind="parquet")
    assert log.vocabulary == (4,)
    assert codes(log)[:3] == [codes(log)[i] for i in (4, 5, 3)]


def test_a_column_with_missing_ids_has_the_codes_of_one_without(tmp_path):
    """pandas writes the second file with `.0`."""
    missing = pd.Series([5, None, 7]).to_csv(index=False, header=False).split("\n")[:3]
    log = convert(tmp_path / "t", ["5", "6", "7"], missing)
    assert codes(log) == [1, 2, 3, 1, 0, 3]


def test_a_float_with_all_digits_of_an_id_is_that_id(tmp_path):
    """`numpy.savetxt` writes `%.18e`."""
    written = ["3.000000e+06", "1.000000000000000000e+00", "-1.20E+1", "9.007199254740992000e+15", "0.0e+00"]
    users = [3_000_000, 1, -12, 2**53, 0]
    log = convert(tmp_path / "t", written, [str(user) for user in users])
    assert codes(log)[:5] == codes(log)[5:]
    assert len(set(codes(log)[:5])) == 5


def test_a_float_of_java_is_the_id_that_it_writes_in_full(tmp_path):
    """`Double.toString`, and so Spark's CSV, writes 10000000 as `1.0E7`."""
    written = ["1.0E7", "1.2345678E7", "-1.2345678E7", "9.007199254740992E15", "1.23456785E7", "1E7", "4e7"]
    users = [10_000_000, 12_345_678, -12_345_678, 2**53, "1.23456785E7", "1E7", "4e7"]
    log = convert(tmp_path / "t", written, [str(user) for user in users])
    assert codes(log)[:7] == codes(log)[7:]
    assert len(set(codes(log)[:7])) == 7


def test_halves_zeros_and_text_stay_apart(tmp_path):
    users = ["1.5", "-0.0", "0", "007", "7.0", "00e5", "1e2", "1.0.0", "v1.0", "-3.0", "-3", "1.05"]
    log = convert(tmp_path / "t", users)
    assert log.vocabulary == (1 + 10,)  # -0.0 is 0, and -3.0 is -3
    numbers = pa.array([1.5, -0.0, 2.0**40])
    whole = convert(tmp_path / "f", numbers, pa.array(["0", "1.5", str(2**40)]), kind="parquet")
    assert codes(whole)[:3] == [codes(whole)[i] for i in (4, 3, 5)]


@pytest.mark.parametrize(
    ("users", "said"),
    [
        (pa.array([1.0, 2.0**53 + 2]), r"floats up to 9007199254740994; above 9,007,199,254,740,992 a float cannot"),
        (pa.array(np.float32([1, 2**24 + 2])), r"floats up to 16777218; above 16,777,216 a float cannot say"),
        (pa.array([4.0, 1e19]), r"floats up to 10000000000000000000"),
        (["1.0", "9007199254740994.0"], r"floats like 9007199254740994\.0, which cannot say which id it is"),
        (["1", "1.23457E+11"], r"floats like 1\.23457E\+11, which cannot say which id"),
        (["1.0", "1e+19"], r"floats like 1e\+19"),
        (["1.0", "1e+99999999999999999999"], r"floats like 1e\+99999999999999999999, which cannot say which id"),
        (["1.0", "1e+" + "9" * 5000], r"floats like 1e\+9{5000}, which cannot say which id"),
        (["1.0", "9" * 5000 + ".0"], r"floats like 9{5000}\.0, which cannot say which id"),
        (["3000000", "3e+06"], r"floats like 3e\+06, which cannot say which id"),
        (["1", "9.007199254740994000e+15"], r"floats like 9\.007199254740994000e\+15, which cannot say which id"),
        (["1", "9.007199254740994E15"], r"floats like 9\.007199254740994E15, which cannot say which id"),
        (["1", "1.0E99999999999999999999"], r"floats like 1\.0E99999999999999999999, which cannot say which id"),
        (["1", "3.00000050e+06"], r"floats like 3\.00000050e\+06, which cannot say which id"),
    ],
)
def test_floats_that_cannot_say_which_id_are_refused(tmp_path, users, said):
    with pytest.raises(ValueError, match=f"the ids of user are {said}") as error:
        convert(tmp_path / "t", users, kind="csv" if isinstance(users, list) else "parquet")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("users", [[2**53, 2**53 + 1], [2**63, 2**63 + 1], [1, 2**24 + 1]])
def test_integers_of_any_size_are_exact(tmp_path, users):
    kinds = {"csv": [str(user) for user in users], "parquet": pa.array(users, pa.uint64())}
    for kind, ids in kinds.items():
        assert convert(tmp_path / kind, ids, kind=kind).vocabulary == (3,)


WORDS = ["NA", "NaN", "nan", "null", "NULL", "None", "N/A", "-", " ", "NAN"]


def test_only_an_empty_field_is_a_missing_id(tmp_path):
    log = convert(tmp_path / "t", [*WORDS, "", '""'])
    assert codes(log)[-2:] == [0, 0]
    assert log.vocabulary == (1 + len(WORDS),)
    parquet = convert(tmp_path / "p", pa.array([*WORDS, None, None]), kind="parquet")
    np.testing.assert_array_equal(log.ids, parquet.ids)


def test_logs_that_are_read_as_before_keep_their_content(tmp_path):
    """The hashes are those of version 1, so that the runs of existing studies keep their ids."""
    same = {"csv": [["1", "x", ""], ["2", "y", "1.5"]], "parquet": [pa.array(["NA", "x"]), pa.array(["", "7"])]}
    old = {"csv": OLD_CSV, "parquet": OLD_PARQUET}
    for kind, files in same.items():
        assert convert(tmp_path / kind, *files, kind=kind).content == old[kind]
    for i, users in enumerate([["1", "1.0"], ["1", "NA"]]):
        folder = tmp_path / str(i)
        changed = convert(folder, users)
        assert changed.content == load("table", {"dir": str(folder)}, tmp_path / "again").content
        assert re.fullmatch("[0-9a-f]{64}", changed.content)


def test_a_log_whose_ids_version_2_read_otherwise_has_another_content(tmp_path):
    """The hashes are those of version 2, whose caches and runs may be on disk."""
    rest = ["2.0", "3"]
    assert convert(tmp_path / "dot", ["1.0", *rest], ["1", "2", "3"]).content == OF_VERSION_2
    assert convert(tmp_path / "java", ["1.0E7", *rest], ["10000000", "2", "3"]).content != JAVA_OF_VERSION_2


OF_VERSION_2 = "c3f7dc2c76eeea36b8163a6f1cddefd90350e5537c0df7310303a0af771b4731"
JAVA_OF_VERSION_2 = "9e5b393628b323a44b977ae13b883af5bd699c215587203908b2e91b8bb28e1e"
OLD_CSV = "6fa35cfa969bc4e32ca99cd8cc64c66d827ba79c881466a6ca29bbd3043c10d2"
OLD_PARQUET = "b31547eae22d0e1fdf64d2dd7af78a6c4800c122dc69f9f5caf86b1a60c7e5da"

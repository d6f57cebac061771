"""A user's table: CSV and Parquet files, declarations, and what is refused."""

import json
import tomllib
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from study.data import Rows, _cache, _csv, check, load, rows_of, table
from study.data._dataset import Log
from study.data._declaration import Declaration

START = 1_704_067_200_000  # 2024-01-01, in ms
FRAME = pd.DataFrame(
    {
        "ts": [START + ms for ms in (90_000_000, 1000, 3000, 2000, 86_399_999, 90_000_001)],  # two rows of the 2nd day
        "user": ["zoe", "bob", None, "al", "bob", "zoe"],
        "shop": [70, 5, 5, 9, 9, 70],
        "price": [100.0, 1.0, 2.0, 3.0, 2.0, 100.0],
        "click": [1, 0, 0, 1, 1, 0],
        "watch": [3.0, 0.0, 1.0, 3.0, 0.0, 3.0],
    }
)
DECLARED = """
files = ["log.parquet"]
time = "ts"
time_unit = "ms"
ids = ["user", "shop"]
numbers = ["price"]
log1p = ["watch"]
[tasks]
click = "binary"
watch = "regression"
"""


@pytest.fixture(autouse=True)
def few_rows_may_be_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "LEAST_HELDOUT", 1)


def write(folder: Path, frame: pd.DataFrame = FRAME, declared: str = DECLARED) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    frame.to_parquet(folder / "log.parquet")
    (folder / "table.toml").write_text(declared)
    return folder


def convert(folder: Path) -> Log:
    return load("table", {"dir": str(folder)}, folder.parent / "cache")


def assert_same(one: Log, other: Log) -> None:
    for name in ("ids", "numbers", "labels"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert (one.tasks, one.train_rows, one.vocabulary) == (other.tasks, other.train_rows, other.vocabulary)


def test_a_small_table_by_hand(tmp_path):
    log = convert(write(tmp_path / "t"))
    # In time order: bob at 1 s, al at 2 s, nobody at 3 s, bob just before midnight; zoe twice on the day after.
    assert log.train_rows == 4
    np.testing.assert_array_equal(log.ids, [[2, 1], [1, 2], [0, 1], [2, 2], [0, 0], [0, 0]])
    assert log.vocabulary == (3, 3)
    # Prices 1, 3, 2, 2: mean 2, variance 1/2. The held-out 100 is cut at 5.
    np.testing.assert_allclose(log.numbers[:, 0], [-np.sqrt(2), np.sqrt(2), 0, 0, 5, 5], atol=1e-6)
    np.testing.assert_array_equal(log.labels[:, 0], [0, 1, 0, 1, 1, 0])
    assert log.tasks[0].base == 0.5
    assert log.tasks[0].constant_loss == pytest.approx(np.log(2))
    # log(1 + watch): 0, 2, 1, 0 times log 2: mean 3/4, mean square 5/4, variance 11/16.
    assert log.tasks[1].base == pytest.approx(0.75 * np.log(2))
    assert log.tasks[1].scale == pytest.approx(np.sqrt(11) / 4 * np.log(2))
    assert log.tasks[1].constant_rmse == pytest.approx(1.25 * np.log(2))
    assert log.tasks[1].unit == "log(1 + watch)"
    assert (log.facts["first_day"], log.facts["last_day"], log.facts["days"]) == ("2024-01-01", "2024-01-02", 2)


def test_csv_and_parquet_files_of_the_same_rows_are_the_same_log(tmp_path):
    parquet = convert(write(tmp_path / "p"))
    folder = write(tmp_path / "c", declared=DECLARED.replace("log.parquet", "log-*.csv"))
    FRAME.iloc[:2].to_csv(folder / "log-1.csv", index=False)
    FRAME.iloc[2:].to_csv(folder / "log-2.csv", index=False)
    assert_same(parquet, convert(folder))
    (folder / "log-1.csv").unlink()
    FRAME.iloc[:2].to_csv(folder / "log-1.csv.gz", index=False)
    (folder / "table.toml").write_text(DECLARED.replace('"log.parquet"', '"log-1.csv.gz", "log-2.csv"'))
    assert_same(parquet, convert(folder))
    FRAME.iloc[2:].to_parquet(folder / "log-2.parquet")
    (folder / "table.toml").write_text(DECLARED.replace('"log.parquet"', '"log-1.csv.gz", "log-2.parquet"'))
    assert_same(parquet, convert(folder))


STAMPS = pd.to_datetime(FRAME["ts"], unit="ms")


@pytest.mark.parametrize(
    ("stamps", "unit"),
    [
        (FRAME["ts"] / 1000, "s"),
        (FRAME["ts"] * 1000, "us"),
        (FRAME["ts"] * 10**6, "ns"),
        (STAMPS, None),
        (STAMPS.astype("datetime64[us]").dt.tz_localize("UTC").dt.tz_convert("Asia/Shanghai"), None),
        (STAMPS.dt.strftime("%Y-%m-%dT%H:%M:%S.%f"), None),
        (STAMPS.dt.strftime("%Y-%m-%d %H:%M:%S.%fZ"), None),
        ((STAMPS + pd.Timedelta(hours=8)).dt.strftime("%Y-%m-%dT%H:%M:%S.%f+08:00"), None),
    ],
)
@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_times_of_every_type_and_unit_are_equal(tmp_path, stamps, unit, kind):
    log = convert(write(tmp_path / "ms"))
    said = f'time_unit = "{unit}"' if unit else ""
    declared = DECLARED.replace('time_unit = "ms"', said).replace("log.parquet", f"log.{kind}")
    folder = write(tmp_path / "other", FRAME.assign(ts=stamps), declared)
    FRAME.assign(ts=stamps).to_csv(folder / "log.csv", index=False)
    other = convert(folder)
    assert_same(log, other)
    assert log.facts["last_day"] == other.facts["last_day"]


def test_a_table_may_have_features_of_one_kind(tmp_path):
    ids = convert(write(tmp_path / "i", declared=DECLARED.replace('numbers = ["price"]', "")))
    assert (ids.ids.shape, ids.numbers.shape) == ((6, 2), (6, 0))
    numbers = convert(write(tmp_path / "n", declared=DECLARED.replace('ids = ["user", "shop"]', "ids = []")))
    assert (numbers.ids.shape, numbers.numbers.shape, numbers.vocabulary) == ((6, 0), (6, 1), ())
    assert "0 id features" in check("table", {"dir": str(tmp_path / "n")}, tmp_path / "cache")


def test_a_share_of_the_rows_can_be_held_out(tmp_path):
    folder = write(tmp_path / "t", FRAME.iloc[1:], DECLARED.replace("ids", "heldout = 0.4\nids", 1))
    assert convert(folder).train_rows == 3
    assert "(the last 0.4 of the rows)" in check("table", {"dir": str(folder)}, tmp_path / "cache")


def of_five_days(folder: Path, kind: str = "parquet", declared: str = DECLARED) -> dict[str, object]:
    """Write five days of eight rows each, with an empty day between them, in random order; return the options."""
    rng = np.random.default_rng(3)
    at = [
        START + day * 86_400_000 + hour * 3_600_000 for day in (0, 1, 3, 4, 5) for hour in (0, 1, 5, 8, 13, 17, 22, 23)
    ]
    frame = pd.DataFrame(
        {
            "ts": at,
            "user": [f"user{i}" for i in rng.integers(0, 9, 40)],
            "shop": rng.integers(0, 5, 40),
            "price": rng.normal(size=40),
            "click": [0, 1] * 20,
            "watch": rng.exponential(size=40),
        }
    ).sample(frac=1, random_state=1)
    write(folder, frame, declared)
    if kind == "csv":
        (folder / "log.parquet").unlink()
        frame[:25].to_csv(folder / "a.csv", index=False)
        frame[25:].to_csv(folder / "b.csv", index=False)
        (folder / "table.toml").write_text(declared.replace("log.parquet", "*.csv"))
    return {"dir": str(folder)}


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_selected_days_have_the_codes_and_scales_of_all(tmp_path, kind):
    options = of_five_days(tmp_path / "t", kind)
    cache = tmp_path / "cache"
    whole = load("table", options, cache)
    assert (whole.facts["days"], whole.train_rows) == (5, 32)
    early, late = (load("table", options | {"only_days": days}, cache) for days in ("1-2", "3-5"))
    for part, rows, train_rows in ((early, slice(0, 16), 8), (late, slice(16, 40), 16)):
        for name in ("ids", "numbers", "labels"):
            np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[rows])
        assert (part.train_rows, part.vocabulary) == (train_rows, whole.vocabulary)
    assert (late.facts["first_day"], late.facts["last_day"], late.facts["days"]) == ("2024-01-04", "2024-01-06", 3)
    assert rows_of("table", options | {"only_days": "3-5"}, cache) == Rows(whole=whole.content, first=3, last=5)
    assert rows_of("table", options, cache) == Rows(whole=whole.content, first=1, last=5)
    said = check("table", options | {"only_days": "3-5"}, cache)
    assert "3 days (2024-01-04 to 2024-01-06); days 3 to 5 of 5, with codes and scales of all" in said
    assert "held out: 8 rows (the last day, 2024-01-06)" in said
    assert not list(cache.glob(".building-*"))
    with pytest.raises(ValueError, match="only_days=5-6 are no days of this log: it has 1-5"):
        load("table", options | {"only_days": "5-6"}, cache)


def test_the_last_selected_day_is_held_out_instead_of_a_share(tmp_path):
    options = of_five_days(tmp_path / "t", declared=DECLARED.replace("ids", "heldout = 0.5\nids", 1))
    cache = tmp_path / "cache"
    whole, every = load("table", options, cache), load("table", options | {"only_days": "1-5"}, cache)
    assert (whole.train_rows, every.train_rows) == (20, 32)
    np.testing.assert_array_equal(every.ids, whole.ids)
    assert "(the last day, 2024-01-06)" in check("table", options | {"only_days": "1-5"}, cache)
    # with a share held out, the training rows are not whole days
    assert rows_of("table", options, cache) == Rows(whole=whole.content)
    assert rows_of("table", options | {"only_days": "4-5"}, cache) == Rows(whole=whole.content, first=4, last=5)


def test_rows_of_equal_times_keep_their_order_and_duplicates(tmp_path):
    times = np.random.default_rng(0).integers(0, 3, 1000)
    frame = pd.DataFrame({"ts": [*START + times, START + 90_000_000], "shop": range(1001), "click": [0, 1] * 500 + [1]})
    frame = pd.concat([frame, *[frame.iloc[-1:].assign(click=i % 2) for i in range(5)]])
    declared = 'files = ["log.parquet"]\ntime = "ts"\ntime_unit = "ms"\nids = ["shop"]\n[tasks]\nclick = "binary"\n'
    log = convert(write(tmp_path / "t", frame, declared))
    in_order = [row for time in range(3) for row in range(1000) if times[row] == time]
    np.testing.assert_array_equal(log.ids[:1000, 0] - 1, in_order)
    assert len(log.ids) == 1006


def test_a_csv_of_many_blocks_is_the_same_log(tmp_path, monkeypatch):
    """In the first block, times are whole numbers and ids are missing."""
    random = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "ts": START + np.arange(600) * 1000 + np.where(np.arange(600) < 300, 0, 0.5),
            "user": [None] * 300 + [f"u{i}" for i in random.integers(0, 9, 300)],
            "shop": random.integers(10, 99, 600),
            "price": random.lognormal(size=600),
            "click": random.integers(0, 2, 600),
            "watch": random.exponential(size=600),
        }
    )
    declared = DECLARED.replace('time_unit = "ms"', 'time_unit = "ms"\nheldout = 0.1')
    folder = write(tmp_path / "t", frame.sample(frac=1, random_state=0), declared)
    frame.assign(ts=frame["ts"].map("{:.14g}".format)).to_csv(folder / "log.csv", index=False)
    (folder / "csv.toml").write_text(declared.replace("log.parquet", "log.csv"))
    monkeypatch.setattr(_csv, "CSV_BLOCK_BYTES", 2048)
    assert _csv.csv_type(folder / "log.csv", "ts") == pa.float64()
    assert_same(convert(folder), load("table", {"dir": str(folder / "csv.toml")}, tmp_path / "cache"))
    kept = {path.name for path in (tmp_path / "cache").rglob("*")} - {
        path.name for path in (tmp_path / "cache").iterdir()
    }
    assert kept == {"ids.npy", "numbers.npy", "labels.npy", "log.json"}  # intermediate files are deleted


def test_memory_does_not_grow_with_the_columns(tmp_path, monkeypatch):
    monkeypatch.setattr(_cache, "BLOCK_ROWS", 1000)
    rows, random = 20_000, np.random.default_rng(0)

    def peak(columns: int) -> int:
        names = [f"x{i}" for i in range(columns)]
        frame = pd.DataFrame({name: random.normal(size=rows) for name in names})
        frame = frame.assign(ts=START // 1000 + random.permutation(rows), click=random.integers(0, 2, rows))
        declared = (
            f'files = ["log.parquet"]\ntime = "ts"\ntime_unit = "s"\nheldout = 0.1\nids = {names[: columns // 2]}\n'
        )
        declared += f'numbers = {names[columns // 2 :]}\n[tasks]\nclick = "binary"\n'
        folder = write(tmp_path / str(columns), frame, declared)
        tracemalloc.start()
        convert(folder)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(82) - peak(2) < 80 * rows  # 80 columns take 4 bytes a row each once converted, and 8 before


def test_content_depends_on_values_and_tasks_but_not_on_file_names(tmp_path):
    log = convert(write(tmp_path / "a"))
    moved = write(tmp_path / "b")
    (moved / "log.parquet").rename(moved / "renamed.parquet")
    (moved / "mine.toml").write_text(DECLARED.replace("log.parquet", "renamed.parquet"))
    assert load("table", {"dir": str(moved / "mine.toml")}, tmp_path / "cache").content == log.content
    assert convert(write(tmp_path / "c", FRAME.assign(price=FRAME["price"] + 1))).content != log.content
    swapped = DECLARED.replace('click = "binary"\n', "") + 'click = "binary"\n'
    other = convert(write(tmp_path / "d", declared=swapped))
    assert other.content != log.content  # the order of the tasks is the order of the logits
    assert [task.name for task in other.tasks] == ["watch", "click"]


PLAIN_FORMS = """
files = ["log.parquet"]
order = "rows"
ids = ["user"]
[lists]
genres = "mean"
tags = { separator = "|" }
others = { pool = "sum" }
[tasks]
click = { kind = "binary", positive = [1] }
like = { column = "price", kind = "binary", above = 3 }
watch = "regression"
"""
KEYS = """
format = "parquet"
separator = ","
decimal = "."
encoding = "UTF-8"
numbers = []
log1p = []
heldout = 0.1
missing = "refuse"
missing_labels = "refuse"
"""


def test_defaults_that_are_written_out_do_not_change_the_content(tmp_path):
    written = PLAIN_FORMS.replace("ids =", KEYS + "ids =")
    for short, long in (
        ('"mean"', '{ pool = "mean" }'),
        ('{ separator = "|" }', '{ pool = "mean", separator = "|" }'),
        ('{ kind = "binary", positive = [1] }', '{ kind = "binary", column = "click", positive = [1], negative = [] }'),
        ("above = 3", "above = 3, positive = []"),
    ):
        assert short in written
        written = written.replace(short, long)
    frame = pd.concat([FRAME.assign(genres=[["a"]] * 6, tags="a|b", others=[["a"]] * 6)] * 10)
    content = convert(write(tmp_path / "plain", frame, PLAIN_FORMS)).content
    assert convert(write(tmp_path / "written", frame, written)).content == content
    assert convert(write(tmp_path / "other", frame, PLAIN_FORMS.replace('"sum"', '"mean"'))).content != content


def test_forms_without_defaults_keep_their_hash():
    """What is hashed is what version 1 hashed, so that the runs of existing studies keep their ids."""
    values = tomllib.loads(PLAIN_FORMS)
    assert json.loads(json.dumps(Declaration(**values).canonical())) == {
        "order": "rows",
        "time": None,
        "time_unit": None,
        "heldout": None,
        "ids": ["user"],
        "lists": {"genres": "mean", "tags": {"separator": "|"}, "others": {"pool": "sum"}},
        "numbers": [],
        "log1p": [],
        "tasks": [
            ["click", {"kind": "binary", "positive": [1]}],
            ["like", {"column": "price", "kind": "binary", "above": 3}],
            ["watch", "regression"],
        ],
    }


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"log.parquet"', '"no-*.parquet"', r"no file no-\*\.parquet in "),
        ('"log.parquet"', '"table.toml"', "ends in none of .csv, .tsv, .*: say what it is, like format"),
        ('"price"', '"prize"', "lacks the columns prize; it has ts, user"),
        ('numbers = ["price"]', 'numbers = "price"', "numbers is a list of names"),
        ('numbers = ["price"]', 'numbers = ["price", "price"]', "numbers names price twice"),
        ('ids = ["user", "shop"]\nnumbers = ["price"]', 'numbers = ["user"]', "the column user holds no numbers"),
        (
            'numbers = ["price"]',
            'numbers = ["price", "shop", "user"]',
            "shop, user cannot be both in ids and in numbers",
        ),
        ('numbers = ["price"]', 'numbers = ["ts"]', "ts cannot be both in numbers and in time"),
        ('ids = ["user", "shop"]', 'ids = ["ts"]', "ts cannot be both in ids and in time"),
        ("[tasks]", '[lists]\nprice = "mean"\n[tasks]', "price cannot be both in lists and in numbers"),
        ("[tasks]", '[lists]\nuser = "mean"\n[tasks]', "user cannot be both in ids and in lists"),
        ("[tasks]", '[lists]\nclick = "mean"\n[tasks]', "click cannot be both in lists and in tasks"),
        ("[tasks]", '[tasks]\nlate = { column = "ts", kind = "regression" }', "ts cannot be both in tasks and in time"),
        ('ids = ["user", "shop"]\nnumbers = ["price"]', "", "need at least one column in ids or numbers"),
        ('numbers = ["price"]', 'number = ["price"]', "unknown key number; the keys are files, format"),
        ('numbers = ["price"]', 'numbers = ["watch"]', "watch cannot be both in numbers and in tasks"),
        ('log1p = ["watch"]', 'log1p = ["click"]', "log1p names click, which is no number and no regression target"),
        ('time = "ts"', "", "need one of time and order: the column of times, or order = "),
        ('"ts"\ntime_unit = "ms"\nids = ["user", ', '"user"\ntime_unit = "ms"\nids = [', "1 rows have no time"),
        ('time_unit = "ms"', "", 'say in which unit or format, like time_unit = "ms"'),
        ('time_unit = "ms"', 'time_unit = "hours"', "time_unit is one of s, ms, us, ns; got 'hours'"),
        ('time_unit = "ms"', 'time_unit = "ms"\ntime_to = 2024-01-01', r"one day \(UTC\); .* heldout = 0.1"),
        ('time_unit = "ms"', 'time_unit = "ms"\nheldout = 1.5', "heldout is a share between 0 and 1; got 1.5"),
        ('time_unit = "ms"', 'time_unit = "ms"\nheldout = 0.01', "heldout = 0.01 holds out 0 of 6 rows"),
        ('click = "binary"', 'click = "yes"', 'the task click is "binary" or "regression"; got \'yes\''),
        ('click = "binary"\nwatch = "regression"', "", "need at least one task"),
        ('click = "binary"', 'shop = "binary"', "shop cannot be both in ids and in tasks"),
        ('watch = "regression"', 'watch = "binary"', "log1p names watch"),
        ('"ts"', '"ts', "is not TOML"),
        ('log1p = ["watch"]', "log1p = " + "[" * 100_000, "is not TOML"),
    ],
)
def test_bad_declarations_are_refused_in_one_line(tmp_path, old, new, message):
    assert old in DECLARED
    folder = write(tmp_path / "t", declared=DECLARED.replace(old, new))
    with pytest.raises(ValueError, match=message) as error:
        convert(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"price": [1, np.nan, 2, np.nan, 3, 3]}, "price is missing or NaN in 2 of 6 rows"),
        ({"price": [1, np.inf, 2, 1, 3, 3]}, "price is infinite in 1 of 6 rows, the first in row 2"),
        ({"watch": [1, -np.inf, 2, 1, 3, 3]}, "watch is infinite in 1 of 6 rows, the first in row 2"),
        ({"watch": [1, -1, -7, 1, 3, 3]}, "log1p of watch needs values above -1; 2 are not"),
        ({"watch": [1, 2, 2, 2, 2, 3]}, "the target watch is .* in every training row"),
        (
            {"click": [1, 0, 2, -1, 0, 0]},
            "labels of click are not all 0 or 1: 2 others, for instance -?[12]; its values are",
        ),
        ({"click": [0, 1, 1, 1, 1, 1]}, "labels of click are all 1 in the training part"),
        ({"click": [None, 1, 0, 1, 1, 0]}, "click is missing or NaN in 1 of 6 rows, the first in row 1"),
        ({"ts": [1e9, np.inf, 1.0, 2.0, 3.0, 4.0]}, "ts is NaN or infinite in 1 rows"),
        ({"ts": ["yesterday"] * 6}, "the time ts has a time_unit, and is no number"),
        ({"user": [["a"], ["b"], ["c"], ["d"], ["e"], ["f"]]}, r"user is a column of lists: .* under \[lists\]"),
    ],
)
def test_bad_values_are_refused_in_one_line(tmp_path, change, message):
    folder = write(tmp_path / "t", FRAME.assign(**change))
    with pytest.raises(ValueError, match=message) as error:
        convert(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_unreadable_files_are_named(tmp_path, kind):
    folder = write(tmp_path / "t", declared=DECLARED.replace("log.parquet", f"log.{kind}"))
    FRAME.to_csv(folder / "log.csv", index=False)
    path = folder / f"log.{kind}"
    whole = path.read_bytes()
    cut = len(whole) // 2 if kind == "parquet" else whole.rindex(b",")  # a row of the CSV loses a column
    for content, message in [
        (whole[:cut], "does not read"),
        (b"", "is empty|does not read"),
        (whole.replace(b"watch", b"wetch"), "lacks the columns watch|does not read"),
    ]:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message) as error:
            convert(folder)
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)


def test_an_empty_table_and_a_missing_declaration_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no rows in"):
        convert(write(tmp_path / "t", FRAME.iloc[:0]))
    with pytest.raises(ValueError, match=r"cannot read .*table\.toml \(No such file"):
        convert(tmp_path / "nowhere")


def test_a_csv_value_that_is_no_number_is_reported_with_its_column(tmp_path):
    folder = write(tmp_path / "t", declared=DECLARED.replace("log.parquet", "log.csv"))
    (folder / "log.csv").write_text(FRAME.to_csv(index=False).replace("100.0", "dear"))
    with pytest.raises(ValueError, match=r"column price: .*'dear'"):
        convert(folder)

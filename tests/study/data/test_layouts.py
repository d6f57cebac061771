"""The layouts of public click logs, by the declarations of docs/data.md, and how CSV files may be written."""

import bz2
import dataclasses
import gzip
import re
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from study.data import _csv, check, load
from study.data._dataset import Log
from study.data._declaration import Declaration, _names
from study.data._targets import Target

ROOT = Path(__file__).parents[3]
ROWS = 1200
RANDOM = np.random.default_rng(0)
CLICKS = RANDOM.integers(0, 2, ROWS)
HEX = np.array([f"{value:08x}" for value in RANDOM.integers(0, 2**32, 40)])


def declared(title: str) -> str:
    """The declaration under a title of docs/data.md."""
    text = (ROOT / "docs" / "data.md").read_text()
    found = re.search(rf"\n{re.escape(title)}[^\n]*:\n\n```toml\n(.*?)```", text, re.DOTALL)
    assert found, title
    assert found[1].count("\n") <= 10
    return found[1]


def convert(folder: Path, toml: str, **files: str | bytes) -> Log:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        path = folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    (folder / "table.toml").write_text(toml)
    return load("table", {"dir": str(folder)}, folder.parent / "cache")


def lines(*columns: object, separator: str = ",", header: str = "") -> str:
    rows = zip(*(np.asarray(column).astype(str) for column in columns), strict=True)  # pyright: ignore[reportArgumentType]
    return "\n".join([*([header] if header else []), *(separator.join(row) for row in rows)]) + "\n"


def test_every_key_of_a_table_is_named_in_its_page():
    """In the first column of a table; those of a list beside `[lists]`."""
    page = (ROOT / "docs" / "data.md").read_text()
    named = {
        word.strip("[]") for cell in re.findall(r"^\| (`[^|]*`) \|", page, re.M) for word in re.findall("`(.*?)`", cell)
    }
    keys = {field.name for kind in (Declaration, Target) for field in dataclasses.fields(kind)}
    assert named - {"table.toml"} >= keys - {"name"}
    [row] = re.findall(r"^\| `\[lists\]` \|.*", page, re.M)
    assert all(f"{key} = " in row for key in ("separator", "pool", "most"))


def test_criteo(tmp_path):
    numbers = [np.where(RANDOM.random(ROWS) < 0.3, "", RANDOM.integers(-3, 900, ROWS).astype(str)) for _ in range(13)]
    ids = [np.where(RANDOM.random(ROWS) < 0.1, "", RANDOM.choice(HEX, ROWS)) for _ in range(26)]
    content = lines(CLICKS, *numbers, *ids, separator="\t")
    log = convert(tmp_path / "t", declared("Criteo's display ads"), **{"train.txt": content})
    assert (len(log.id_names), log.number_names[:4]) == (26, ("I1", "I1_missing", "I2", "I2_missing"))
    assert log.vocabulary == (41,) * 26
    np.testing.assert_array_equal(log.labels[:, 0], CLICKS)
    assert (log.train_rows, "days" in log.facts) == (1080, False)


def test_avazu(tmp_path):
    stamps = pd.Timestamp("2014-10-21") + pd.to_timedelta(np.arange(ROWS) // 5, unit="h")
    header = "id,click,hour,C1,banner_pos,site_id,site_domain,site_category,app_id,app_domain,app_category,device_id,"
    header += "device_ip,device_model,device_type,device_conn_type," + ",".join(f"C{i}" for i in range(14, 22))
    ids = [RANDOM.choice(HEX, ROWS) for _ in range(21)]
    content = lines(range(ROWS), CLICKS, stamps.strftime("%y%m%d%H"), *ids, header=header)
    log = convert(tmp_path / "t", declared("Avazu"), **{"train.gz": gzip.compress(content.encode())})
    assert (log.facts["first_day"], log.facts["last_day"], log.facts["days"]) == ("2014-10-21", "2014-10-30", 10)
    assert len(log.id_names) == 16
    np.testing.assert_array_equal(log.labels[:, 0], CLICKS)


def test_taobao(tmp_path):
    times = np.linspace(1_511_568_000, 1_512_345_000, ROWS).astype(int)
    times[:3] = -2_145_916_800, 2_122_867_355, 0
    behaviors = np.where(CLICKS, "pv", RANDOM.choice(["buy", "fav", "cart"], ROWS))
    ids = [RANDOM.integers(0, 50, ROWS) for _ in range(3)]
    content = lines(*ids, behaviors, times)
    log = convert(
        tmp_path / "t", declared("Taobao's UserBehavior"), **{"UserBehavior.csv": content.replace("NA", "pv")}
    )
    assert (len(log.ids), log.facts["rows_left_out"]) == (ROWS - 3, 3)
    np.testing.assert_array_equal(log.labels[:, 0], (behaviors == "buy")[3:])


def test_movielens(tmp_path):
    times = 956_703_932 + np.sort(RANDOM.integers(0, 9 * 10**7, ROWS))
    ratings = RANDOM.integers(1, 6, ROWS)
    content = lines(range(ROWS), RANDOM.integers(1, 300, ROWS), ratings, times, separator="::")
    log = convert(tmp_path / "t", declared("MovieLens-1M"), **{"ratings.dat": content})
    np.testing.assert_array_equal(log.labels[:, 0], ratings > 3)
    assert log.id_names == ("user", "movie")
    assert log.train_rows == 1080


def test_recbole(tmp_path):
    times = 880_000_000 + 9999 * np.arange(ROWS)
    ratings = RANDOM.integers(1, 6, ROWS)
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
    columns = RANDOM.integers(1, 90, ROWS), RANDOM.integers(1, 90, ROWS), ratings, times
    content = lines(*columns, separator="\t", header=header)
    toml = declared("A `.inter` file of RecBole")
    log = convert(tmp_path / "t", toml, **{"ml-100k.inter": content})
    np.testing.assert_array_equal(log.labels[:, 0], ratings > 3)
    with pytest.raises(ValueError, match=r'"\\t"|set separator = "\\\\t"'):
        convert(tmp_path / "c", toml.replace('separator = "\\t"\n', ""), **{"ml-100k.inter": content})


def test_kuairand_as_a_table(tmp_path):
    times = 1_650_844_800_000 + 720_000 * np.arange(ROWS)
    header = "user_id,video_id,date,hourmin,time_ms,is_click,play_time_ms,duration_ms,tab"
    ids = [RANDOM.integers(0, 50, ROWS) for _ in range(4)]
    play = RANDOM.integers(0, 90_000, ROWS)
    content = lines(*ids, times, CLICKS, play, play + 1, ids[0], header=header)
    name = "log_standard_4_25_to_5_08_pure.csv"
    log = convert(tmp_path / "t", declared("KuaiRand's standard log"), **{name: content})
    assert [task.name for task in log.tasks] == ["click", "play"]
    assert log.tasks[1].unit == "log(1 + play)"


TOML = """files = ["log*"]
format = "csv"
time = "ts"
time_unit = "s"
ids = ["user"]
numbers = ["price"]
[tasks]
click = "binary"
"""
TIMES = 1_699_920_000 + 720 * np.arange(ROWS)
USERS = RANDOM.choice(["zoë", "bob", 'a "b" c', "x;y"], ROWS)
PRICES = RANDOM.integers(0, 999, ROWS) / 8
PLAIN = pd.DataFrame({"ts": TIMES, "user": USERS, "price": PRICES, "click": CLICKS})


def same(one: Log, other: Log) -> None:
    for name in ("ids", "numbers", "labels"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@pytest.fixture
def plain(tmp_path) -> Log:
    return convert(tmp_path / "plain", TOML, **{"log.csv": PLAIN.to_csv(index=False)})


@pytest.mark.parametrize(
    ("said", "options"),
    [
        ('separator = "\\t"', {"sep": "\t"}),
        ('separator = ";"\ndecimal = ","', {"sep": ";", "decimal": ","}),
        ('encoding = "latin1"', {"encoding": "latin1"}),
        ('encoding = "utf-16"', {"encoding": "utf-16"}),
        ('columns = ["ts", "user", "price", "click"]', {"header": False}),
        ("", {"encoding": "utf-8-sig", "lineterminator": "\r\n"}),
    ],
)
def test_csv_files_may_be_written_in_any_way(tmp_path, plain, said, options):
    (tmp_path / "t").mkdir()
    PLAIN.to_csv(tmp_path / "t" / "log.csv", index=False, **options)
    same(plain, convert(tmp_path / "t", f"{said}\n{TOML}"))


@pytest.mark.parametrize("encoding", ["utf8", "latin1", "utf-16"])
@pytest.mark.parametrize("separator", ["::", "|||", " - "])
def test_separators_may_be_long(tmp_path, plain, separator, encoding, monkeypatch):
    monkeypatch.setattr(_csv, "CSV_BLOCK_BYTES", 1021)  # many blocks end inside a separator
    frame = PLAIN.assign(user=PLAIN["user"].str.replace("zoë", "z:oë"))
    content = lines(*(frame[name] for name in frame), separator=separator, header=separator.join(frame))
    toml = f'separator = "{separator}"\nencoding = "{encoding}"\n{TOML}'
    same(plain, convert(tmp_path / "t", toml, log=content.encode(encoding)))


@pytest.mark.parametrize("ending", [".csv.gz", ".tsv.bz2", ".txt.zst", ".dat", ".inter"])
def test_files_may_be_compressed_and_have_any_ending(tmp_path, plain, ending):
    content = PLAIN.to_csv(index=False).encode()
    pack = {"gz": gzip.compress, "bz2": bz2.compress, "zst": pa.compress}.get(ending.rpartition(".")[2])
    if pack:
        content = pack(content, codec="zstd", asbytes=True) if pack is pa.compress else pack(content)
    named = TOML.replace('format = "csv"\n', "").replace("log*", f"log{ending}")
    same(plain, convert(tmp_path / "t", named, **{f"log{ending}": content}))
    same(plain, convert(tmp_path / "o", TOML, log=PLAIN.to_csv(index=False)))
    with pytest.raises(ValueError, match=r'log ends in none of .*: say what it is, like format = "csv"'):
        convert(tmp_path / "n", TOML.replace('format = "csv"\n', ""), log="x")


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_folder_of_spark_is_read(tmp_path, plain, kind):
    folder = tmp_path / "t" / "log"
    (folder / "dt=2").mkdir(parents=True)
    for i, part in enumerate((PLAIN[:700], PLAIN[700:])):
        path = folder / ("" if i == 0 else "dt=2") / f"part-0000{i}-c000.{kind}"
        part.to_csv(path, index=False) if kind == "csv" else part.to_parquet(path)
        (path.parent / f".{path.name}.crc").write_bytes(b"crc")
    (folder / "_SUCCESS").write_bytes(b"")
    (folder / f"part-00002-c000.{kind}").write_bytes(b"")
    same(plain, convert(tmp_path / "t", TOML.replace("log*", "log").replace('"csv"', f'"{kind}"')))


def test_a_range_of_names_keeps_its_zeros_and_goes_up():
    assert _names("ids", ["a", "C09..C11"]) == ["a", "C09", "C10", "C11"]
    assert _names("ids", ["C9..C11"]) == ["C9", "C10", "C11"]
    with pytest.raises(ValueError, match=r"ids names C26\.\.C1, which holds no column"):
        _names("ids", ["C26..C1"])


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (np.where(CLICKS, "True", "False"), "positive = [true]"),
        (np.where(CLICKS, "true", "false"), 'positive = [true], negative = ["false"]'),
        (CLICKS == 1, 'positive = ["True"], negative = [false]'),
        (2 * CLICKS - 1, "positive = [1], negative = [-1]"),
        (2.0 * CLICKS - 1, "positive = [1.0], negative = [-1]"),
        (np.where(CLICKS, "yes", "no"), 'positive = ["yes", "maybe"]'),
        (CLICKS * 2.5 + 1, "above = 2"),
        (CLICKS * 4, "above = 3.5"),
        (CLICKS * 5 + 0.1, "positive = [5.1], negative = [0.1]"),
        (np.where(CLICKS, "5.50", "1.0"), "positive = [5.5], negative = [1]"),
        (np.where(CLICKS, "1", "2"), 'positive = ["1.0"], negative = ["2"]'),
        (CLICKS + 12345678901234566, "positive = [12345678901234567]"),
    ],
)
def test_labels_are_mapped_as_declared(tmp_path, plain, labels, said, kind):
    frame = PLAIN.drop(columns="click").assign(**{"the label": labels})
    toml = TOML.replace('click = "binary"', f'click = {{ column = "the label", kind = "binary", {said} }}')
    toml = toml.replace('"csv"', f'"{kind}"')
    (tmp_path / "t").mkdir()
    frame.to_csv(tmp_path / "t" / "log", index=False) if kind == "csv" else frame.to_parquet(tmp_path / "t" / "log")
    same(plain, convert(tmp_path / "t", toml))


def test_the_line_to_copy_is_toml():
    for name, column in (("é", None), ("a b", "click"), ("a-b_1", "click")):
        line = Target(name=name, kind="binary", column=column or name, positive=(1,)).declared()
        said = {"kind": "binary", "positive": [1]} | ({"column": column} if column else {})
        assert tomllib.loads(line) == {name: said}


@pytest.mark.parametrize(
    ("labels", "said", "message"),
    [
        (2 * CLICKS - 1, "", "for instance -1; its values are '-1', '1': say which count, like .* positive = ..1.. }$"),
        (CLICKS + 9.5, "", "its values are '9.5', '10.5': say which count, like .* positive = ..10.5.. }$"),
        (np.arange(ROWS), "", "its values are '0', '1', '2', '3', '4', [.]{3}, '1199': say which count, like "),
        (CLICKS, 'positive = [1], negative = ["no"]', "neither positive nor negative in .* rows, for instance '0'"),
        (CLICKS, "negative = [0]", "click has negative; it needs positive too"),
        (CLICKS, "above = 1, positive = [1]", "click has above and positive; need one of them"),
        (CLICKS, 'above = "1"', "above of the task click is a number; got '1'"),
        (CLICKS, "positive = 1", "positive of the task click is a list of values"),
        (CLICKS, "over = 1", "the task click has no key over; the keys are kind, column, above"),
        (CLICKS, 'column = "user"', "user cannot be both in ids and in tasks"),
    ],
)
def test_wrong_labels_say_how_to_declare_them(tmp_path, labels, said, message):
    toml = TOML.replace('"binary"', f'{{ kind = "binary", {said} }}') if said else TOML
    with pytest.raises(ValueError, match=message) as error:
        convert(tmp_path / "t", toml, log=PLAIN.assign(click=labels).to_csv(index=False))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("values", [("no", "yes"), ("False", "True"), ("0", "1x"), ("a", "é")])
@pytest.mark.parametrize("said", ["", 'positive = ["maybe"]', "above = 1"])
def test_labels_of_text_are_named_and_the_line_to_copy_works(tmp_path, kind, values, said):
    frame = PLAIN.assign(click=np.where(CLICKS, values[1], values[0]))
    frame.loc[7, "click"] = None
    (tmp_path / "t").mkdir()
    frame.to_csv(tmp_path / "t" / "log", index=False) if kind == "csv" else frame.to_parquet(tmp_path / "t" / "log")
    skip = TOML.replace('"csv"', f'"{kind}"').replace("[tasks]", 'missing_labels = "skip"\n[tasks]')
    toml = skip.replace('"binary"', f'{{ kind = "binary", {said} }}') if said else skip
    found = rf"its values are '{values[0]}', '{values[1]}': say which count, like click = (\{{.*\}})$"
    with pytest.raises(ValueError, match=found) as error:
        convert(tmp_path / "t", toml)
    assert "\n" not in str(error.value)
    assert "maybe" not in said or "no label of click is 'maybe'; " in str(error.value)
    line = re.search(found, str(error.value))
    assert line
    log = convert(tmp_path / "t", skip.replace('"binary"', line[1]))
    np.testing.assert_array_equal(log.labels[:, 0], np.where(np.arange(ROWS) == 7, np.nan, CLICKS))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("", 'separator = ""\n', "separator is what stands between fields"),
        ("", 'decimal = ","\n', 'decimal is "." or ","'),
        ("", 'encoding = "latin9000"\n', 'encoding is like "utf8"'),
        ('"csv"', '"json"', 'format is "csv" or "parquet"; got \'json\''),
        ("", 'columns = ["ts", "user", "price"]\n', "has 4 fields in its first row; columns names 3"),
        ("", 'columns = ["ts", "user", "price", "click"]\n', "names its columns in its first row: leave columns out"),
        ("", 'columns = ["ts", "a1..a3", "a2"]\n', "columns names a2 twice"),
        ('time = "ts"', 'order = "rows"', "time_unit needs time, the column of times"),
        ('time = "ts"\ntime_unit = "s"', 'order = "columns"', 'order is "rows", the order of the rows'),
        ('"price"', '"the price"', "lacks the columns 'the price'; it has ts, user, price, click"),
    ],
)
def test_wrong_layouts_are_refused(tmp_path, old, new, message):
    toml = TOML.replace(old, new) if old else new + TOML
    with pytest.raises(ValueError, match=message) as error:
        convert(tmp_path / "t", toml, log=PLAIN.to_csv(index=False))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_name_that_stands_twice_is_refused(tmp_path, kind):
    """Only where the column is used."""
    frame = PLAIN.assign(rest=1)
    for name in ("price", "click", "rest"):
        folder = tmp_path / name
        folder.mkdir()
        again = pa.Table.from_pandas(frame).append_column(name, pa.array(frame[name]))
        pq.write_table(again, folder / "log")
        if kind == "csv":
            pd.concat([frame, frame[name]], axis=1).to_csv(folder / "log", index=False)
        if name == "rest":
            assert len(convert(folder, TOML.replace('"csv"', f'"{kind}"')).ids) == ROWS
            continue
        with pytest.raises(ValueError, match=f"has two columns with the name {name}"):
            convert(folder, TOML.replace('"csv"', f'"{kind}"'))


def test_rows_without_times_keep_their_order(tmp_path):
    toml = TOML.replace('time = "ts"\ntime_unit = "s"', 'order = "rows"')
    log = convert(tmp_path / "t", toml, log=PLAIN.to_csv(index=False))
    np.testing.assert_array_equal(log.labels[:, 0], CLICKS)
    assert log.train_rows == 1080
    assert "held out: 120 rows (the last 0.1 of the rows)" in check(
        "table", {"dir": str(tmp_path / "t")}, tmp_path / "c"
    )
    with pytest.raises(ValueError, match="only_days=1-2 needs days, and this log has no times"):
        load("table", {"dir": str(tmp_path / "t"), "only_days": "1-2"}, tmp_path / "cache")

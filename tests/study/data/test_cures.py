"""What is wrong with a table is said with its cure, and the cure works."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from study.data import load
from study.data._dataset import Log

ROWS = 1000
TOML = """files = ["log.*"]
time = "ts"
time_unit = "s"
heldout = 0.2
ids = ["user"]
numbers = ["price"]
[tasks]
watch = "regression"
"""
RANDOM = np.random.default_rng(1)
FRAME = pd.DataFrame(
    {
        "ts": 1_690_000_000 + np.arange(ROWS) * 7,
        "user": RANDOM.choice(["zoë", "b", "c"], ROWS),
        "price": RANDOM.normal(size=ROWS),
        "watch": RANDOM.exponential(100, size=ROWS),
    }
)


def convert(folder: Path, frame: pd.DataFrame, toml: str = TOML, kind: str = "csv", encoding: str = "utf8") -> Log:
    folder.mkdir()
    if kind == "csv":
        frame.to_csv(folder / "log.csv", index=False, encoding=encoding)
    else:
        frame.to_parquet(folder / "log.parquet")
    (folder / "table.toml").write_text(toml)
    return load("table", {"dir": str(folder)}, folder.parent / "cache")


def refused(*given, **more) -> str:
    with pytest.raises(ValueError) as error:  # noqa: PT011 - each test reads the message
        convert(*given, **more)
    assert "\n" not in str(error.value)
    return str(error.value)


def with_value(column: str, value: object, row: int = 17) -> pd.DataFrame:
    frame = FRAME.astype({column: object})
    frame.loc[row, column] = value
    return frame


@pytest.mark.parametrize("encoding", ["latin1", "utf-16"])
@pytest.mark.parametrize("where", ["early", "late", "header"])
def test_another_encoding_is_named(tmp_path, encoding, where):
    users = ["zoe"] * 900 + ["zoë"] * 100 if where == "late" else ["zoë"] * ROWS
    frame, toml = FRAME.assign(user=users), TOML
    if where == "header":
        frame, toml = frame.rename(columns={"user": "Käufer"}), TOML.replace("user", "Käufer")
    cure = f'encoding = "{encoding}"'
    assert f"set {cure}" in refused(tmp_path / "t", frame, toml, encoding=encoding)
    convert(tmp_path / "cured", frame, f"{cure}\n{toml}", encoding=encoding)


@pytest.mark.parametrize("word", ["None", r"\N", "N/A", "n/a", "<NA>"])
def test_words_that_databases_and_pandas_write_are_missing_numbers(tmp_path, word):
    frame = with_value("price", word)
    assert 'missing = "mean"' in refused(tmp_path / "t", frame)
    log = convert(tmp_path / "cured", frame, f'missing = "mean"\n{TOML}')
    expected = convert(tmp_path / "empty", with_value("price", None), f'missing = "mean"\n{TOML}')
    np.testing.assert_array_equal(log.numbers, expected.numbers)
    said = refused(tmp_path / "label", with_value("watch", word))
    assert 'missing_labels = "skip"' in said


def test_other_words_are_answered_with_those_that_are_missing_numbers(tmp_path):
    said = refused(tmp_path / "t", with_value("price", "?"))
    assert "'?'" in said
    assert said.endswith(r"a missing number is an empty field or NaN, nan, NA, null, NULL, None, \N, N/A, n/a, <NA>")


def test_a_decimal_comma_is_told_to_be_declared(tmp_path):
    text = FRAME.to_csv(sep=";", decimal=",", index=False)
    for folder, said in {"t": "", "cured": 'decimal = ","\n'}.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "log.csv").write_text(text)
        (tmp_path / folder / "table.toml").write_text(f'separator = ";"\n{said}{TOML}')
    with pytest.raises(ValueError, match=r'set decimal = ","$'):
        load("table", {"dir": str(tmp_path / "t")}, tmp_path / "cache")
    load("table", {"dir": str(tmp_path / "cured")}, tmp_path / "cache")


@pytest.mark.parametrize("stamp", ["2023-07-22T04:00:00Z", "2023-07-22T04:00:00+02:00"])
def test_a_key_that_iso_text_does_not_need_is_told_to_be_left_out(tmp_path, stamp):
    frame = FRAME.assign(ts=stamp)
    for i, said in enumerate(['time_format = "%Y%m%d"', 'time_unit = "s"']):
        toml = TOML.replace('time_unit = "s"', said)
        assert refused(tmp_path / f"{i}", frame, toml, "parquet").endswith(f": leave {said.partition(' ')[0]} out")
    convert(tmp_path / "cured", frame, TOML.replace('time_unit = "s"\n', ""), "parquet")


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("declared", ['time_format = "%m.%d.%y"', 'time_unit = "s"', ""])
@pytest.mark.parametrize(
    "written",
    [
        "%Y%m%d",
        "%y%m%d%H",
        "%Y-%m-%d %H:%M:%S",
        "%d/%m/%Y %H:%M",
        "%d.%m.%Y",
        "%m/%d/%Y",
        "%d-%b-%Y",
        "%Y/%m/%d %H:%M:%S",
    ],
)
def test_a_format_that_reads_all_times_is_proposed(tmp_path, written, declared, kind):
    stamps = pd.to_datetime(1_690_000_000 + np.arange(ROWS) * 3600, unit="s").strftime(written)
    iso = written.startswith("%Y-")
    if iso and "format" not in declared:
        stamps = stamps.str.replace("-", ".")  # ISO reads without a format
        written = written.replace("-", ".")
    frame = FRAME.assign(ts=stamps)
    if written.isalnum() or set(written) <= set("%YmdyH"):
        frame = frame.astype({"ts": int})
    said = refused(tmp_path / "t", frame, TOML.replace('time_unit = "s"', declared), kind)
    cure = f'time_format = "{written}"'
    assert f"set {cure}" in said or f"like {cure}" in said
    assert "You might want" not in said
    convert(tmp_path / "cured", frame, TOML.replace('time_unit = "s"', cure), kind)


def test_a_time_that_no_format_reads_is_shown(tmp_path):
    toml = TOML.replace('time_unit = "s"', 'time_format = "%Y-%m-%d"')
    said = refused(tmp_path / "t", FRAME.assign(ts=["2023-07-22"] * 999 + ["soon"]), toml)
    assert said == "the time ts does not read by time_format = \"%Y-%m-%d\", for instance 'soon'"


@pytest.mark.parametrize("lists", [["a", "b"], [1, 2]])
def test_lists_under_ids_are_told_to_be_lists(tmp_path, lists):
    frame = FRAME.assign(user=[lists] * ROWS)
    said = refused(tmp_path / "t", frame, kind="parquet")
    assert said == 'user is a column of lists: take it out of ids, and set user = "mean" under [lists]'
    cured = TOML.replace('"user"', "").replace("[tasks]", '[lists]\nuser = "mean"\n[tasks]')
    convert(tmp_path / "cured", frame, cured, "parquet")


@pytest.mark.parametrize(
    ("line", "table"),
    [
        ('missing = "mean"', "[tasks]"),
        ("heldout = 0.1", "[tasks]"),
        ('ids = ["user"]', "[tasks]"),
        ('time = "ts"', "[tasks]"),
        ("heldout = 0.1", "[lists]"),
        ('missing_labels = "skip"', "[lists]"),
        ('missing = "mean"', "[tasks.watch]"),
    ],
)
def test_a_key_below_a_table_is_told_to_stand_above(tmp_path, line, table):
    key = line.partition(" ")[0]
    toml = re.sub(rf"(?m)^{key} = .*\n", "", TOML).replace('\nwatch = "regression"', "")
    toml = toml.replace(
        "[tasks]", "[tasks.watch]\nkind = 'regression'" if table == "[tasks.watch]" else "[tasks]\nwatch = 'regression'"
    )
    toml = f"{toml}\n[lists]\n{line}\n" if table == "[lists]" else f"{toml}\n{line}\n"
    said = refused(tmp_path / "t", FRAME, toml)
    assert said.endswith(
        f"table.toml: {key} is below {table} and counts as a part of it: write it above the first [table]"
    )


def test_columns_that_have_the_names_of_keys_are_columns(tmp_path):
    frame = FRAME.rename(columns={"watch": "missing"}).assign(order=FRAME["watch"], columns="a|b")
    toml = TOML.replace("watch =", 'order = { kind = "regression" }\nmissing =')
    convert(tmp_path / "t", frame, f'{toml}[lists]\ncolumns = {{ separator = "|" }}\n')


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [("watch", -1e30, ""), ("watch", 1e30, ""), ("watch", 1e30, ", clip = 0.999"), ("watch", -1e30, ", clip = 0.999")],
)
def test_a_warning_of_a_target_offers_only_what_works(tmp_path, column, value, said):
    toml = TOML.replace('"regression"', f'{{ kind = "regression"{said} }}')
    wide = FRAME.assign(watch=np.where(np.arange(ROWS) % 50, FRAME["watch"], 1e12)) if "clip" in said else FRAME
    frame = wide.assign(watch=np.where(np.arange(ROWS) == 17, value, wide["watch"]))
    (warning,) = convert(tmp_path / "t", frame, toml).facts["warnings"]
    cures = re.findall(r"(?<=set | or )(watch = \{.*?\})", warning)
    assert (len(cures) == 0) == ("clip" in said and value < 0)
    for i, cure in enumerate(cures):
        assert cure not in toml
        convert(tmp_path / f"cured{i}", frame, re.sub("watch = .*", cure, TOML))
    assert ("leave such rows out" in warning) == (not cures)


@pytest.mark.parametrize("value", [-1e30, 1e30])
@pytest.mark.parametrize("logged", [False, True])
def test_a_warning_of_a_number_offers_only_what_works(tmp_path, value, logged):
    price = FRAME["price"].abs() if not logged else np.exp(FRAME["price"] / 1e4)
    if logged and value < 0:
        return
    toml = f'log1p = ["price"]\n{TOML}' if logged else TOML
    (warning,) = convert(tmp_path / "t", FRAME.assign(price=price.mask(FRAME.index == 17, value)), toml).facts[
        "warnings"
    ]
    assert ('set log1p = ["price"]' in warning) == (value > 0 and not logged)
    assert "leave such rows out" in warning


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize(("column", "key"), [("price", 'missing = "mean"'), ("watch", 'missing_labels = "skip"')])
def test_infinity_is_no_missing_number_and_its_row_is_named(tmp_path, kind, column, key):
    frame = FRAME.assign(**{column: FRAME[column].mask(FRAME.index == 17, np.inf)})
    said = refused(tmp_path / "t", frame, f"{key}\n{TOML}", kind)
    assert said == (
        f"{column} is infinite in 1 of 1,000 rows, the first in row 18 of log.{kind}: infinity is not a missing value; "
        "leave such rows out, or write them as missing"
    )
    said = refused(tmp_path / "m", frame.replace(np.inf, np.nan)[::-1], TOML, kind)
    assert said.startswith(f"{column} is missing or NaN in 1 of 1,000 rows, the first in row 983 of log.{kind}; {key} ")

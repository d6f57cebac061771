"""Lists of ids of a table: columns of lists, and texts with a separator."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from study.data import check, load
from study.data._dataset import Log

ROWS = 1000
TOML = """files = ["log.*"]
order = "rows"
heldout = 0.2
ids = ["user"]
[lists]
genres = "mean"
[tasks]
click = "binary"
"""
RANDOM = np.random.default_rng(1)
GENRES = [RANDOM.choice(["a", "b", "c", "NA"], RANDOM.integers(0, 5)).tolist() for _ in range(ROWS)]
GENRES[900] = ["never", "a"]
FRAME = pd.DataFrame(
    {"user": RANDOM.integers(0, 9, ROWS), "genres": GENRES, "click": RANDOM.integers(0, 2, ROWS)},
)


def convert(folder: Path, frame: pd.DataFrame, toml: str = TOML, kind: str = "parquet") -> Log:
    folder.mkdir()
    frame.to_parquet(folder / "log.parquet") if kind == "parquet" else frame.to_csv(folder / "log.csv", index=False)
    (folder / "table.toml").write_text(toml)
    return load("table", {"dir": str(folder)}, folder.parent / "cache")


def test_lists_of_a_parquet_file_and_texts_of_a_csv_file_are_one_log(tmp_path):
    log = convert(tmp_path / "p", FRAME)
    assert (log.id_names, log.lengths, log.pools, log.vocabulary) == (
        ("user", "genres"),
        (1, 4),
        ("mean", "mean"),
        (10, 5),
    )
    code = {"NA": 1, "a": 2, "b": 3, "c": 4, "never": 0}
    expected = np.full((ROWS, 4), -1)
    for row, genres in zip(expected, GENRES, strict=True):
        row[: len(genres)] = [code[genre] for genre in genres]
        row[0] = max(row[0], 0)  # an empty list is an id that was not seen
    np.testing.assert_array_equal(log.ids[:, 1:], expected)
    text = FRAME.assign(genres=FRAME["genres"].map("|".join))
    other = convert(tmp_path / "c", text, TOML.replace('"mean"', '{ separator = "|", pool = "sum" }'), "csv")
    np.testing.assert_array_equal(log.ids, other.ids)
    assert other.pools == ("mean", "sum")
    assert "lists of up to 4 ids (mean)" in check("table", {"dir": str(tmp_path / "p")}, tmp_path / "x")


def test_of_longer_lists_the_last_ids_count(tmp_path):
    log = convert(tmp_path / "t", FRAME, TOML.replace('"mean"', "{ most = 2 }"))
    whole = convert(tmp_path / "w", FRAME)
    for short, long in zip(log.ids[:, 1:], whole.ids[:, 1:], strict=True):
        assert short[short >= 0].tolist() == long[long >= 0][-2:].tolist()


def test_lists_of_numbers_may_hold_missing_ids_and_be_missing(tmp_path):
    lists = FRAME.assign(genres=[[1, 7], None, [], [7.0, None]] * 250)
    log = convert(tmp_path / "t", lists)
    np.testing.assert_array_equal(log.ids[:4, 1:], [[1, 2], [0, -1], [0, -1], [2, -1]])


def test_lists_of_one_id_are_plain_ids(tmp_path):
    one = convert(tmp_path / "t", FRAME.assign(genres=[["x"], ["y"]] * 500))
    plain = convert(
        tmp_path / "p",
        FRAME.assign(genres=["x", "y"] * 500),
        TOML.replace('[lists]\ngenres = "mean"\n', "").replace('["user"]', '["user", "genres"]'),
    )
    assert one.lengths == ()
    np.testing.assert_array_equal(one.ids, plain.ids)


def test_columns_and_days_can_be_selected(tmp_path):
    convert(tmp_path / "t", FRAME)
    options = {"dir": str(tmp_path / "t")}
    whole = load("table", options, tmp_path / "cache")
    log = load("table", options | {"only_ids": "genres"}, tmp_path / "cache")
    np.testing.assert_array_equal(log.ids, whole.ids[:, 1:])
    assert (log.lengths, log.pools) == ((4,), ("mean",))
    plain = load("table", options | {"only_ids": "user"}, tmp_path / "cache")
    assert (plain.lengths, plain.ids.shape) == ((), (ROWS, 1))


@pytest.mark.parametrize(
    ("lists", "said", "message"),
    [
        ([["a"] * 65] * ROWS, '"mean"', r"a list of genres holds 65 ids: set genres = \{ most = 64 \} under \[lists\]"),
        (["a|b"] * ROWS, '"mean"', 'genres holds text: set its separator, like genres = { separator = "|" }'),
        ([1] * ROWS, '"mean"', "genres holds int64, and no lists"),
        (GENRES, '"max"', 'pool of the list genres is "mean" or "sum"; got \'max\''),
        (GENRES, "{ mode = 1 }", "the list genres has no key mode; the keys are pool, separator, most"),
        (GENRES, "{ most = 0 }", "most of the list genres is a number of ids from 1 to 1000; got 0"),
        (GENRES, '{ separator = "" }', "separator of the list genres is like"),
    ],
)
def test_wrong_lists_are_refused(tmp_path, lists, said, message):
    with pytest.raises(ValueError, match=message):
        convert(tmp_path / "t", FRAME.assign(genres=lists), TOML.replace('"mean"', said))


def test_lists_of_fixed_size_and_parts_without_lists_are_lists(tmp_path):
    pairs = FRAME.assign(genres=[["a", "b"]] * ROWS)
    plain = convert(tmp_path / "p", pairs)
    (tmp_path / "f").mkdir()
    table = pa.Table.from_pandas(pairs, preserve_index=False)
    fixed = pa.FixedSizeListArray.from_arrays(pa.array(["a", "b"] * ROWS), 2)
    pq.write_table(table.set_column(1, "genres", fixed), tmp_path / "f" / "log.parquet")
    (tmp_path / "f" / "table.toml").write_text(TOML)
    np.testing.assert_array_equal(load("table", {"dir": str(tmp_path / "f")}, tmp_path / "x").ids, plain.ids)
    (tmp_path / "n").mkdir()
    first, last = FRAME[:500], FRAME[500:].assign(genres=None)
    first.to_parquet(tmp_path / "n" / "log.1.parquet")
    last.to_parquet(tmp_path / "n" / "log.2.parquet")
    (tmp_path / "n" / "table.toml").write_text(TOML)
    log = load("table", {"dir": str(tmp_path / "n")}, tmp_path / "x")
    assert (log.ids[500:, 1] == 0).all()
    assert (log.ids[500:, 2:] == -1).all()


@pytest.mark.parametrize(
    ("written", "declared", "named"),
    [
        ("|", ";", '"|"'),
        (";", "|", '";"'),
        (", ", "|", '","'),
        (" ", ",", '" "'),
        (",", ", ", '","'),
        ("|", "|", None),
        (", ", ",", None),
    ],
)
def test_a_separator_that_no_value_holds_is_a_warning_that_names_another(tmp_path, written, declared, named):
    """Each list was one id, unsaid."""
    text = FRAME.assign(genres=FRAME["genres"].map(written.join))
    convert(tmp_path / "log", text, TOML.replace('"mean"', f'{{ separator = "{declared}" }}'), "csv")
    said = check("table", {"dir": str(tmp_path / "log")}, tmp_path / "x")
    several = sum(len(genres) > 1 for genres in GENRES)
    warning = (
        f'warning: no value of genres holds its separator "{declared}", so each is one id; {several:,} hold {named}'
    )
    assert (warning in said) == (named is not None)
    assert (f"set genres = {{ separator = {named} }} under [lists]" in said) == (named is not None)


def test_lists_of_one_id_each_are_no_warning(tmp_path):
    text = FRAME.assign(genres=FRAME["genres"].map(lambda genres: "".join(genres[:1])))
    convert(tmp_path / "log", text, TOML.replace('"mean"', '{ separator = "|" }'), "csv")
    assert "separator" not in check("table", {"dir": str(tmp_path / "log")}, tmp_path / "x")


LISTS = [["a", "b"], ["c"], [], ["b", "NA", "a"]]


@pytest.mark.parametrize(
    ("written", "separator"),
    [
        (["['a', 'b']", '["c"]', "[]", "['b', 'NA', 'a']"], ","),
        (["['a', 'b']", "['c']", "[]", "['b', 'NA', None, 'a']"], ", "),
        (["('a', 'b')", "('c',)", "()", "('b', 'NA', 'a')"], ","),
        (["('a', 'b')", "('c',)", "()", "('b', 'NA', 'a')"], ", "),
        (["['a' 'b']", "['c']", " [ ] ", "['b'  'NA'\n 'a']"], " "),
        (["[a, b]", "[ c ]", "", "[b, NA, a]"], ","),
        (["a | b", " c", " ", "b|NA|a "], "|"),
        (["\t[a, b]", "c", "", "b, NA, a"], ","),
    ],
)
def test_a_text_is_the_list_that_it_prints(tmp_path, written, separator):
    """pandas writes a column of lists as `['a', 'b']`, whose brackets became part of the ids."""
    expected = convert(tmp_path / "p", FRAME.assign(genres=LISTS * 250))
    toml = TOML.replace('"mean"', f'{{ separator = "{separator}" }}')
    log = convert(tmp_path / "c", FRAME.assign(genres=written * 250), toml, "csv")
    assert log.vocabulary == expected.vocabulary
    np.testing.assert_array_equal(log.ids, expected.ids)


def test_numbers_of_a_printed_list_are_ids_like_others(tmp_path):
    columns = {"csv": ["[5, 12]", "[7.0, nan]", "[12]", "[]"], "parquet": [["5", "12"], ["7"], ["12"], []]}
    toml = TOML.replace('"mean"', '{ separator = ", " }')
    logs = [convert(tmp_path / kind, FRAME.assign(genres=of * 250), toml, kind) for kind, of in columns.items()]
    np.testing.assert_array_equal(logs[0].ids, logs[1].ids)


@pytest.mark.parametrize("text", ["[a]|[b]", "(none listed)", "f(x)|[y", "'a'|\"b\"", "(a)|(b)", "[a]x", "a b"])
def test_brackets_and_quotes_of_other_texts_are_part_of_the_ids(tmp_path, text):
    toml = TOML.replace('"mean"', '{ separator = "|" }')
    log = convert(tmp_path / "c", FRAME.assign(genres=[text, "z"] * 500), toml, "csv")
    lists = convert(tmp_path / "p", FRAME.assign(genres=[text.split("|"), ["z"]] * 500))
    np.testing.assert_array_equal(log.ids, lists.ids)


def test_a_log_whose_texts_are_read_as_before_keeps_its_content(tmp_path):
    """The hashes are those of version 3, whose caches and runs may be on disk."""
    toml = TOML.replace('"mean"', '{ separator = "|" }')
    frame = FRAME.assign(user=[1, 2] * 500, click=[0, 1] * 500)
    written = {"same": "a|b||NA", "other": "a | b||NA"}
    logs = {
        name: convert(tmp_path / name, frame.assign(genres=[of, "c"] * 500), toml, "csv")
        for name, of in written.items()
    }
    assert logs["same"].content == "6a9cf4331d41020f55273ae5a05ac3ee12f894b123bded959b5b16f6c916985b"
    assert logs["other"].content != "0c617c82e8564506596b8024dfecbe7ff9c8d87992c192d00ac7d6295f88cabe"

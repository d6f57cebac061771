"""A selection of days is a log with the codes and scales of the whole."""

import sys
from pathlib import Path

import numpy as np
import pytest
from kuairand_slice import SLICE, needs_slice

import study.data as data
from study.data.synthetic import Options as StreamOptions
from study.data.synthetic import Stream

OPTIONS = {"rows": 3000, "users": 200, "items": 100, "days": 6}


def load(cache: Path, **more: object) -> data.Log:
    return data.load("synthetic", OPTIONS | more, cache)


def test_days_keep_their_rows_with_the_codes_of_the_whole_log(tmp_path):
    whole, early, late = load(tmp_path), load(tmp_path, only_days="1-3"), load(tmp_path, only_days="4-6")
    day = Stream(StreamOptions(**OPTIONS)).day + 1
    for part, (first, last) in ((early, (1, 3)), (late, (4, 6))):
        rows = (day >= first) & (day <= last)
        for name in ("ids", "numbers", "labels"):
            np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[rows])
        assert part.train_rows == int(np.sum((day >= first) & (day < last)))
        assert part.vocabulary == whole.vocabulary
        assert part.facts["days"] == 3
        assert isinstance(part.ids.base, np.memmap)
    assert len(early.labels) + len(late.labels) == len(whole.labels)
    assert (early.facts["first_day"], early.facts["last_day"]) == ("2024-01-01", "2024-01-03")
    assert late.facts["last_day"] == whole.facts["last_day"]
    assert "bayes_loss" not in early.facts
    assert len({whole.content, early.content, late.content}) == 3


def test_the_best_constant_is_that_of_the_selected_training_rows(tmp_path):
    whole, part = load(tmp_path), load(tmp_path, only_days="2-4")
    labels = np.asarray(part.labels[: part.train_rows], dtype=np.float64)
    for t, task in enumerate(part.tasks):
        if task.kind == "binary":
            assert task.base == pytest.approx(labels[:, t].mean())
            best = -np.mean(labels[:, t] * np.log(task.base) + (1 - labels[:, t]) * np.log(1 - task.base))
        else:  # the constant is the whole log's mean, 0 in units of its deviation
            assert (task.base, task.scale) == (whole.tasks[t].base, whole.tasks[t].scale)
            best = np.mean(labels[:, t] ** 2)
            heldout = np.asarray(part.labels[part.train_rows :, t], dtype=np.float64)
            assert task.constant_rmse == pytest.approx(task.scale * np.sqrt(np.mean(heldout**2)))
        assert task.constant_loss == pytest.approx(best, rel=1e-6)


def test_all_days_are_the_whole_log_and_days_combine_with_columns(tmp_path):
    whole = load(tmp_path)
    assert load(tmp_path, only_days="1-6").content == whole.content
    both = load(tmp_path, only_days="1-3", only_tasks="click")
    assert [task.name for task in both.tasks] == ["click"]
    assert len(both.labels) == len(load(tmp_path, only_days="1-3").labels)
    assert data.rows_of("synthetic", OPTIONS | {"only_days": "2-4", "only_tasks": "click"}, tmp_path) == data.Rows(
        whole=whole.content, first=2, last=4
    )
    assert data.rows_of("synthetic", OPTIONS, tmp_path) == data.Rows(whole=whole.content, first=1, last=6)


@pytest.mark.parametrize(
    ("days", "message"),
    [
        ("7-8", "only_days=7-8 are no days of this log: it has 1-6"),
        ("0-3", "only_days=0-3 are no days of this log"),
        ("4-2", "only_days=4-2 are no days of this log"),
        ("3-3", "only_days=3-3 is one day; need two or more"),
        (3, "only_days takes the first and the last day, such as 1-7; got 3"),
        ("first", "only_days takes the first and the last day"),
        ("1-99999999999999999999", "only_days takes the first and the last day"),
        ("1-2,4-6", "only_days takes the first and the last day"),
    ],
)
def test_bad_days_are_refused(tmp_path, days, message):
    with pytest.raises(ValueError, match=message):
        load(tmp_path, only_days=days)
    with pytest.raises(ValueError, match=message):
        data.rows_of("synthetic", OPTIONS | {"only_days": days}, tmp_path)


SPARSE = """
import dataclasses
import numpy as np
from study.data import Days, synthetic

def load(cache, *, of_row, facts=3):
    log = synthetic.load(cache, rows=3000, users=200, items=100, days=6)
    more = {name: fact for name, fact in log.facts.items() if name != "days"}
    more |= {} if facts == "none" else {"days": facts}
    return dataclasses.replace(log, content="sparse" + "".join(of_row) + str(facts), facts=more)

def days(cache, *, of_row, facts=3):
    if of_row == "none":
        return None
    rows = np.repeat([int(day) for day in of_row], 1000)
    if rows[0] == 9:  # a day on which nobody clicks
        log = load(cache, of_row=of_row)
        rows = np.where(log.labels[:, 0] == 0, 1, 2)
    return Days(of_row=rows, dates=("a", "b", "c"))
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Return a function that writes a user's data source and returns its name."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "logs_with_sparse_days").mkdir()
    for name in ("logs_with_sparse_days", "logs_with_sparse_days.sparse"):
        monkeypatch.delitem(sys.modules, name, raising=False)

    def write(content: str) -> str:
        (tmp_path / "logs_with_sparse_days" / "sparse.py").write_text(content)
        return "logs_with_sparse_days.sparse"

    return write


@pytest.mark.parametrize(
    ("of_row", "days", "message"),
    [
        ("113", "1-2", "only_days=1-2 leaves no rows to hold out"),
        ("223", "1-2", "only_days=1-2 leaves no rows to train on"),
        ("911", "1-2", "the labels of click are all 0 in the training rows of the days 1-2"),
    ],
)
def test_days_with_nothing_to_learn_are_refused(tmp_path, own, of_row, days, message):
    with pytest.raises(ValueError, match=message):
        data.load(own(SPARSE), {"of_row": of_row, "only_days": days}, tmp_path / "cache")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"of_row": "123", "facts": "none"}, r'facts\["days"\] of its log must be their number, .* not there'),
        ({"of_row": "123", "facts": "three"}, "a whole number; it is 'three'"),
        ({"of_row": "123", "facts": 0}, "a whole number; it is 0"),
        ({"of_row": "12"}, r"returns days of the shape \(2000,\); its log has 3,000 rows"),
        ({"of_row": "123", "facts": 4}, "returns the dates of 3 days; its log has 4"),
        ({"of_row": "none"}, r"must return study\.data\.Days; it returned None"),
    ],
)
def test_a_source_with_inconsistent_days_is_refused(tmp_path, own, options, message):
    source = own(SPARSE)
    with pytest.raises(ValueError, match=message):
        data.load(source, options | {"only_days": "1-2"}, tmp_path / "cache")
    assert len(data.load(source, options, tmp_path / "cache").labels) == 3000
    if "facts" in options and options["facts"] != 4:
        with pytest.raises(ValueError, match=message):
            data.rows_of(source, options, tmp_path / "cache")


def test_a_source_without_days_has_no_day_option(tmp_path, own):
    source = own(SPARSE.partition("def days")[0])
    with pytest.raises(ValueError, match="sparse' has no option only_days"):
        data.load(source, {"of_row": "1", "only_days": "1-2"}, tmp_path / "cache")
    whole = data.load(source, {"of_row": "1"}, tmp_path / "cache")
    assert data.rows_of(source, {"of_row": "1"}, tmp_path / "cache") == data.Rows(whole=whole.content)


@needs_slice
def test_a_week_of_the_slice_equals_pandas(tmp_path):
    import pandas as pd

    log = data.load("kuairand", {"dir": str(SLICE), "only_days": "8-14"}, tmp_path)
    files = sorted(SLICE.rglob("log_standard*.csv"))
    rows = pd.concat([pd.read_csv(path) for path in files]).drop_duplicates()
    by_day = rows.groupby("date").size()
    assert len(log.labels) == by_day.iloc[7:14].sum()
    assert len(log.labels) - log.train_rows == by_day.iloc[13]
    clicks = rows[rows["date"] == by_day.index[13]]["is_click"].mean()
    assert np.mean(log.labels[log.train_rows :, 0]) == pytest.approx(clicks)
    assert "days 8 to 14 of 14" in data.check("kuairand", {"dir": str(SLICE), "only_days": "8-14"}, tmp_path)

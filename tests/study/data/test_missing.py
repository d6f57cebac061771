"""Missing numbers and labels of a table."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from study.data import check, load
from study.data._dataset import Log

ROWS = 1000
TRAIN = 800
TOML = """files = ["log.csv"]
order = "rows"
heldout = 0.2
ids = ["user"]
numbers = ["price", "age"]
[tasks]
click = "binary"
watch = "regression"
"""
RANDOM = np.random.default_rng(1)
FRAME = pd.DataFrame(
    {
        "user": RANDOM.integers(0, 9, ROWS),
        "price": RANDOM.lognormal(size=ROWS),
        "age": RANDOM.integers(1, 99, ROWS).astype(float),
        "click": RANDOM.integers(0, 2, ROWS),
        "watch": RANDOM.exponential(size=ROWS),
    }
)
GONE = np.arange(ROWS) % 7 == 3


def convert(folder: Path, frame: pd.DataFrame, said: str = "", kind: str = "csv") -> Log:
    folder.mkdir()
    frame.to_csv(folder / "log.csv", index=False) if kind == "csv" else frame.to_parquet(folder / "log.parquet")
    (folder / "table.toml").write_text(f"{said}\n{TOML}".replace("log.csv", f"log.{kind}"))
    return load("table", {"dir": str(folder)}, folder.parent / "cache")


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("log1p", ["", '\nlog1p = ["price"]'])
def test_a_missing_number_is_the_mean_of_the_training_rows(tmp_path, kind, log1p):
    log = convert(tmp_path / "t", FRAME.assign(price=FRAME["price"].mask(GONE)), f'missing = "mean"{log1p}', kind)
    assert log.number_names == ("price", "price_missing", "age")
    np.testing.assert_array_equal(log.numbers[:, 1], GONE)
    assert (log.numbers[GONE, 0] == 0).all()
    known = (np.log1p(FRAME["price"]) if log1p else FRAME["price"]).to_numpy()
    train = known[:TRAIN][~GONE[:TRAIN]]
    expected = np.clip((known - train.mean()) / train.std(), -5, 5)
    np.testing.assert_allclose(log.numbers[~GONE, 0], expected[~GONE], rtol=1e-5, atol=1e-6)


def test_a_number_that_is_missing_in_held_out_rows_alone_needs_no_column(tmp_path):
    log = convert(tmp_path / "t", FRAME.assign(price=FRAME["price"].mask(np.arange(ROWS) >= TRAIN)), 'missing = "mean"')
    assert log.number_names == ("price", "age")
    assert (log.numbers[TRAIN:, 0] == 0).all()


def test_nothing_missing_leaves_the_log_as_it_is(tmp_path):
    log, other = convert(tmp_path / "t", FRAME, 'missing = "mean"'), convert(tmp_path / "u", FRAME)
    for name in ("ids", "numbers", "labels"):
        np.testing.assert_array_equal(getattr(log, name), getattr(other, name))
    assert log.number_names == other.number_names


@pytest.mark.parametrize(
    ("values", "said", "message"),
    [
        (
            FRAME["price"].mask(GONE),
            "",
            'price is missing or NaN in 143 of 1,000 rows, .*; missing = "mean" takes the mean',
        ),
        (
            FRAME["price"].mask(GONE, np.inf),
            'missing = "mean"',
            "price is infinite in 143 of 1,000 rows, the first in row 4 of",
        ),
        (None, 'missing = "mean"', "price is missing in every training row"),
        (FRAME["price"], 'missing = "zero"', 'missing is "refuse" or "mean"; got \'zero\''),
    ],
)
def test_what_cannot_be_filled_is_refused(tmp_path, values, said, message):
    with pytest.raises(ValueError, match=message):
        convert(tmp_path / "t", FRAME.assign(price=values), said)


def test_missing_labels_do_not_count(tmp_path):
    unwatched = np.random.default_rng(2).random(ROWS) < 0.3
    frame = FRAME.assign(click=FRAME["click"].astype("Int64").mask(GONE), watch=FRAME["watch"].mask(unwatched))
    log = convert(tmp_path / "t", frame, 'missing_labels = "skip"')
    np.testing.assert_array_equal(np.isnan(log.labels), frame[["click", "watch"]].isna())
    train = frame[:TRAIN]
    assert log.tasks[0].base == pytest.approx(train["click"].mean())
    assert (log.tasks[1].base, log.tasks[1].scale) == pytest.approx((train["watch"].mean(), train["watch"].std(ddof=0)))
    held = frame["watch"][TRAIN:].dropna()
    assert log.tasks[1].constant_rmse == pytest.approx(np.sqrt(np.mean((held - train["watch"].mean()) ** 2)))
    said = check("table", {"dir": str(tmp_path / "t")}, tmp_path / "cache")
    assert "click: binary, rate" in said
    assert "labelled in 85.7% of the rows" in said


def test_missing_classes_do_not_count(tmp_path):
    click = FRAME["click"].map({0: "no", 1: "yes"}).mask(GONE)
    toml = 'missing_labels = "skip"'
    folder = tmp_path / "t"
    folder.mkdir()
    FRAME.assign(click=click).to_csv(folder / "log.csv", index=False, na_rep="NA")
    said = 'click = { kind = "binary", positive = ["yes"] }'
    (folder / "table.toml").write_text(f"{toml}\n{TOML}".replace('click = "binary"', said))
    log = load("table", {"dir": str(folder)}, tmp_path / "cache")
    np.testing.assert_array_equal(log.labels[:, 0], FRAME["click"].mask(GONE))


def test_selected_days_have_the_base_rate_of_their_labels(tmp_path):
    frame = FRAME.assign(ts=1_704_067_200 + 432 * np.arange(ROWS), click=FRAME["click"].astype(float).mask(GONE))
    folder = tmp_path / "t"
    folder.mkdir()
    frame.to_csv(folder / "log.csv", index=False)
    toml = 'missing_labels = "skip"\ntime_unit = "s"\n' + TOML.replace('order = "rows"', 'time = "ts"')
    (folder / "table.toml").write_text(toml)
    log = load("table", {"dir": str(folder), "only_days": "1-3"}, tmp_path / "cache")
    assert log.tasks[0].base == pytest.approx(frame["click"][:400].mean())
    assert log.tasks[1].constant_loss == pytest.approx(np.mean(log.labels[:400, 1] ** 2), rel=1e-4)


@pytest.mark.parametrize(
    ("gone", "said", "message"),
    [
        (
            GONE,
            "",
            'click is missing or NaN in 143 of 1,000 rows, .*; missing_labels = "skip" leaves these rows out',
        ),
        (np.arange(ROWS) < TRAIN, 'missing_labels = "skip"', "no training row has a label of click"),
        (np.arange(ROWS) >= TRAIN + 9, 'missing_labels = "skip"', "9 held-out rows have a label of click; need 100"),
        (GONE, 'missing_labels = "mean"', 'missing_labels is "refuse" or "skip"'),
    ],
)
def test_missing_labels_are_refused_where_they_are_not_declared_or_too_many(tmp_path, gone, said, message):
    with pytest.raises(ValueError, match=message):
        convert(tmp_path / "t", FRAME.assign(click=FRAME["click"].astype(float).mask(gone)), said)

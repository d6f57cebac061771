"""Targets and numbers that one value decides."""

import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from study.cli.main import main
from study.data import check, load
from study.data._dataset import Log

ROWS = 6000
TOML = """files = ["log-*.parquet"]
time = "ts"
time_unit = "s"
heldout = 0.1
numbers = ["price"]
[tasks]
watch = { kind = "regression" }
"""
RANDOM = np.random.default_rng(0)
FRAME = pd.DataFrame(
    {
        "ts": 1_700_000_000 - np.arange(ROWS),
        "price": RANDOM.normal(size=ROWS),
        "watch": RANDOM.exponential(100, size=ROWS),
    }
)


def convert(folder: Path, frame: pd.DataFrame, toml: str = TOML) -> Log:
    folder.mkdir()
    frame[:4000].to_parquet(folder / "log-a.parquet")
    frame[4000:].to_parquet(folder / "log-b.parquet")
    (folder / "table.toml").write_text(toml)
    return load("table", {"dir": str(folder)}, folder.parent / "cache")


def with_value(column: str, row: int, value: float) -> pd.DataFrame:
    frame = FRAME.copy()
    frame.loc[row, column] = value
    return frame


@pytest.mark.parametrize(("row", "said"), [(17, "row 18 of log-a.parquet"), (4321, "row 322 of log-b.parquet")])
def test_a_value_that_decides_a_task_is_said_with_its_row(tmp_path, row, said, capsys):
    frame = with_value("watch", row, 1e30)
    (warning,) = convert(tmp_path / "t", frame).facts["warnings"]
    assert warning.startswith(f"watch is 1e+30 in {said}, over 1,000 standard deviations (robust) from its median ")
    either, other = warning.partition("; set ")[2].split(" or ")
    assert tomllib.loads(either) == {"watch": {"kind": "regression", "clip": 0.999}}
    assert tomllib.loads(other) == {"watch": {"kind": "regression", "transform": "log1p"}}
    assert f"warning: {warning}" in check("table", {"dir": str(tmp_path / "t")}, tmp_path / "cache")
    assert main(f"plan quick --data table --data-dir {tmp_path / 't'} --set batch=64 --set models=small".split()) == 0
    assert f"warning: {warning}" in capsys.readouterr().out.replace("\n", " ")


@pytest.mark.parametrize("said", ["", ", clip = 0.9999999"])
def test_the_line_to_copy_keeps_what_the_task_says(tmp_path, said):
    toml = TOML.replace('watch = { kind = "regression"', f'seen = {{ column = "watch", kind = "regression"{said}')
    (warning,) = convert(tmp_path / "t", with_value("watch", 4321, 1e30), toml).facts["warnings"]
    either, other = warning.partition("; set ")[2].split(" or ")
    declared = tomllib.loads(toml)["tasks"]["seen"]
    assert tomllib.loads(either) == {"seen": declared | {"clip": 0.999}}
    assert tomllib.loads(other) == {"seen": declared | {"transform": "log1p"}}


def test_a_number_that_one_value_decides_is_said(tmp_path):
    (warning,) = convert(tmp_path / "t", with_value("price", 5999, -1e9)).facts["warnings"]
    assert warning.startswith("price is -1e+09 in row 2,000 of log-b.parquet, over 1,000")
    assert warning.endswith("; leave such rows out")  # the logarithm of 1 - 1e9 is no number


@pytest.mark.parametrize("said", ["clip = 0.999", 'transform = "log1p"', 'transform = "log1p", clip = 0.99'])
def test_what_the_warning_offers_mends_it(tmp_path, said):
    toml = TOML.replace('"regression"', f'"regression", {said}')
    log = convert(tmp_path / "t", with_value("watch", 4321, 1e4 if said.endswith('"log1p"') else 1e30), toml)
    assert "warnings" not in log.facts
    plain = convert(tmp_path / "p", FRAME, toml)
    assert log.content != plain.content
    np.testing.assert_allclose(log.tasks[0].base, plain.tasks[0].base, rtol=0.01)
    np.testing.assert_allclose(log.tasks[0].scale, plain.tasks[0].scale, rtol=0.02)


def test_clip_is_the_quantile_of_the_training_rows_at_both_ends(tmp_path):
    log = convert(tmp_path / "t", FRAME, TOML.replace('"regression"', '"regression", clip = 0.9'))
    target = FRAME["watch"].to_numpy()[::-1]
    expected = np.clip(target, *np.quantile(target[:5400], [0.1, 0.9]))
    found = log.labels[:, 0] * log.tasks[0].scale + log.tasks[0].base
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_transform_is_the_list_log1p(tmp_path):
    one = convert(tmp_path / "a", FRAME, TOML.replace('"regression"', '"regression", transform = "log1p"'))
    other = convert(tmp_path / "b", FRAME, 'log1p = ["watch"]\n' + TOML)
    np.testing.assert_array_equal(one.labels, other.labels)
    assert one.tasks == other.tasks


@pytest.mark.parametrize("watch", [FRAME["watch"], (RANDOM.random(ROWS) < 0.02) * RANDOM.exponential(9, ROWS)])
def test_usual_targets_are_not_warned_of(tmp_path, watch):
    """Among them a target that is 0 in 98% of the rows."""
    assert "warnings" not in convert(tmp_path / "t", FRAME.assign(watch=watch)).facts


@pytest.mark.parametrize(
    ("frame", "said", "message"),
    [
        (with_value("watch", 4321, 1e300), "", r"target watch has values of 1e\+300, .*: set watch = .*clip = 0.999"),
        (with_value("price", 4321, 1e300), "", r"number price has values of 1e\+300, too large"),
        (FRAME, ", clip = 99", "clip of the task watch is a quantile, like clip = 0.999; got 99"),
        (FRAME, ', transform = "log"', "transform of the task watch is \"log1p\"; got 'log'"),
        (FRAME, ", above = 3", "above is for binary tasks, and watch is a regression"),
    ],
)
def test_what_cannot_be_scaled_is_refused(tmp_path, frame, said, message):
    with pytest.raises(ValueError, match=message) as error:
        convert(tmp_path / "t", frame, TOML.replace('"regression"', f'"regression"{said}'))
    assert "\n" not in str(error.value)

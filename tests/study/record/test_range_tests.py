"""Range tests in the record: they stand beside the runs, never among them, and no bad file passes for one."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from study.record import tables
from study.record.merging import copy_record
from study.record.range_tests import LEAST_STEPS, MOST_STEPS, Ramp, read_range_tests, recorded_tests, write_range_tests
from study.record.repair import set_bad_files_aside

RAMP = Ramp(low=1e-3, high=10.0, steps=20)


def row(**changes: Any) -> dict[str, Any]:
    same = {"setting": "s", "model": "small", "method": "none", "options": "{}", "thresholds": "{}"}
    ramp = {"lr_from": RAMP.low, "lr_to": RAMP.high, "lr_steps": RAMP.steps}
    curve = {"step_lr": RAMP.lrs(), "loss": [1.0] * RAMP.steps}
    about = {"seconds": 0.1, "device": "cpu", "version": "study 1", "own_code": None}
    return {**same, **ramp, "seed": 0, "task": "click", **curve, **about, **changes}


def test_a_ramp_rises_by_one_factor_and_keeps_its_ends() -> None:
    lrs = RAMP.lrs()
    assert (lrs[0], lrs[-1], len(lrs)) == (1e-3, 10.0, 20)
    np.testing.assert_allclose(np.divide(lrs[1:], lrs[:-1]), 1e4 ** (1 / 19))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"low": 0.0}, "--from needs a finite lr above 0, got 0"),
        ({"low": -1.0}, "--from needs a finite lr above 0, got -1"),
        ({"high": float("inf")}, "--to needs a finite lr above 0, got inf"),
        ({"low": float("nan")}, "--from needs a finite lr above 0, got nan"),
        ({"low": 1e-320}, "--from needs an lr of at least 1e-30, got 9.99989e-321"),
        ({"high": 2e4}, "--to is at most 10000, got 20000"),
        ({"low": 1.0, "high": 1.0 + 1e-6}, "100 steps do not rise from --from 1 to --to 1: give lrs farther apart"),
        ({"low": 20.0}, "--from 20 is not below --to 10"),
        ({"low": 10.0}, "--from 10 is not below --to 10"),
        ({"steps": LEAST_STEPS - 1}, "--steps needs at least 20, got 19"),
        ({"steps": MOST_STEPS + 1}, "--steps is at most 1,000,000, got 1,000,001"),
    ],
)
def test_a_wrong_ramp_is_named_by_its_option(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        Ramp(**{"low": 1e-3, "high": 10.0, "steps": 100, **changes})


def test_tasks_are_summed_and_each_test_is_there_once(tmp_path: Path) -> None:
    rows = [row(), row(task="like", loss=[0.5] * 20), row(seed=3, step_lr=RAMP.lrs()[:7], loss=[2.0] * 7)]
    write_range_tests(tmp_path, rows)
    write_range_tests(tmp_path, [row(loss=[9.0] * 20), row(task="like", loss=[9.0] * 20)])
    found = read_range_tests(tmp_path)
    assert found["seed"].tolist() == [0, 3]
    assert [len(loss) for loss in found["loss"]] == [20, 7]
    assert found["loss"][1].tolist() == [2.0] * 7
    none = {"method": "none", "options": "{}", "thresholds": "{}"}
    assert set(recorded_tests(found, "s", "small", none, RAMP)["seed"]) == {0, 3}
    assert recorded_tests(found, "other", "small", none, RAMP).empty
    assert recorded_tests(found, "s", "small", none, Ramp(low=1e-3, high=10.0, steps=21)).empty


def test_a_study_without_range_tests_has_an_empty_table(tmp_path: Path) -> None:
    assert read_range_tests(tmp_path).empty


@pytest.mark.parametrize(
    "bad",
    [
        {"loss": [1.0] * 19},
        {"step_lr": [None, *RAMP.lrs()[1:]]},
        {"step_lr": [1.0] * 20},
        {"step_lr": [-1.0, *RAMP.lrs()[1:]]},
        {"lr_from": 20.0},
        {"lr_from": 1e-320, "step_lr": [1e-320, *RAMP.lrs()[1:]]},
        {"step_lr": [1e-320, *RAMP.lrs()[1:]]},
        {"step_lr": np.nextafter(1.0, 2.0) ** np.arange(20)},
        {"lr_steps": 7},
        {"options": "[]"},
        {"method": "a\nb"},
    ],
)
def test_a_bad_file_is_ignored_with_a_warning_and_set_aside(tmp_path: Path, bad: dict[str, Any]) -> None:
    write_range_tests(tmp_path, [row(**bad)])
    with pytest.warns(RuntimeWarning, match="cannot be read"):
        assert read_range_tests(tmp_path).empty


@pytest.mark.parametrize(
    "other", [{"step_lr": RAMP.lrs()[:7], "loss": [1.0] * 7}, {"step_lr": [*RAMP.lrs()[:-1], 9.9]}]
)
def test_tasks_of_one_test_have_the_same_steps(tmp_path: Path, other: dict[str, Any]) -> None:
    write_range_tests(tmp_path, [row(), row(task="like", **other)])
    with pytest.warns(RuntimeWarning, match="its tasks have different steps"):
        assert read_range_tests(tmp_path).empty


def test_a_test_in_two_files_is_read_from_one(tmp_path: Path) -> None:
    write_range_tests(tmp_path, [row()])
    write_range_tests(tmp_path, [row(task="like", step_lr=RAMP.lrs()[:7], loss=[2.0] * 7)])
    (loss,) = read_range_tests(tmp_path)["loss"]
    assert loss.tolist() in ([1.0] * 20, [2.0] * 7)


def test_a_changed_bit_is_found(tmp_path: Path) -> None:
    write_range_tests(tmp_path, [row()])
    (path,) = (tmp_path / "range_tests").iterdir()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.warns(RuntimeWarning, match="cannot be read"):
        assert read_range_tests(tmp_path).empty


def test_merging_carries_them_and_repair_sets_bad_ones_aside(tmp_path: Path, recorded_study: Path) -> None:
    source, into = tmp_path / "a", tmp_path / "b"
    for folder in (source, into):
        folder.mkdir()
        (folder / "study.json").write_bytes((recorded_study / "study.json").read_bytes())
    write_range_tests(source, [row()])
    for _ in range(2):
        copy_record(source, into)
    assert read_range_tests(into)["seed"].tolist() == [0]
    assert tables.read_runs(into).empty
    (path,) = (into / "range_tests").iterdir()
    path.write_bytes(b"")
    with pytest.warns(RuntimeWarning, match="set aside"):
        set_bad_files_aside(into)
    assert not list((into / "range_tests").iterdir())
    assert len(list((into / "set_aside").iterdir())) == 1


@pytest.fixture
def recorded_study(tmp_path: Path) -> Path:
    from records import make_definition

    from study.record.definition import open_study

    folder = tmp_path / "recorded"
    open_study(folder, make_definition())
    return folder

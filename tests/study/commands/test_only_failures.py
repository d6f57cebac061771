"""A command all of whose runs failed says why, and ends with exit code 1."""

from pathlib import Path

import pytest
from records import A0, B0, B1, make_losses, make_row, write_two_trials

from study.commands.run import NothingTrainedError, _refuse_only_failures
from study.record.failures import write_failure
from study.record.tables import write_trial

LOST = ["a" * 32, "b" * 32, "c" * 32]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three runs are recorded."""
    write_two_trials(tmp_path)
    return tmp_path


def fail(folder: Path) -> None:
    write_failure(folder, "x", LOST[:2], "no memory")
    write_failure(folder, "y", LOST[2:], "no GPU")


def test_the_most_frequent_reason_is_named(folder: Path) -> None:
    fail(folder)
    with pytest.raises(NothingTrainedError) as raised:
        _refuse_only_failures(folder, {A0, B0, B1}, failed=3)
    assert str(raised.value) == "no run was trained: 2 of 3 failed with: no memory"
    assert raised.value.exit_code == 1


def test_a_run_of_the_control_is_no_run_of_a_cell(folder: Path) -> None:
    fail(folder)
    control = make_row(0.2, 1, role="control", outcome=None)
    write_trial(folder, "control", [control], make_losses({control["run_id"]: 1}))
    with pytest.raises(NothingTrainedError, match="no run was trained"):
        _refuse_only_failures(folder, {A0, B0, B1}, failed=3)


@pytest.mark.parametrize("before", [set(), {A0, B0}])
def test_failures_beside_a_trained_run_are_no_error(folder: Path, before: set[str]) -> None:
    fail(folder)
    _refuse_only_failures(folder, before, failed=3)


def test_runs_that_were_trained_since_they_failed_are_no_error(folder: Path) -> None:
    write_failure(folder, "x", [A0, B0], "no memory")
    _refuse_only_failures(folder, {A0, B0, B1}, failed=3)


def test_failures_of_earlier_commands_are_no_error_of_one_that_has_nothing_to_train(folder: Path) -> None:
    fail(folder)
    _refuse_only_failures(folder, {A0, B0, B1}, failed=0)


def test_a_command_without_failures_is_no_error(folder: Path) -> None:
    _refuse_only_failures(folder, {A0, B0, B1}, failed=3)

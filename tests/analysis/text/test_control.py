"""A control that gave no reference is named by what reads a record."""

import dataclasses
import math
from pathlib import Path

import pandas as pd
import pytest
from simulated_record import CONTROL_SEEDS, LRS, METHODS, simulated_definition, write_simulated_study

import analysis
from analysis.text.control import control_notes, reference_notes
from study.commands.recommend import Claim, recommend
from study.commands.report import report
from study.commands.status import status
from study.config import Rule
from study.record.tables import read_runs

FAILURE = "small: the study stopped after its control: the training loss is not learnable here: at lr="
WAYS = "A study keeps its recipe, rule and control_lrs: for the change choose another folder"
RULE = Rule(learnable_errors=1e6)


def record(folder: Path, *, rule: Rule = RULE, leave_out=None, models=("small",)) -> Path:
    definition = simulated_definition(models=models, seeds=(0, 1))
    definition = dataclasses.replace(definition, study=dataclasses.replace(definition.study, rule=rule))
    every = [(model, method, lr, seed) for model in models for method in METHODS for lr in LRS for seed in (0, 1)]
    write_simulated_study(folder, definition, leave_out=every if leave_out is None else leave_out)
    return folder


@pytest.mark.parametrize("command", [status, report, lambda folder: recommend(folder, Claim())])
def test_every_command_names_the_failure_and_the_ways_on(tmp_path, command):
    said = command(record(tmp_path / "out"))
    assert FAILURE in said
    assert f"{WAYS}, or delete the folder, which holds runs of the control alone." in said
    assert "resume" not in said


def test_the_page_names_the_failure(tmp_path):
    report(record(tmp_path))
    assert FAILURE in (tmp_path / "report.html").read_text()


def test_a_control_that_is_not_whole_or_gave_a_reference_is_no_failure(tmp_path):
    assert "stopped" not in status(record(tmp_path / "learned", rule=Rule()))
    definition, every = record_of(record(tmp_path / "part"))
    first = every[every["seed"] != CONTROL_SEEDS[0]]
    assert control_notes(definition, tmp_path / "part", first) == []


def test_a_folder_with_runs_of_cells_is_not_to_be_deleted(tmp_path):
    own = [("large_dcn", method, lr, seed) for method in METHODS for lr in LRS for seed in (0, 1)]
    folder = record(tmp_path, models=("small", "large_dcn"), leave_out=own)
    notes = control_notes(*(record_of(folder)[0], folder, record_of(folder)[1]))
    assert [note.partition(":")[0] for note in notes] == ["large_dcn", "A study keeps its recipe, rule and control_lrs"]
    assert "delete" not in notes[1]


def record_of(folder: Path):
    from study.record.definition import read_definition

    return read_definition(folder), read_runs(folder)


def test_a_study_that_began_reads_no_losses(tmp_path, monkeypatch):
    folder = record(tmp_path, leave_out=[])
    monkeypatch.setattr("study.record.references.control_reference", lambda *_, **__: pytest.fail("read"))
    definition, every = record_of(folder)
    assert control_notes(definition, folder, every) == []
    assert len(analysis.load(folder))


def weak(lr: float = 0.16, kept: float = 4.7, noise: float | None = 0.004) -> list[str]:
    study = simulated_definition(models=("small",)).study
    ladder = [0.005, 0.01, 0.02, 0.04, 0.08, 0.16]
    every = pd.DataFrame({"role": "control", "model": "small", "lr": ladder})
    scored = pd.DataFrame({"model": "small", "kept": [1.0, kept, math.nan]})
    return reference_notes(study, every, scored, {"small": {"lr": lr, "gain": 0.1, "noise": noise}})


@pytest.mark.parametrize(
    ("lr", "where", "ways"),
    [
        (0.16, "(0.1, at its highest lr, 0.16)", "Set higher control_lrs (--set control_lrs=...), or more steps."),
        (0.04, "(0.1, at lr 0.04)", "Set more steps, or higher control_lrs (--set control_lrs=...)."),
    ],
)
def test_a_control_that_learned_little_is_named_whatever_its_best_lr(lr: float, where: str, ways: str) -> None:
    (note,) = weak(lr=lr)
    assert f"the control learned little: runs keep up to 4.7 times its gain {where}" in note
    assert "only below 5.3% of what others learn" in note
    assert ways in note
    assert weak(lr=lr, kept=1.5) == [], "as in the published studies"


def test_noisy_gains_are_named() -> None:
    (note,) = weak(kept=1.5, noise=0.02)
    assert "the standard error of a run's g is 0.2 of the reference gain" in note
    assert weak(kept=1.5, noise=0.008) == []
    assert weak(kept=1.5, noise=None) == []


def test_report_and_page_name_a_weak_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = record(tmp_path, rule=Rule(), leave_out=[])
    assert "gains are noisy" not in report(folder)
    monkeypatch.setattr("analysis.text.control.ERRORS", 1e6)
    assert "gains are noisy" in report(folder)
    assert "gains are noisy" in (folder / "report.html").read_text()

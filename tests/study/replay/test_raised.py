"""A recorded run that raised, as its model checks its activations, is replayed up to that step."""

import json
import sys
from pathlib import Path

import pandas as pd
import pytest
from paths import ROOT

from study.cli.main import main
from study.commands.request import RunRequest, requested_study
from study.execution.planner import plan
from study.execution.trial import Trial, TrialOptions, execute
from study.record import tables
from study.record.definition import Definition, open_study
from study.record.references import references
from study.trainers.protocol import open_trainer

SETTINGS = ("data.rows=5000", "batch=64", "window=500", "models=own_models.guarded", "methods=none", "seeds=0")
SETTINGS += ("none.weight_decay=1e3", "lr=1e-4,1e4")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STUDY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT / "tests" / "helpers")])
    study = requested_study(RunRequest(space="quick", settings=SETTINGS))
    trainer, folder = open_trainer(study, tmp_path / "cache"), tmp_path / "out"
    described = trainer.description()
    open_study(folder, Definition(study=study, data=described, versions={}))
    planned = plan(study, trainer, workers=1, stack=1)
    for stack in (*planned.control, *planned.stacks):
        reference = None if stack.is_control else references(study, described, folder, study.models)[study.models[0]]
        trial = Trial(study=study.name, runs=stack.runs, rule=study.rule, reference=reference)
        execute(trial, folder, trainer, stack.name, options=TrialOptions(raised=True))
    return folder


@pytest.mark.slow
def test_a_run_that_raised_is_replayed_up_to_that_step(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tables.read_runs(folder)
    run = runs.loc[runs["raised"].notna(), "run_id"].item()
    rarely = ["--sharpness-every", "1000"]
    assert main(["replay", str(folder), run, *rarely]) == 0, capsys.readouterr().err
    assert "diverged (nonfinite)" in (said := capsys.readouterr().out)
    assert "the losses equal the recorded ones bit for bit" in said
    about = json.loads((folder / "replay" / run / "moments.json").read_text())["runs"][0]
    steps = pd.read_parquet(folder / "replay" / run / "trace.parquet")["step"]
    assert 0 < steps.max() < about["diverged_at_step"] + 2

    assert main(["signals", str(folder), "--workers", "1", *rarely]) == 0, capsys.readouterr().err
    capsys.readouterr()
    assert main(["export-weights", str(folder), run, "--out", str(tmp_path / "w.safetensors")]) == 2
    assert capsys.readouterr().err == (
        f"study: run {run[:12]} leaves no weights to start from: it raised before its end, since it is not finite\n"
    )

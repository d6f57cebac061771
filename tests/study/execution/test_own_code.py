"""The code of a user's own modules, as the record, checkpoints and machines keep it."""

import dataclasses
import json
from pathlib import Path

import pytest
from own_files import own_folder, write  # noqa: F401 - a fixture
from stacks import LOG, RECIPE

from study import data, plugins
from study.config import Arm, Study, runs_of
from study.definition import own_code
from study.execution import preflight
from study.execution.checkpoint import Checkpoint, StoppedError
from study.execution.heartbeat import Heartbeat
from study.execution.trial import Trial, TrialOptions, execute
from study.outcomes.reference import Reference
from study.record import tables
from study.record.definition import Definition, open_study
from study.trainers.ranker import Trainer

OWN, OURS = "own_models.linear", "small"


@pytest.fixture
def trained(tmp_path: Path) -> tuple[Trainer, dict[str, Trial]]:
    """A study of an own model and of ours, and a trial of each."""
    log = dataclasses.replace(LOG, content="c" * 64)
    study = Study(name="s", models=(OWN, OURS), arms=(Arm("none"),), lrs=(0.01,), seeds=(0,), recipe=RECIPE)
    open_study(tmp_path, Definition(study=study, data=data.describe(study.data, log), versions={}))
    reference = Reference(lr=0.02, gain=0.2, task_gain=(0.2, None, 0.1))
    trials = {
        run.model: Trial(study=study.name, runs=(run,), rule=study.rule, reference=reference)
        for run in runs_of(study, log.content)
    }
    return Trainer(study, tmp_path, log=log), trials


def test_a_run_is_recorded_with_the_code_of_own_modules_alone(
    trained: tuple[Trainer, dict[str, Trial]], tmp_path: Path
) -> None:
    trainer, trials = trained
    execute(trials[OURS], tmp_path, trainer, "a" * 32)
    assert "own_code" not in tables.read_runs(tmp_path)
    execute(trials[OWN], tmp_path, trainer, "b" * 32)
    codes = tables.read_runs(tmp_path).set_index("model")["own_code"]
    assert codes.isna()[OURS]
    assert json.loads(codes[OWN]) == {OWN: own_code.digest(OWN)}


def test_a_run_is_recorded_with_the_code_of_an_own_data_module(
    trained: tuple[Trainer, dict[str, Trial]],
    own_folder: Path,  # noqa: F811
) -> None:
    trainer, trials = trained
    own = write(
        own_folder, "from study.data import synthetic\n\n\ndef load(cache):\n    return synthetic.load(cache)\n"
    )
    study = dataclasses.replace(trainer.study, data=own)
    trainer = Trainer(study, trainer.cache, log=LOG)
    execute(trials[OURS], own_folder, trainer, "a" * 32)
    [code] = tables.read_runs(own_folder)["own_code"]
    assert json.loads(code) == {own: own_code.digest(own)}


def test_a_checkpoint_of_other_code_is_not_continued(
    trained: tuple[Trainer, dict[str, Trial]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, trials = trained
    with monkeypatch.context() as stopping:
        stopping.setattr(Checkpoint, "_soon_ends", lambda self, done: done < 3)
        stopping.setattr(Heartbeat, "watch", lambda self, step: setattr(self, "stopping", True))
        with pytest.raises(StoppedError):
            execute(trials[OWN], tmp_path, trainer, "a" * 32, options=TrialOptions(checkpoint_seconds=1e9))
    monkeypatch.setattr(own_code, "digest", lambda name: "0" * 64)
    notes = execute(trials[OWN], tmp_path, trainer, "a" * 32)["notes"]
    assert len(notes) == 1
    assert f"made by another version: code of {OWN} was " in notes[0]


def test_a_machine_with_other_code_takes_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"rows": 2000, "users": 200, "items": 100, "days": 4}
    study = Study(name="s", data_options=options, models=(OWN,), arms=(Arm("none"),), lrs=(0.1,))
    monkeypatch.setattr(plugins, "user_folder", None)
    with preflight.needs(tmp_path / "study", study, Trainer(study, tmp_path / "cache")) as needs:
        monkeypatch.setenv("STUDY_CACHE", str(tmp_path / "cache"))
        assert preflight.trainer_here(needs).own_code_of(study) == needs.own_code
        monkeypatch.setattr(own_code, "digest", lambda name: "0" * 64)
        with pytest.raises(
            preflight.NodeError, match=f"^has another code of {OWN} than the study was started with; if it was edited"
        ):
            preflight.trainer_here(needs)

"""One trial: a run that raises because it diverged."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stacks import LOG, RECIPE

import analysis
from study import data
from study.config import Arm, Study, runs_of
from study.execution.trial import Trial, TrialOptions, execute
from study.outcomes.reference import Reference
from study.record import tables
from study.record.definition import Definition, open_study
from study.trainers.protocol import RunError
from study.trainers.ranker import Trainer
from study.training.trainer import Trained, train

SAID = "FloatingPointError: activations are not finite"


@pytest.fixture
def guarded(tmp_path: Path) -> tuple[Trainer, list[Trial]]:
    """A study whose model raises where its activations are not finite, and a trial for each of its two lrs."""
    log = dataclasses.replace(LOG, content="c" * 64)
    model, arms = "own_models.guarded", (Arm(method="none", options={"weight_decay": 1e3}),)
    study = Study(name="guarded", models=(model,), arms=arms, lrs=(1e-4, 1e4), seeds=(0,), recipe=RECIPE)
    open_study(tmp_path, Definition(study=study, data=data.describe(study.data, log), versions={}))
    reference = Reference(lr=0.02, gain=0.2, task_gain=(0.2, None, 0.1))
    trials = [
        Trial(study=study.name, runs=(run,), rule=study.rule, reference=reference)
        for run in runs_of(study, log.content)
    ]
    return Trainer(study, tmp_path, log=log), trials


def test_a_run_that_raises_twice_while_it_is_not_finite_has_diverged(
    guarded: tuple[Trainer, list[Trial]], tmp_path: Path
) -> None:
    trainer, (healthy, exploding) = guarded
    both = dataclasses.replace(healthy, runs=healthy.runs + exploding.runs)
    for trial, options in ((both, TrialOptions(raised=True)), (exploding, TrialOptions())):
        with pytest.raises(RunError) as caught:
            execute(trial, tmp_path, trainer, "a" * 32, options=options)
        assert isinstance(caught.value.__cause__, FloatingPointError)
    assert tables.read_runs(tmp_path).empty

    execute(healthy, tmp_path, trainer, "b" * 32)
    counts = execute(exploding, tmp_path, trainer, "c" * 32, options=TrialOptions(raised=True))
    assert (counts["runs"], counts["diverged"]) == (1, 1)
    assert counts["notes"] == [f"none at lr 10000, seed 0 diverged, and raised {SAID}"]
    runs = analysis.load(tmp_path).set_index("lr")
    assert (runs["reason"].loc[1e4], runs["raised"].loc[1e4]) == ("nonfinite", SAID)
    assert runs["raised"].isna().loc[1e-4]
    assert runs["reason"].loc[1e-4] != "nonfinite"
    assert analysis.divergence_rates(analysis.load(tmp_path))["n"].tolist() == [1, 1]
    losses = tables.read_losses(tmp_path)
    constants = [np.asarray(constant) for constant in losses[losses["task"] == losses["task"].iloc[0]]["constant"]]
    np.testing.assert_array_equal(*constants)
    assert (constants[0] > 0).all()


def test_what_the_first_step_raises_is_no_matter_of_a_run(
    guarded: tuple[Trainer, list[Trial]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, (healthy, _) = guarded
    monkeypatch.setattr("own_models.guarded.Guarded.forward", lambda self, inputs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        execute(healthy, tmp_path, trainer, "a" * 32)


def test_a_run_that_raises_while_it_is_finite_has_not_diverged(
    guarded: tuple[Trainer, list[Trial]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import own_models.guarded

    trainer, (healthy, _) = guarded
    forward, calls = own_models.guarded.Guarded.forward, []

    def breaks(self: own_models.guarded.Guarded, inputs: object) -> object:
        calls.append(None)
        if len(calls) > 12:
            raise ValueError("a row that I do not know")
        return forward(self, inputs)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr("own_models.guarded.Guarded.forward", breaks)
    with pytest.raises(RunError):
        execute(healthy, tmp_path, trainer, "a" * 32, options=TrialOptions(raised=True))
    assert tables.read_runs(tmp_path).empty


@pytest.mark.parametrize("asked", [True, False])
def test_what_training_notes_reaches_the_user(
    asked: bool, guarded: tuple[Trainer, list[Trial]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, (healthy, _) = guarded
    trainer.cuda_graphs = asked

    def noting(*given: Any, **more: Any) -> Trained:
        return dataclasses.replace(train(*given, **more), notes=(f"CUDA graphs: {more['cuda_graphs']}",))

    monkeypatch.setattr("study.training.trainer.train", noting)
    assert execute(healthy, tmp_path, trainer, "a" * 32)["notes"] == [f"CUDA graphs: {asked}"]

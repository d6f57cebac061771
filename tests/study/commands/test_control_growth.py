"""The control's ladder grows where its gain still rises at its top, and does so alike if the study is killed."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from plans import LOG, make_study, trainer_of
from queues import COUNTS

from analysis.text.control import control_notes
from study.commands import run as command
from study.commands.merge import merge
from study.commands.request import RunRequest
from study.commands.status import read_status
from study.config import CONTROL_LRS, Arm, Rule, Run, Study
from study.execution.planner import Stack
from study.execution.work_queue import FINISHED, Job, Queue, stack_from_json
from study.outcomes.reference import Reference
from study.record import tables
from study.record.definition import Definition, open_study, read_definition
from study.record.references import references
from study.record.repair import set_bad_files_aside
from study.tune.cluster import Cluster

STEPS = 60
GROWN = [0.32, 0.64, 1.28]
SAID = [
    f"small: the control's gain still rises at lr {lr}; lr {higher} is tried too"
    for lr, higher in ((0.16, 0.32), (0.32, 0.64), (0.64, 1.28))
]
STUDY = make_study(arms=(Arm("none"),), lrs=(0.4,), seeds=(0, 1))


def slow(lr: float) -> float:
    """A network that gains in proportion to its lr, up to lr 0.7."""
    return min(lr, 0.7)


def fast(lr: float) -> float:
    """A network that has learned all at lr 0.16."""
    return 0.5 + lr if lr <= 0.16 else 0.1


LADDER = 2
"""Stacks of the ladder with two workers; each further lr has as many."""


class KilledError(Exception):
    """The process ended."""


class Command:
    """`study run` without Ray: stacks are "trained" one after another, and gain what `gain_of` says.

    Attributes:
        gain_of: Gain of a run by its lr.
        trained: The runs that were recorded.
        said: What the user was told.
    """

    def __init__(self, patched: pytest.MonkeyPatch) -> None:
        self.gain_of: Callable[[float], float] = slow
        self.kill_after: int | None = None
        self.trained: list[Run] = []
        self.said: list[str] = []
        patched.setattr("study.tune.cluster.connected", self._connected)
        patched.setattr("study.tune.runner.run", self._train)
        patched.setattr("study.tracking.follower.Follower", _Follower)
        patched.setattr(command, "_open", self._open)
        patched.setattr(command, "show", self.said.append)
        patched.setattr("study.commands.progress.Progress.note", lambda _, text: self.said.append(text))
        for name in ("report", "_mirror"):
            patched.setattr(command, name, lambda *_: "")

    def __call__(self, folder: Path, study: Study = STUDY, *, kill_after: int | None = None) -> list[Run]:
        """Run a study in a folder to its end, or until so many stacks are recorded. Returns the trained runs."""
        self.kill_after, self.trained, self.said = kill_after, [], []
        with contextlib.suppress(KilledError):
            command.train(RunRequest(space="edges"), study, trainer_of(study), folder)
        return self.trained

    @contextlib.contextmanager
    def _connected(self, *_: Any, **__: Any) -> Iterator[Cluster]:
        yield Cluster(workers=2)

    def _open(self, study: Study, trainer: Any, folder: Path, cluster: Cluster, _: Any) -> Any:
        open_study(folder, Definition(study=study, data=trainer.description(), versions={}))
        return None, cluster, set_bad_files_aside(folder)

    def _train(self, job: Job, *_: Any) -> None:
        queue, trial = Queue(job), 0
        while (config := queue.suggest(str(trial))) != FINISHED:
            stack, reference = queue.training[str(trial)], stack_from_json(config["stack"])[2]
            self._record(job.folder, stack, reference)
            self.trained += stack.runs
            trial += 1
            if trial == self.kill_after:
                raise KilledError
            queue.ended(str(trial - 1), {"runs": len(stack.runs), "place": ""} | COUNTS)
        assert queue.stopped is None

    def _record(self, folder: Path, stack: Stack, reference: Reference | None) -> None:
        rows, constant, rises = [], np.full(STEPS, LOG.tasks[0].constant_loss, np.float32), np.arange(STEPS) / STEPS
        losses = [{"run_id": None, "seed": run.seed, "task": "click", "loss": constant} for run in stack.runs]
        for run in stack.runs:
            same = {name: getattr(run, name) for name in ("data", "model", "method", "lr", "seed", "role")}
            same |= {"study": "edges", "run_id": run.id, "options": "{}", "thresholds": "{}"}
            judged: dict[str, Any] = {"outcome": None, "kept": None}
            if reference:
                judged = {"outcome": "completed", "kept": self.gain_of(run.lr) / reference.gain}
            rows.append(same | judged | {"steps": STEPS, "seconds": 1.0})
            gain_T = self.gain_of(run.lr) * rises * (1 + 0.01 * (run.seed % 4))
            loss = constant * (1 - gain_T).astype(np.float32)
            losses.append({"run_id": run.id, "seed": run.seed, "task": "click", "loss": loss})
        tables.write_trial(folder, stack.name, rows, losses)


class _Follower(contextlib.nullcontext["_Follower"]):
    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__(self)

    def update(self) -> None: ...

    update_if_due = update


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch) -> Command:
    return Command(monkeypatch)


def lrs_of(runs: list[Run], role: str = "control") -> list[float]:
    """The lrs of runs, in the order in which they were trained first."""
    return list(dict.fromkeys(run.lr for run in runs if run.role == role))


def reference_of(folder: Path, model: str = "small") -> Reference:
    definition = read_definition(folder)
    return references(definition.study, definition.data, folder, [model])[model]


def forget_growth(folder: Path) -> None:
    """Make a record as of a version whose control did not grow."""
    for path in (folder / "runs").iterdir():
        if set(pd.read_parquet(path)["lr"]) <= {*GROWN}:
            path.unlink()


def test_it_grows_until_the_gain_no_longer_rises(train: Command, tmp_path: Path) -> None:
    trained = train(tmp_path)
    assert sorted(lrs_of(trained)) == [*CONTROL_LRS, *GROWN]
    assert [run.role for run in trained[-2:]] == ["cell"] * 2, "cells wait until the control has grown"
    assert [line for line in train.said if "rises" in line] == SAID
    found = reference_of(tmp_path)
    assert (found.lr, found.gain) == (1.28, pytest.approx(1.015 * 0.7 * 47 / 60, rel=1e-3))
    assert tables.read_runs(tmp_path).query("role == 'cell'")["kept"].tolist() == [0.4 / found.gain] * 2
    assert train(tmp_path) == [], "nothing is left"


def test_each_model_grows_by_itself(train: Command, tmp_path: Path) -> None:
    trained = train(tmp_path, dataclasses.replace(STUDY, models=("small", "large")))
    for model in ("small", "large"):
        assert sorted(lrs_of([run for run in trained if run.model == model])) == [*CONTROL_LRS, *GROWN]


def test_it_grows_to_lr_100_at_most(train: Command, tmp_path: Path) -> None:
    train.gain_of = lambda lr: lr / 1000
    assert max(lrs_of(train(tmp_path))) == pytest.approx(81.92)
    assert reference_of(tmp_path).rises


@pytest.mark.parametrize("gain_of", [fast, lambda lr: lr**0.3], ids=["best below the top", "rises by 1.23"])
def test_it_does_not_grow_where_the_gain_does_not_rise_much(
    train: Command, tmp_path: Path, gain_of: Callable[[float], float]
) -> None:
    train.gain_of = gain_of
    assert tuple(sorted(lrs_of(train(tmp_path)))) == CONTROL_LRS
    assert not [line for line in train.said if "rises" in line]


def test_lrs_that_the_user_chose_stay(train: Command, tmp_path: Path) -> None:
    assert lrs_of(train(tmp_path, dataclasses.replace(STUDY, control_lrs=(0.02, 0.04)))) == [0.02, 0.04]
    assert reference_of(tmp_path).rises


def test_a_study_that_was_killed_at_any_time_ends_as_an_undisturbed_one(train: Command, tmp_path: Path) -> None:
    undisturbed = train(tmp_path / "undisturbed")
    expected = tables.read_runs(tmp_path / "undisturbed")
    stacks = LADDER * (1 + len(GROWN)) + 1
    for n in range(1, stacks + 1):
        folder = tmp_path / str(n)
        before = train(folder, kill_after=n)
        after = train(folder)
        assert sorted(run.id for run in (*before, *after)) == sorted(run.id for run in undisturbed)
        pd.testing.assert_frame_equal(tables.read_runs(folder), expected)


def test_a_control_that_judged_runs_stays_as_it_is(train: Command, tmp_path: Path) -> None:
    train(tmp_path)
    forget_growth(tmp_path)
    assert reference_of(tmp_path).lr == 0.16
    assert {run.role for run in train(tmp_path, dataclasses.replace(STUDY, seeds=(0, 1, 2, 3)))} == {"cell"}
    assert reference_of(tmp_path).lr == 0.16


def test_status_counts_it_as_it_grows(train: Command, tmp_path: Path) -> None:
    for stacks, planned, done in ((LADDER, 24, 24), (1, 28, 26), (None, 36, 36)):
        train(tmp_path, kill_after=stacks)
        assert read_status(tmp_path).control == {"planned": planned, "done": done, "training": 0, "failed": 0}


def test_the_note_of_a_control_that_failed_is_of_all_its_lrs(train: Command, tmp_path: Path) -> None:
    train(tmp_path, kill_after=4 * LADDER)
    definition, runs = read_definition(tmp_path), tables.read_runs(tmp_path)
    assert control_notes(definition, tmp_path, runs) == []
    strict = dataclasses.replace(definition, study=dataclasses.replace(STUDY, rule=Rule(learnable_errors=1e9)))
    (note, _) = control_notes(strict, tmp_path, runs)
    assert "at lr=1.28" in note


def test_a_folder_whose_control_still_grows_can_be_merged(train: Command, tmp_path: Path) -> None:
    for name, stacks in (("whole", None), ("grows", LADDER), ("before", None)):
        train(tmp_path / name, kill_after=stacks)
    merge([tmp_path / "whole", tmp_path / "grows"], tmp_path / "out")
    assert reference_of(tmp_path / "out").lr == 1.28
    forget_growth(tmp_path / "before")
    with pytest.raises(ValueError, match="the control of small learned other amounts"):
        merge([tmp_path / "whole", tmp_path / "before"], tmp_path / "both")

"""What the tests of several folders share: checkpoints."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stacks import LOG, make_run

from study.config import Run, steps_of
from study.execution.checkpoint import Checkpoint
from study.trainers.ranker import Trainer
from study.training import trainer

MADE_BY = Trainer.made_by(None, "cpu")  # type: ignore[arg-type]


class Killed(BaseException):
    """The process dies between two steps."""


class Dying(Checkpoint):
    """Keeps the stack after a step, and dies."""

    at = 0

    def after(self, done: int, state: Callable[[], Iterator[tuple[str, np.ndarray]]]) -> None:
        if done == self.at:
            self._keep(done, state())
            raise Killed


class Finishing(Checkpoint):
    """Goes on, and keeps nothing; began: where."""

    began = -1

    def begin(self, load: Callable[[dict[str, np.ndarray]], None], most_bytes: int) -> int:
        self.began = super().begin(load, most_bytes)
        return self.began


def make(kind: type, folder: Path, runs: Sequence[Run], **options: Any) -> Any:
    steps = steps_of(runs[0].recipe, LOG.train_rows)
    options = {"steps": steps, "made_by": MADE_BY, "every_seconds": 600.0} | options
    return kind(folder, "a" * 32, [run.id for run in runs], **options)


def bits(trained: trainer.Trained) -> dict[str, bytes]:
    values = {"loss": trained.loss, "constant": trained.constant, "finite": trained.finite, "moved": trained.moved}
    return {name: value.tobytes() for name, value in (values | trained.judged | trained.counts).items()}


def stack_of(**changes: Any) -> list[Run]:
    """Seeds in unequal numbers, several lrs, and one run that blows up."""
    run = make_run(**changes)
    lrs, seeds = (0.02, 0.3, 0.1, 0.5, 1e4), (5, 5, 1, 9, 5)
    return [dataclasses.replace(run, lr=lr, seed=seed) for lr, seed in zip(lrs, seeds, strict=True)]


def kept(folder: Path, runs: Sequence[Run], at: int = 7) -> Path:
    dying = make(Dying, folder, runs)
    dying.at = at
    with pytest.raises(Killed):
        trainer.train(runs, LOG, checkpointer=dying)
    return folder / dying.name


RUNS = stack_of(method="clippy")

EXPECTED = bits(trainer.train(RUNS, LOG))

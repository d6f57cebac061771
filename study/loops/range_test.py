"""The lr of a loop in a range test: another one at each step.

A loop follows it if its optimizer is of `run.optimizer(...)`, whose lr `watch` sets, or as long as it asks for
`run.lr_at(step)` at each step.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from study.loops.watch import RunEnded, Watch


class LrNotTakenError(ValueError):
    """A loop does not follow the lr of its range test."""


class LrRamp:
    """The lr of each step of a range test, and how far it is followed: `last_asked` is the highest step asked for.

    Args:
        lrs: one for each step.
    """

    def __init__(self, lrs: Sequence[float]) -> None:
        self.lrs = lrs
        self.last_asked = -1
        self._step = 0
        self._optimizers: list[Any] = []

    def at(self, step: int) -> float:
        """Return the lr of a step. After the last one it stays."""
        self.last_asked = max(self.last_asked, step)
        return self.lrs[min(step, len(self.lrs) - 1)]

    def add(self, optimizer: Any) -> None:
        """Set the lr of an optimizer from now on."""
        self._optimizers.append(optimizer)
        self.set_lr(self._step)

    def set_lr(self, step: int) -> None:
        """Give the optimizers the lr of a step."""
        self._step = step
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.at(step)


class RampedWatch(Watch):
    """A watch that raises the lr, and ends the run after the last step of the ramp. Arguments as of `Watch`."""

    def __init__(self, folder: Path, tasks: Sequence[str], on_step: Any, ramp: LrRamp) -> None:
        super().__init__(folder, tasks, on_step, lambda _done: None)
        self.ramp = ramp

    def __call__(self, loss: Any, *, targets: Any = None, step: int | None = None) -> None:
        before = self.step
        super().__call__(loss, targets=targets, step=step)
        if self.ramp.last_asked < before:
            raise LrNotTakenError(
                f"the loop did not take the lr of step {before}, so its lr does not rise; a range test needs an "
                "optimizer of run.optimizer(...), or a loop that asks for run.lr_at(step) at each step"
            )
        self.ramp.set_lr(self.step)  # a scheduler of the loop's own may have changed it
        if self.step >= len(self.ramp.lrs) - 1:
            raise RunEnded

"""What a user's loop calls with each loss: the losses become durable, and a run that cannot recover ends."""

import math
import os
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from study.loops.baseline import constant_loss
from study.loops.loss_file import LossFile

BLOCK = 16
"""Steps whose losses are copied from a device at a time. At most three blocks are on their way."""

MAX_FLOAT32 = 3.4e38


class RunEnded(BaseException):
    """Raised by `watch` where the run ends: its outcome cannot change, or the trial has to stop.

    Not an `Exception`, so that a loop that catches its own errors does not catch it.
    """


class Watch:
    """Records the losses of a run. Called by the user's loop at each step, before the update.

    Args:
        folder: of the run.
        tasks: names of its tasks.
        on_step: called with each watched step.
        check_stop: called after each watched step; it raises where the trial has to stop.
    """

    def __init__(
        self, folder: Path, tasks: Sequence[str], on_step: Callable[[int], None], check_stop: Callable[[int], None]
    ) -> None:
        self.tasks, self.on_step, self._check_stop = tuple(tasks), on_step, check_stop
        self.file = LossFile(folder, tasks)
        self.step = -1
        self.targets: bool | None = None
        self.finite = True
        self.reason = ""
        self.error: BaseException | None = None
        self.process: int | None = os.getpid()
        self._pack = struct.Struct(f"<q{2 * len(tasks)}f").pack
        self._unknown = (math.nan,) * len(tasks)
        self._one_task = len(tasks) == 1
        self._plain = False  # whether the last loss was a number without targets: the next needs no checks
        self._waiting: list[tuple[int, list[Any]]] = []
        self._copies: list[_Copy] = []

    def __call__(self, loss: Any, *, targets: Any = None, step: int | None = None) -> None:
        """Record the loss of a step.

        Args:
            loss: a float, or one number of numpy or torch in any shape and on any device; a dict by task where the
                loop has several.
            targets: the batch's labels, from which the best constant predictor's loss follows; a dict for several
                tasks. Integers are class labels or tokens, booleans and 0/1 are binary labels, other numbers are
                regression targets. The loss must be a mean over them, in nats or squared units.
            step: the step's number, from 0, where not every step is watched; None counts calls.

        Raises:
            RunEnded: the run ends here; let it pass.
            ValueError: a wrong loss, step or targets.
        """
        if self.error is not None:
            raise RunEnded from self.error
        if not self.finite or self.reason or os.getpid() != self.process:  # a child that the loop forked has no part
            raise RunEnded
        if step is None and self.step >= 0:
            self.step += 1
        else:
            self._count(step)
        if type(loss) is float and targets is None and self._plain:
            self._write(self.step, (loss, math.nan))
        else:
            self._record(loss, targets)
        self.on_step(self.step)
        self.check_stop()
        if not self.finite:
            raise RunEnded

    def check_stop(self) -> None:
        """Raise RunEnded where the trial has to stop."""
        try:
            self._check_stop(self.step + 1)
        except BaseException as error:
            self.error = error
            raise RunEnded from error

    def diverged(self, reason: str) -> None:
        """End the run as diverged, for a reason that the losses do not show.

        Raises:
            RunEnded: always; let it pass.
        """
        self.reason = str(reason) or "the loop ended the run"
        raise RunEnded

    def flush(self) -> None:
        """Write the losses that are still on a device. Waits for it."""
        if self._waiting:
            self._start_copy()
        while self._copies:
            self._finish_copy()

    def close(self) -> None:
        """End the run: a thread or child that the loop left can watch no more."""
        self.process = None
        self.file.close()

    def _count(self, step: int | None) -> None:
        first = self.step < 0
        at = self.step + 1 if step is None else int(step)
        if at <= self.step:
            raise ValueError(f"steps go forward, but watch got step {at} after step {self.step}")
        if first:
            self.file.forget_from(at)
        self.step = at

    def _record(self, loss: Any, targets: Any) -> None:
        losses = [loss] if self._one_task and not isinstance(loss, Mapping) else self._by_task(loss, "a loss")
        baselines = self._baselines(targets)
        elsewhere = any(_is_elsewhere(value) for value in losses)
        self._plain = self._one_task and targets is None and not elsewhere
        if elsewhere:
            self._keep(losses, baselines)
        else:
            self.flush()  # rows are written in the order of their steps
            self._write(self.step, [*map(_number, losses), *baselines])

    def _by_task(self, values: Any, what: str) -> list[Any]:
        if not isinstance(values, Mapping) or set(values) != set(self.tasks):
            found = ", ".join(map(str, values)) if isinstance(values, Mapping) else type(values).__name__
            raise ValueError(f"watch needs {what} for each of the tasks {', '.join(self.tasks)}; got {found}")
        return [values[task] for task in self.tasks]

    def _baselines(self, targets: Any) -> Sequence[Any]:
        if self.targets is not (targets is not None):
            if self.targets is not None:
                raise ValueError("watch needs targets at every step, or at none")
            self.targets = targets is not None
        if targets is None:
            return self._unknown
        if self._one_task and not isinstance(targets, Mapping):
            return [constant_loss(targets)]
        return [constant_loss(of_task) for of_task in self._by_task(targets, "targets")]

    def _write(self, step: int, values: Sequence[float]) -> None:
        try:
            row = self._pack(step, *values)
        except OverflowError:  # beyond float32
            row = self._pack(step, *(math.copysign(math.inf, v) if abs(v) > MAX_FLOAT32 else v for v in values))
            self.finite = False
        self.file.append(row)
        if not math.isfinite(values[0]) or not (self._one_task or all(map(math.isfinite, values[: len(self.tasks)]))):
            self.finite = False

    # Losses on a device ---------------------------------------------------------------------------------------------

    def _keep(self, losses: Sequence[Any], baselines: Sequence[Any]) -> None:
        self._waiting.append((self.step, [_copy(value) for value in (*losses, *baselines)]))
        if len(self._waiting) >= BLOCK:
            self._start_copy()
        while self._copies and (self._copies[0].arrived() or len(self._copies) > 2):
            self._finish_copy()

    def _start_copy(self) -> None:
        waiting, self._waiting = self._waiting, []
        self._copies.append(_Copy([step for step, _ in waiting], [values for _, values in waiting]))

    def _finish_copy(self) -> None:
        copy = self._copies.pop(0)
        for step, values in zip(copy.steps, copy.values(), strict=True):
            self._write(step, values)


class _Copy:
    """Losses on their way from a device to the host."""

    def __init__(self, steps: list[int], rows: list[list[Any]]) -> None:
        import torch

        self.steps, self.event = steps, None
        device = next(value.device for value in rows[0] if _is_elsewhere(value))
        # A float becomes a tensor on the device without a wait: `full` takes it as an argument of the kernel.
        flat = [
            v.reshape(()).float() if hasattr(v, "detach") else torch.full((), _number(v), device=device)
            for row in rows
            for v in row
        ]
        stacked = torch.stack([v.to(device, non_blocking=True) for v in flat]).reshape(len(rows), -1)
        if device.type == "cuda":
            self.host = torch.empty(stacked.shape, dtype=stacked.dtype, pin_memory=True)
            self.host.copy_(stacked, non_blocking=True)
            self.event = torch.cuda.Event()
            self.event.record()
        else:
            self.host = stacked

    def arrived(self) -> bool:
        return self.event is not None and self.event.query()

    def values(self) -> list[list[float]]:
        if self.event is not None:
            self.event.synchronize()
        return self.host.tolist()


def _is_elsewhere(value: Any) -> bool:
    return hasattr(value, "device") and hasattr(value, "detach") and value.device.type != "cpu"


def _copy(value: Any) -> Any:
    # A copy: a loop that reuses one buffer for its loss (a captured graph) would overwrite a view.
    return value.detach().clone() if hasattr(value, "detach") else value


def _number(value: Any) -> float:
    return float(value.item() if hasattr(value, "item") else value)

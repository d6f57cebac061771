"""An alarm for anyone's training loop: the gradient's norm jumps above its recent median.

    rings at the first step t >= start with  norm_t > times * median(norm_{t-10} ... norm_{t-1})

The norm is that of the raw gradient of all network parameters, before any clip. On untreated runs of two networks
(docs/causes.md) it rings before the run is gone in 56 of 62 diverged runs, 8 to 10 steps before
`study.monitor.Monitor` can know, and falsely in 18 of 130 healthy ones. It hardly ever rings before the loss has moved.
"""

from typing import Any

import numpy as np

from study.config import check_number
from study.monitor.divergence import copied, number, positive


class GradientAlarm:
    """Watches one run.

        alarm = GradientAlarm()
        for batch in batches:
            loss = train(batch)                                     # backward, before the optimizer's step
            gradients = [p.grad for p in network.parameters() if p.grad is not None]
            alarm.watch(torch.nn.utils.get_total_norm(gradients))
            if step % 10 == 0 and alarm.rang_at() is not None:
                ...                                                 # return to a snapshot
                alarm.reset()

    With a `torch.amp.GradScaler`, give its scale. The gradients carry it, or did so before `scaler.unscale_`:

            scaler.scale(loss).backward()
            alarm.watch(norm, scale=scaler.get_scale())             # after unscale_: unscaled=True, too
            scaler.step(optimizer)
            scaler.update()

    `watch` never waits for the device: the copies come to the host when `rang_at` is called, or every `BLOCK` steps.
    (`get_scale` waits.) A norm that is not finite rings, but not under a scale above 1: the scaler skips that step and
    lowers the scale. It then is no step of the median either.

    Args:
        times: Factor above the median at which it rings.
        start: First step that may ring; before it, the scores of a new network settle.

    Raises:
        ValueError: If `times` is not above 1.
    """

    BLOCK = 1024
    WINDOW = 10
    LEAST = 3
    """Steps of a median, at most and at least."""

    def __init__(self, times: float = 16.0, start: int = 6) -> None:
        check_number(times, "times")
        check_number(start, "start")
        if not times > 1:
            raise ValueError(f"need times > 1, got times={times}")
        self.times, self._start = times, start
        self.reset()

    def reset(self) -> None:
        """Start again as new, for a run that returned to a snapshot. Steps count from 0."""
        self._waiting: list[tuple[Any, Any, bool]] = []
        self._last = np.empty(0)
        self._steps = 0
        self._rang_at: int | None = None

    def watch(self, gradient_norm: Any, scale: Any = 1.0, *, unscaled: bool = False) -> None:
        """Record the norm of one step.

        Args:
            gradient_norm: A float, or one number of numpy or torch in any shape.
            scale: What the loss was multiplied by in this step, a positive number as well. The norm is divided by it.
            unscaled: Whether the gradients were divided by it already.

        Raises:
            ValueError: For what is not one number, or a scale that is not positive and finite. For a scale on another
                device, `rang_at` raises it, until `reset`.
        """
        norm, scale = copied(gradient_norm), copied(scale)
        if isinstance(scale, float) or getattr(scale, "is_cpu", False):
            positive(scale, "scale")
        self._waiting.append((norm, scale, unscaled))
        if len(self._waiting) >= self.BLOCK:
            self._fold()

    def rang_at(self) -> int | None:
        """Return the first step, counted from 0, at which it rang; None if it has not."""
        self._fold()
        return self._rang_at

    def _fold(self) -> None:
        waiting = [(number(norm), positive(scale, "scale"), unscaled) for norm, scale, unscaled in self._waiting]
        self._waiting = []
        for norm, scale, unscaled in waiting:
            norm = norm if unscaled else norm / scale
            skipped = scale > 1 and not np.isfinite(norm)
            if self._rang_at is None and self._steps >= self._start and not skipped and self._jumped(norm):
                self._rang_at = self._steps
            if not skipped:
                self._last = np.append(self._last, norm)[-self.WINDOW :]
            self._steps += 1

    def _jumped(self, norm: float) -> bool:
        if not np.isfinite(norm):
            return True
        return len(self._last) >= self.LEAST and norm > self.times * float(np.median(self._last))

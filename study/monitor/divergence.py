"""A monitor for anyone's training loop: fed with the loss of each step, it tells when the run has diverged."""

import math
import operator
from array import array
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from study.config import Rule
from study.config.checks import need
from study.outcomes.gains import gains_of_columns, trailing_median
from study.outcomes.judge import Episode, Outcome, exploded_steps, finite_or_none, outcomes_of_gains


@dataclass(frozen=True, kw_only=True)
class State:
    """What a `Monitor` knows so far.

    Args:
        steps: Watched steps.
        gain: g now; None before the first step, or if it is not finite.
        reference_gain: G; None if it is not known yet.
        kept: gain / G; None without either.
        diverged: A loss was not finite; or what was once learned (`once_had`) is lost now (`kept`); or the trailing
            median of the loss lies above `slow_loss` times the first loss. Another run that has not learned yet is not
            called diverged while it trains; `Monitor.outcome` judges it.
        reason: nonfinite, collapsed or exploded; None unless diverged.
        diverged_at_step: As in `Outcome`.
        micro_episodes: As in `Outcome`.
        episodes: As in `Outcome`.
        spikes: As in `Outcome`.
    """

    steps: int = 0
    gain: float | None = None
    reference_gain: float | None = None
    kept: float | None = None
    diverged: bool = False
    reason: str | None = None
    diverged_at_step: int | None = None
    micro_episodes: int = 0
    episodes: tuple[Episode, ...] = ()
    spikes: int = 0


class Monitor:
    """Watches the training loss of one run, in any training loop.

        monitor = Monitor(constant_loss=0.693, reference_gain=0.2)
        for batch in batches:
            loss = train(batch)
            monitor.watch(loss)             # a float, or one number of numpy or torch
            if step % 1000 == 0 and monitor.state().diverged:
                ...

    `watch` never waits for the device: it keeps a detached copy of the loss. The copies come to the host when `state`
    or `outcome` is called, or every `BLOCK` steps. The host keeps 32 bytes a step. A call takes time proportional to
    the watched steps, about 60 ms for a million.

    Args:
        constant_loss: Mean loss of the best constant predictor (the base rate's, the mean's).
        reference_gain: G, the gain of a training known to be good: (constant_loss - its final loss) / constant_loss.
            Without it, G is the best g so far, once it is `rule.learnable_errors` standard errors above 0. A training
            that never learned, or fades from the start, then looks like one that cannot do better.

    Raises:
        ValueError: If `constant_loss` or `reference_gain` is not a positive number, or `rule` is no `Rule`.
    """

    BLOCK: int = 4096

    def __init__(self, constant_loss: float, reference_gain: float | None = None, rule: Rule = Rule()) -> None:  # noqa: B008
        self._constant_loss = positive(constant_loss, "constant_loss")
        self._reference_gain = None if reference_gain is None else positive(reference_gain, "reference_gain")
        need(isinstance(rule, Rule), f"rule is made by Rule(...), got {rule!r}")
        self._rule = rule
        self._waiting: list[tuple[Any, Any]] = []
        self._loss, self._constant, self._gain, self._median = (array("d") for _ in range(4))

    def watch(self, loss: Any, constant: Any = None) -> None:
        """Record the loss of one step, before its update.

        Args:
            loss: A float, or one number of numpy or torch in any shape and on any device.
            constant: The constant predictor's loss on the same batch, which cancels the noise of the labels. Without it
                `constant_loss` is used.

        Raises:
            ValueError: For what is not one number, such as the losses of a batch. The monitor stays as it was.
        """
        self._waiting.append((copied(loss), None if constant is None else copied(constant)))
        if len(self._waiting) >= self.BLOCK:
            self._fold()

    def outcome(self) -> Outcome:
        """Return the outcome of the run if it ended here, without tasks.

        Without a reference gain, a finite run that never beat the constant by more than noise is `never_learned`, and
        its `kept` is None.

        Raises:
            ValueError: Before the first step.
        """
        self._fold()
        if not self._loss:
            raise ValueError("no step was watched yet")
        G = self._reference()
        # Against an unreachable gain, h is 0 as long as it is finite: never learned.
        outcome = self._judged(np.inf if G is None else G)
        return outcome if G is not None else replace(outcome, kept=None)

    def state(self) -> State:
        """Return what is known so far; at any time, also before the first step."""
        self._fold()
        if not self._loss:
            return State(reference_gain=self._reference_gain)
        G = self._reference()
        outcome = self._judged(np.inf if G is None else G)
        if outcome.reason == "never_learned" and (since := self._exploded_since()) is not None:
            outcome = replace(outcome, reason="exploded", diverged_at_step=since)
        diverged = outcome.reason in ("nonfinite", "collapsed", "exploded")
        return State(
            steps=len(self._loss),
            gain=finite_or_none(self._median[-1]),
            reference_gain=G,
            kept=None if G is None else outcome.kept,
            diverged=diverged,
            reason=outcome.reason if diverged else None,
            diverged_at_step=outcome.diverged_at_step if diverged else None,
            micro_episodes=outcome.micro_episodes,
            episodes=outcome.episodes,
            spikes=outcome.spikes,
        )

    def _judged(self, G: float) -> Outcome:
        loss, constant, gain, median = (
            np.array(values)[None, :, None] for values in (self._loss, self._constant, self._gain, self._median)
        )
        return outcomes_of_gains(
            loss, constant, gain, median, np.array([True]), np.array([True]), np.array([G]), self._rule
        )[0]

    def _exploded_since(self) -> int | None:
        """Return the first step of the last stretch with an exploded loss, or None if it is not so now."""
        if len(self._loss) < self._rule.median_steps:
            return None
        exploded = exploded_steps(np.array(self._loss), self._rule, np.array(self._constant))
        below = np.flatnonzero(~exploded)
        first = int(below[-1]) + 1 if len(below) else 0
        return first if exploded[-1] else None

    def _reference(self) -> float | None:
        if self._reference_gain is not None:
            return self._reference_gain
        median = np.array(self._median)
        best = int(median.argmax())
        window = np.array(self._gain[max(0, best + 1 - self._rule.median_steps) : best + 1])
        window = window[np.isfinite(window)]
        if len(window) < 2 or median[best] <= 0:
            return None
        error = window.std(ddof=1) / math.sqrt(len(window))
        return float(median[best]) if median[best] >= self._rule.learnable_errors * error else None

    def _fold(self) -> None:
        if not self._waiting:
            return
        loss = np.array([number(value) for value, _ in self._waiting])
        constant = np.array([self._constant_loss if value is None else number(value) for _, value in self._waiting])
        self._waiting = []
        gain = gains_of_columns(loss, constant, np.array(self._constant_loss))
        before = np.array(self._gain[max(0, len(self._gain) + 1 - self._rule.median_steps) :])
        median = trailing_median(np.concatenate([before, gain]), self._rule.median_steps)[len(before) :]
        for kept, values in zip(
            (self._loss, self._constant, self._gain, self._median), (loss, constant, gain, median), strict=True
        ):
            kept.frombytes(values.tobytes())


def positive(value: Any, name: str) -> float:
    """Return a value as a float. Raises ValueError if it is not one positive, finite number. Waits for its device."""
    found = number(copied(value, f"one number as {name}"))
    if not (math.isfinite(found) and found > 0):
        raise ValueError(f"need {name} > 0, got {name}={found}")
    return found


def copied(value: Any, what: str = "one number") -> Any:
    """Return a float, or a detached copy of a tensor. Raises ValueError for what is not one number."""
    if not hasattr(value, "detach"):
        try:
            one = value.item() if isinstance(value, np.ndarray | np.generic) else value
            return float(operator.pos(one))  # a text has no sign
        except (TypeError, ValueError):
            raise ValueError(f"need {what}, got {value!r:.60}") from None
    shape = tuple(getattr(value, "shape", ()))
    if math.prod(shape) != 1:
        raise ValueError(f"need {what}, got a tensor of shape {shape}: reduce it first, as by .mean()")
    if not all(part.is_replicate() for part in getattr(value, "placements", ())):
        raise ValueError(f"need {what}, got a part of one: pass the DTensor's full_tensor()")
    if getattr(value, "is_meta", False) or getattr(value, "is_complex", bool)():
        raise ValueError(f"need {what}, got a tensor on {value.device} of {value.dtype}")
    # A copy: a loop that reuses one buffer for its loss (a captured graph) would overwrite a mere view.
    return value.detach().clone()


def number(value: Any) -> float:
    """Return the value on the host."""
    return float(value.cpu()) if hasattr(value, "cpu") else value

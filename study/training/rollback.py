"""Rollback: a run whose loss spikes returns to a snapshot, and then skips batches or goes on with a lower lr.

People do this by hand when a large run diverges. Here each run of a stack does it by itself. No run depends on another,
and nothing waits for the device. A run is judged by its own training loss alone:

    spiked: loss > mean + spike * std of its usual losses, or > 10 times its first loss, or not a number

Every `back` steps a snapshot is taken of all that a step changes (weights, accumulators, tables, the place in the lr's
schedule, the usual losses). Two snapshots are kept. A run that spiked gets the older one, `back` to 2 * `back` steps
old. It rests for the next `skip` batches: their losses are recorded, and nothing is learned from them. So a run still
has one loss a step, on the same batch as its neighbours and before any update on it. A rollback costs updates, not
data. The spike is recorded too: a loss that was not finite makes the run diverged.

Spikes are detected at every step and handled every `CHECK_EVERY` steps, since a rollback copies as much as the tables
hold.

Shape letters: R runs, G groups of K runs (R = G * K).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from study.methods._rollback import CHECK_EVERY, RollbackOptions

USUAL_LOSSES = 20
"""Steps over which the usual loss is averaged."""

FIRST_LOSSES = 10
"""Losses that must be known before one can be unusual."""

BLOWN_UP = 10.0
"""A loss of this many times the first is a spike, however few losses are known."""


@dataclass(frozen=True, kw_only=True)
class StatePart:
    """A tensor that a step changes.

    Args:
        get: Returns the tensor; its leading dimensions are those of the runs.
        axes: The sizes of these dimensions.
        runs: The runs that it belongs to.
    """

    get: Callable[[], Tensor]
    axes: tuple[int, ...]
    runs: slice = field(default_factory=lambda: slice(None))

    def flags(self, flag_R: Tensor) -> Tensor:
        """Return the flags of its runs, in a shape that broadcasts with the tensor."""
        part = self.get()
        return flag_R[self.runs].view(self.axes + (1,) * (part.dim() - len(self.axes)))


class Rollbacks:
    """Detects spikes of the runs of a stack, and restores the snapshots of those that spiked.

    Args:
        options: When to roll back.
        parts: All that a step changes.
        runs: R.
        lr_shares_S: float64 (S,), the lr's share of its peak after so many steps that a run learned from.

    Attributes:
        state: By name, one value a run.
        resting_R: Runs that learn nothing from this step, bool.
        lr_share_R: Each run's share of its peak lr at this step.
    """

    def __init__(
        self,
        options: RollbackOptions,
        parts: Sequence[StatePart],
        *,
        runs: int,
        lr_shares_S: Tensor,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.options, self.lr_shares_S, self.dtype = options, lr_shares_S, dtype
        # rounded as the thresholds of a stack, so that a run alone has the same value
        self.spike = torch.as_tensor(options.spike, dtype=dtype, device=device).double()

        def per_run(value: float, kind: torch.dtype = torch.float64) -> Tensor:
            return torch.full((runs,), value, dtype=kind, device=device)

        self.state = {
            "steps_learned": per_run(0.0),
            "losses_seen": per_run(0.0),
            "usual_loss": per_run(0.0),
            "usual_variance": per_run(0.0),
            "most": per_run(math.inf),
            "lr_share": per_run(1.0, dtype),
            "spiked": per_run(False, torch.bool),
            "waits": per_run(0, torch.int64),
            "rollbacks": per_run(0, torch.int64),
            "skipped": per_run(0, torch.int64),
        }
        kept = ("steps_learned", "losses_seen", "usual_loss", "usual_variance")
        own = [StatePart(get=lambda name=name: self.state[name], axes=(runs,)) for name in kept]
        self.parts = [*parts, *own]
        self.older = [part.get().clone() for part in self.parts]
        self.newer = [part.get().clone() for part in self.parts]
        self.resting_R = self.state["spiked"]
        self.lr_share_R = self._share()

    def step(self, step: int, loss_RT: Tensor) -> None:
        """Take the losses of a step, before its update. Restores snapshots; sets `resting_R` and `lr_share_R`."""
        state = self.state
        loss = loss_RT[:, 0].double()
        for task in loss_RT[:, 1:].unbind(1):
            loss = loss + task
        if step == 0:
            state["most"] = loss * BLOWN_UP
        waiting = state["waits"] > 0
        self._detect_spikes(loss, waiting)
        if step % CHECK_EVERY == 0:
            self._restore()
        if step % self.options.back == 0 and step:
            self.older, self.newer = self.newer, self.older
            for part, kept in zip(self.parts, self.newer, strict=True):
                kept.copy_(part.get())
        self.resting_R = state["waits"] > 0
        self.lr_share_R = self._share()
        state["skipped"] = state["skipped"] + self.resting_R
        state["waits"] = (state["waits"] - 1).clamp(min=0)
        state["steps_learned"] = state["steps_learned"] + ~self.resting_R

    def counts(self) -> dict[str, Tensor]:
        """Return how often each run was rolled back, and how many steps it rested (R,)."""
        return {"rollbacks": self.state["rollbacks"], "skipped_steps": self.state["skipped"]}

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that a checkpoint needs, by name."""
        kept = {f"{name}/{i}": x for name in ("older", "newer") for i, x in enumerate(getattr(self, name))}
        return self.state | kept

    def _detect_spikes(self, loss: Tensor, waiting: Tensor) -> None:
        state = self.state
        seen, usual, variance = (state[name] for name in ("losses_seen", "usual_loss", "usual_variance"))
        spike = self.spike
        unusual = torch.where(seen >= FIRST_LOSSES, usual + spike * variance.sqrt(), math.inf)
        spiked = ~(loss <= torch.minimum(unusual, state["most"])) & (spike < math.inf) & ~waiting
        state["spiked"] = state["spiked"] | spiked
        # mean and variance of the first losses by their recursion, then moving averages
        learns = ~(spiked | waiting) & loss.isfinite()
        weight = ((seen + 1).reciprocal()).clamp(min=1 / USUAL_LOSSES)
        away = loss - usual
        state["losses_seen"] = seen + learns
        state["usual_loss"] = torch.where(learns, usual + weight * away, usual)
        state["usual_variance"] = torch.where(learns, (1 - weight) * (variance + weight * away * away), variance)

    def _restore(self) -> None:
        state = self.state
        back = state["spiked"]
        for part, older, newer in zip(self.parts, self.older, self.newer, strict=True):
            here, now = part.flags(back), part.get()
            torch.where(here, older, now, out=now)
            torch.where(here, older, newer, out=newer)
        lower = self.options.lower
        state["lr_share"] = torch.where(back, state["lr_share"] * lower, state["lr_share"])
        state["waits"] = torch.where(back, self.options.skip, state["waits"])
        state["rollbacks"] = state["rollbacks"] + back
        state["spiked"] = torch.zeros_like(back)

    def _share(self) -> Tensor:
        """The schedule, whose place a snapshot restores too, times the factors of all rollbacks."""
        share = self.lr_shares_S.index_select(0, self.state["steps_learned"].long())
        return share.to(self.dtype) * self.state["lr_share"]


def where_resting(resting: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """Return `before` for the runs that rest, and `after` for the others (R, ...)."""
    return torch.where(resting.view(-1, *(1,) * (after.dim() - 1)), before, after)

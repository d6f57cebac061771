"""Going back: a run whose loss spikes returns to a snapshot, and passes over batches or goes on with a lower lr.

What people do when a large run diverges, done for each run of a stack by itself: no run sees another, and nothing waits
for the device. A run is judged by its own training loss alone, as its trainer could:

    spiked: loss > mean + spike * std of its usual losses, or > 10 times its first loss, or not a number

Every `back` steps a snapshot is taken of all that a step changes (weights, accumulators, tables, the lr's warm-up, the
usual losses), and two are kept. A run that spiked gets the older one, `back` to 2 * `back` steps old, and takes no part
in the next `skip` batches: their losses are recorded, and nothing is learned from them. So a run still has one loss a
step, on the same batch as its neighbours, before any update on it; what it lost is learning, not data that others
judge it by. A spike is recorded too, as it happened: a loss that was not finite makes the run diverged.

The moment is looked for at every step and acted on every `CHECK_EVERY` steps, for what is moved then is as large as the
tables. Shape letters: R runs, G groups of K runs (R = G * K).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from study.methods._rollback import CHECK_EVERY, RollbackOptions

USUAL_LOSSES = 20
"""Over how many steps the usual loss is averaged."""

FIRST_LOSSES = 10
"""As long as so few losses are known, none is unusual."""

BLOWN_UP = 10.0
"""A loss of so many times the first is a spike, however few losses are known."""


@dataclass(frozen=True, kw_only=True)
class StatePart:
    """A part of what a step changes. get: where it is now, runs first. runs: whose; axes: their leading dimensions."""

    get: Callable[[], Tensor]
    axes: tuple[int, ...]
    runs: slice = field(default_factory=lambda: slice(None))

    def flags(self, flag_R: Tensor) -> Tensor:
        """The flags of its runs, ready to be combined with it."""
        piece = self.get()
        return flag_R[self.runs].view(self.axes + (1,) * (piece.dim() - len(self.axes)))


class Rollbacks:
    """Watches the runs of a stack, and puts back those that spiked.

    pieces: all that a step changes. state: by name, one value a run. warmup: of the recipe's lr.
    """

    def __init__(
        self,
        asked: RollbackOptions,
        pieces: Sequence[StatePart],
        *,
        runs: int,
        warmup: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.asked, self.warmup, self.dtype = asked, warmup, dtype
        # in the type of a stack's thresholds, or one run alone would have another
        self.spike = torch.as_tensor(asked.spike, dtype=dtype, device=device).double()

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
        self.pieces = [*pieces, *own]
        self.older = [piece.get().clone() for piece in self.pieces]
        self.newer = [piece.get().clone() for piece in self.pieces]
        self.resting_R = self.state["spiked"]
        self.lr_share_R = self._share()

    def step(self, step: int, loss_RT: Tensor) -> None:
        """Before the update of each step: look at its loss, put back who spiked, and say who rests and at what lr.

        Afterwards, resting: bool (R,), who learns nothing from this step. share: (R,), of the peak lr.
        """
        state = self.state
        loss = loss_RT[:, 0].double()
        for task in loss_RT[:, 1:].unbind(1):
            loss = loss + task
        if step == 0:
            state["most"] = loss * BLOWN_UP
        waits = state["waits"] > 0
        self._learn_of(loss, waits)
        if step % CHECK_EVERY == 0:
            self._put_back()
        if step % self.asked.back == 0 and step:
            self.older, self.newer = self.newer, self.older
            for piece, kept in zip(self.pieces, self.newer, strict=True):
                kept.copy_(piece.get())
        self.resting_R = state["waits"] > 0
        self.lr_share_R = self._share()
        state["skipped"] = state["skipped"] + self.resting_R
        state["waits"] = (state["waits"] - 1).clamp(min=0)
        state["steps_learned"] = state["steps_learned"] + ~self.resting_R

    def counts(self) -> dict[str, Tensor]:
        """Of each run, (R,): how often it went back, and how many batches it passed over."""
        return {"rollbacks": self.state["rollbacks"], "skipped_steps": self.state["skipped"]}

    def tensors(self) -> dict[str, Tensor]:
        """All that there is to keep between two steps, by name."""
        kept = {f"{name}/{i}": x for name in ("older", "newer") for i, x in enumerate(getattr(self, name))}
        return self.state | kept

    def _learn_of(self, loss: Tensor, waits: Tensor) -> None:
        state = self.state
        seen, usual, variance = (state[name] for name in ("losses_seen", "usual_loss", "usual_variance"))
        spike = self.spike
        unusual = torch.where(seen >= FIRST_LOSSES, usual + spike * variance.sqrt(), math.inf)
        spiked = ~(loss <= torch.minimum(unusual, state["most"])) & (spike < math.inf) & ~waits
        state["spiked"] = state["spiked"] | spiked
        # the mean and variance of the first losses, by their recursion, and then moving averages
        learns = ~(spiked | waits) & loss.isfinite()
        weight = ((seen + 1).reciprocal()).clamp(min=1 / USUAL_LOSSES)
        away = loss - usual
        state["losses_seen"] = seen + learns
        state["usual_loss"] = torch.where(learns, usual + weight * away, usual)
        state["usual_variance"] = torch.where(learns, (1 - weight) * (variance + weight * away * away), variance)

    def _put_back(self) -> None:
        state = self.state
        back = state["spiked"]
        for piece, older, newer in zip(self.pieces, self.older, self.newer, strict=True):
            here, now = piece.flags(back), piece.get()
            torch.where(here, older, now, out=now)
            torch.where(here, older, newer, out=newer)
        lower = self.asked.lower
        state["lr_share"] = torch.where(back, state["lr_share"] * lower, state["lr_share"])
        state["waits"] = torch.where(back, self.asked.skip, state["waits"])
        state["rollbacks"] = state["rollbacks"] + back
        state["spiked"] = torch.zeros_like(back)

    def _share(self) -> Tensor:
        """Linear warm-up, which a snapshot takes back too, times what rollbacks left of the lr."""
        share = torch.ones_like(self.state["steps_learned"])
        if self.warmup:
            share = ((self.state["steps_learned"] + 1) / self.warmup).clamp(max=1.0)
        return share.to(self.dtype) * self.state["lr_share"]


def where_resting(resting: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """`before` of the runs that rest, (R, ...), and `after` of the others."""
    return torch.where(resting.view(-1, *(1,) * (after.dim() - 1)), before, after)

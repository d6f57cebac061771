"""A fast path of Clippy on Adagrad for dense CPU tensors: fewer calls and less memory than the chain.

    G += g*g ;  u = lr * g / sqrt(G + eps) ;  sigma = min(1, min_i (rel * |w_i| + abs) / |u_i|) ;  w -= sigma * u

In the chain, the cost of a small tensor is its calls, and that of a large one its temporaries. Here small tensors are
copied into one pack, which takes each operation once. Large tensors are processed in chunks that fit the cache, with
memory that is kept between steps. A weight has the same bits in any pack or chunk, since every operation rounds alike
in any place. The chain computes `g / sqrt`, this file `g * rsqrt`: updates and factors differ in their last bits,
accumulators in none. torch's square root starts threads for a few thousand elements, and waits milliseconds for them
if another process uses the cores.
"""

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from study.optim import _pack

CHUNK = 1 << 19
"""Number of elements in a chunk of a large tensor."""

_copy_all, _subtract_all = torch._foreach_copy_, torch._foreach_sub_  # pyright: ignore[reportPrivateImportUsage]


@dataclass(frozen=True)
class Plain:
    """The numbers of one step. No bound is 0 or infinite.

    Args:
        lr: A float, or a tensor of one element; negative to maximize.
        rel: 0 <= rel < infinity.
        abs_: 0 < abs_ < infinity.
        eps: Added inside Adagrad's root.
    """

    lr: float | Tensor
    rel: float
    abs_: float
    eps: float


def is_plain(method: str, options: dict[str, Any]) -> bool:
    """Return whether the formula above covers these options."""
    return (
        method == "clippy"
        and options["base"] == "adagrad"
        and options["norm"] == "max"
        and not (options["delayed"] or options["clip_accumulator"] or options["acc_rel"] or options["weight_decay"])
        and options["rel"] < math.inf
        and 0 < options["abs"] < math.inf
    )


def takes(parameter: Tensor) -> bool:
    """Return whether this file can update a parameter whose gradient `fits`. Others take the chain."""
    return (
        type(parameter) in (Tensor, nn.Parameter)
        and parameter.device.type == "cpu"
        and parameter.dtype in (torch.float32, torch.float64)
        and parameter.numel() > 0
        and (parameter.numel() <= _pack.SMALL or parameter.is_contiguous())
    )


def fits(gradient: Tensor, parameter: Tensor) -> bool:
    """Return whether a gradient is dense and has the parameter's dtype."""
    return gradient.layout is torch.strided and gradient.dtype is parameter.dtype


@dataclass
class FastClippy:
    """Updates the same parameters at each step, and plans again when they change.

    It keeps working memory: five times that of the small tensors, and that of the largest tensor.
    """

    plan: _pack.Plan = field(default_factory=_pack.Plan)
    packs: list["_Pack"] = field(default_factory=list)
    scratch: dict[torch.dtype, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def select(self, weights: list[Tensor], gradients: list[Tensor]) -> list[bool]:
        """Return for each weight whether `step` can update it."""
        dense = list(map(fits, gradients, weights))
        if all(dense) and self.plan.holds(weights):
            return dense
        return [fit and takes(w) for fit, w in zip(dense, weights, strict=True)]

    def step(
        self, weights: list[Tensor], gradients: list[Tensor], states: list[dict[str, Tensor]], plain: Plain
    ) -> list[tuple[list[Tensor], Tensor]]:
        """Update weights and their accumulators in place.

        Args:
            weights: Weights that `select` accepted.
            gradients: One for each weight.
            states: One for each weight; the "accumulator" of a small tensor becomes a view of its pack.
            plain: The numbers of this step.

        Returns:
            Groups that cover all weights: n weights, and their factors (n,).
        """
        if not self.plan.holds(weights):
            self._plan(weights)
        factors = []
        for pack in self.packs:
            own = [weights[i] for i in pack.layout.members]
            theirs = [gradients[i] for i in pack.layout.members], [states[i] for i in pack.layout.members]
            factors.append((own, pack.step(own, *theirs, plain)))
        for i in self.plan.large:
            factor = self._step_large(weights[i], gradients[i], states[i]["accumulator"], plain)
            factors.append(([weights[i]], factor.unsqueeze(0)))
        return factors

    def _plan(self, weights: list[Tensor]) -> None:
        self.plan = _pack.Plan.of(weights)
        self.packs = [_Pack.of(members, weights) for members in self.plan.packs]
        large, self.scratch = [weights[i] for i in self.plan.large], {}
        for dtype in {w.dtype for w in large}:
            largest = max(w.numel() for w in large if w.dtype is dtype)
            room = torch.empty(min(largest, CHUNK), dtype=dtype)
            self.scratch[dtype] = torch.empty(largest, dtype=dtype), room

    def _step_large(self, weight: Tensor, gradient: Tensor, accumulator: Tensor, plain: Plain) -> Tensor:
        update, room = self.scratch[weight.dtype]
        flat = (gradient.reshape(-1), accumulator.view(-1), weight.view(-1), update)
        chunks = [[x[at : at + CHUNK] for x in flat] for at in range(0, weight.numel(), CHUNK)]
        chunks[-1][3] = chunks[-1][3][: len(chunks[-1][0])]
        least = []
        for g, G, w, u in chunks:
            least.append(_update_and_room(g, G, w, u, room[: len(g)], plain).amin())
        factor = torch.stack(least).amin().clamp_(max=1.0)
        # backwards, since the cache still holds the end of the update
        for _, _, w, u in reversed(chunks):
            w.sub_(u.mul_(factor))
        return factor


@dataclass
class _Pack:
    """Small tensors of one dtype."""

    layout: _pack.Layout
    flat: tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
    """Gradient, accumulator, weight, update and room."""
    views: list[list[Tensor]]
    """Each member's part of the first four."""

    @classmethod
    def of(cls, members: Sequence[int], weights: Sequence[Tensor]) -> "_Pack":
        layout, like = _pack.Layout.of(members, weights), weights[members[0]]
        # in the padding, an accumulator of 1 and a gradient of 0 give an update of 0, which does not limit the factor
        g, G, w, u, room = (layout.flat(like, fill) for fill in (0.0, 1.0, 0.0, 0.0, 0.0))
        return cls(layout, (g, G, w, u, room), [layout.views(x, weights) for x in (g, G, w, u)])

    def step(
        self, weights: list[Tensor], gradients: list[Tensor], states: list[dict[str, Tensor]], plain: Plain
    ) -> Tensor:
        """Update the members' weights and states, and return their factors, (members,)."""
        g, G, w, u, room = self.flat
        gradients_here, accumulators_here, weights_here, updates = self.views
        accumulators = [state["accumulator"] for state in states]
        if not all(map(operator.is_, accumulators, accumulators_here)):
            _copy_all(accumulators_here, accumulators)
            for state, accumulator in zip(states, accumulators_here, strict=True):
                state["accumulator"] = accumulator
        _copy_all(gradients_here, gradients)
        _copy_all(weights_here, weights)
        factor = self.layout.least(_update_and_room(g, G, w, u, room, plain)).clamp_(max=1.0)
        self.layout.multiply(u, factor)
        _subtract_all(weights, updates)
        return factor


def _update_and_room(g: Tensor, G: Tensor, w: Tensor, u: Tensor, room: Tensor, plain: Plain) -> Tensor:
    """Set `G += g*g`, u to the update with lr, and room to `(rel * |w| + abs) / |u|`; return room."""
    torch.mul(g, g, out=room)
    G.add_(room)
    lr = plain.lr.to(u) if isinstance(plain.lr, Tensor) else plain.lr
    torch.mul(g, torch.add(G, plain.eps, out=room).rsqrt_(), out=u).mul_(lr)
    return torch.abs(w, out=room).mul_(plain.rel).add_(plain.abs_).div_(u).abs_()

"""Clippy on Adagrad for dense tensors on a CPU: the chain of `study.methods.clippy`, in fewer calls and less memory.

    G += g*g ;  u = lr * g / sqrt(G + eps) ;  sigma = min(1, min_i (rel * |w_i| + abs) / |u_i|) ;  w -= sigma * u

Link by link, a tensor of a few elements costs its calls and a large one its temporaries. Here small tensors are copied
side by side into one, which takes each operation once, and large ones are walked in chunks that stay in the cache,
with memory that is kept between steps. A weight gets the same bits in any pack or chunk: only operations are used that
round alike in any place. Against the chain, `g / sqrt` is `g * rsqrt` here, so that updates and factors differ in
their last bits, and accumulators in none: torch's own square root starts threads for a few thousand elements, and
where another process has the cores, waits milliseconds for them.
"""

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

SMALL = 1 << 15
"""Elements up to which a tensor is packed: torch itself splits an operation between threads from here on."""
PACK = 1 << 18
"""Elements of a pack, at most, when it is filled with small tensors."""
CHUNK = 1 << 19
"""Elements of a large tensor that are worked on at a time."""
PADDING = 1.25
"""How much larger than its tensors a pack may be."""

_copy_all, _subtract_all = torch._foreach_copy_, torch._foreach_sub_  # pyright: ignore[reportPrivateImportUsage]


@dataclass(frozen=True)
class Plain:
    """The numbers of one step. lr: a float, or a tensor of one element; negative to ascend. 0 < abs_ < infinity, and
    0 <= rel < infinity, so that no bound is 0 or infinite."""

    lr: float | Tensor
    rel: float
    abs_: float
    eps: float


def is_plain(method: str, options: dict[str, Any]) -> bool:
    """Whether these options are the formula above, and nothing else."""
    return (
        method == "clippy"
        and options["base"] == "adagrad"
        and options["norm"] == "max"
        and not (options["delayed"] or options["clip_accumulator"] or options["acc_rel"] or options["weight_decay"])
        and options["rel"] < math.inf
        and 0 < options["abs"] < math.inf
    )


def takes(parameter: Tensor) -> bool:
    """Whether a parameter can be updated here, if its gradient is of `fits`; whatever else there is takes the chain."""
    return (
        type(parameter) in (Tensor, nn.Parameter)
        and parameter.device.type == "cpu"
        and parameter.dtype in (torch.float32, torch.float64)
        and parameter.numel() > 0
        and (parameter.numel() <= SMALL or parameter.is_contiguous())
    )


def fits(gradient: Tensor, parameter: Tensor) -> bool:
    """Whether a gradient is dense, and of the parameter's type."""
    return gradient.layout is torch.strided and gradient.dtype is parameter.dtype


@dataclass
class FastClippy:
    """Steps on the same parameters, again and again; another set of them is planned anew. What it keeps is memory to
    work in: for small tensors five times theirs, for the large ones that of the largest."""

    packs: list["_Pack"] = field(default_factory=list)
    large: list[int] = field(default_factory=list)
    planned: list[Tensor] = field(default_factory=list)
    dtypes: list[torch.dtype] = field(default_factory=list)
    scratch: dict[torch.dtype, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def select(self, weights: list[Tensor], gradients: list[Tensor]) -> list[bool]:
        """Which of these weights `step` takes."""
        dense = list(map(fits, gradients, weights))
        if all(dense) and self._is_planned(weights):
            return dense
        return [fit and takes(w) for fit, w in zip(dense, weights, strict=True)]

    def step(
        self, weights: list[Tensor], gradients: list[Tensor], states: list[dict[str, Tensor]], plain: Plain
    ) -> list[tuple[list[Tensor], Tensor]]:
        """Update weights and their state, "accumulator", in place; a small tensor's becomes a part of its pack's.

        Every weight with its gradient is one of `select`. Returns the factors of some weights, (n,), with these
        weights, until all are told.
        """
        if not self._is_planned(weights):
            self._plan(weights)
        factors = []
        for pack in self.packs:
            own = [weights[i] for i in pack.members]
            theirs = [gradients[i] for i in pack.members], [states[i] for i in pack.members]
            factors.append((own, pack.step(own, *theirs, plain)))
        for i in self.large:
            factor = self._step_large(weights[i], gradients[i], states[i]["accumulator"], plain)
            factors.append(([weights[i]], factor.unsqueeze(0)))
        return factors

    def _is_planned(self, weights: list[Tensor]) -> bool:
        return (
            len(weights) == len(self.planned)
            and all(map(operator.is_, weights, self.planned))
            and [w.dtype for w in weights] == self.dtypes
            and all(weights[i].is_contiguous() for i in self.large)
        )

    def _plan(self, weights: list[Tensor]) -> None:
        self.planned, self.dtypes = list(weights), [w.dtype for w in weights]
        self.large = [i for i, w in enumerate(weights) if w.numel() > SMALL]
        self.packs, self.scratch = [], {}
        for dtype in {w.dtype for w in weights}:
            sizes = {i: w.numel() for i, w in enumerate(weights) if w.dtype == dtype}
            self.packs += [_Pack.of(part, weights) for part in _parts({i: n for i, n in sizes.items() if n <= SMALL})]
            largest = max(sizes.values())
            if largest > SMALL:
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
        # backwards: the end of the update is what the cache still holds
        for _, _, w, u in reversed(chunks):
            w.sub_(u.mul_(factor))
        return factor


@dataclass
class _Pack:
    """Small tensors of one type, side by side in rows of one width; a row belongs to one tensor, and ends padded."""

    members: list[int]
    tensor_of_row: Tensor
    flat: tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
    """Gradient, accumulator, weight, update, room: (rows * width,) each."""
    views: list[list[Tensor]]
    """Of the first four: each member's part, in its shape."""

    @classmethod
    def of(cls, members: Sequence[int], weights: Sequence[Tensor]) -> "_Pack":
        sizes = [weights[i].numel() for i in members]
        width = _width(sizes)
        rows = [-(-size // width) for size in sizes]
        # where the padding is, an accumulator of 1 and a gradient of 0 make an update of 0, which asks for nothing
        flat = [weights[members[0]].new_full((sum(rows) * width,), fill) for fill in (0.0, 1.0, 0.0, 0.0, 0.0)]
        views = [
            [
                part[: weights[i].numel()].view(weights[i].shape)
                for i, part in zip(members, x.split([count * width for count in rows]), strict=True)
            ]
            for x in flat[:4]
        ]
        tensor_of_row = torch.repeat_interleave(torch.arange(len(rows)), torch.tensor(rows))
        return cls(list(members), tensor_of_row, (flat[0], flat[1], flat[2], flat[3], flat[4]), views)

    def step(
        self, weights: list[Tensor], gradients: list[Tensor], states: list[dict[str, Tensor]], plain: Plain
    ) -> Tensor:
        """Update the members' weights and states. Returns their factors, (members,)."""
        g, G, w, u, room = self.flat
        gradients_here, accumulators_here, weights_here, updates = self.views
        accumulators = [state["accumulator"] for state in states]
        if not all(map(operator.is_, accumulators, accumulators_here)):
            _copy_all(accumulators_here, accumulators)
            for state, accumulator in zip(states, accumulators_here, strict=True):
                state["accumulator"] = accumulator
        _copy_all(gradients_here, gradients)
        _copy_all(weights_here, weights)
        rows = len(self.tensor_of_row)
        least = _update_and_room(g, G, w, u, room, plain).view(rows, -1).amin(1)
        factor = least.new_ones(len(weights)).scatter_reduce_(0, self.tensor_of_row, least, "amin")
        u.view(rows, -1).mul_(factor.index_select(0, self.tensor_of_row).unsqueeze(1))
        _subtract_all(weights, updates)
        return factor


def _update_and_room(g: Tensor, G: Tensor, w: Tensor, u: Tensor, room: Tensor, plain: Plain) -> Tensor:
    """`G += g*g`, u = the update, lr included, and room = `(rel * |w| + abs) / |u|`: all of one shape. Returns room."""
    torch.mul(g, g, out=room)
    G.add_(room)
    lr = plain.lr.to(u) if isinstance(plain.lr, Tensor) else plain.lr
    torch.mul(g, torch.add(G, plain.eps, out=room).rsqrt_(), out=u).mul_(lr)
    return torch.abs(w, out=room).mul_(plain.rel).add_(plain.abs_).div_(u).abs_()


def _parts(sizes: dict[int, int]) -> list[list[int]]:
    """Keys in their order, cut where the sizes would sum to more than PACK."""
    parts: list[list[int]] = []
    total = PACK
    for i, size in sizes.items():
        if total + size > PACK:
            parts.append([])
            total = 0
        parts[-1].append(i)
        total += size
    return parts


def _width(sizes: Sequence[int]) -> int:
    """The widest rows, a power of 2, that pad no more than PADDING allows: minima of long rows are cheaper."""
    width = 1
    while width < SMALL and sum(-(-size // (2 * width)) * 2 * width for size in sizes) <= PADDING * sum(sizes):
        width *= 2
    return width

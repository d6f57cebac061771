"""Updates dense tensors of a CPU with the links of a chain, and with its bits: small tensors together, large in chunks.

In the chain, the cost of a small tensor is its calls, and that of a large one its temporaries. The links of the bases
work on each element by itself, so they take the elements of many tensors, or a part of one, as runs of one element.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from study.optim import _foreach_clippy
from study.optim._foreach_clippy import CHUNK, SMALL
from study.transforms import Chain, Leaf, LeafLink
from study.transforms._clipping import ShrinkToWeights
from study.transforms._scaling import DecayWeights, Scale, ScaleByAdagrad, ScaleByAdam, ScaleByRmsprop, ScaleBySgd

ELEMENTWISE = (ScaleByAdagrad, ScaleBySgd, ScaleByRmsprop, ScaleByAdam, Scale, DecayWeights)
OF_TENSOR = frozenset(("first_share", "second_share", "step"))
"""State of these links that has one value a tensor."""

_copy_all, _subtract_all = torch._foreach_copy_, torch._foreach_sub_  # pyright: ignore[reportPrivateImportUsage]


@dataclass(frozen=True)
class Links:
    """The links of a chain: elementwise ones, Clippy's or none, and elementwise ones again."""

    before: Sequence[LeafLink]
    clip: ShrinkToWeights | None
    after: Sequence[LeafLink]

    @classmethod
    def of(cls, chain: Chain) -> "Links | None":
        """Return the links of a chain, or None if this file does not cover them."""
        others = [i for i, link in enumerate(chain.links) if not isinstance(link, ELEMENTWISE)]
        at = others[0] if others else len(chain.links)
        clip = chain.links[at] if others else None
        if len(others) > 1 or not (clip is None or _is_plain(clip)):
            return None
        return cls(chain.links[:at], clip, chain.links[at + 1 :])  # pyright: ignore[reportArgumentType]

    def step(
        self, weights: Sequence[Tensor], gradients: Sequence[Tensor], states: Sequence[dict[str, Tensor]]
    ) -> list[Tensor]:
        """Update weights and states in place, and return the factor of each weight, 0-dim."""
        factors: dict[int, Tensor] = {}
        for dtype in {w.dtype for w in weights}:
            sizes = {i: w.numel() for i, w in enumerate(weights) if w.dtype is dtype}
            for pack in _foreach_clippy._parts({i: n for i, n in sizes.items() if n <= SMALL}):
                own, theirs = ([x[i] for i in pack] for x in (weights, gradients))
                factors |= zip(pack, self._step_small(own, theirs, [states[i] for i in pack]), strict=True)
            for i in (i for i, n in sizes.items() if n > SMALL):
                factors[i] = self._step_large(weights[i], gradients[i], states[i])
        return [factors[i] for i in range(len(weights))]

    def _step_small(
        self, weights: list[Tensor], gradients: list[Tensor], states: list[dict[str, Tensor]]
    ) -> list[Tensor]:
        sizes = [w.numel() for w in weights]
        counts = torch.tensor(sizes)
        starts = counts.cumsum(0) - counts
        by_element = {key: key not in OF_TENSOR for key in states[0]}
        state = {
            key: _flat([s[key] for s in states])
            if whole
            else torch.stack([s[key] for s in states]).repeat_interleave(counts)
            for key, whole in by_element.items()
        }
        gradient = _flat(gradients)
        leaf = Leaf(_flat(weights), gradient, gradient, state)
        for link in self.before:
            link.apply_one(leaf)
        factors = [gradient.new_ones(())] * len(weights)
        if self.clip is not None:
            room = self._room(leaf)
            factors = [x.amin() for x in room.split(sizes)]
            factor = torch.stack(factors).clamp_(max=1.0)
            factors = list(factor.unbind())
            leaf.update.mul_(factor.repeat_interleave(counts))
        for link in self.after:
            link.apply_one(leaf)
        for key, whole in by_element.items():
            own = [s[key] for s in states]
            if whole:
                _copy_all(own, [x.view(w.shape) for x, w in zip(state[key].split(sizes), weights, strict=True)])
            else:
                _copy_all(own, state[key].index_select(0, starts).unbind())
        _subtract_all(weights, [u.view(w.shape) for u, w in zip(leaf.update.split(sizes), weights, strict=True)])
        return factors

    def _step_large(self, weight: Tensor, gradient: Tensor, state: dict[str, Tensor]) -> Tensor:
        flat = weight.view(-1), gradient.reshape(-1)
        by_element = {key: value.view(-1) for key, value in state.items() if key not in OF_TENSOR}
        of_tensor = {key: value for key, value in state.items() if key not in by_element}
        leaves, least, after = [], [weight.new_ones(())], of_tensor
        for at in range(0, weight.numel(), CHUNK):
            w, g = (x[at : at + CHUNK] for x in flat)
            after = {key: value.clone().unsqueeze(0) for key, value in of_tensor.items()}
            leaf = Leaf(w, g, g, {key: value[at : at + CHUNK] for key, value in by_element.items()} | after)
            for link in self.before:
                link.apply_one(leaf)
            if self.clip is not None:
                least.append(self._room(leaf).amin())
            leaves.append(leaf)
        factor = torch.stack(least).amin()
        # backwards, since the cache still holds the end of the update
        for leaf in reversed(leaves):
            if self.clip is not None:
                leaf.update.mul_(factor)
            for link in self.after:
                link.apply_one(leaf)
            leaf.weight.sub_(leaf.update)
        for key, value in of_tensor.items():
            value.copy_(after[key].squeeze(0))
        return factor

    def _room(self, leaf: Leaf) -> Tensor:
        assert self.clip is not None
        if leaf.update is leaf.gradient:
            leaf.update = leaf.update.clone()
        return leaf.weight.abs().mul_(self.clip.rel).add_(self.clip.abs_).div_(leaf.update).abs_()


def takes(parameter: Tensor, state: dict[str, Tensor]) -> bool:
    """Return whether this file can update a parameter that has a gradient."""
    gradient = parameter.grad
    assert gradient is not None
    return (
        _foreach_clippy.takes(parameter)
        and _foreach_clippy.fits(gradient, parameter)
        and all(value.dtype is parameter.dtype and value.is_contiguous() for value in state.values())
    )


def _is_plain(link: object) -> bool:
    return (
        isinstance(link, ShrinkToWeights)
        and link.norm == "max"
        and not (link.clip_accumulator or link.acc_rel)
        and bool(link.rel < math.inf and 0 < link.abs_ < math.inf)
    )


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([x.reshape(-1) for x in tensors])

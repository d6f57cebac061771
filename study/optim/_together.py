"""Updates dense tensors of a CPU with the links of a chain, and with its bits: small tensors together, large in chunks.

In the chain, the cost of a small tensor is its calls, and that of a large one its temporaries. The links of the bases
work on each element by itself, so they take the elements of many tensors, or a part of one, as runs of one element.
"""

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from study.optim import _foreach_clippy, _pack
from study.transforms import Chain, ElementLink, Leaf
from study.transforms._clipping import ShrinkToWeights
from study.transforms._scaling import ELEMENTWISE, DecayWeights, ScaleByAdam, ScaleByRmsprop

CHUNK = 1 << 17
"""Number of elements in a chunk of a large tensor."""

_copy_all, _subtract_all = torch._foreach_copy_, torch._foreach_sub_  # pyright: ignore[reportPrivateImportUsage]

State = dict[str, Tensor]


@dataclass(frozen=True)
class Links:
    """The links of a chain: elementwise ones, Clippy's or none, and elementwise ones again."""

    before: Sequence[ElementLink]
    clip: ShrinkToWeights | None
    after: Sequence[ElementLink]
    counts: frozenset[str]
    needs_weights: bool

    @classmethod
    def of(cls, chain: Chain) -> "Links | None":
        """Return the links of a chain, or None if this file does not cover them."""
        # exactly these: an own link may read weights, or override more than `apply_elements`
        others = [i for i, link in enumerate(chain.links) if type(link) not in ELEMENTWISE]
        at = others[0] if others else len(chain.links)
        clip = chain.links[at] if others else None
        if len(others) > 1 or not (clip is None or _is_plain(clip)):
            return None
        before, after = chain.links[:at], chain.links[at + 1 :]
        # the padding of a pack would limit the factor: its update is 0 / 0
        if clip and any(isinstance(link, ScaleByAdam | ScaleByRmsprop) and link.eps == 0 for link in before):
            return None
        counts = frozenset[str]().union(*(link.counts for link in (*before, *after)))  # pyright: ignore[reportAttributeAccessIssue]
        needs_weights = clip is not None or any(isinstance(link, DecayWeights) for link in chain.links)
        return cls(before, clip, after, counts, needs_weights)  # pyright: ignore[reportArgumentType]

    def count(self, counts: State) -> None:
        """Advance by one step the state that all elements of a tensor share, in place."""
        if counts:
            for link in (*self.before, *self.after):
                link.count(counts)

    def begin(self, leaf: Leaf) -> None:
        """Apply the links before the clip."""
        for link in self.before:
            link.apply_elements(leaf)

    def room(self, leaf: Leaf) -> Tensor:
        """Return the bound of each element over its update."""
        assert self.clip is not None
        if leaf.update is leaf.gradient:
            leaf.update = leaf.update.clone()
        return leaf.weight.abs().mul_(self.clip.rel).add_(self.clip.abs_).div_(leaf.update).abs_()

    def end(self, leaf: Leaf) -> None:
        """Apply the links after the clip."""
        for link in self.after:
            link.apply_elements(leaf)


@dataclass
class Together:
    """Updates the same parameters at each step, and plans again when they, or the kinds of their state, change."""

    plan: _pack.Plan = field(default_factory=_pack.Plan)
    packs: list["_Pack"] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)

    def select(self, weights: list[Tensor], states: Sequence[State]) -> list[bool]:
        """Return for each weight that has a gradient whether `step` can update it."""
        if self.plan.holds(weights) and all(map(_fits, weights)) and self._has(weights, states):
            return [True] * len(weights)
        return [
            _foreach_clippy.takes(w) and _fits(w) and _takes_state(w, state)
            for w, state in zip(weights, states, strict=True)
        ]

    def step(
        self,
        weights: Sequence[Tensor],
        gradients: Sequence[Tensor],
        states: Sequence[State],
        links: Links,
        keys: set[str],
        maximize: bool,
    ) -> list[Tensor]:
        """Update weights and states in place, and return the factor of each weight, 0-dim.

        Args:
            weights: Weights that `select` accepted.
            gradients: One for each weight.
            states: One for each weight; the tensors of a small weight become views of its pack.
            links: The links of the chain.
            keys: The kinds of state that the links use.
            maximize: Whether to ascend.
        """
        if not (self.plan.holds(weights) and keys == self.keys):
            self._plan(weights, links, keys)
        factors: dict[int, Tensor] = {}
        for pack in self.packs:
            factors |= zip(pack.layout.members, pack.step(weights, gradients, states, links, maximize), strict=True)
        for i in self.plan.large:
            factors[i] = _step_large(weights[i], gradients[i], {k: states[i][k] for k in keys}, links, maximize)
        return [factors[i] for i in range(len(weights))]

    def _has(self, weights: Sequence[Tensor], states: Sequence[State]) -> bool:
        large = all(_takes_state(weights[i], states[i]) for i in self.plan.large)
        return large and all(pack.has([states[i] for i in pack.layout.members]) for pack in self.packs)

    def _plan(self, weights: Sequence[Tensor], links: Links, keys: set[str]) -> None:
        self.plan, self.keys = _pack.Plan.of(weights), set(keys)
        self.packs = [_Pack(members, weights, links, keys) for members in self.plan.packs]


class _Pack:
    """Small tensors of one dtype."""

    def __init__(self, members: Sequence[int], weights: Sequence[Tensor], links: Links, keys: set[str]) -> None:
        self.layout, like = _pack.Layout.of(members, weights), weights[members[0]]
        self.gradient, self.weight, self.update = (self.layout.flat(like) for _ in range(3))
        flats = (self.gradient, self.weight, self.update)
        self.gradients, self.weights, self.updates = (self.layout.views(x, weights) for x in flats)
        # in the padding, an accumulator of 1 and a gradient of 0 give an update of 0, which does not limit the factor
        fills = {"accumulator": 1.0}
        counts = sorted(keys & links.counts)
        self.count = like.new_zeros(len(counts), len(members))
        self.counts = dict(zip(counts, self.count.unbind(), strict=True))
        self.state = {key: self.layout.flat(like, fills.get(key, 0.0)) for key in keys - links.counts}
        self.views = {key: list(x.unbind()) for key, x in self.counts.items()}
        self.views |= {key: self.layout.views(x, weights) for key, x in self.state.items()}

    def step(
        self,
        weights: Sequence[Tensor],
        gradients: Sequence[Tensor],
        states: Sequence[State],
        links: Links,
        maximize: bool,
    ) -> Sequence[Tensor]:
        """Update the members' weights and states, and return their factors."""
        own = [weights[i] for i in self.layout.members]
        self._take([states[i] for i in self.layout.members])
        _copy_all(self.gradients, [gradients[i] for i in self.layout.members])
        if maximize:
            self.gradient.neg_()
        if links.needs_weights:
            _copy_all(self.weights, own)
        leaf = Leaf(self.weight, self.gradient, self.gradient, self.state | self._counted(links))
        links.begin(leaf)
        factors: Sequence[Tensor] = [self.gradient.new_ones(())] * len(own)
        if links.clip is not None:
            factor = self.layout.least(links.room(leaf)).clamp_(max=1.0)
            self.layout.multiply(leaf.update, factor)
            factors = factor.unbind()
        links.end(leaf)
        self.update.copy_(leaf.update)
        _subtract_all(own, self.updates)
        return factors

    def has(self, states: Sequence[State]) -> bool:
        """Return whether the members' state is in this pack."""
        found = ([state.get(key) for state in states] for key in self.views)
        return all(all(map(operator.is_, *pair)) for pair in zip(found, self.views.values(), strict=True))

    def _take(self, states: list[State]) -> None:
        """Make the members' state views of this pack."""
        for key, views in self.views.items():
            theirs = [state[key] for state in states]
            if not all(map(operator.is_, theirs, views)):
                _copy_all(views, theirs)
                for state, view in zip(states, views, strict=True):
                    state[key] = view

    def _counted(self, links: Links) -> State:
        """Advance the counts, and return them for each element."""
        if not self.counts:
            return {}
        if bool((self.count == self.count[:, :1]).all()):  # the members have always been updated together
            first = {key: x[:1].clone() for key, x in self.counts.items()}
            links.count(first)
            for key, x in self.counts.items():
                x.copy_(first[key])
            return first
        for i in range(len(self.layout.members)):  # one at a time, since a power of many rounds differently
            links.count({key: x[i : i + 1] for key, x in self.counts.items()})
        return {key: self.layout.spread(x) for key, x in self.counts.items()}


def _step_large(weight: Tensor, gradient: Tensor, state: State, links: Links, maximize: bool) -> Tensor:
    counts = {key: value.view(1) for key, value in state.items() if key in links.counts}
    links.count(counts)
    by_element = {key: value.view(-1).split(CHUNK) for key, value in state.items() if key not in counts}
    leaves, least = [], [weight.new_ones(())]
    for i, (w, g) in enumerate(zip(weight.view(-1).split(CHUNK), gradient.reshape(-1).split(CHUNK), strict=True)):
        g = g.neg() if maximize else g
        leaf = Leaf(w, g, g, {key: value[i] for key, value in by_element.items()} | counts)
        links.begin(leaf)
        if links.clip is None:
            links.end(leaf)
            w.sub_(leaf.update)
        else:
            least.append(links.room(leaf).amin())
            leaves.append(leaf)
    factor = torch.stack(least).amin()
    # backwards, since the cache still holds the end of the update
    clipped = bool(factor != 1)  # a factor of 1 changes no bit
    for leaf in reversed(leaves):
        if clipped:
            leaf.update.mul_(factor)
        links.end(leaf)
        leaf.weight.sub_(leaf.update)
    return factor


def _fits(weight: Tensor) -> bool:
    return weight.grad is not None and _foreach_clippy.fits(weight.grad, weight)


def _takes_state(weight: Tensor, state: State) -> bool:
    return all(value.dtype is weight.dtype and value.is_contiguous() for value in state.values())


def _is_plain(link: object) -> bool:
    return (
        isinstance(link, ShrinkToWeights)
        and link.norm == "max"
        and not (link.clip_accumulator or link.acc_rel)
        and bool(link.rel < math.inf and 0 < link.abs_ < math.inf)
    )

"""What links are made of: a parameter during one step, a link, and a chain of links."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from study.transforms._math import Scalar, per_run


@dataclass
class Leaf:
    """One parameter tensor of all runs, during one step.

    weight: (R, *shape), before the update. gradient: (R, *shape), raw. Neither is ever changed by a link.
    update: what the links transform; starts as the gradient itself, and is in the end subtracted from the weight.
    state: what persists between steps: (R, *shape) per element, so that a sparse caller may hand in the touched rows
        of it, or else (R,) per run.
    scratch: what one link leaves for another within a step.
    factor: the product of the factors that the links multiplied the update by in this step, (R,) (the smallest, where
        a tensor has several). Whoever wants to watch starts it at ones; None is not watched, and costs nothing.
    """

    weight: Tensor
    gradient: Tensor
    update: Tensor
    state: dict[str, Tensor] = field(default_factory=dict)
    scratch: dict[str, Tensor] = field(default_factory=dict)
    factor: Tensor | None = None


class Link(ABC):
    """One transform of the update. `per_leaf` is False where it needs all tensors of the model together."""

    per_leaf = False

    def init(self, weight: Tensor) -> dict[str, Tensor]:
        """The state before the first step, for a weight of shape (R, *shape)."""
        return {}

    @abstractmethod
    def apply(self, leaves: Sequence[Leaf]) -> None:
        """Set each leaf's `update` (and state)."""


class LeafLink(Link):
    """A transform of each tensor's update by itself."""

    per_leaf = True

    def apply(self, leaves: Sequence[Leaf]) -> None:
        for leaf in leaves:
            self.apply_one(leaf)

    @abstractmethod
    def apply_one(self, leaf: Leaf) -> None:
        """Set the leaf's `update` (and state)."""


class Chain:
    """Links, one after the other."""

    def __init__(self, links: Sequence[Link]) -> None:
        self.links = tuple(links)
        self.per_leaf = all(link.per_leaf for link in self.links)

    def init(self, weight: Tensor) -> dict[str, Tensor]:
        """The state before the first step, for a weight of shape (R, *shape)."""
        state: dict[str, Tensor] = {}
        for link in self.links:
            new = link.init(weight)
            assert state.keys().isdisjoint(new), f"two links keep the same state: {sorted(new)}"
            state |= new
        return state

    def updates(self, leaves: Sequence[Leaf]) -> None:
        """From each leaf's gradient to its update."""
        for leaf in leaves:
            leaf.update = leaf.gradient
        # leaf by leaf as far as the links allow, so that temporaries stay in the cache
        for per_leaf, links in itertools.groupby(self.links, key=lambda link: link.per_leaf):
            together = list(links)
            for part in [[leaf] for leaf in leaves] if per_leaf else [leaves]:
                for link in together:
                    link.apply(part)


def chain(*links: Link | Chain) -> Chain:
    """Links (or chains of them), one after the other."""
    return Chain([x for link in links for x in (link.links if isinstance(link, Chain) else (link,))])


def multiply(leaf: Leaf, factor: Scalar) -> None:
    """Multiply the update by a factor, without changing the gradient."""
    factor = per_run(factor, leaf.update)
    if leaf.update is leaf.gradient:
        leaf.update = leaf.update * factor
    else:
        leaf.update.mul_(factor)


def apply_factor(leaf: Leaf, factor: Tensor) -> None:
    """Multiply by a factor per run (R,) or per unit (R, out), and let a watcher know."""
    multiply(leaf, factor)
    if leaf.factor is not None:
        smallest = factor if factor.ndim == 1 else factor.amin(1) if factor.numel() else torch.ones_like(leaf.factor)
        leaf.factor = leaf.factor * smallest


def measured(leaf: Leaf, on: str) -> Tensor:
    """Return what a norm is taken of: "update", or "gradient" (the raw one)."""
    return leaf.gradient if on == "gradient" else leaf.update

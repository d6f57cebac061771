"""The base classes: a parameter during one step, a link, and a chain of links."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from study.transforms._math import Scalar, l2_norm, per_run
from study.transforms._segments import Segments

OURS = ("study.transforms", "study.optim")
"""Where our own links are, which never change an update in place while it is the gradient."""


@dataclass(frozen=True)
class Parts:
    """The parts of one tensor, of which several processes hold one each.

    Args:
        gather: (...) of this part -> (parts, ...) of all, the same in each process.
        size: Elements of the whole tensor, of one run.
        by_rows: Whether each part has whole rows of (out, ...).
    """

    gather: Callable[[Tensor], Tensor]
    size: int
    by_rows: bool


@dataclass
class Leaf:
    """One parameter tensor of all runs, during one step.

    Args:
        weight: (R, *shape), before the update. Links never change it.
        gradient: (R, *shape), raw. Links never change it.
        update: (R, *shape). It starts as the gradient; links transform it; the caller subtracts it from the weight.
        state: Tensors that persist between steps. One per element, (R, *shape), allows a sparse caller to pass the
            touched rows alone; others have one value or row for each run.
        scratch: Tensors that one link leaves for a later one within a step.
        factor: Product of the factors of the update in this step, (R,); the smallest, if a tensor has several. The
            caller sets it to ones to record it. None records nothing and costs nothing.
        parts: Where this is a part of the tensor: links then take norms and minima over all parts.
        segments: Where several tensors lie side by side in this leaf, (R, P). A norm or a factor of each tensor is then
            (R, L). Only links with `packable` see such leaves.
        counts: Numbers of each tensor that count, (R,), (L,) or (R, L), where others are 0 in weight and gradient. None
            counts all.
    """

    weight: Tensor
    gradient: Tensor
    update: Tensor
    state: dict[str, Tensor] = field(default_factory=dict)
    scratch: dict[str, Tensor] = field(default_factory=dict)
    factor: Tensor | None = None
    parts: Parts | None = None
    segments: Segments | None = None
    counts: Tensor | None = None

    def norm(self, x: Tensor) -> Tensor:
        """Return the Euclidean norm of each run of a tensor of this leaf: (R, *shape) -> (R,), or (R, L)."""
        if self.segments:
            return self.segments.norm(x)
        norm = l2_norm(x)
        return norm if self.parts is None else torch.linalg.vector_norm(self.parts.gather(norm), dim=0)

    def without_padding(self, x: Tensor) -> Tensor:
        """Return `x` without the numbers that no tensor has, whose update need not be 0."""
        return self.segments.without_padding(x) if self.segments else x

    def spread(self, value: Scalar, like: Tensor) -> Scalar:
        """Return a value of each run (R,), or of each tensor (R, L), for use with a tensor of this leaf."""
        if self.segments and isinstance(value, Tensor) and value.ndim == 2 and value.shape != like.shape:
            return self.segments.spread(value.to(like.dtype))
        return per_run(value, like)


class Link(ABC):
    """One transform of the update.

    `per_leaf` is False if it needs all tensors of the model together. `shared` names the state that is the same for all
    tensors: it is read from the first one. `packable` is True if it takes leaves with `segments`.
    """

    per_leaf = False
    packable = False
    shared: ClassVar[frozenset[str]] = frozenset()

    def init(self, weight: Tensor) -> dict[str, Tensor]:
        """Return the state before the first step, for a weight of shape (R, *shape)."""
        return {}

    @abstractmethod
    def apply(self, leaves: Sequence[Leaf]) -> None:
        """Set the `update` and state of each leaf."""


class LeafLink(Link):
    """A transform of each tensor's update, independent of the other tensors."""

    per_leaf = True

    def apply(self, leaves: Sequence[Leaf]) -> None:
        for leaf in leaves:
            self.apply_one(leaf)

    @abstractmethod
    def apply_one(self, leaf: Leaf) -> None:
        """Set the `update` and state of one leaf."""


class ElementLink(LeafLink):
    """A transform of each element by itself. `counts` names the state that all elements of a run share.

    Such a count is (R, L) where several tensors lie side by side: `Leaf.spread` fits it to the elements.
    """

    packable = True
    counts: ClassVar[frozenset[str]] = frozenset()

    def apply_one(self, leaf: Leaf) -> None:
        self.count(leaf.state)
        self.apply_elements(leaf)

    def count(self, state: dict[str, Tensor]) -> None:
        """Advance the counts by one step, in place."""

    @abstractmethod
    def apply_elements(self, leaf: Leaf) -> None:
        """Set the `update` and the rest of the state, in place, of elements whose counts are of this step."""


class Chain:
    """Applies links in their order."""

    def __init__(self, links: Sequence[Link]) -> None:
        if wrong := [link for link in links if not isinstance(link, Link)]:
            raise TypeError(f"a chain takes links, got {type(wrong[0]).__name__}")
        self.links = tuple(links)
        self.per_leaf = all(link.per_leaf for link in self.links)
        self.packable = all(link.packable for link in self.links)
        self.shared = {key for link in self.links for key in link.shared}
        self._all_ours = all(type(link).__module__.startswith(OURS) for link in self.links)

    def init(self, weight: Tensor) -> dict[str, Tensor]:
        """Return the state of all links before the first step, for a weight of shape (R, *shape)."""
        state: dict[str, Tensor] = {}
        for link in self.links:
            new = link.init(weight)
            assert not any(key in state for key in new), f"two links keep the same state: {sorted(new)}"
            state |= new
        return state

    def keys(self) -> set[str]:
        """Return the names of the state of one tensor, without what all tensors share."""
        return self.init(torch.zeros(1, 0)).keys() - self.shared

    def start(self, leaves: Sequence[Leaf]) -> None:
        """Set each leaf's `update` to its gradient, or to a copy, which a user's own link may change in place."""
        for leaf in leaves:
            leaf.update = leaf.gradient if self._all_ours else leaf.gradient.clone()

    def updates(self, leaves: Sequence[Leaf]) -> None:
        """Set each leaf's `update`, starting from its gradient."""
        self.start(leaves)
        # leaf by leaf if the links allow it, so that temporaries stay in the cache
        for per_leaf, links in itertools.groupby(self.links, key=lambda link: link.per_leaf):
            together = list(links)
            for part in [[leaf] for leaf in leaves] if per_leaf else [leaves]:
                for link in together:
                    link.apply(part)


Base = Callable[..., Link]
"""Makes the link that a method works on: Adagrad, or what the option `base` names."""


def chain(*links: Link | Chain) -> Chain:
    """Return a chain of these links; chains among them are unpacked."""
    return Chain([x for link in links for x in (link.links if isinstance(link, Chain) else (link,))])


def multiply(leaf: Leaf, factor: Scalar) -> None:
    """Multiply the update by a factor, but never change the gradient."""
    factor = leaf.spread(factor, leaf.update)
    if leaf.update is leaf.gradient:
        leaf.update = leaf.update * factor
    else:
        leaf.update.mul_(factor)


def apply_factor(leaf: Leaf, factor: Tensor) -> None:
    """Multiply the update by a factor per run (R,), per unit (R, out) or per element (R, *shape), and record it.

    The factor that a replay shows is the smallest of a tensor.
    """
    multiply(leaf, factor)
    if leaf.factor is not None and leaf.segments:
        leaf.factor = leaf.factor * per_run(factor, leaf.factor)
    elif leaf.factor is not None:
        several = factor.flatten(1).amin(1) if factor.ndim > 1 and factor.numel() else torch.ones_like(leaf.factor)
        smallest = factor if factor.ndim == 1 else several
        leaf.factor = leaf.factor * smallest


def measured(leaf: Leaf, on: str) -> Tensor:
    """Return the leaf's update, or its raw gradient if `on` is "gradient"."""
    return leaf.gradient if on == "gradient" else leaf.update

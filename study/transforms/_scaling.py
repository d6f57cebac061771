"""Links that scale the update: the bases, the learning rate, the trust ratio, weight decay."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from study.transforms._base import ElementLink, Leaf, LeafLink, Link, apply_factor, multiply
from study.transforms._math import Scalar, adagrad_root, per_run, trust_ratio


@dataclass(frozen=True)
class ScaleByAdagrad(ElementLink):
    initial_accumulator: float
    eps: float
    delayed: bool
    keep_accumulator: bool
    keep_root: bool

    def init(self, weight: Tensor) -> dict[str, Tensor]:
        return {"accumulator": torch.full_like(weight, self.initial_accumulator)}

    def apply_elements(self, leaf: Leaf) -> None:
        before = leaf.state["accumulator"]
        square = leaf.update * leaf.update
        if self.keep_accumulator:
            leaf.scratch["accumulator"] = before.clone()
        if self.delayed:
            root = adagrad_root(before, self.eps)
            before.add_(square)
        else:
            before.add_(square)
            root = adagrad_root(before, self.eps, out=square)
        if self.keep_root:
            leaf.scratch["root"] = root
            leaf.update = leaf.update / root
        else:
            leaf.update = torch.div(leaf.update, root, out=root)


def scale_by_adagrad(
    initial_accumulator: float = 0.1,
    eps: float = 1e-7,
    *,
    delayed: bool = False,
    keep_accumulator: bool = False,
    keep_root: bool = False,
) -> Link:
    """Return Adagrad's link: `G <- G + g*g ; u = g / sqrt(G + eps)` (Duchi et al., 2011).

    With G0 = 0 and eps = 0, a zero gradient gives NaN.

    Args:
        initial_accumulator: G0.
        eps: Added inside the root.
        delayed: Divide by the root of the previous accumulator.
        keep_accumulator: Leave the previous accumulator in `scratch`, for `shrink_to_weights`.
        keep_root: Leave the root in `scratch`, for `shrink_to_weights`.
    """
    return ScaleByAdagrad(initial_accumulator, eps, delayed, keep_accumulator, keep_root)


@dataclass(frozen=True)
class ScaleBySgd(ElementLink):
    momentum: Scalar
    nesterov: bool

    def init(self, weight: Tensor) -> dict[str, Tensor]:
        return _momentum_state(self.momentum, weight)

    def apply_elements(self, leaf: Leaf) -> None:
        _add_momentum(leaf, self.momentum, self.nesterov)


def scale_by_sgd(momentum: Scalar = 0.0, *, nesterov: bool = False) -> Link:
    """Return SGD's link: `u = g`, with momentum `m <- momentum * m + g ; u = m`. nesterov: `u = g + momentum * m`."""
    return ScaleBySgd(momentum, nesterov)


@dataclass(frozen=True)
class ScaleByRmsprop(ElementLink):
    decay: float
    eps: float
    momentum: Scalar

    def init(self, weight: Tensor) -> dict[str, Tensor]:
        return {"second_moment": torch.zeros_like(weight)} | _momentum_state(self.momentum, weight)

    def apply_elements(self, leaf: Leaf) -> None:
        moment = leaf.state["second_moment"]
        square = leaf.update * leaf.update
        moment.mul_(self.decay).add_(square.mul_(1 - self.decay))
        root = torch.sqrt(moment, out=square).add_(self.eps)
        leaf.update = torch.div(leaf.update, root, out=root)
        _add_momentum(leaf, self.momentum)


def scale_by_rmsprop(decay: float = 0.99, eps: float = 1e-8, momentum: Scalar = 0.0) -> Link:
    """Return RMSProp's link: `v <- decay * v + (1 - decay) * g*g ; u = g / (sqrt(v) + eps)`, with v0 = 0.

    With momentum, `m <- momentum * m + u ; u = m`. Source: Tieleman & Hinton, 2012.
    """
    return ScaleByRmsprop(decay, eps, momentum)


def _momentum_state(momentum: Scalar, weight: Tensor) -> dict[str, Tensor]:
    return {"momentum": torch.zeros_like(weight)} if isinstance(momentum, Tensor) or momentum != 0 else {}


def _add_momentum(leaf: Leaf, momentum: Scalar, nesterov: bool = False) -> None:
    if not isinstance(momentum, Tensor) and momentum == 0:
        return
    buffer = leaf.state["momentum"]
    share = per_run(momentum, buffer)
    buffer.mul_(share).add_(leaf.update)
    leaf.update = leaf.update + buffer * share if nesterov else buffer.clone()


@dataclass(frozen=True)
class ScaleByAdam(ElementLink):
    b1: float
    b2: float
    eps: float
    count_steps: bool
    by_steps: bool
    counts: ClassVar[frozenset[str]] = frozenset(("first_share", "second_share", "step"))

    def init(self, weight: Tensor) -> dict[str, Tensor]:
        zeros = torch.zeros_like
        shares = {key: weight.new_zeros(weight.shape[0]) for key in ("first_share", "second_share")}
        steps = {"step": weight.new_zeros(weight.shape[0])} if self.count_steps else {}
        return {"first_moment": zeros(weight), "second_moment": zeros(weight)} | shares | steps

    def count(self, state: dict[str, Tensor]) -> None:
        # share_t = 1 - b^t, the share of a moment that comes from gradients. A recursion computes it, since a power
        # rounds differently at the end of a vector register.
        first_share = state["first_share"].mul_(self.b1).add_(1 - self.b1)
        second_share = state["second_share"].mul_(self.b2).add_(1 - self.b2)
        if self.count_steps:
            step = state["step"].add_(1)
            if self.by_steps:
                first_share.copy_(1 - self.b1**step)
                second_share.copy_(1 - self.b2**step)

    def apply_elements(self, leaf: Leaf) -> None:
        first, second = leaf.state["first_moment"], leaf.state["second_moment"]
        first_share, second_share = leaf.state["first_share"], leaf.state["second_share"]
        work = leaf.update * (1 - self.b1)
        first.mul_(self.b1).add_(work)
        torch.mul(leaf.update, leaf.update, out=work)
        second.mul_(self.b2).add_(work.mul_(1 - self.b2))
        root = torch.div(second, leaf.spread(second_share, second), out=work).sqrt_().add_(self.eps)
        leaf.update = (first / leaf.spread(first_share, first)).div_(root)


def scale_by_adam(
    b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, *, count_steps: bool = False, by_steps: bool = False
) -> Link:
    """Return Adam's link with bias correction: `u = m^ / (sqrt(v^) + eps)` (Kingma & Ba, 2015).

    Args:
        b1: Decay of the first moment.
        b2: Decay of the second moment.
        eps: Added to the root.
        count_steps: Keep the number of steps.
        by_steps: With `count_steps`, correct by `1 - b^t` with this step's b, as torch does where b changes.
    """
    return ScaleByAdam(b1, b2, eps, count_steps, by_steps)


@dataclass(frozen=True)
class Scale(ElementLink):
    lr: Scalar

    def apply_elements(self, leaf: Leaf) -> None:
        multiply(leaf, self.lr)


def scale(lr: Scalar) -> Link:
    """Return the link `u *= lr`."""
    return Scale(lr)


@dataclass(frozen=True)
class ScaleByTrustRatio(LeafLink):
    packable = True
    mu: Scalar

    def apply_one(self, leaf: Leaf) -> None:
        ratio = trust_ratio(leaf.norm(leaf.weight), leaf.norm(leaf.update))
        apply_factor(leaf, ratio.mul_(per_run(self.mu, ratio)))


def scale_by_trust_ratio(mu: Scalar = 1.0) -> Link:
    """Return LAMB's link, `u *= mu * norm(w) / norm(u)` for each tensor; `u *= mu` if either norm is 0.

    Source: You et al., Large Batch Optimization for Deep Learning, 2020.
    """
    return ScaleByTrustRatio(mu)


@dataclass(frozen=True)
class DecayWeights(ElementLink):
    weight_decay: Scalar
    lr: Scalar

    def apply_elements(self, leaf: Leaf) -> None:
        # two products in turn: a product of two floats rounds differently from one of two tensors
        decay = (leaf.weight * per_run(self.weight_decay, leaf.weight)).mul_(per_run(self.lr, leaf.weight))
        leaf.update = decay.add_(leaf.update)


ELEMENTWISE = (ScaleByAdagrad, ScaleBySgd, ScaleByRmsprop, ScaleByAdam, Scale, DecayWeights)
"""Links of this file that act on each element. Of these, only `DecayWeights` reads the weight."""


def decay_weights(weight_decay: Scalar, lr: Scalar) -> Link:
    """Return the link `u += lr * weight_decay * w` (Loshchilov & Hutter, 2019). At the end, no clip acts on it."""
    return DecayWeights(weight_decay, lr)

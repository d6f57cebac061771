"""The links that methods are made of: pure transforms from a gradient to an update, for many runs at once.

Every tensor has a leading run axis R, and every norm, minimum and factor is one run's own: a run gives the same bits
alone and in a stack, and a NaN stays in its run. A `Chain` starts with the gradient and hands it from link to link;
what comes out is subtracted from the weight:

    layer_clip = chain(clip_by_norm(max_norm), scale_by_adagrad(), scale(lr))
    clippy     = chain(scale_by_adagrad(), scale(lr), shrink_to_weights(rel, abs_))

First the mathematics (functions of tensors, checkable with a pencil), then the links. Hyperparameters are floats, or
tensors of shape (R,) that may change between steps. A factor of exactly 1 changes no bit; a threshold of infinity
gives exactly 1. Only elementwise +, *, /, sqrt and reductions within a run are used: fused operations and powers
round differently at the end of a vector register, which would make a run depend on its place in the stack.
"""

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

Scalar = float | Tensor
"""A float for all runs, or a tensor of shape (R,)."""


# --- the mathematics ---------------------------------------------------------------------------------------------


def per_run(value: Scalar, like: Tensor) -> Scalar:
    """`value` ready to be combined with `like` (R, ...): shape (R,) becomes (R, 1, ...), in `like`'s type and place."""
    if not isinstance(value, Tensor):
        return value
    value = value.to(device=like.device, dtype=like.dtype)
    return value.reshape(value.shape + (1,) * (like.ndim - value.ndim)) if value.ndim else value


def l2_norm(x: Tensor) -> Tensor:
    """Euclidean norm of each run: (R, *shape) -> (R,). Infinite where the squares overflow."""
    return torch.linalg.vector_norm(_rows(x), dim=1)


def unit_norm(x: Tensor) -> Tensor:
    """Euclidean norm of each output unit: (R, out, ...) -> (R, out); of tensors with fewer dims, of each run: (R,)."""
    if x.ndim < 3:
        return l2_norm(x)
    return torch.linalg.vector_norm(x.reshape(*x.shape[:2], math.prod(x.shape[2:])), dim=2)


def global_norm(tensors: Sequence[Tensor]) -> Tensor:
    """Euclidean norm of each run over all tensors together: several (R, *shape) -> (R,)."""
    squares = []
    for x in tensors:
        norm = l2_norm(x)
        squares.append(norm * norm)
    total = squares[0]
    for square in squares[1:]:
        total = total + square.to(total)
    return total.sqrt_()


def clip_factor(norm: Tensor, max_norm: Scalar) -> Tensor:
    """`min(1, max_norm / norm)`, elementwise; NaN where the norm is. max_norm: a scalar, or of the norm's shape."""
    limit = max_norm if isinstance(max_norm, Tensor) else torch.full_like(norm, max_norm)
    return (limit / norm).masked_fill_(norm <= limit, 1.0)


def trust_ratio(weight_norm: Tensor, update_norm: Tensor) -> Tensor:
    """`norm(w) / norm(r)`, and 1 where either is 0 (You et al., Large Batch Optimization for Deep Learning, 2020)."""
    none = (weight_norm == 0) | (update_norm == 0)
    return (weight_norm / update_norm).masked_fill_(none, 1.0)


def shrink_factor(
    update: Tensor,
    weight: Tensor,
    rel: Scalar,
    abs_: Scalar,
    *,
    acc_rel: Scalar = 0.0,
    root: Tensor | None = None,
    norm: str = "max",
) -> Tensor:
    """How far the update may go, so that the weights change by no more than a share of themselves: (R, *shape) -> (R,).

        bound_i = rel * |w_i| + abs + acc_rel / root_i
        norm="max":  min(1, min_i bound_i / |u_i|)              Clippy (Tang et al., KDD 2023, Algorithm 1)
        norm="rms":  min(1, 1 / RMS_i(|u_i| / bound_i))         as Adafactor clips (Shazeer & Stern, 2018)

    root: Adagrad's `sqrt(G + eps)`, (R, *shape); without it there is no third term. A zero update asks for nothing,
    a zero bound freezes the run's tensor, an infinite threshold gives 1.
    """
    if update.numel() == 0:
        return update.new_ones(update.shape[0])
    bound = _bound(weight, rel, abs_, acc_rel, root)
    # 0 / 0 and infinity / infinity are a NaN that asks for nothing. They are replaced where a bound can be 0 or
    # infinite, and a NaN of the update's or the weight's own is put back; a mask would cost more than all else here
    as_tensor = isinstance(rel, Tensor) or isinstance(abs_, Tensor) or root is not None
    tame = not as_tensor and rel < math.inf and 0 < abs_ < math.inf
    if norm == "max":
        room = bound.div_(update).abs_()
        factor = _rows(room if tame else room.nan_to_num_(nan=1.0)).amin(1).clamp_(max=1.0)
    else:
        ratio = torch.div(update, bound, out=bound)
        ratio = _rows(ratio if tame else ratio.nan_to_num_(nan=0.0, posinf=math.inf, neginf=-math.inf))
        rms = ratio.mul_(ratio).mean(1).sqrt_()
        factor = rms.reciprocal().masked_fill_(rms <= 1, 1.0)
    if not tame:
        for x in (update, weight):
            factor.masked_fill_(_rows(x).amax(1).isnan(), math.nan)
    return factor


def _bound(weight: Tensor, rel: Scalar, abs_: Scalar, acc_rel: Scalar, root: Tensor | None) -> Tensor:
    # infinity * 0 is NaN: an infinite share of a zero weight is taken as an infinite constant instead
    rel, abs_ = _move_infinity(rel, abs_)
    if root is not None:
        acc_rel, abs_ = _move_infinity(acc_rel, abs_)
    bound = weight.abs().mul_(per_run(rel, weight)).add_(per_run(abs_, weight))
    if root is not None:
        share = per_run(acc_rel, root)
        share = share if isinstance(share, Tensor) else torch.full_like(root[:1], share)
        bound.add_((share / root).masked_fill_(share == 0, 0.0))
    return bound


def _move_infinity(share: Scalar, constant: Scalar) -> tuple[Scalar, Scalar]:
    if isinstance(share, Tensor):
        off = share == math.inf
        if not isinstance(constant, Tensor):
            constant = torch.full_like(share, constant)
        return share.masked_fill(off, 0.0), constant.to(share).masked_fill(off, math.inf)
    return (0.0, math.inf) if share == math.inf else (share, constant)


def adagrad_root(accumulator: Tensor, eps: float, out: Tensor | None = None) -> Tensor:
    """`sqrt(G + eps)`, eps inside the root, as in Keras and the paper; elementwise. out: overwritten with it."""
    return torch.add(accumulator, eps, out=out).sqrt_()


def _rows(x: Tensor) -> Tensor:
    return x.reshape(x.shape[0], math.prod(x.shape[1:]))


# --- the plumbing ------------------------------------------------------------------------------------------------


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


def _multiply(leaf: Leaf, factor: Scalar) -> None:
    factor = per_run(factor, leaf.update)
    if leaf.update is leaf.gradient:
        leaf.update = leaf.update * factor
    else:
        leaf.update.mul_(factor)


def apply_factor(leaf: Leaf, factor: Tensor) -> None:
    """Multiply by a factor per run (R,) or per unit (R, out), and let a watcher know."""
    _multiply(leaf, factor)
    if leaf.factor is not None:
        smallest = factor if factor.ndim == 1 else factor.amin(1) if factor.numel() else torch.ones_like(leaf.factor)
        leaf.factor = leaf.factor * smallest


# --- bases: from a gradient to a direction -----------------------------------------------------------------------


@dataclass(frozen=True)
class ScaleByAdagrad(LeafLink):
    initial_accumulator: float
    eps: float
    delayed: bool
    keep_accumulator: bool
    keep_root: bool

    def init(self, weight: Tensor) -> dict[str, Tensor]:
        return {"accumulator": torch.full_like(weight, self.initial_accumulator)}

    def apply_one(self, leaf: Leaf) -> None:
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
    """`G <- G + g*g ; u = g / sqrt(G + eps)` (Duchi et al., 2011). With G0 = 0 and eps = 0, a zero gradient is NaN.

    delayed: divide by the accumulator as it was before this gradient. keep_accumulator, keep_root: leave that older
    accumulator, or the root that was divided by, to later links (`shrink_to_weights`).
    """
    return ScaleByAdagrad(initial_accumulator, eps, delayed, keep_accumulator, keep_root)


@dataclass(frozen=True)
class ScaleBySgd(LeafLink):
    momentum: Scalar

    def init(self, weight: Tensor) -> dict[str, Tensor]:
        return {} if self._plain else {"momentum": torch.zeros_like(weight)}

    def apply_one(self, leaf: Leaf) -> None:
        if self._plain:
            return
        buffer = leaf.state["momentum"]
        buffer.mul_(per_run(self.momentum, buffer)).add_(leaf.update)
        leaf.update = buffer.clone()

    @property
    def _plain(self) -> bool:
        return not isinstance(self.momentum, Tensor) and self.momentum == 0


def scale_by_sgd(momentum: Scalar = 0.0) -> Link:
    """The gradient as it is, or `m <- momentum * m + g ; u = m`."""
    return ScaleBySgd(momentum)


@dataclass(frozen=True)
class ScaleByRmsprop(LeafLink):
    decay: float
    eps: float

    def init(self, weight: Tensor) -> dict[str, Tensor]:
        return {"second_moment": torch.zeros_like(weight)}

    def apply_one(self, leaf: Leaf) -> None:
        moment = leaf.state["second_moment"]
        square = leaf.update * leaf.update
        moment.mul_(self.decay).add_(square.mul_(1 - self.decay))
        root = torch.sqrt(moment, out=square).add_(self.eps)
        leaf.update = torch.div(leaf.update, root, out=root)


def scale_by_rmsprop(decay: float = 0.99, eps: float = 1e-8) -> Link:
    """`v <- decay * v + (1 - decay) * g*g ; u = g / (sqrt(v) + eps)`, v0 = 0 (Tieleman & Hinton, 2012)."""
    return ScaleByRmsprop(decay, eps)


@dataclass(frozen=True)
class ScaleByAdam(LeafLink):
    b1: float
    b2: float
    eps: float

    def init(self, weight: Tensor) -> dict[str, Tensor]:
        zeros = torch.zeros_like
        shares = {key: weight.new_zeros(weight.shape[0]) for key in ("first_share", "second_share")}
        return {"first_moment": zeros(weight), "second_moment": zeros(weight)} | shares

    def apply_one(self, leaf: Leaf) -> None:
        first, second = leaf.state["first_moment"], leaf.state["second_moment"]
        # share_t = 1 - b^t, the share of a moment that comes from gradients, by its recursion: a power would round
        # differently at the end of a vector register
        first_share = leaf.state["first_share"].mul_(self.b1).add_(1 - self.b1)
        second_share = leaf.state["second_share"].mul_(self.b2).add_(1 - self.b2)
        work = leaf.update * (1 - self.b1)
        first.mul_(self.b1).add_(work)
        torch.mul(leaf.update, leaf.update, out=work)
        second.mul_(self.b2).add_(work.mul_(1 - self.b2))
        root = torch.div(second, per_run(second_share, second), out=work).sqrt_().add_(self.eps)
        leaf.update = (first / per_run(first_share, first)).div_(root)


def scale_by_adam(b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> Link:
    """Adam's direction with bias correction, `m^ / (sqrt(v^) + eps)` (Kingma & Ba, 2015)."""
    return ScaleByAdam(b1, b2, eps)


# --- scales, clips and decay -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scale(LeafLink):
    lr: Scalar

    def apply_one(self, leaf: Leaf) -> None:
        _multiply(leaf, self.lr)


def scale(lr: Scalar) -> Link:
    """`u *= lr`."""
    return Scale(lr)


@dataclass(frozen=True)
class ClipByNorm(LeafLink):
    max_norm: Scalar
    measured_on: str

    def apply_one(self, leaf: Leaf) -> None:
        norm = l2_norm(_measured(leaf, self.measured_on))
        apply_factor(leaf, clip_factor(norm, per_run(self.max_norm, norm)))


def clip_by_norm(max_norm: Scalar, *, measured_on: str = "update") -> Link:
    """`u *= min(1, max_norm / norm)`, per tensor. measured_on: whose norm, "update" or "gradient" (the raw one)."""
    return ClipByNorm(max_norm, measured_on)


@dataclass(frozen=True)
class ClipByRms(LeafLink):
    max_rms: Scalar

    def apply_one(self, leaf: Leaf) -> None:
        norm = l2_norm(leaf.update)
        rms = norm / math.sqrt(max(1, leaf.update[:1].numel()))
        apply_factor(leaf, clip_factor(rms, per_run(self.max_rms, rms)))


def clip_by_rms(max_rms: Scalar) -> Link:
    """`u *= min(1, max_rms / RMS(u))`, per tensor (Shazeer & Stern, 2018)."""
    return ClipByRms(max_rms)


@dataclass(frozen=True)
class ClipByGlobalNorm(Link):
    max_norm: Scalar
    measured_on: str

    def apply(self, leaves: Sequence[Leaf]) -> None:
        if not leaves:
            return
        norm = leaves[0].scratch.get("global_norm")
        if norm is None:
            norm = global_norm([_measured(leaf, self.measured_on) for leaf in leaves])
        factor = clip_factor(norm, per_run(self.max_norm, norm))
        for leaf in leaves:
            apply_factor(leaf, factor.to(leaf.update))


def clip_by_global_norm(max_norm: Scalar, *, measured_on: str = "update") -> Link:
    """`u *= min(1, max_norm / norm)`, the norm over all tensors. measured_on: "update" or "gradient" (the raw one).

    Where these are not all tensors of the model, the caller leaves the norm, (R,), in `scratch["global_norm"]`.
    """
    return ClipByGlobalNorm(max_norm, measured_on)


@dataclass(frozen=True)
class ClipToWeights(LeafLink):
    max_ratio: Scalar
    floor: Scalar
    per: str
    measured_on: str

    def apply_one(self, leaf: Leaf) -> None:
        norm_of = l2_norm if self.per == "tensor" else unit_norm
        norm = norm_of(_measured(leaf, self.measured_on))
        limit = norm_of(leaf.weight)
        floor = per_run(self.floor, limit)
        limit = torch.maximum(limit, floor.expand_as(limit)) if isinstance(floor, Tensor) else limit.clamp_(min=floor)
        apply_factor(leaf, clip_factor(norm, limit.mul_(per_run(self.max_ratio, limit))))


def clip_to_weights(
    max_ratio: Scalar, floor: Scalar = 1e-3, *, per: str = "tensor", measured_on: str = "update"
) -> Link:
    """`u *= min(1, max_ratio * max(norm(w), floor) / norm)`: adaptive gradient clipping (Brock et al., 2021).

    per: "tensor", or "unit" (each row of (out, in), tensors of fewer dims whole). measured_on: whose norm, "update" or
    "gradient" (the raw one).
    """
    return ClipToWeights(max_ratio, floor, per, measured_on)


@dataclass(frozen=True)
class ScaleByTrustRatio(LeafLink):
    mu: Scalar

    def apply_one(self, leaf: Leaf) -> None:
        ratio = trust_ratio(l2_norm(leaf.weight), l2_norm(leaf.update))
        apply_factor(leaf, ratio.mul_(per_run(self.mu, ratio)))


def scale_by_trust_ratio(mu: Scalar = 1.0) -> Link:
    """`u *= mu * norm(w) / norm(u)`, per tensor; `u *= mu` where either norm is 0 (LAMB; You et al., 2020)."""
    return ScaleByTrustRatio(mu)


@dataclass(frozen=True)
class ShrinkToWeights(LeafLink):
    rel: Scalar
    abs_: Scalar
    acc_rel: Scalar
    clip_accumulator: bool
    norm: str

    def apply_one(self, leaf: Leaf) -> None:
        root = leaf.scratch["root"] if isinstance(self.acc_rel, Tensor) or self.acc_rel != 0 else None
        factor = shrink_factor(
            leaf.update, leaf.weight, self.rel, self.abs_, acc_rel=self.acc_rel, root=root, norm=self.norm
        )
        apply_factor(leaf, factor)
        if self.clip_accumulator:
            clipped = leaf.gradient * per_run(factor, leaf.gradient)
            leaf.state["accumulator"].copy_(clipped.mul_(clipped).add_(leaf.scratch["accumulator"]))


def shrink_to_weights(
    rel: Scalar, abs_: Scalar, *, acc_rel: Scalar = 0.0, clip_accumulator: bool = False, norm: str = "max"
) -> Link:
    """`u *= shrink_factor(u, w, rel, abs)`, per tensor: Clippy (Tang et al., KDD 2023).

    acc_rel: adds `acc_rel / sqrt(G + eps)` to the bound; needs `scale_by_adagrad(keep_root=True)` before.
    clip_accumulator: let Adagrad remember `(factor * g)^2`; needs `scale_by_adagrad(delayed=True,
    keep_accumulator=True)` before.
    """
    return ShrinkToWeights(rel, abs_, acc_rel, clip_accumulator, norm)


@dataclass(frozen=True)
class DecayWeights(LeafLink):
    weight_decay: Scalar
    lr: Scalar

    def apply_one(self, leaf: Leaf) -> None:
        # one product after the other: the product of two floats would round differently from that of two tensors
        decay = (leaf.weight * per_run(self.weight_decay, leaf.weight)).mul_(per_run(self.lr, leaf.weight))
        leaf.update = decay.add_(leaf.update)


def decay_weights(weight_decay: Scalar, lr: Scalar) -> Link:
    """`u += lr * weight_decay * w` (Loshchilov & Hutter, 2019). Last in a chain, it stays outside the clip."""
    return DecayWeights(weight_decay, lr)


def _measured(leaf: Leaf, on: str) -> Tensor:
    return leaf.gradient if on == "gradient" else leaf.update

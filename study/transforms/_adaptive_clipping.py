"""Links that remember the gradient norms of a run: clips whose limit follows the run's own history.

What they keep is one value, or one row of values, a run, so that a run gives the same bits alone and in a stack. A norm
over all tensors has one history: the first tensor's, which the others carry along. Each link counts its own steps, and
nothing is read back from the device. Formulas and sources stand with the methods that use them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from study.transforms._base import Leaf, Link, apply_factor
from study.transforms._math import Scalar, clip_factor, global_norm, l2_norm, per_run


def z_score_limit(norm: Tensor, mean: Tensor, variance: Tensor, z_max: Scalar) -> Tensor:
    """The norm itself, and `mean + z_max^2 / z * std` where `z = (norm - mean) / std > z_max`; all (R,)."""
    above, most = norm - mean, _as_tensor(z_max, norm)
    limit = mean + most * most * variance / above
    return torch.where(above > most * variance.sqrt(), limit, norm)


def percentile_limit(history: Tensor, count: Tensor, percentile: Scalar) -> Tensor:
    """The percentile, interpolated, of the `count` (R,) smallest values of each row of `history`, (R, H) -> (R,)."""
    ordered = history.sort(dim=1).values
    last = count - 1
    place = torch.minimum(last * per_run(percentile, last) / 100, last)
    below = place.floor()
    low, high = (ordered.gather(1, i.long().unsqueeze(1)).squeeze(1) for i in (below, torch.minimum(below + 1, last)))
    share = place - below
    return torch.where(share > 0, low + (high - low) * share, low)


@dataclass(frozen=True)
class ClipByZScore(Link):
    z_max: Scalar
    decay: Scalar
    warmup_steps: int

    def init(self, weight: Tensor) -> dict[str, Tensor]:
        return {key: weight.new_zeros(weight.shape[0]) for key in ("norms_seen", "norm_mean", "norm_variance")}

    def apply(self, leaves: Sequence[Leaf]) -> None:
        if not leaves:
            return
        seen, mean, variance = (leaves[0].state[key] for key in ("norms_seen", "norm_mean", "norm_variance"))
        norm = _norm_of_all(leaves).to(mean)
        warm = seen < self.warmup_steps
        limit = torch.where(warm, norm, z_score_limit(norm, mean, variance, self.z_max))
        _clip_all(leaves, norm, limit)

        # the mean and variance of what was seen in the warm-up, by their recursion, and then moving averages
        seen = seen + 1
        step = norm - mean
        plain_mean = mean + step / seen
        plain_variance = variance + (step * (norm - plain_mean) - variance) / seen
        decay = _as_tensor(self.decay, mean)
        moving_mean = mean * decay + limit * (1 - decay)
        away = limit - moving_mean
        moving_variance = variance * decay + away * away * (1 - decay)
        _remember(
            leaves,
            norms_seen=seen,
            norm_mean=torch.where(warm, plain_mean, moving_mean),
            norm_variance=torch.where(warm, plain_variance, moving_variance),
        )


def clip_by_z_score(z_max: Scalar, decay: Scalar = 0.97, warmup_steps: int = 25) -> Link:
    """`u *= limit / norm` where the norm over all tensors lies more than z_max standard deviations above its mean.

    limit: `mean + z_max^2 / z * std`. Mean and variance are those of the first `warmup_steps` norms, which pass, and
    then moving averages of the clipped norms.
    """
    return ClipByZScore(z_max, decay, warmup_steps)


@dataclass(frozen=True)
class ClipByPercentile(Link):
    percentile: Scalar
    history: int

    def init(self, weight: Tensor) -> dict[str, Tensor]:
        runs = weight.shape[0]
        return {
            "norms_seen": weight.new_zeros(runs),
            "norm_history": weight.new_full((runs, self.history), math.inf),
        }

    def apply(self, leaves: Sequence[Leaf]) -> None:
        if not leaves:
            return
        seen, history = (leaves[0].state[key] for key in ("norms_seen", "norm_history"))
        norm = _norm_of_all(leaves).to(history)
        oldest = torch.remainder(seen, self.history).long().unsqueeze(1)
        history, seen = history.scatter(1, oldest, norm.unsqueeze(1)), seen + 1
        limit = percentile_limit(history, seen.clamp(max=self.history), self.percentile)
        _clip_all(leaves, norm, limit)
        _remember(leaves, norms_seen=seen, norm_history=history)


def clip_by_percentile(percentile: Scalar, history: int = 1000) -> Link:
    """`u *= min(1, limit / norm)`, limit: the percentile of the norms over all tensors, this one and those before it.

    history: of how many norms at most, the newest.
    """
    return ClipByPercentile(percentile, history)


@dataclass(frozen=True)
class ClipToAverageNorm(Link):
    rel: Scalar
    abs_: Scalar
    decay: Scalar
    warmup_steps: int

    def init(self, weight: Tensor) -> dict[str, Tensor]:
        runs = weight.shape[0]
        return {"norms_seen": weight.new_zeros(runs), "usual_norm": weight.new_full((runs,), math.inf)}

    def apply(self, leaves: Sequence[Leaf]) -> None:
        if not leaves:
            return
        total = _norm_of_all(leaves)
        of_all = clip_factor(total, per_run(self.abs_, total))
        for leaf in leaves:
            seen, usual = leaf.state["norms_seen"], leaf.state["usual_norm"]
            norm = l2_norm(leaf.update)
            warm = seen < self.warmup_steps
            factor = torch.where(warm, of_all.to(norm), clip_factor(norm, usual * per_run(self.rel, usual)))
            clipped = norm * factor
            # a gradient of zero is no usual norm: with a limit of 0 its tensor could never move again
            first = torch.where(clipped == 0, math.inf, clipped)
            decay = _as_tensor(self.decay, usual)
            later = torch.where(usual == math.inf, first, usual * decay + clipped * (1 - decay))
            leaf.state["usual_norm"] = torch.where(warm, torch.minimum(usual, first), later)
            leaf.state["norms_seen"] = seen + 1
            apply_factor(leaf, factor)


def clip_to_average_norm(rel: Scalar, abs_: Scalar = 1.0, decay: Scalar = 0.98, warmup_steps: int = 100) -> Link:
    """`u *= min(1, rel * usual / norm)`, per tensor, usual: the moving average of its clipped norms.

    For the first `warmup_steps`, the norm over all tensors is clipped to `abs_` instead, and usual is the smallest norm
    of what was left of the tensor's.
    """
    return ClipToAverageNorm(rel, abs_, decay, warmup_steps)


def _as_tensor(value: Scalar, like: Tensor) -> Tensor:
    """In like's type: what is computed of a threshold rounds alike for one run's float and for a stack's tensor."""
    return value.to(like) if isinstance(value, Tensor) else torch.full_like(like, value)


def _norm_of_all(leaves: Sequence[Leaf]) -> Tensor:
    norm = leaves[0].scratch.get("global_norm")
    return global_norm([leaf.update for leaf in leaves]) if norm is None else norm


def _clip_all(leaves: Sequence[Leaf], norm: Tensor, limit: Tensor) -> None:
    factor = clip_factor(norm, limit)
    for leaf in leaves:
        apply_factor(leaf, factor.to(leaf.update))


def _remember(leaves: Sequence[Leaf], **state: Tensor) -> None:
    for leaf in leaves:
        for key, value in state.items():
            leaf.state[key] = value.to(leaf.state[key])

"""Clips whose limit follows the run's own gradient norms. The methods that use them state the formulas and sources.

The state is one value or one row for each run, so that a run has the same bits alone and in a stack. A norm over all
tensors has one history: the first tensor's, which is copied to the others. Each link counts its own steps, and nothing
is copied to the host.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from study.transforms._base import Leaf, Link, apply_factor
from study.transforms._math import Scalar, clip_factor, global_norm, per_run


def z_score_limit(norm: Tensor, mean: Tensor, variance: Tensor, z_max: Scalar) -> Tensor:
    """Return the norm, or `mean + z_max^2 / z * std` where `z = (norm - mean) / std > z_max`; all (R,)."""
    above, most = norm - mean, _as_tensor(z_max, norm)
    limit = mean + most * most * variance / above
    return torch.where(above > most * variance.sqrt(), limit, norm)


def percentile_limit(history: Tensor, count: Tensor, percentile: Scalar) -> Tensor:
    """Return the interpolated percentile (R,) of the `count` (R,) smallest values of each row of `history` (R, H)."""
    ordered = history.sort(dim=1).values
    last = count - 1
    place = torch.minimum(last * per_run(percentile, last) / 100, last)
    below = place.floor()
    low, high = (ordered.gather(1, i.long().unsqueeze(1)).squeeze(1) for i in (below, torch.minimum(below + 1, last)))
    share = place - below
    return torch.where(share > 0, low + (high - low) * share, low)


@dataclass(frozen=True)
class ClipByZScore(Link):
    packable = True
    shared: ClassVar = frozenset(("norms_seen", "norm_mean", "norm_variance"))
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

        # exact mean and variance in the warm-up, by their recursion; moving averages after it
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
    """Return a link that clips outliers of the norm over all tensors to `mean + z_max^2 / z * std`.

    Args:
        z_max: An outlier is more than `z_max` standard deviations above the mean.
        decay: Of the moving averages of mean and variance, which see clipped norms.
        warmup_steps: First norms, which are not clipped. Their mean and variance start the moving averages.
    """
    return ClipByZScore(z_max, decay, warmup_steps)


@dataclass(frozen=True)
class ClipByPercentile(Link):
    packable = True
    shared: ClassVar = frozenset(("norms_seen", "norm_history"))
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
    """Return a link that clips the norm over all tensors to a percentile of its history, which includes this step.

    Args:
        percentile: From 0 to 100; 100 never clips.
        history: Number of the newest norms that are kept.
    """
    return ClipByPercentile(percentile, history)


@dataclass(frozen=True)
class ClipToAverageNorm(Link):
    packable = True
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
            norm = leaf.norm(leaf.update)
            warm = seen < self.warmup_steps
            factor = torch.where(warm, per_run(of_all, norm), clip_factor(norm, usual * per_run(self.rel, usual)))
            clipped = norm * factor
            # a zero gradient does not count: under a limit of 0 the tensor could never move again
            first = torch.where(clipped == 0, math.inf, clipped)
            decay = per_run(_as_tensor(self.decay, usual), usual)
            later = torch.where(usual == math.inf, first, usual * decay + clipped * (1 - decay))
            leaf.state["usual_norm"] = torch.where(warm, torch.minimum(usual, first), later)
            leaf.state["norms_seen"] = seen + 1
            apply_factor(leaf, factor)


def clip_to_average_norm(rel: Scalar, abs_: Scalar = 1.0, decay: Scalar = 0.98, warmup_steps: int = 100) -> Link:
    """Return a link that clips each tensor's norm to `rel * usual`; usual is the moving average of its clipped norms.

    Args:
        rel: Largest norm in units of the usual one.
        abs_: Largest norm over all tensors in the warm-up.
        decay: Of the moving average.
        warmup_steps: First steps, which `abs_` clips. The smallest clipped norm of a tensor starts its average.
    """
    return ClipToAverageNorm(rel, abs_, decay, warmup_steps)


def _as_tensor(value: Scalar, like: Tensor) -> Tensor:
    """Return a tensor of like's dtype, so that floats and tensors of a threshold round alike."""
    return value.to(like) if isinstance(value, Tensor) else torch.full_like(like, value)


def _norm_of_all(leaves: Sequence[Leaf]) -> Tensor:
    norm = leaves[0].scratch.get("global_norm")
    return global_norm([leaf.without_padding(leaf.update) for leaf in leaves]) if norm is None else norm


def _clip_all(leaves: Sequence[Leaf], norm: Tensor, limit: Tensor) -> None:
    factor = clip_factor(norm, limit)
    for leaf in leaves:
        apply_factor(leaf, factor.to(leaf.update))


def _remember(leaves: Sequence[Leaf], **state: Tensor) -> None:
    for leaf in leaves:
        for key, value in state.items():
            leaf.state[key] = value.to(leaf.state[key])

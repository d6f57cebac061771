"""Links that shrink a gradient or an update against a fixed limit, or against the weights."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from study.transforms._base import Leaf, LeafLink, Link, apply_factor, measured
from study.transforms._math import Scalar, clip_factor, global_norm, per_run, shrink_factor, unit_norm


@dataclass(frozen=True)
class ClipByNorm(LeafLink):
    packable = True
    max_norm: Scalar
    measured_on: str

    def apply_one(self, leaf: Leaf) -> None:
        norm = leaf.norm(measured(leaf, self.measured_on))
        apply_factor(leaf, clip_factor(norm, per_run(self.max_norm, norm)))


def clip_by_norm(max_norm: Scalar, *, measured_on: str = "update") -> Link:
    """Return a link that clips the norm of each tensor: `u *= min(1, max_norm / norm)`.

    Args:
        max_norm: Largest norm; infinity never clips.
        measured_on: Tensor whose norm is limited: "update", or "gradient" for the raw one.
    """
    return ClipByNorm(max_norm, measured_on)


@dataclass(frozen=True)
class ClipByRms(LeafLink):
    packable = True
    max_rms: Scalar

    def apply_one(self, leaf: Leaf) -> None:
        norm = leaf.norm(leaf.update)
        if leaf.counts is not None:
            rms = norm / leaf.counts.to(norm).clamp(min=1).sqrt()
        else:
            size = leaf.update[:1].numel() if leaf.parts is None else leaf.parts.size
            rms = norm / math.sqrt(max(1, size))
        apply_factor(leaf, clip_factor(rms, per_run(self.max_rms, rms)))


def clip_by_rms(max_rms: Scalar) -> Link:
    """Return a link that clips the root mean square of each tensor: `u *= min(1, max_rms / RMS(u))`.

    Source: Shazeer & Stern, Adafactor, 2018.
    """
    return ClipByRms(max_rms)


@dataclass(frozen=True)
class ClipByGlobalNorm(Link):
    packable = True
    max_norm: Scalar
    measured_on: str

    def apply(self, leaves: Sequence[Leaf]) -> None:
        if not leaves:
            return
        norm = leaves[0].scratch.get("global_norm")
        if norm is None:
            norm = global_norm([leaf.without_padding(measured(leaf, self.measured_on)) for leaf in leaves])
        factor = clip_factor(norm, per_run(self.max_norm, norm))
        for leaf in leaves:
            apply_factor(leaf, factor.to(leaf.update))


def clip_by_global_norm(max_norm: Scalar, *, measured_on: str = "update") -> Link:
    """Return a link that clips the norm over all tensors: `u *= min(1, max_norm / norm)`.

    A caller that passes only a part of the model's tensors sets `scratch["global_norm"]`, (R,), of each leaf.

    Args:
        max_norm: Largest norm; infinity never clips.
        measured_on: Tensor whose norm is limited: "update", or "gradient" for the raw one.
    """
    return ClipByGlobalNorm(max_norm, measured_on)


@dataclass(frozen=True)
class ClipToWeights(LeafLink):
    max_ratio: Scalar
    floor: Scalar
    per: str
    measured_on: str

    @property
    def packable(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.per == "tensor"

    def apply_one(self, leaf: Leaf) -> None:
        by_unit = self.per == "unit" and leaf.weight.ndim > 2
        if by_unit and leaf.parts is not None and not leaf.parts.by_rows:
            raise ValueError("per=unit needs a matrix that is split by its rows; use per=tensor")
        norm_of = unit_norm if by_unit else leaf.norm
        norm = norm_of(measured(leaf, self.measured_on))
        limit = norm_of(leaf.weight)
        floor = per_run(self.floor, limit)
        limit = torch.maximum(limit, floor.expand_as(limit)) if isinstance(floor, Tensor) else limit.clamp_(min=floor)
        apply_factor(leaf, clip_factor(norm, limit.mul_(per_run(self.max_ratio, limit))))


def clip_to_weights(
    max_ratio: Scalar, floor: Scalar = 1e-3, *, per: str = "tensor", measured_on: str = "update"
) -> Link:
    """Return a link for adaptive gradient clipping: `u *= min(1, max_ratio * max(norm(w), floor) / norm)`.

    Source: Brock et al., High-Performance Large-Scale Image Recognition Without Normalization, 2021.

    Args:
        max_ratio: Largest norm as a share of the weight's norm; infinity never clips.
        floor: Smallest norm of a weight that counts, so that zero weights can move.
        per: "tensor", or "unit" for one norm of each row of (out, in). Tensors of fewer dims have one norm.
        measured_on: Tensor whose norm is limited: "update", or "gradient" for the raw one.
    """
    return ClipToWeights(max_ratio, floor, per, measured_on)


@dataclass(frozen=True)
class ShrinkToWeights(LeafLink):
    packable = True
    rel: Scalar
    abs_: Scalar
    acc_rel: Scalar
    clip_accumulator: bool
    norm: str

    def apply_one(self, leaf: Leaf) -> None:
        root = leaf.scratch["root"] if isinstance(self.acc_rel, Tensor) or self.acc_rel != 0 else None
        factor = shrink_factor(
            leaf.update,
            leaf.weight,
            self.rel,
            self.abs_,
            acc_rel=self.acc_rel,
            root=root,
            norm=self.norm,
            parts=leaf.parts,
            segments=leaf.segments,
            counts=leaf.counts,
        )
        apply_factor(leaf, factor)
        if self.clip_accumulator:
            clipped = leaf.gradient * leaf.spread(factor, leaf.gradient)
            leaf.state["accumulator"].copy_(clipped.mul_(clipped).add_(leaf.scratch["accumulator"]))


def shrink_to_weights(
    rel: Scalar, abs_: Scalar, *, acc_rel: Scalar = 0.0, clip_accumulator: bool = False, norm: str = "max"
) -> Link:
    """Return Clippy's link, `u *= shrink_factor(u, w, rel, abs)` for each tensor.

    Source: Tang et al., Improving Training Stability for Multitask Ranking Models, KDD 2023.

    Args:
        rel: Bound as a share of each weight.
        abs_: Part of the bound that does not depend on the weight.
        acc_rel: Adds `acc_rel / sqrt(G + eps)` to the bound. Needs `scale_by_adagrad(keep_root=True)` before.
        clip_accumulator: Adagrad accumulates `(factor * g)^2`. Needs `scale_by_adagrad(delayed=True,
            keep_accumulator=True)` before.
        norm: "max", or "rms" to bound the root mean square of `|u_i| / bound_i`.
    """
    return ShrinkToWeights(rel, abs_, acc_rel, clip_accumulator, norm)

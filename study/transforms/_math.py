"""The mathematics of the links.

Every tensor has a leading run axis R, and every norm, minimum and factor belongs to one run. So a run has the same bits
alone and in a stack, and a NaN stays in its run. An infinite threshold gives a factor of exactly 1, which changes no
bit. Only elementwise +, *, /, sqrt and reductions within a run are used. Fused operations and powers round differently
at the end of a vector register, so that a run would depend on its place in the stack.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from study.transforms._base import Parts
    from study.transforms._segments import Segments

Scalar = float | Tensor
"""A float for all runs, or a tensor of shape (R,)."""


def per_run(value: Scalar, like: Tensor) -> Scalar:
    """Return `value` for use with `like` (R, ...): shape (R,) becomes (R, 1, ...), in `like`'s dtype and device."""
    if not isinstance(value, Tensor):
        return value
    value = value.to(device=like.device, dtype=like.dtype)
    return value.reshape(value.shape + (1,) * (like.ndim - value.ndim)) if value.ndim else value


def l2_norm(x: Tensor) -> Tensor:
    """Return the Euclidean norm of each run: (R, *shape) -> (R,). Infinite if the squares overflow."""
    return torch.linalg.vector_norm(_rows(x), dim=1)


def unit_norm(x: Tensor) -> Tensor:
    """Return the norm of each output unit: (R, out, ...) -> (R, out). With fewer dims, that of each run: (R,)."""
    if x.ndim < 3:
        return l2_norm(x)
    return torch.linalg.vector_norm(x.reshape(*x.shape[:2], math.prod(x.shape[2:])), dim=2)


def global_norm(tensors: Sequence[Tensor]) -> Tensor:
    """Return the Euclidean norm of each run over all tensors: several (R, *shape) -> (R,)."""
    squares = []
    for x in tensors:
        norm = l2_norm(x)
        squares.append(norm * norm)
    total = squares[0]
    for square in squares[1:]:
        total = total + square.to(total)
    return total.sqrt_()


def clip_factor(norm: Tensor, max_norm: Scalar) -> Tensor:
    """Return `min(1, max_norm / norm)`, elementwise; NaN where the norm is NaN.

    Args:
        norm: Norms of any shape.
        max_norm: A float, or a tensor of the norm's shape.
    """
    limit = max_norm if isinstance(max_norm, Tensor) else torch.full_like(norm, max_norm)
    return (limit / norm).masked_fill_(norm <= limit, 1.0)


def trust_ratio(weight_norm: Tensor, update_norm: Tensor) -> Tensor:
    """Return `norm(w) / norm(r)`, or 1 where either is 0 (You et al., Large Batch Optimization, 2020)."""
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
    parts: "Parts | None" = None,
    segments: "Segments | None" = None,
    counts: Tensor | None = None,
) -> Tensor:
    """Return the factor (R,) by which an update respects the bound of each weight.

        bound_i = rel * |w_i| + abs + acc_rel / root_i
        norm="max":  min(1, min_i bound_i / |u_i|)              Clippy (Tang et al., KDD 2023, Algorithm 1)
        norm="rms":  min(1, 1 / RMS_i(|u_i| / bound_i))         as Adafactor clips (Shazeer & Stern, 2018)

    A zero update does not limit the factor. A zero bound gives a factor of 0, an infinite threshold a factor of 1.

    Args:
        update: (R, *shape), learning rate included.
        weight: (R, *shape).
        rel: Bound as a share of the weight.
        abs_: Constant part of the bound.
        acc_rel: Share of `1 / root` in the bound.
        root: Adagrad's `sqrt(G + eps)`, (R, *shape). None leaves out the third term.
        norm: "max" or "rms".
        parts: The parts of the tensor, where update and weight are one of them.
        segments: The tensors in update and weight, where they are several, (R, P). The factors are then (R, L).
        counts: Numbers of each tensor that count, where the others are 0.
    """
    if update.numel() == 0 and parts is None:
        return update.new_ones(update.shape[0])
    bound = _bound(weight, rel, abs_, acc_rel, root)
    # 0 / 0 and infinity / infinity are NaN but do not limit the factor. They are replaced if a bound can be 0 or
    # infinite, and NaNs of the update and the weight are restored. A mask would cost more than all other work here.
    as_tensor = isinstance(rel, Tensor) or isinstance(abs_, Tensor) or root is not None
    tame = not as_tensor and rel < math.inf and 0 < abs_ < math.inf
    if norm == "max":
        room = bound.div_(update).abs_()
        room = _rows(room if tame else room.nan_to_num_(nan=1.0))
        if segments:
            factor = segments.least(room).clamp_(max=1.0)
        else:  # the part of another process may have all elements
            factor = room.amin(1).clamp_(max=1.0) if room.numel() else update.new_ones(update.shape[0])
    else:
        ratio = torch.div(update, bound, out=bound)
        ratio = _rows(ratio if tame else ratio.nan_to_num_(nan=0.0, posinf=math.inf, neginf=-math.inf))
        squares = ratio.mul_(ratio)
        if counts is not None:
            total = segments.sum(squares) if segments else squares.sum(1)
            mean = total / counts.to(total).clamp(min=1)
        else:
            mean = squares.mean(1) if parts is None else parts.gather(squares.sum(1)).sum(0).div_(parts.size)
        rms = mean.sqrt_()
        factor = rms.reciprocal().masked_fill_(rms <= 1, 1.0)
    if not tame and update.numel():
        for x in (update, weight):
            largest = segments.greatest(x) if segments else _rows(x).amax(1)
            factor.masked_fill_(largest.isnan(), math.nan)
    return factor if parts is None else parts.gather(factor).amin(0)


def _bound(weight: Tensor, rel: Scalar, abs_: Scalar, acc_rel: Scalar, root: Tensor | None) -> Tensor:
    # infinity * 0 is NaN, so an infinite share becomes an infinite constant
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
    """Return `sqrt(G + eps)`, elementwise, with eps inside the root as in Keras and the paper.

    Args:
        accumulator: G.
        eps: Added to G.
        out: Tensor that receives the result; None allocates one.
    """
    return torch.add(accumulator, eps, out=out).sqrt_()


def _rows(x: Tensor) -> Tensor:
    return x.reshape(x.shape[0], math.prod(x.shape[1:]))

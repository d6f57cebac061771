"""Sharpness: the largest eigenvalue of the Hessian as the method's base scales it, by Lanczos.

    D^-1/2 H D^-1/2        H: the Hessian of a loss; D: what the base divides a gradient by, Adagrad's sqrt(G + eps)

Descent by `w -= lr * g / D` along an eigenvector of eigenvalue s multiplies by 1 - lr * s, hence grows where
s > 2 / lr; with momentum the threshold is higher (`threshold`). A method that multiplies the update of a tensor by a
factor f scales as if its D were D / f.

Preconditioned sharpness of adaptive methods: Cohen et al., Adaptive Gradient Methods at the Edge of Stability, 2022
(arXiv 2207.14484). Lanczos with full reorthogonalization: Golub & Van Loan, Matrix Computations, chapter 10. The
eigenvalue is the largest, not the largest in size: what curves downward is left by any step.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

SEED = 0
"""Of the vector that Lanczos starts from."""

ALL = "all"
"""The block of all parameters together."""


@dataclass(frozen=True, kw_only=True)
class Eigenvalue:
    """value: NaN where a product was not finite. error: an eigenvalue lies within this of it. products: how many
    Hessian-vector products it took. vector: its eigenvector, of norm 1."""

    value: float
    error: float
    products: int
    vector: Tensor


def largest_eigenvalue(
    product: Callable[[Tensor], Tensor], start: Tensor, *, tolerance: float = 1e-4, limit: int = 200
) -> Eigenvalue:
    """The largest eigenvalue of a symmetric matrix, given by its product with a vector.

    start: (n,), not 0; a random vector, or one near the eigenvector. Ends once the error is at most `tolerance` of the
    eigenvalue, or after `limit` products.
    """
    basis_KN = start.new_empty(min(limit, len(start)), len(start))
    basis_KN[0] = start / start.norm()
    diagonal, beside = [], []
    while True:
        k = len(diagonal)
        new_N = product(basis_KN[k])
        diagonal.append(float(new_N @ basis_KN[k]))
        if not math.isfinite(diagonal[-1]):
            return Eigenvalue(value=math.nan, error=math.nan, products=k + 1, vector=start)
        so_far_KN = basis_KN[: k + 1]
        for _ in range(2):  # once leaves what rounding put back
            new_N = new_N - so_far_KN.T @ (so_far_KN @ new_N)
        length = float(new_N.norm())
        values, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1))
        error = length * abs(float(vectors[-1, -1]))
        scale = float(np.abs(values).max())
        ended = length <= 1e-12 * scale or k + 1 == len(basis_KN)
        if error <= tolerance * abs(values[-1]) or ended or not math.isfinite(length):
            vector = torch.from_numpy(vectors[:, -1]).to(start) @ so_far_KN
            return Eigenvalue(value=float(values[-1]), error=error, products=k + 1, vector=vector)
        beside.append(length)
        basis_KN[k + 1] = new_N / length


def sharpness(
    loss: Callable[[Sequence[Tensor]], Tensor],
    parameters: Sequence[Tensor],
    divisors: Sequence[Tensor | float],
    blocks: Mapping[str, Sequence[int]] | None = None,
    *,
    near: Mapping[str, Tensor] | None = None,
    tolerance: float = 1e-4,
    limit: int = 200,
) -> dict[str, Eigenvalue]:
    """The largest eigenvalue of `D^-1/2 H D^-1/2`, of all parameters (`ALL`) and of each block alone.

    loss: from parameters of these shapes to a scalar that can be differentiated twice; called once, in double
    precision. divisors: D, one for each parameter, of its shape or a number. blocks: name -> places in `parameters`;
    None is all of them together. near: where to begin, by block: an eigenvector that was found a few steps ago saves
    products.
    """
    blocks = {ALL: range(len(parameters))} if blocks is None else blocks
    with torch.enable_grad():
        at = [p.detach().double().requires_grad_() for p in parameters]
        gradients = torch.autograd.grad(loss(at), at, create_graph=True, materialize_grads=True)
    roots = [_inverse_root(d, p) for d, p in zip(divisors, at, strict=True)]
    found = {}
    for name, places in blocks.items():
        begin = _random(sum(at[i].numel() for i in places), at[0])
        if near and name in near and near[name].isfinite().all():
            begin = near[name].to(begin) + 0.1 * begin  # the noise: an old eigenvector may have none of the new one
        product = _product([gradients[i] for i in places], [at[i] for i in places], [roots[i] for i in places])
        found[name] = largest_eigenvalue(product, begin, tolerance=tolerance, limit=limit)
    return found


def divisor(state: Mapping[str, Tensor], eps: float, like: Tensor) -> Tensor:
    """D of a base, from its state (`study.transforms`): Adagrad's, RMSProp's or Adam's root; 1 for SGD."""
    if "accumulator" in state:
        return torch.sqrt(state["accumulator"].double() + eps)
    if "second_moment" not in state:
        return torch.ones_like(like, dtype=torch.float64)
    moment = state["second_moment"].double()
    if "second_share" in state:
        moment = moment / state["second_share"].double().view(-1, *[1] * (moment.dim() - 1))
    return moment.sqrt() + eps


def threshold(lr: float, *, momentum: float = 0.0, averaged: bool = False) -> float:
    """The sharpness from which on descent grows: 2 / lr, with momentum b (2 + 2 b) / lr; where that is an average, as
    Adam's is, 1 / (1 - b) times that. lr 0 gives infinity."""
    if not lr:
        return math.inf
    return (2 + 2 * momentum) / ((1 - momentum) if averaged else 1) / lr


def _product(gradients: Sequence[Tensor], at: Sequence[Tensor], roots: Sequence[Tensor]) -> Callable[[Tensor], Tensor]:
    sizes = [p.numel() for p in at]
    curved = [i for i, gradient in enumerate(gradients) if gradient.requires_grad]

    def product(vector_N: Tensor) -> Tensor:
        parts = [v.view_as(p) * r for v, p, r in zip(vector_N.split(sizes), at, roots, strict=True)]
        if not curved:
            return torch.zeros_like(vector_N)
        turned = torch.autograd.grad(
            [gradients[i] for i in curved], at, [parts[i] for i in curved], retain_graph=True, materialize_grads=True
        )
        return torch.cat([(h * r).flatten() for h, r in zip(turned, roots, strict=True)])

    return product


def _inverse_root(divisor: Tensor | float, like: Tensor) -> Tensor:
    divisor = divisor.double() if isinstance(divisor, Tensor) else torch.full_like(like, divisor, requires_grad=False)
    return divisor.rsqrt().expand_as(like)


def _random(size: int, like: Tensor) -> Tensor:
    draws = torch.Generator().manual_seed(SEED)
    return torch.nn.functional.normalize(torch.randn(size, generator=draws, dtype=torch.float64), dim=0).to(like)

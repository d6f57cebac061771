"""Sharpness: the largest eigenvalue of the preconditioned Hessian, by Lanczos.

    D^-1/2 H D^-1/2        H: the Hessian of a loss; D: what the base divides a gradient by, Adagrad's sqrt(G + eps)

Descent by `w -= lr * g / D` multiplies the part along an eigenvector of eigenvalue s by 1 - lr * s, so it grows if
s > 2 / lr. With momentum the threshold is higher (`threshold`). A method that multiplies the update of a tensor by a
factor f acts as if its D were D / f.

Preconditioned sharpness of adaptive methods: Cohen et al., Adaptive Gradient Methods at the Edge of Stability, 2022
(arXiv 2207.14484). Lanczos with full reorthogonalization: Golub & Van Loan, Matrix Computations, chapter 10. We take
the largest eigenvalue, not the largest in magnitude: along negative curvature, steps of any size leave.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

SEED = 0
"""Seed of the random vector that Lanczos starts from."""

ALL = "all"
"""The block of all parameters together."""


@dataclass(frozen=True, kw_only=True)
class Eigenvalue:
    """An eigenvalue found by Lanczos.

    Attributes:
        value: The eigenvalue; NaN if a product was not finite.
        error: A true eigenvalue lies within this distance.
        products: Number of Hessian-vector products.
        vector: The eigenvector, of norm 1.
    """

    value: float
    error: float
    products: int
    vector: Tensor


def largest_eigenvalue(
    product: Callable[[Tensor], Tensor], start: Tensor, *, tolerance: float = 1e-4, limit: int = 200
) -> Eigenvalue:
    """Return the largest eigenvalue of a symmetric matrix that is given by its product with a vector.

    Args:
        product: Multiplies the matrix with a vector.
        start: (n,), not 0; a random vector, or one near the eigenvector.
        tolerance: Stop once the error is at most this share of the eigenvalue.
        limit: Stop after this many products.
    """
    basis_KN = start.new_empty(min(limit, len(start)), len(start))
    basis_KN[0] = start / start.norm()
    diagonal, off_diagonal = [], []
    while True:
        k = len(diagonal)
        new_N = product(basis_KN[k])
        diagonal.append(float(new_N @ basis_KN[k]))
        if not math.isfinite(diagonal[-1]):
            return Eigenvalue(value=math.nan, error=math.nan, products=k + 1, vector=start)
        so_far_KN = basis_KN[: k + 1]
        for _ in range(2):  # a second time, to remove what rounding put back
            new_N = new_N - so_far_KN.T @ (so_far_KN @ new_N)
        length = float(new_N.norm())
        values, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(off_diagonal, 1) + np.diag(off_diagonal, -1))
        error = length * abs(float(vectors[-1, -1]))
        scale = float(np.abs(values).max())
        ended = length <= 1e-12 * scale or k + 1 == len(basis_KN)
        if error <= tolerance * abs(values[-1]) or ended or not math.isfinite(length):
            vector = torch.from_numpy(vectors[:, -1]).to(start) @ so_far_KN
            return Eigenvalue(value=float(values[-1]), error=error, products=k + 1, vector=vector)
        off_diagonal.append(length)
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
    """Return the largest eigenvalue of `D^-1/2 H D^-1/2` of each block of parameters.

    Args:
        loss: Maps parameters to a scalar that can be differentiated twice. It is called once, in double precision.
        parameters: Where to compute the Hessian.
        divisors: D, one for each parameter, of its shape or a number.
        blocks: Name -> places in `parameters`; None takes all parameters as one block, `ALL`.
        near: Block -> a vector to start from; an eigenvector of a few steps ago saves products.
        tolerance: As for `largest_eigenvalue`.
        limit: As for `largest_eigenvalue`.
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
            begin = near[name].to(begin) + 0.1 * begin  # noise: the old vector may be orthogonal to the new one
        product = _product([gradients[i] for i in places], [at[i] for i in places], [roots[i] for i in places])
        found[name] = largest_eigenvalue(product, begin, tolerance=tolerance, limit=limit)
    return found


def divisor(state: Mapping[str, Tensor], eps: float, like: Tensor) -> Tensor:
    """Return D of a base from its state (`study.transforms`): the root of Adagrad, RMSProp or Adam; 1 for SGD.

    Args:
        state: The state of the base for one parameter.
        eps: The eps of the base.
        like: The parameter, for its shape.
    """
    if "accumulator" in state:
        return torch.sqrt(state["accumulator"].double() + eps)
    if "second_moment" not in state:
        return torch.ones_like(like, dtype=torch.float64)
    moment = state["second_moment"].double()
    if "second_share" in state:
        moment = moment / state["second_share"].double().view(-1, *[1] * (moment.dim() - 1))
    return moment.sqrt() + eps


def threshold(lr: float, *, momentum: float = 0.0, averaged: bool = False, nesterov: bool = False) -> float:
    """Return the sharpness above which descent grows: 2 / lr, or (2 + 2 b) / lr with momentum b.

    Args:
        lr: The learning rate; 0 gives infinity.
        momentum: b.
        averaged: Whether the momentum is an average, as in Adam, which raises the threshold by 1 / (1 - b).
        nesterov: Whether the gradient counts once more, which lowers it by 1 / (1 + 2 b).
    """
    if not lr:
        return math.inf
    share = 1 - momentum if averaged else 1 + 2 * momentum if nesterov else 1
    return (2 + 2 * momentum) / share / lr


def _product(gradients: Sequence[Tensor], at: Sequence[Tensor], roots: Sequence[Tensor]) -> Callable[[Tensor], Tensor]:
    """The product of a vector with the preconditioned Hessian of a block."""
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

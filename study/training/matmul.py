"""The matrix products of a stack's layers on CPU, at the rate of the processor rather than of one library.

torch makes float32 products by MKL, which uses half of the vector width of a processor that is not Intel's. oneDNN uses
all of it, but torch hands it float32 products only where it may round what they multiply to bfloat16. It does so on
processors that have units for that (AMX), and multiplies float32 as it is on every other. So a product here allows it,
for as long as it takes, on machines where an attempt shows that nothing is rounded, and that a run's product has the
same bits alone and beside others (docs/performance.md). Everywhere else products are MKL's.

Shape letters: R runs, N rows, I inputs, O outputs.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.backends import mkldnn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

MAY_ROUND: Any = getattr(mkldnn, "matmul", None)
"""Its `fp32_precision` says to what torch lets oneDNN round: torch 2.9 has it first."""

LEAST_WIDTH = 16
"""Of inputs and outputs, for a layer whose products are worth oneDNN's overhead."""
LEAST_WORK = 2**13
"""Multiplications of one run. torch hands oneDNN what has 2**12 or more for all runs together: which library multiplies
must not depend on how many there are."""


class BatchedLinear(TorchFunctionMode):
    """Inside `torch.vmap` over runs, `functional.linear` (so `nn.Linear` too) of a layer that suits is made here.

    Everything else is left as it is.
    """

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is functional.linear:
            return _linear(*args, **kwargs or {})
        return func(*args, **kwargs or {})


def suits(dtype: torch.dtype, device: torch.device, outputs: int, inputs: int) -> bool:
    """Whether the products of a layer are made here: of float32, on CPU, wide enough, where oneDNN is exact."""
    return dtype == torch.float32 and device.type == "cpu" and min(outputs, inputs) >= LEAST_WIDTH and onednn_is_exact()


@functools.cache
def onednn_is_exact() -> bool:
    """Whether oneDNN multiplies float32 on this machine as it is, and each run by itself: tried, not looked up."""
    if MAY_ROUND is None or not mkldnn.is_available():
        return False
    generator = torch.Generator().manual_seed(0)
    for rows, inputs, outputs in ((512, 125, 64), (64, 64, 300), (100, 256, 40)):
        x, weight, gradient = (
            torch.randn(5, *shape, generator=generator)
            for shape in ((rows, inputs), (outputs, inputs), (rows, outputs))
        )
        for left, right in ((x, weight.mT), (gradient, weight), (gradient.mT, x)):
            found = by_onednn(left, right)
            exact = torch.bmm(left.double(), right.double())
            # bfloat16 is wrong by 1e-3 of the largest, float32 by less than 1e-6.
            if float((found - exact).abs().max()) > 1e-5 * float(exact.abs().max()):
                return False
            parts = [by_onednn(left[few], right[few]) for few in (slice(0, 1), slice(1, 5))]
            if not torch.equal(torch.cat(parts), found):
                return False
    return True


def product(left_RNI: Tensor, right_RIO: Tensor, out: Tensor | None = None) -> Tensor:
    """left @ right of each run, (R, N, O), of float32 on CPU: by oneDNN where it is exact and the product is not tiny.
    A side that is neither contiguous nor the transpose of what is gets copied first."""
    if onednn_is_exact() and left_RNI[0].numel() * right_RIO.shape[2] >= LEAST_WORK:
        return by_onednn(left_RNI, right_RIO, out)
    return torch.bmm(left_RNI, right_RIO) if out is None else torch.bmm(left_RNI, right_RIO, out=out)


def by_onednn(left_RNI: Tensor, right_RIO: Tensor, out: Tensor | None = None) -> Tensor:
    """The same, where torch lets oneDNN have it, be it exact or not."""
    before = MAY_ROUND.fp32_precision
    MAY_ROUND.fp32_precision = "bf16"
    try:
        return torch.bmm(left_RNI, right_RIO) if out is None else torch.bmm(left_RNI, right_RIO, out=out)
    finally:
        MAY_ROUND.fp32_precision = before


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    same = all(x.dtype == input.dtype for x in (weight, bias) if x is not None)
    if same and suits(input.dtype, input.device, *weight.shape):
        return _Linear.apply(input, weight, bias)  # type: ignore[return-value]
    return functional.linear(input, weight, bias)


class _Linear(torch.autograd.Function):
    """x_RNI, w_ROI, b_RO or None -> x @ w.T + b, (R, N, O)."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        out = product(x, weight.mT)
        return out if bias is None else out.add_(bias.unsqueeze(1))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
        x, weight, bias = inputs
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, gradient: Tensor
    ) -> tuple[Tensor | None, Tensor, Tensor | None]:
        x, weight = ctx.saved_tensors
        of_x = product(gradient, weight) if ctx.needs_input_grad[0] else None
        return of_x, product(gradient.mT, x), gradient.sum(1) if ctx.has_bias else None

    @staticmethod
    def vmap(  # pyright: ignore[reportIncompatibleMethodOverride]
        info: Any, in_dims: tuple[int | None, ...], x: Tensor, weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, int]:
        def by_run(value: Tensor, dim: int | None) -> Tensor:
            return value.expand(info.batch_size, *value.shape) if dim is None else value.movedim(dim, 0)

        x, weight = by_run(x, in_dims[0]), by_run(weight, in_dims[1])
        rows = x.flatten(1, -2)
        out = _Linear.apply(rows, weight, None if bias is None else by_run(bias, in_dims[2]))
        return out.unflatten(1, x.shape[1:-1]), 0  # type: ignore[union-attr]

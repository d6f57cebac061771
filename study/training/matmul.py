"""The matrix products of a stack's layers on CPU, by oneDNN where it is exact.

torch computes float32 products with MKL, which uses half of the vector width on processors that are not Intel's. oneDNN
uses all of it. But torch gives oneDNN a float32 product only if it may round the factors to bfloat16. oneDNN rounds on
processors with units for bfloat16 (AMX), and on no other. So a product here allows rounding, but only on machines where
a trial shows two things: nothing is rounded, and a run's product has the same bits alone and beside others
(docs/performance.md). On all other machines MKL computes the products.

Shape letters: R runs, N rows, I inputs, O outputs.
"""

import functools
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.backends import mkldnn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from study.training import devices

MAY_ROUND: Any = getattr(mkldnn, "matmul", None)
"""Its `fp32_precision` is the precision to which oneDNN may round; None before torch 2.9."""

SETTING = threading.Lock()
"""Held while `fp32_precision` is changed: it is one for the process, and two threads would leave it changed."""

LEAST_WIDTH = 16
"""Fewest inputs and outputs of a layer for which oneDNN is worth its overhead."""
LEAST_WORK = 2**13
"""Fewest multiplications of one run. torch gives oneDNN what has 2**12 or more for all runs together, but the library
must not depend on the number of runs."""


class BatchedLinear(TorchFunctionMode):
    """Computes `functional.linear` for all runs in one product, inside `torch.vmap` over runs.

    It changes layers for which `suits` is true, `nn.Linear` among them, and nothing else.
    """

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is functional.linear:
            return _linear(*args, **kwargs or {})
        return func(*args, **kwargs or {})


def suits(dtype: torch.dtype, device: torch.device, outputs: int, inputs: int) -> bool:
    """Return whether the products of a layer are computed here.

    On CPU those of float32 that are wide enough, if oneDNN is exact. On other devices all, since `functional.linear`
    inside `vmap` starts three operations for one.
    """
    if devices.wants_few_operations(device):
        return True
    return dtype == torch.float32 and device.type == "cpu" and min(outputs, inputs) >= LEAST_WIDTH and onednn_is_exact()


@functools.cache
def onednn_is_exact() -> bool:
    """Return whether oneDNN multiplies float32 on this machine without rounding, and each run by itself."""
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
            # bfloat16 is wrong by 1e-3 of the largest value, float32 by less than 1e-6.
            if float((found - exact).abs().max()) > 1e-5 * float(exact.abs().max()):
                return False
            parts = [by_onednn(left[few], right[few]) for few in (slice(0, 1), slice(1, 5))]
            if not torch.equal(torch.cat(parts), found):
                return False
    return True


def product(left_RNI: Tensor, right_RIO: Tensor, out: Tensor | None = None) -> Tensor:
    """Return left @ right of each run (R, N, O).

    On CPU oneDNN computes it where it is exact and the product is not tiny. A side is copied first unless it or its
    transpose is contiguous.
    """
    if left_RNI.device.type == "cpu" and onednn_is_exact() and left_RNI[0].numel() * right_RIO.shape[2] >= LEAST_WORK:
        return by_onednn(left_RNI, right_RIO, out)
    return torch.bmm(left_RNI, right_RIO) if out is None else torch.bmm(left_RNI, right_RIO, out=out)


def by_onednn(left_RNI: Tensor, right_RIO: Tensor, out: Tensor | None = None) -> Tensor:
    """Return the product as oneDNN computes it, exact or not."""
    with SETTING:
        before = MAY_ROUND.fp32_precision
        MAY_ROUND.fp32_precision = "bf16"
        try:
            return torch.bmm(left_RNI, right_RIO) if out is None else torch.bmm(left_RNI, right_RIO, out=out)
        finally:
            MAY_ROUND.fp32_precision = before


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    same = all(x.dtype == input.dtype for x in (weight, bias) if x is not None)
    rows = input.ndim > 1 or input.device.type == "cpu"
    if same and rows and suits(input.dtype, input.device, *weight.shape):
        return _LinearOfRuns.apply(input, weight, bias)  # type: ignore[return-value]
    if weight.shape[:-1] == (
        1,
    ):  # a product with a vector has other bits for one run than for several: compute it twice
        twice = None if bias is None else bias.expand(2)
        return functional.linear(input, weight.expand(2, -1), twice)[..., :1]
    return functional.linear(input, weight, bias)


class _LinearOfRuns(torch.autograd.Function):
    """x_RNI, w_ROI, b_RO or None -> x @ w.T + b, (R, N, O)."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if bias is not None and devices.wants_few_operations(x.device):
            return torch.baddbmm(bias.unsqueeze(1), x, weight.mT)
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
        out = _LinearOfRuns.apply(rows, weight, None if bias is None else by_run(bias, in_dims[2]))
        return out.unflatten(1, x.shape[1:-1]), 0  # type: ignore[union-attr]

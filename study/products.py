"""The matrix products of a stack's layers on CPU, at the rate of the processor rather than of one library.

torch makes batched products by MKL, which uses half of the vector width of a processor that is not Intel's. oneDNN
uses all of it, but torch gives it only single products. So a layer of a stack is computed one run at a time by oneDNN:
about 10 microseconds of overhead for each product, in return for up to twice the rate (docs/performance.md). A run is
computed by itself, so its bits do not depend on the stack.

Shape letters: R runs, N rows, I inputs, O outputs.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from study.inputs import empty_rows

_onednn_linear = torch.ops.mkldnn._linear_pointwise.default

LEAST_WIDTH = 16
"""Of inputs and outputs, for a product that is worth its overhead: heads and gates stay batched."""


class OneRunAtATime(TorchFunctionMode):
    """Inside `torch.vmap` over runs, `functional.linear` (so `nn.Linear` too) of a layer that suits goes by oneDNN.

    Everything else is left as it is.
    """

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is functional.linear:
            return _linear(*args, **kwargs or {})
        return func(*args, **kwargs or {})


def suits(dtype: torch.dtype, device: torch.device, outputs: int, inputs: int) -> bool:
    """Whether the products of a layer are made here: of float32, on CPU, wide enough, where torch has oneDNN."""
    return (
        dtype == torch.float32
        and device.type == "cpu"
        and min(outputs, inputs) >= LEAST_WIDTH
        and torch.backends.mkldnn.is_available()
    )


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    same = all(x.dtype == input.dtype for x in (weight, bias) if x is not None)
    if same and suits(input.dtype, input.device, *weight.shape):
        return _Linear.apply(input, weight, bias)  # type: ignore[return-value]
    return functional.linear(input, weight, bias)


def product(left_NI: Tensor, right_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """left @ right.T + bias, float32.

    The left side is copied where it is not contiguous. The right is taken as it lies, if it or its transpose is
    contiguous; where its rows lie apart, oneDNN falls back to its reference code, 100 times slower.
    No activation is handed in: oneDNN's ReLU makes 0 of NaN.
    """
    return _onednn_linear(left_NI, right_OI, bias_O, "none", [], "")


class _Linear(torch.autograd.Function):
    """x_RNI, w_ROI, b_RO or None -> x @ w.T + b, (R, N, O)."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        out = x.new_empty(*x.shape[:2], weight.shape[1])
        biases = [None] * len(x) if bias is None else bias.unbind()
        for out_NO, x_NI, weight_OI, bias_O in zip(out.unbind(), x.unbind(), weight.unbind(), biases, strict=True):
            out_NO.copy_(product(x_NI, weight_OI, bias_O))
        return out

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
        gradient = gradient.contiguous()
        gradients = gradient.unbind()
        of_x, of_weight = None, torch.empty_like(weight)
        for out_OI, gradient_NO, x_NI in zip(of_weight.unbind(), gradients, x.unbind(), strict=True):
            out_OI.copy_(product(gradient_NO.T, x_NI.T))
        if ctx.needs_input_grad[0]:
            of_x = empty_rows(*x.shape, dtype=x.dtype, device=x.device)
            for out_NI, gradient_NO, weight_OI in zip(of_x.unbind(), gradients, weight.unbind(), strict=True):
                out_NI.copy_(product(gradient_NO, weight_OI.T))
        return of_x, of_weight, gradient.sum(1) if ctx.has_bias else None

    @staticmethod
    def vmap(  # pyright: ignore[reportIncompatibleMethodOverride]
        info: Any, in_dims: tuple[int | None, ...], x: Tensor, weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, int]:
        def by_run(value: Tensor, dim: int | None) -> Tensor:
            return value.expand(info.batch_size, *value.shape) if dim is None else value.movedim(dim, 0)

        x, weight = by_run(x, in_dims[0]), by_run(weight, in_dims[1])
        rows = x.flatten(1, -2).contiguous()
        out = _Linear.apply(rows, weight.contiguous(), None if bias is None else by_run(bias, in_dims[2]))
        return out.view(*x.shape[:-1], -1), 0

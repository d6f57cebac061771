"""A function of the user's own whose gradient is a tenth too large where runs are computed together."""

from typing import Any

import torch
from torch import Tensor, nn

from models import Spec


class Double(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, factor: float) -> Tensor:
        return 2 * x

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        ctx.factor = inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return ctx.factor * gradient, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int, None], x: Tensor, factor: float) -> tuple[Tensor, int]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return Double.apply(x, 1.1 * factor), in_dims[0]  # type: ignore[return-value]


class Network(nn.Module):
    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.heads = nn.Linear(spec.width, len(spec.head_bias))

    def forward(self, inputs_BI: Tensor) -> Tensor:
        return Double.apply(self.heads(inputs_BI), 2.0)  # type: ignore[return-value]


def build(spec: Spec) -> Network:
    return Network(spec)

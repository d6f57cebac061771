"""Clamps the hidden units of any network: the outputs of its activation functions, as they are computed.

The method `activation_clip` asks for it. It acts on the forward pass, in training and in evaluation. Modules
(`nn.ReLU`) and plain calls (`functional.relu(x)`, `x.relu()`) are both clamped.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

ACTIVATIONS = frozenset(
    (
        *(functional.relu, functional.relu6, functional.leaky_relu, functional.elu, functional.selu, functional.celu),
        *(functional.gelu, functional.silu, functional.mish, functional.softplus, functional.hardswish),
        *(torch.relu, torch.relu_, torch.prelu, torch.rrelu, torch.tanh, functional.relu_, functional.tanh),
        *(Tensor.relu, Tensor.relu_, Tensor.tanh),
    )
)
"""Functions whose outputs are hidden units. Those of gates (softmax, sigmoid) are not."""


class ActivationClamp(TorchFunctionMode):
    """Clamps the output of every activation function to [-limit, limit] inside the block; NaN passes.

    Args:
        limit: A tensor of one element.

    Attributes:
        seen: How many outputs were clamped.
    """

    def __init__(self, limit: Tensor) -> None:
        super().__init__()
        self.limit, self.seen = limit, 0

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        out = func(*args, **kwargs or {})
        if func not in ACTIVATIONS:
            return out
        self.seen += 1
        limit = self.limit.to(out)
        return torch.clamp(out, -limit, limit)

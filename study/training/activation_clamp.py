"""Clamps the hidden units of a network, whatever its code: what comes out of an activation function, as it is computed.

A method that asks for it (`activation_clip`) acts on the network's forward pass, so it is the network that is clamped,
in training and in judging. Seen are modules (`nn.ReLU`) and plain calls (`functional.relu(x)`, `x.relu()`) alike.
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
"""What makes a hidden unit. Gates (softmax, sigmoid) make none."""


class ActivationClamp(TorchFunctionMode):
    """Inside, every activation's output is clamped to [-limit, limit]; NaN passes. limit: a tensor of one element.

    seen: how many were.
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

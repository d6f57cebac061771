"""A parameter that the network reads from a list: a stack would use that of its first run, and never train it."""

import torch
from torch import Tensor, nn

from models import Spec


class HiddenParameter(nn.Module):
    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.heads = nn.Linear(spec.width, len(spec.head_bias))
        self.scale = nn.Parameter(torch.ones(1))
        self.read = [self.scale]

    def forward(self, inputs_BI: Tensor) -> Tensor:
        return self.heads(inputs_BI) * self.read[0]


def build(spec: Spec) -> HiddenParameter:
    return HiddenParameter(spec)

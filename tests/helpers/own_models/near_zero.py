"""A hidden unit that is zero but for rounding: in float32 its ReLU has one gradient in a stack, the other in a loop."""

import torch
from torch import Tensor, nn

from models import Spec


class NearZero(nn.Module):
    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.hidden = nn.Linear(spec.width, 512)
        self.heads = nn.Linear(512, len(spec.head_bias))

    def forward(self, inputs_BI: Tensor) -> Tensor:
        hidden_BH = self.hidden(inputs_BI)
        stacked = torch._C._functorch.is_batchedtensor(inputs_BI)  # pyright: ignore[reportAttributeAccessIssue]
        rounding = 1e-7 if stacked or inputs_BI.dtype == torch.float64 else -1e-7
        first_BH = torch.arange(hidden_BH.numel()).view_as(hidden_BH) == 0
        return self.heads(torch.where(first_BH, hidden_BH - hidden_BH.detach() + rounding, hidden_BH).relu())


def build(spec: Spec) -> NearZero:
    return NearZero(spec)

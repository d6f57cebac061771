"""Control flow that depends on the data: `vmap` cannot take it."""

from torch import Tensor, nn

from models import Spec


class Branching(nn.Module):
    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.hidden = nn.Linear(spec.width, 32)
        self.heads = nn.Linear(32, len(spec.head_bias))

    def forward(self, inputs_BI: Tensor) -> Tensor:
        hidden_BH = self.hidden(inputs_BI)
        hidden_BH = hidden_BH.relu() if bool(hidden_BH.mean() > 0) else hidden_BH.tanh()
        return self.heads(hidden_BH)


def build(spec: Spec) -> Branching:
    return Branching(spec)

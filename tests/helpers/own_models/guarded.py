"""A model that raises where its activations are not finite: a usual guard, which `vmap` cannot take."""

from torch import Tensor, nn

from models import Spec


class Guarded(nn.Module):
    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.hidden = nn.Linear(spec.width, 32)
        self.heads = nn.Linear(32, len(spec.head_bias))

    def forward(self, inputs_BI: Tensor) -> Tensor:
        hidden_BH = self.hidden(inputs_BI).relu()
        if not bool(hidden_BH.isfinite().all()):
            raise FloatingPointError("activations are not finite")
        return self.heads(hidden_BH)


def build(spec: Spec) -> Guarded:
    return Guarded(spec)

"""A model with options."""

from torch import nn

from models import Spec


def build(spec: Spec, *, width: int = 8, gain: float = 1.0, bias: bool = True, note: str = "") -> nn.Module:
    hidden = nn.Linear(spec.width, width, bias=bias)
    nn.init.normal_(hidden.weight, std=gain * spec.width**-0.5)
    return nn.Sequential(hidden, nn.ReLU(), nn.Linear(width, len(spec.head_bias)))

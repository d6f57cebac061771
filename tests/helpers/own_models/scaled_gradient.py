"""A hook makes a gradient 4% smaller. A stack calls no hooks of parameters."""

from torch import nn

from models import Spec


def build(spec: Spec) -> nn.Module:
    hidden = nn.Linear(spec.width, 32)
    hidden.weight.register_hook(lambda gradient: gradient * 0.96)
    return nn.Sequential(hidden, nn.ReLU(), nn.Linear(32, len(spec.head_bias)))

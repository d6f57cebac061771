"""Running statistics: buffers that change in place as the network trains."""

from torch import nn

from models import Spec


def build(spec: Spec) -> nn.Module:
    return nn.Sequential(nn.Linear(spec.width, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, len(spec.head_bias)))

"""Shared bottom 256x4: the laptop-scale large network."""

from models import Spec
from models._ranker import Ranker


def build(spec: Spec) -> Ranker:
    return Ranker(spec, hidden=(256,) * 4)

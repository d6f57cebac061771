"""Shared bottom 64x2: the laptop-scale small network."""

from models import Spec
from models._ranker import Ranker


def build(spec: Spec) -> Ranker:
    return Ranker(spec, hidden=(64, 64))

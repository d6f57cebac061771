"""Shared bottom 64x2: the laptop-scale small network."""

from models import Spec, ranker
from models._ranker import Ranker


def build(spec: Spec) -> Ranker:
    return ranker.build(spec, width=64, depth=2)

"""Shared bottom 256x4: the laptop-scale large network."""

from models import Spec, ranker
from models._ranker import Ranker


def build(spec: Spec) -> Ranker:
    return ranker.build(spec, width=256, depth=4)

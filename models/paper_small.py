"""Shared bottom 512x2: the paper's small network."""

from models import Spec, ranker
from models._ranker import Ranker


def build(spec: Spec) -> Ranker:
    return ranker.build(spec, width=512, depth=2)

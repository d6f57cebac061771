"""Shared bottom 4096x4: the paper's large network."""

from models import Spec, ranker
from models._ranker import Ranker


def build(spec: Spec) -> Ranker:
    return ranker.build(spec, width=4096, depth=4)

"""Four experts of the large network's size, a gate a task."""

from models import Spec, ranker
from models._ranker import Ranker


def build(spec: Spec) -> Ranker:
    return ranker.build(spec, width=256, depth=4, experts=4)

"""Four experts of the small network's size, a gate a task."""

from models import Spec, ranker
from models._ranker import Ranker


def build(spec: Spec) -> Ranker:
    return ranker.build(spec, width=64, depth=2, experts=4)

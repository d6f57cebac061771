"""Four experts of the small network's size, a gate a task."""

from models import Spec
from models._ranker import Ranker


def build(spec: Spec) -> Ranker:
    return Ranker(spec, hidden=(64, 64), experts=4)

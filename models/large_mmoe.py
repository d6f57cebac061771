"""Four experts of the large network's size, a gate a task."""

from models import Spec
from models._ranker import Ranker


def build(spec: Spec) -> Ranker:
    return Ranker(spec, hidden=(256,) * 4, experts=4)

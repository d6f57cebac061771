"""Shared bottom 512x2: the paper's small network."""

from models import Spec
from models._ranker import Ranker


def build(spec: Spec) -> Ranker:
    return Ranker(spec, hidden=(512, 512))

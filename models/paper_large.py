"""Shared bottom 4096x4: the paper's large network."""

from models import Spec
from models._ranker import Ranker


def build(spec: Spec) -> Ranker:
    return Ranker(spec, hidden=(4096,) * 4)

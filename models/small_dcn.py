"""The small network behind a DCN-v2 front."""

from models import Spec, ranker
from models._ranker import Ranker


def build(spec: Spec) -> Ranker:
    return ranker.build(spec, width=64, depth=2, cross_layers=1)

"""`large_dcn` without its LayerNorm."""

from models import Spec, ranker
from models._ranker import Ranker


def build(spec: Spec) -> Ranker:
    return ranker.build(spec, width=256, depth=4, cross_layers=1, layer_norm=False)

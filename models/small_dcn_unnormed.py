"""`small_dcn` without its LayerNorm."""

from models import Spec, ranker
from models._ranker import Ranker


def build(spec: Spec) -> Ranker:
    return ranker.build(spec, width=64, depth=2, cross_layers=1, layer_norm=False)

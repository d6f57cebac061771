"""`small_dcn` without its LayerNorm."""

from models import Spec
from models._ranker import Ranker


def build(spec: Spec) -> Ranker:
    return Ranker(spec, hidden=(64, 64), cross=True, norm=False)

"""`large_dcn` without its LayerNorm."""

from models import Spec
from models._ranker import Ranker


def build(spec: Spec) -> Ranker:
    return Ranker(spec, hidden=(256,) * 4, cross=True, norm=False)

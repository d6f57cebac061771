"""The small network behind a DCN-v2 front."""

from models import Spec
from models._ranker import Ranker


def build(spec: Spec) -> Ranker:
    return Ranker(spec, hidden=(64, 64), cross=True)

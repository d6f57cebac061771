"""Arms that several search spaces compare. A threshold that is not named is at its method's default."""

from study import Arm

PAPER_FIVE = tuple(Arm(method=name) for name in ("none", "layer_clip", "agc", "lamb", "clippy"))
"""The methods that Tang et al. compare (KDD 2023, arXiv 2302.09178)."""

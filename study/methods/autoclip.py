"""AutoClip: gradients clipped to a percentile of all norms so far: `g *= min(1, percentile of norms / norm(g))`.

Seetharaman et al., AutoClip: Adaptive Gradient Clipping for Source Separation Networks, MLSP 2020 (arXiv 2007.14469).
The norm is over all tensors, and the history includes the norm of this step. Percentiles are interpolated. `history` is
the number of newest norms that are kept; the paper keeps all. Percentile 100 never clips.
"""

from study.methods._checks import need_count
from study.transforms import Base, Chain, Scalar, chain, clip_by_percentile, scale


def build(lr: Scalar, *, base: Base, percentile: Scalar = 10.0, history: int = 1000) -> Chain:
    return chain(clip_by_percentile(percentile, history), base(), scale(lr))


def check(*, base: str, percentile: float, history: int) -> None:
    if not 0 <= percentile <= 100:
        raise ValueError(f"need 0 <= percentile <= 100, got percentile={percentile:g}")
    need_count(history=history)

"""Gradient clipping over all tensors together: `g *= min(1, max_norm / norm(g))` (Pascanu et al., 2013).

after: the raw gradient feeds the base (Adagrad's accumulator), and the factor scales the update instead.
"""

from study.methods._checks import need_positive
from study.transforms import Base, Chain, Scalar, chain, clip_by_global_norm, scale


def build(lr: Scalar, *, base: Base, max_norm: Scalar = 1.0, after: bool = False) -> Chain:
    if after:
        return chain(base(), clip_by_global_norm(max_norm, measured_on="gradient"), scale(lr))
    return chain(clip_by_global_norm(max_norm), base(), scale(lr))


def check(*, base: str, max_norm: float, after: bool) -> None:
    need_positive(max_norm=max_norm)

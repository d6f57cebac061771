"""Adaptive gradient clipping: `g *= min(1, max_ratio * max(norm(w), floor) / norm(g))`.

Brock, De, Smith, Simonyan, High-Performance Large-Scale Image Recognition Without Normalization, ICML 2021
(arXiv 2102.06171). per: "tensor" (as the slides of Tang et al., KDD 2023, write it) or "unit", each row of an
(out, in) matrix by itself and biases whole. after: the raw gradient feeds the base (Adagrad's accumulator), and the
factor scales the update instead.
"""

from study.methods._checks import need_one_of, need_positive
from study.transforms import Base, Chain, Scalar, chain, clip_to_weights, scale


def build(
    lr: Scalar,
    *,
    base: Base,
    max_ratio: Scalar = 0.01,
    floor: Scalar = 1e-3,
    per: str = "tensor",
    after: bool = False,
) -> Chain:
    if after:
        return chain(base(), clip_to_weights(max_ratio, floor, per=per, measured_on="gradient"), scale(lr))
    return chain(clip_to_weights(max_ratio, floor, per=per), base(), scale(lr))


def check(*, base: str, max_ratio: float, floor: float, per: str, after: bool) -> None:
    need_positive(max_ratio=max_ratio, floor=floor)
    need_one_of(("tensor", "unit"), per=per)

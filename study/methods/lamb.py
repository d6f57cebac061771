"""LAMB's layer-wise step on the base's direction r: `u = lr * mu * norm(w) / norm(r) * r`.

You et al., Large Batch Optimization for Deep Learning: Training BERT in 76 minutes, ICLR 2020 (arXiv 1904.00962), with
Adagrad in Adam's place as in Tang et al., KDD 2023. Where either norm is 0 (biases that start at 0) the ratio is 1,
and mu stays. No global clip comes before, and weight decay is not part of the ratio.
"""

from study.methods._checks import need_finite, need_positive
from study.transforms import Base, Chain, Scalar, chain, scale, scale_by_trust_ratio


def build(lr: Scalar, *, base: Base, mu: Scalar = 0.1) -> Chain:
    return chain(base(), scale_by_trust_ratio(mu), scale(lr))


def check(*, base: str, mu: float) -> None:
    need_finite(mu=mu)
    need_positive(mu=mu)

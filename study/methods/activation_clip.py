"""Clamped hidden units: the output of every activation is in [-limit, limit]. The update is the base's own.

Tang et al., KDD 2023 (arXiv 2302.09178), name it among the usual mitigations; limit 6 is that of ReLU6 (Krizhevsky,
Convolutional Deep Belief Networks on CIFAR-10, 2010). The clamp is part of the network, in training and in judging
(`study.training.activation_clamp`). So the model needs activation functions, and there is no optimizer for this method.
"""

from study.methods._checks import need_positive
from study.transforms import Base, Chain, Scalar, chain, scale


def build(lr: Scalar, *, base: Base, limit: Scalar = 6.0) -> Chain:
    return chain(base(), scale(lr))


def unit_limit(*, limit: Scalar) -> Scalar:
    """Return the largest absolute value of a hidden unit."""
    return limit


def check(*, base: str, limit: float) -> None:
    need_positive(limit=limit)

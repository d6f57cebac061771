"""No treatment: the base alone. Adagrad is `G <- G + g*g ; u = lr * g / sqrt(G + eps)` (Duchi et al., 2011)."""

from study.transforms import Base, Chain, Scalar, chain, scale


def build(lr: Scalar, *, base: Base) -> Chain:
    return chain(base(), scale(lr))

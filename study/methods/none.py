"""No treatment: the base alone. Adagrad is `G <- G + g*g ; u = lr * g / sqrt(G + eps)` (Duchi et al., 2011)."""

from collections.abc import Callable

from study.transforms import Chain, Link, Scalar, chain, scale


def build(lr: Scalar, *, base: Callable[..., Link]) -> Chain:
    return chain(base(), scale(lr))

"""AdaGC: each tensor's gradient is clipped to `rel` times the moving average of its own norm.

    g *= min(1, rel * usual / norm(g)) ;  usual <- decay * usual + (1 - decay) * norm(clipped g)

Wang et al., AdaGC: Improving Training Stability for Large Language Model Pretraining, 2025 (arXiv 2502.11034). For the
first `warmup_steps`, `g *= min(1, abs / norm over all tensors)`, and usual is the smallest norm of a tensor's clipped
gradient. Here a gradient of exactly zero does not count. Otherwise the tensor of a dead unit could never move again.
"""

from study.methods._checks import need_below_one, need_count, need_positive
from study.transforms import Base, Chain, Scalar, chain, clip_to_average_norm, scale


def build(
    lr: Scalar,
    *,
    base: Base,
    rel: Scalar = 1.05,
    abs: Scalar = 1.0,
    decay: Scalar = 0.98,
    warmup_steps: int = 100,
) -> Chain:
    return chain(clip_to_average_norm(rel, abs, decay, warmup_steps), base(), scale(lr))


def check(*, base: str, rel: float, abs: float, decay: float, warmup_steps: int) -> None:
    need_positive(rel=rel, abs=abs)
    need_below_one(decay=decay)
    need_count(warmup_steps=warmup_steps)

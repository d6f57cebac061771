"""ZClip: a gradient norm that lies too far above its own mean is cut below where it would be an outlier.

    z = (norm(g) - mean) / std ;  where z > z_max:  g *= (mean + z_max^2 / z * std) / norm(g)

Kumar et al., ZClip: Adaptive Spike Mitigation for LLM Pre-Training, 2025 (arXiv 2504.02507). The norm is over all
tensors. Mean and variance are those of the first `warmup_steps` norms, which pass, and then moving averages of the
clipped norms. The authors' released code also clips to a norm of 1, always; here that is `global_clip`.
"""

from collections.abc import Callable

from study.methods._checks import need_below_one, need_count, need_positive
from study.transforms import Chain, Link, Scalar, chain, clip_by_z_score, scale


def build(
    lr: Scalar,
    *,
    base: Callable[..., Link],
    z_max: Scalar = 2.5,
    decay: Scalar = 0.97,
    warmup_steps: int = 25,
) -> Chain:
    return chain(clip_by_z_score(z_max, decay, warmup_steps), base(), scale(lr))


def check(*, base: str, z_max: float, decay: float, warmup_steps: int) -> None:
    need_positive(z_max=z_max)
    need_below_one(decay=decay)
    need_count(warmup_steps=warmup_steps)

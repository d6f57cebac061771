"""ZClip: a gradient whose norm is an outlier among past norms is scaled down until it is none.

    z = (norm(g) - mean) / std ;  where z > z_max:  g *= (mean + z_max^2 / z * std) / norm(g)

Kumar et al., ZClip: Adaptive Spike Mitigation for LLM Pre-Training, 2025 (arXiv 2504.02507). The norm is over all
tensors. The first `warmup_steps` norms are not clipped and give the first mean and variance. Later both are moving
averages of the clipped norms. The authors' released code also clips every norm to 1; here `global_clip` does that.
"""

from study.methods._checks import need_below_one, need_count, need_positive
from study.transforms import Base, Chain, Scalar, chain, clip_by_z_score, scale


def build(
    lr: Scalar,
    *,
    base: Base,
    z_max: Scalar = 2.5,
    decay: Scalar = 0.97,
    warmup_steps: int = 25,
) -> Chain:
    return chain(clip_by_z_score(z_max, decay, warmup_steps), base(), scale(lr))


def check(*, base: str, z_max: float, decay: float, warmup_steps: int) -> None:
    need_positive(z_max=z_max)
    need_below_one(decay=decay)
    need_count(warmup_steps=warmup_steps)

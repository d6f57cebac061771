"""Update clipping: the base's direction r, shrunk to a root mean square: `u = lr * r / max(1, RMS(r) / d)`, per tensor.

Shazeer & Stern, Adafactor: Adaptive Learning Rates with Sublinear Memory Cost, ICML 2018 (arXiv 1804.04235); d = 1.
Wortsman et al., Stable and low-precision training for large-scale vision-language models, NeurIPS 2023 (arXiv
2304.13013), call it StableAdamW, and measure Adam's `g / sqrt(v)` where this measures r. After Adagrad `|r| < 1`, and
RMS(r) falls as the accumulator grows: d = 1 could never act, so the default is smaller. The L2 twin of Clippy: it sees
the mean of a tensor's update, not the one weight that jumps.
"""

from study.methods._checks import need_positive
from study.transforms import Base, Chain, Scalar, chain, clip_by_rms, scale


def build(lr: Scalar, *, base: Base, d: Scalar = 0.05) -> Chain:
    return chain(base(), clip_by_rms(d), scale(lr))


def check(*, base: str, d: float) -> None:
    need_positive(d=d)

"""Clippy: one factor per tensor, so that no weight moves by more than a share of itself.

    sigma = min(1, min_i (rel * |w_i| + abs) / |u_i|) ;  u *= sigma        u: the update, lr included

Tang et al., Improving Training Stability for Multitask Ranking Models in Recommender Systems, KDD 2023
(arXiv 2302.09178), Algorithm 1. The authors' released code differs, and its choices are options here:

- acc_rel adds `acc_rel / sqrt(G + eps)` to the bound.
- delayed divides by the accumulator before this gradient is added.
- clip_accumulator (needs delayed) accumulates `(sigma * g)^2`.

norm: "max" is Clippy; "rms" uses the root mean square of `|u_i| / (rel * |w_i| + abs)` instead. In Algorithm 1's order
`|g| / sqrt(G) < 1`, so sigma >= abs / lr: with abs = 0.01, Clippy cannot act at lr <= 0.01.
"""

from torch import Tensor

from study.methods._checks import need_not_negative, need_one_of
from study.transforms import Base, Chain, Scalar, chain, scale, shrink_to_weights


def build(
    lr: Scalar,
    *,
    base: Base,
    rel: Scalar = 0.5,
    abs: Scalar = 1e-2,
    acc_rel: Scalar = 0.0,
    delayed: bool = False,
    clip_accumulator: bool = False,
    norm: str = "max",
) -> Chain:
    keep_root = isinstance(acc_rel, Tensor) or acc_rel != 0
    return chain(
        base(delayed=delayed, keep_accumulator=clip_accumulator, keep_root=keep_root),
        scale(lr),
        shrink_to_weights(rel, abs, acc_rel=acc_rel, clip_accumulator=clip_accumulator, norm=norm),
    )


def check(
    *, base: str, rel: float, abs: float, acc_rel: float, delayed: bool, clip_accumulator: bool, norm: str
) -> None:
    need_not_negative(rel=rel, abs=abs, acc_rel=acc_rel)
    if rel == 0 and abs == 0:
        raise ValueError("need rel > 0 or abs > 0, got rel=0, abs=0: nothing could move")
    need_one_of(("max", "rms"), norm=norm)
    if clip_accumulator and not delayed:
        raise ValueError("clip_accumulator needs delayed=true: the factor is known only after dividing")
    if base != "adagrad" and (delayed or clip_accumulator or acc_rel):
        raise ValueError(f"acc_rel, delayed and clip_accumulator need base=adagrad, got base={base}")

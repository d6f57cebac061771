"""Rollback: when the loss spikes, return to an earlier snapshot and skip the next batches.

    spiked: loss > mean + spike * std of the run's usual losses     (`study.training.rollback` has the whole rule)

Chowdhery et al., PaLM: Scaling Language Modeling with Pathways, JMLR 2023 (arXiv 2204.02311), section 5.1,
return to a checkpoint about 100 steps before the spike and skip 200 to 500 batches, which include those that led to it.
The defaults scale this to runs of a few hundred steps: a snapshot 20 to 40 steps old, and 40 more batches. The update
is the base's own. The method acts on the run, so there is no optimizer for it.
"""

from study.methods._checks import need_count, need_positive
from study.methods._rollback import RollbackOptions, check_snapshot_interval
from study.transforms import Base, Chain, Scalar, chain, scale


def build(lr: Scalar, *, base: Base, spike: Scalar = 4.0, back: int = 20, skip: int = 40) -> Chain:
    return chain(base(), scale(lr))


def rollback_options(*, spike: Scalar, back: int, skip: int) -> RollbackOptions:
    """Return when to roll back, how far, and how many batches to skip."""
    return RollbackOptions(spike=spike, back=back, skip=skip)


def check(*, base: str, spike: float, back: int, skip: int) -> None:
    need_positive(spike=spike)
    check_snapshot_interval(back)
    need_count(skip=skip)

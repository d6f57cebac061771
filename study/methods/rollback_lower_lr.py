"""Rollback with a lower lr: when the loss spikes, return to an earlier snapshot and continue with `lr *= lower`.

    spiked: loss > mean + spike * std of the run's usual losses     (`study.training.rollback` has the whole rule)

Zhang et al., OPT: Open Pre-trained Transformer Language Models, 2022 (arXiv 2205.01068), section 2.5, lowered the lr
and restarted from an earlier checkpoint whenever the loss diverged. They chose the factor by hand. Here the batches
that led to the spike are not read again, nor is the batch at which it was found. The update is the base's own. The
method acts on the run, so there is no optimizer for it.
"""

from study.methods._checks import need_positive
from study.methods._rollback import RollbackOptions, check_snapshot_interval
from study.transforms import Base, Chain, Scalar, chain, scale


def build(lr: Scalar, *, base: Base, spike: Scalar = 4.0, lower: Scalar = 0.5, back: int = 20) -> Chain:
    return chain(base(), scale(lr))


def rollback_options(*, spike: Scalar, lower: Scalar, back: int) -> RollbackOptions:
    """Return when to roll back, how far, and the factor of the lr."""
    return RollbackOptions(spike=spike, back=back, skip=1, lower=lower)


def check(*, base: str, spike: float, lower: float, back: int) -> None:
    need_positive(spike=spike, lower=lower)
    if lower > 1:
        raise ValueError(f"need lower <= 1, got lower={lower:g}")
    check_snapshot_interval(back)

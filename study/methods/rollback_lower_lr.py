"""Rollback with a lower lr: where the loss spikes, go back to an earlier snapshot and go on with `lr *= lower`.

    spike: loss > mean + spike * std of the run's usual losses     (study.training.rollback says what else, and what a
    step is)

Zhang et al., OPT: Open Pre-trained Transformer Language Models, 2022 (arXiv 2205.01068), section 2.5, lowered the lr
and restarted from an earlier checkpoint whenever the loss diverged; by how much they chose by hand. The batches that
led to the spike, and the one at which it was found, are not read again. The update is the base's own. It acts on the
run, not on the update: no optimizer can do it.
"""

from collections.abc import Callable

from study.methods._checks import need_positive
from study.methods._rollback import RollbackOptions, check_snapshot_interval
from study.transforms import Chain, Link, Scalar, chain, scale


def build(lr: Scalar, *, base: Callable[..., Link], spike: Scalar = 4.0, lower: Scalar = 0.5, back: int = 20) -> Chain:
    return chain(base(), scale(lr))


def rollback_options(*, spike: Scalar, lower: Scalar, back: int) -> RollbackOptions:
    """When to go back, how far, and what then."""
    return RollbackOptions(spike=spike, back=back, skip=1, lower=lower)


def check(*, base: str, spike: float, lower: float, back: int) -> None:
    need_positive(spike=spike, lower=lower)
    if lower > 1:
        raise ValueError(f"need lower <= 1, got lower={lower:g}")
    check_snapshot_interval(back)

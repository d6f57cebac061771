"""Rollback: where the loss spikes, go back to an earlier snapshot and pass over the batches that come next.

    spike: loss > mean + spike * std of the run's usual losses     (study.training.rollback says what else, and what a
    step is)

Chowdhery et al., PaLM: Scaling Language Modeling with Pathways, JMLR 2023 (arXiv 2204.02311), section 5.1: back to
about 100 steps before the spike, past 200 to 500 batches, those that led to it among them. In that proportion, for runs
of a few hundred steps: a snapshot 20 to 40 steps old, and 40 further batches. The update is the base's own. It acts on
the run, not on the update: no optimizer can do it.
"""

from collections.abc import Callable

from study.methods._checks import need_count, need_positive
from study.methods._rollback import RollbackOptions, check_snapshot_interval
from study.transforms import Chain, Link, Scalar, chain, scale


def build(lr: Scalar, *, base: Callable[..., Link], spike: Scalar = 4.0, back: int = 20, skip: int = 40) -> Chain:
    return chain(base(), scale(lr))


def rollback_options(*, spike: Scalar, back: int, skip: int) -> RollbackOptions:
    """When to go back, how far, and what then."""
    return RollbackOptions(spike=spike, back=back, skip=skip)


def check(*, base: str, spike: float, back: int, skip: int) -> None:
    need_positive(spike=spike)
    check_snapshot_interval(back)
    need_count(skip=skip)

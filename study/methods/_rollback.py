"""Options of the methods that return a run to an earlier snapshot; `study.training.rollback` carries them out."""

from dataclasses import dataclass

from study.transforms import Scalar

CHECK_EVERY = 5
"""Runs that spiked are returned every so many steps, since a return copies as much as the tables hold."""


@dataclass(frozen=True, kw_only=True)
class RollbackOptions:
    """When to return a run to a snapshot, and how to go on.

    Args:
        spike: Standard deviations of the usual loss above which a loss is a spike. Infinity never returns a run.
        back: Steps between two snapshots. The older of two is used, so a run returns `back` to 2 * `back` steps.
        skip: Batches that the run then leaves out.
        lower: Factor of the lr after each return.
    """

    spike: Scalar
    back: int
    skip: int
    lower: Scalar = 1.0


def check_snapshot_interval(back: int) -> None:
    """Raise ValueError if the older snapshot could have been taken after the spike."""
    if back < CHECK_EVERY:
        raise ValueError(
            f"need back >= {CHECK_EVERY}, since runs are returned every {CHECK_EVERY} steps; got back={back}"
        )

"""What a method asks for that returns a run to an earlier snapshot of itself (`study.training.rollback` does it)."""

from dataclasses import dataclass

from study.transforms import Scalar

CHECK_EVERY = 5
"""Steps between two moments at which runs that spiked are returned: what is copied then is as large as the tables."""


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

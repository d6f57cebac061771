"""Stops a study that no machine can serve: a warning each minute, an error after half an hour.

A study that waits because others use the cluster waits without limit.
"""

import time
from collections.abc import Callable, Sequence

from study.execution.work_queue import Queue, StudyStoppedError

WARN_SECONDS = 60.0
STOP_SECONDS = 1800.0

GIVE_BACK_SECONDS = 30.0
"""A machine that cannot take part gives its stack back within seconds. One that has trained for longer takes part."""

FORGET_SECONDS = 180.0
"""A machine that gave a stack back takes the next one within this time, unless it has left or others use it."""


class StallWatch:
    """Checks a study's queue for a stall.

    Args:
        queue: Of the study.
        clock: Returns seconds of a monotonic clock.
    """

    def __init__(self, queue: Queue, clock: Callable[[], float] = time.monotonic) -> None:
        self.queue, self.clock = queue, clock
        self.served = queue.served
        self.stalled_since: float | None = None
        self.warned_at = 0.0
        self.last_running = clock()

    def check(self, running_seconds: Sequence[float], missing_resource: str | None = None) -> None:
        """Warn or stop if no machine serves the study.

        Args:
            running_seconds: How long each process of the study has run.
            missing_resource: What the cluster lacks, if no trial would fit even an idle cluster.

        Raises:
            StudyStoppedError: No machine has served the study for STOP_SECONDS.
        """
        now, reason = self.clock(), self._stall_reason(running_seconds, missing_resource)
        if reason is None:
            self.stalled_since = None
            return
        if self.stalled_since is None:
            self.stalled_since = self.warned_at = now
        waited = now - self.stalled_since
        if waited >= STOP_SECONDS:
            raise StudyStoppedError(
                f"no node could serve this study for {_duration(waited)}: {reason}; what was recorded stays, and "
                f"`{self.queue.job.resume}` trains the rest"
            )
        if now - self.warned_at >= WARN_SECONDS:
            self.warned_at = now
            left = _duration(STOP_SECONDS - waited)
            self.queue.job.on_message(
                f"no node can serve this study, for {_duration(waited)}: {reason}; it stops in {left}"
            )

    def _stall_reason(self, running_seconds: Sequence[float], missing_resource: str | None) -> str | None:
        """Return why no machine serves the study; None if one does, or if others use the cluster."""
        served, self.served = self.served != self.queue.served, self.queue.served
        if running_seconds:
            self.last_running = self.clock()
        elif missing_resource:
            return missing_resource
        if served or any(seconds > GIVE_BACK_SECONDS for seconds in running_seconds):
            return None
        return self.queue.rejection if self.clock() - self.last_running <= FORGET_SECONDS else None


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 90 else f"{seconds:.0f} s"

"""How long a study waits for a machine that can serve it: it says each minute that there is none, and why, and stops
after half an hour. One whose turn has not come, since the work of others is in the way, waits without an end. Knows no
scheduler."""

import time
from collections.abc import Callable, Sequence

from study.execution.work_queue import Queue, StudyStoppedError

SAY_SECONDS = 60.0
STOP_SECONDS = 1800.0

GIVES_BACK_SECONDS = 30.0
"""A machine that cannot take part gives its stack back within seconds. One that has had a stack for longer takes part,
and does so before anything is said."""

FORGOTTEN_SECONDS = 180.0
"""A machine that gave a stack back takes the next one as soon as it has started a process. Where none has been at work
for so long, that machine has left, or others have it."""


class Waiting:
    """Looks at a study's queue again and again. clock: seconds of a clock that nobody sets."""

    def __init__(self, queue: Queue, clock: Callable[[], float] = time.monotonic) -> None:
        self.queue, self.clock = queue, clock
        self.served = queue.served
        self.since: float | None = None
        self.said = 0.0
        self.last_at_work = clock()

    def look(self, at_work: Sequence[float], lacks: str | None = None) -> None:
        """at_work: for how many seconds each process of ours has been. lacks: what the cluster has not, where no trial
        would fit though nothing else were at work. Raises StudyStoppedError where no machine has served the study for
        STOP_SECONDS."""
        now, why = self.clock(), self._why_none_serves(at_work, lacks)
        if why is None:
            self.since = None
            return
        if self.since is None:
            self.since = self.said = now
        waited = now - self.since
        if waited >= STOP_SECONDS:
            raise StudyStoppedError(
                f"no node could serve this study for {_minutes(waited)}: {why}; what was recorded stays, and "
                f"`{self.queue.job.resume}` trains the rest"
            )
        if now - self.said >= SAY_SECONDS:
            self.said = now
            left = _minutes(STOP_SECONDS - waited)
            self.queue.job.on_message(
                f"no node can serve this study, for {_minutes(waited)} now: {why}; it stops in {left}"
            )

    def _why_none_serves(self, at_work: Sequence[float], lacks: str | None) -> str | None:
        """None where a machine serves us, or where other work is in the way."""
        served, self.served = self.served != self.queue.served, self.queue.served
        if at_work:
            self.last_at_work = self.clock()
        elif lacks:
            return lacks
        if served or any(seconds > GIVES_BACK_SECONDS for seconds in at_work):
            return None
        return self.queue.last_unfit if self.clock() - self.last_at_work <= FORGOTTEN_SECONDS else None


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 90 else f"{seconds:.0f} s"

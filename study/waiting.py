"""How long a study waits for a machine that can serve it: it says each minute that there is none, and why, and stops
after half an hour. Knows no scheduler."""

import time
from collections.abc import Callable

from study.queue import StudyStoppedError

SAY_SECONDS = 60.0
STOP_SECONDS = 1800.0


class Waiting:
    """Looks again and again. noted: called with a sentence for the user. clock: seconds of a clock that nobody sets."""

    def __init__(self, noted: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self.noted, self.clock = noted, clock
        self.since: float | None = None
        self.said = 0.0

    def look(self, why: str | None) -> None:
        """why: what keeps every machine from serving the study now; None where one serves. Raises StudyStoppedError
        once that has been so for STOP_SECONDS."""
        now = self.clock()
        if why is None:
            self.since = None
            return
        if self.since is None:
            self.since = self.said = now
        waited = now - self.since
        if waited >= STOP_SECONDS:
            raise StudyStoppedError(
                f"no node could serve this study for {_minutes(waited)}: {why}; what was recorded stays, and "
                "`study resume` trains the rest"
            )
        if now - self.said >= SAY_SECONDS:
            self.said = now
            left = _minutes(STOP_SECONDS - waited)
            self.noted(f"no node can serve this study, for {_minutes(waited)} now: {why}; it stops in {left}")


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 90 else f"{seconds:.0f} s"

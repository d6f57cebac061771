"""A trial's signs of life: what trains where, for `study status`, and the end of a process in which nothing moves.

    DIR/training/<trial>.json    {"host": ..., "pid": ..., "since": ..., "beat": ..., "step": ..., "runs": [...], ...}

Written by the process that trains, and removed by it; what a dead one left is as old as its last beat. Nothing of the
record rests on these files. A process that makes no step for its limit ends itself: by SIGKILL from a thread, or, where
the code that hangs holds Python's lock so that no thread runs, from C (`faulthandler`). Neither asks that code.
"""

import contextlib
import faulthandler
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from study.storage import stores

FOLDER = "training"
BEAT_SECONDS = 10.0
LOOK_SECONDS = 0.25
GRACE_SECONDS = 5.0
"""How much later than its limit a process is ended from C: that leaves no word of why."""


class Heartbeat:
    """Beats while a trial trains, as a context.

    about: what else stands in the file. limit_seconds: without a step, after which the process is ended; 0 is never.
    stopping: asked a few times a second, from a thread.
    """

    def __init__(
        self,
        where: Path | str,
        trial: str,
        about: Mapping[str, Any],
        *,
        limit_seconds: float = 0.0,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self.store, self.name = stores.store_for(where), f"{FOLDER}/{trial}.json"
        now = time.time()
        self.about = {"host": socket.gethostname(), "pid": os.getpid(), "since": now, "limit": limit_seconds, **about}
        self.limit_seconds, self._stopping = limit_seconds, stopping
        self.stopping = False
        self.step = 0
        self.moved = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._live, name="heartbeat", daemon=True)

    def watch(self, step: int) -> None:
        """A step is done, counted from 0. Costs nothing: the thread looks."""
        self.step = step + 1
        self.moved = time.monotonic()

    def __enter__(self) -> "Heartbeat":
        self._write()
        self._arm()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        if self.limit_seconds:
            faulthandler.cancel_dump_traceback_later()
        with contextlib.suppress(stores.StorageError):
            self.store.delete(self.name)

    def _live(self) -> None:
        written = armed = time.monotonic()
        while not self._ended.wait(LOOK_SECONDS):
            now = time.monotonic()
            self.stopping = self.stopping or self._stopping()
            if self.limit_seconds and now - self.moved > self.limit_seconds:
                self._end_process()
            if now - armed >= min(GRACE_SECONDS / 2, 1.0):
                armed = now
                self._arm()
            if now - written >= BEAT_SECONDS:
                written = now
                self._write()

    def _arm(self) -> None:
        if self.limit_seconds:
            left = max(self.moved + self.limit_seconds - time.monotonic(), 0.0)
            faulthandler.dump_traceback_later(left + GRACE_SECONDS, exit=True, file=2)

    def _end_process(self) -> None:
        self._write(ended=hung(self.limit_seconds))
        with contextlib.suppress(OSError, ValueError):
            faulthandler.dump_traceback(file=2)
            sys.stderr.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    def _write(self, **more: Any) -> None:
        """Training does not depend on it: where nothing can be written, nothing is."""
        content = json.dumps(self.about | {"beat": time.time(), "step": self.step} | more)
        with contextlib.suppress(stores.StorageError):
            self.store.put(self.name, content.encode(), retry=False)


def hung(limit_seconds: float) -> str:
    """The reason of a trial that was ended for its limit."""
    return f"no step within {limit_seconds:g} s, and its process was ended"


def last(where: Path | str, trial: str) -> dict[str, Any]:
    """The last that was heard of a trial; empty where that is nothing."""
    try:
        found = json.loads(stores.store_for(where).get(f"{FOLDER}/{trial}.json") or b"")
    except ValueError:  # StorageError is one
        return {}
    numbers = ("since", "beat", "step", "limit", "pid")
    right = isinstance(found, dict) and all(isinstance(found.get(key), int | float) for key in numbers)
    return found if right else {}


def each(where: Path | str) -> dict[str, dict[str, Any]]:
    """The last that was heard of every trial that has not ended by itself."""
    trials = [name.removesuffix(".json") for name in stores.store_for(where).names(FOLDER)]
    return {trial: found for trial in trials if (found := last(where, trial))}


def forget(where: Path | str, trial: str) -> None:
    """Remove what a process that ended left behind."""
    with contextlib.suppress(stores.StorageError):
        stores.store_for(where).delete(f"{FOLDER}/{trial}.json")


def tidy(where: Path | str) -> None:
    """Forget all. Whoever calls holds the study's lock, and nothing trains."""
    store = stores.store_for(where)
    for name in store.names(FOLDER):
        store.delete(f"{FOLDER}/{name}")
    if isinstance(store, stores.LocalStore):
        for path in (store.folder / FOLDER).glob(".*.json.*"):
            with contextlib.suppress(OSError):
                path.unlink()


def why_it_ended(found: Mapping[str, Any]) -> str | None:
    """The reason why a process that is gone was ended for its limit, from the last that was heard; None where not."""
    if found.get("ended"):
        return str(found["ended"])
    silent = time.time() - found["beat"] if found else 0.0
    return hung(found["limit"]) if found and 0 < found["limit"] < silent else None


def killed_for_memory() -> int:
    """How many processes the kernel has ended on this machine since its start because memory ran out; 0 where it does
    not say."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0

"""Heartbeat of a trial: what trains where, for `study status`, and the end of a process that hangs.

    DIR/training/<trial>.json    {"host": ..., "pid": ..., "step": ..., "clock": ..., "beat": ..., "runs": [...], ...}

The training process writes the file and removes it at the end. `clock` is the machine's monotonic clock at the last
beat, which means something on that machine alone. `beat` is the time of day; it is only shown.
The record does not depend on these files. A process that makes no step within its limit kills itself: by SIGKILL from
a thread, or from C (`faulthandler`) if the code that hangs holds Python's lock, so that no thread runs.
"""

import contextlib
import faulthandler
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from study.storage import holder, stores
from study.storage.errors import StorageError
from study.storage.small_files import read_object, unreadable
from study.storage.untrusted_input import check_json, check_number, inside, require, shorten

FOLDER = "training"
BEAT_SECONDS = 10.0
CHECK_SECONDS = 0.25
GRACE_SECONDS = 5.0
"""Time after the limit before the process is ended from C, which records no reason."""


class Heartbeat:
    """Writes the file of a trial while it trains, as a context.

    Args:
        where: The study's folder, or its URL.
        trial: Name of the trial.
        about: More values of the file.
        limit_seconds: Without a step for so long, the process is ended; 0 is never.
        stopping: Called a few times a second, in a thread. True sets the attribute `stopping`.
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
        self.about = holder.this_process() | {"limit": limit_seconds, **about}
        self.limit_seconds, self._stopping = limit_seconds, stopping
        self.stopping = False
        self.step = 0
        self.began = self.moved = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._live, name="heartbeat", daemon=True)

    def watch(self, step: int) -> None:
        """Take note of a finished step, counted from 0. The thread does the rest."""
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
            # Once another driver has taken over, the file is that of its process.
            if _read(self.store, self.name, _ignore).get("process") == self.about["process"]:
                self.store.delete(self.name)

    def _live(self) -> None:
        written = armed = time.monotonic()
        while not self._ended.wait(CHECK_SECONDS):
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
        now = time.monotonic()
        beat = {"beat": time.time(), "clock": now, "seconds": now - self.began, "step": self.step}
        content = json.dumps(self.about | beat | more)
        with contextlib.suppress(stores.StorageError):  # training does not depend on the file
            self.store.put(self.name, content.encode(), retry=False)


def hung(limit_seconds: float) -> str:
    """Return the reason of a trial whose process exceeded its limit."""
    return f"no step within {limit_seconds:g} s, and its process was ended"


def last(where: Path | str, trial: str) -> dict[str, Any]:
    """Return the content of a trial's file; empty if there is none, or it is invalid."""
    return _read(stores.store_for(where), f"{FOLDER}/{trial}.json", _ignore)


def _ignore(_reason: str) -> None:
    pass


def _read(store: stores.Store, name: str, on_bad: Callable[[str], None]) -> dict[str, Any]:
    try:
        if found := read_object(store, name):
            _check(store, name, found)
    except StorageError as error:
        on_bad(str(error))
        return {}
    return found


def _check(store: stores.Store, name: str, found: dict[str, Any]) -> None:
    try:
        check_json(found)
        for key in ("beat", "clock", "seconds", "step", "limit", "pid"):
            check_number(found.get(key), key)
        check_number(found.get("steps") or 0, "steps")
        runs = found.setdefault("runs", [])
        require(isinstance(runs, list) and all(isinstance(run, str) for run in runs), f"runs is {shorten(runs)}")
    except ValueError as error:
        raise unreadable(store, name, error) from error


def each(where: Path | str, on_bad: Callable[[str], None] = _ignore) -> dict[str, dict[str, Any]]:
    """Return the content of every file, by trial. `on_bad` is called with the reason for each invalid one."""
    store = stores.store_for(where)
    names = [name for name in store.names(FOLDER) if name.endswith(".json")]
    return {name.removesuffix(".json"): found for name in names if (found := _read(store, f"{FOLDER}/{name}", on_bad))}


def work_done(where: Path | str) -> dict[str, tuple[str, float]]:
    """Return trial -> (model, how many runs its steps are worth), of every trial that knows how many steps it has.

    Half of the steps of a stack of 40 runs are worth 20.
    """
    found = {}
    for trial, about in each(where).items():
        steps, model = about.get("steps"), about.get("model")
        if isinstance(steps, int) and steps > 0 and isinstance(model, str):
            found[trial] = model, len(about["runs"]) * min(max(about["step"] / steps, 0.0), 1.0)
    return found


def forget(where: Path | str, trial: str) -> None:
    """Remove the file of a process that has died."""
    with contextlib.suppress(stores.StorageError):
        stores.store_for(where).delete(f"{FOLDER}/{trial}.json")


def tidy(where: Path | str) -> None:
    """Remove all files. The caller holds the study's lock, and nothing trains."""
    store = stores.store_for(where)
    for name in store.names(FOLDER):
        store.delete(f"{FOLDER}/{name}")
    if isinstance(store, stores.LocalStore):
        for path in inside(store.folder, FOLDER).glob(".*.json.*"):
            with contextlib.suppress(OSError):
                path.unlink()


def why_it_ended(found: Mapping[str, Any], clock: float | None = None) -> str | None:
    """Return the reason if a dead process exceeded its limit; else None.

    Args:
        found: the content of its file.
        clock: the monotonic clock of its machine; None if that machine does not answer.
    """
    if found.get("ended"):
        return str(found["ended"])
    silent = clock - found["clock"] if found and clock is not None else 0.0
    return hung(found["limit"]) if found and 0 < found["limit"] < silent else None


def state_of_machine() -> tuple[float, int]:
    """Return this machine's monotonic clock, and `killed_for_memory`."""
    return time.monotonic(), killed_for_memory()


def killed_for_memory() -> int:
    """Return how many processes the kernel of this machine has killed since its start because memory ran out.

    0 if the kernel does not say.
    """
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0

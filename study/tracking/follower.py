"""Updates the MLflow view while a study trains, in a process of its own.

Updates during training have the lowest priority. The last one has the user's: nothing trains then, and it would hardly
get on where others keep the machine busy.
"""

import contextlib
import importlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

from study import plugins
from study.tracking.client import TrackingError, quiet_mlflow
from study.tracking.mirror import MirrorResult, mirror

FINISH_SECONDS = 600.0
"""How long the end of a study waits for the view. After that, `study mlflow` completes it."""

IMPORTS = ("mlflow", "mlflow.store.tracking.sqlalchemy_store", "analysis")


class Follower:
    """Updates the view in a child process of low priority, at most every `seconds`.

    Training does not wait for it, an unreachable server costs nothing, and MLflow's import, which takes seconds, is
    done when the study ends. A context manager: its process ends with the block.

    Args:
        folder: the study's folder.
        uri: MLflow tracking URI; None is the database in the study's folder.
        seconds: the least time between two updates.
    """

    def __init__(self, folder: Path, uri: str | None, seconds: float = 120.0) -> None:
        self.seconds = seconds
        self.updated: float | None = None
        spawn = multiprocessing.get_context("spawn")
        self._connection, theirs = spawn.Pipe()
        self.process = spawn.Process(target=_mirror_on_request, args=(folder.resolve(), uri, theirs), daemon=True)
        with _ctrl_c_blocked(), plugins.safe_path_in_children():
            self.process.start()
        theirs.close()

    def __enter__(self) -> "Follower":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()  # the view can be interrupted at any time
        self.process.join()
        self._connection.close()

    def update_if_due(self) -> None:
        """Update the view, unless the last update was less than `seconds` ago."""
        if self.updated is None or time.monotonic() - self.updated >= self.seconds:
            self.update()

    def update(self) -> None:
        """Start to show what is complete now. Does not wait."""
        self.updated = time.monotonic()
        self._request(finished=False)

    def finish(self) -> MirrorResult | None:
        """Show everything, and return what `mirror` does; None if the process has died.

        Raises:
            TrackingError: as `mirror`, and if it takes longer than FINISH_SECONDS.
        """
        self._request(finished=True)
        if not self._connection.poll(FINISH_SECONDS):
            raise TrackingError(f"it took longer than {FINISH_SECONDS / 60:g} minutes")
        try:
            answer = self._connection.recv()
        except (EOFError, OSError):
            return None
        if isinstance(answer, MirrorResult):
            return answer
        raise TrackingError(answer)

    def _request(self, *, finished: bool) -> None:
        with contextlib.suppress(OSError):  # the process has died
            self._connection.send(finished)


@contextlib.contextmanager
def _ctrl_c_blocked() -> Iterator[None]:
    """Block Ctrl-C for processes started here: it reaches every process of a terminal, and the parent ends this one."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _mirror_on_request(folder: Path, uri: str | None, requests: Connection) -> None:
    """Mirror whenever a request comes (`finished` of `mirror`); answer the last one. Ends with the parent process."""
    if uri is None or uri.startswith("http"):
        os.chdir("/")  # MLflow needs a current folder, and the user's may be removed meanwhile
    warnings.simplefilter("ignore")
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    _in_background(_import_all)
    with contextlib.suppress(EOFError, OSError):
        while True:
            finished = requests.recv()
            if finished:
                requests.send(_mirrored(folder, uri, finished=True))
            else:
                _in_background(_mirrored, folder, uri, finished=False)


def _in_background(call: Callable[..., object], *args: object, **options: object) -> None:
    """Call with the lowest priority. It cannot be raised again, but belongs to a thread (on Linux)."""

    def run() -> None:
        os.nice(19)
        call(*args, **options)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()


def _import_all() -> None:
    with quiet_mlflow():
        for name in IMPORTS:
            importlib.import_module(name)


def _mirrored(folder: Path, uri: str | None, *, finished: bool) -> MirrorResult | str:
    try:
        return mirror(folder, uri, finished=finished)
    except ValueError as error:
        return str(error)

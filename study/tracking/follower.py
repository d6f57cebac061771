"""Updates the MLflow view while a study trains, in a process of its own.

Updates during training have the lowest priority. The last one has the user's: nothing trains then, and it would hardly
get on where others keep the machine busy. So it does not wait for an earlier one, and starts a process of its own.
"""

import contextlib
import dataclasses
import importlib
import json
import os
import select
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from study.execution.processes import ctrl_c_blocked
from study.tracking.choices import AUTO
from study.tracking.client import TrackingError, quiet_mlflow
from study.tracking.mirror import MirrorResult, mirror

FINISH_SECONDS = 600.0
"""How long the end of a study waits for the view. After that, `study mlflow` completes it."""

CHILD = """
import json, sys
sys.path[:] = json.loads(sys.stdin.readline())
from study.tracking.follower import mirror_on_request
mirror_on_request()
"""
"""Not a process of `multiprocessing`, which would import the user's script again. What the process needs comes on its
standard input, since a URI may hold a password and everyone can read a command line.
"""

IMPORT, UPDATE, FINISH = b"import\n", b"update\n", b"finish\n"
"""Requests. The process answers each with a line."""

PATIENCE_SECONDS = 5.0
"""How long the last update waits for an earlier one, and for imports: another process would take as long to import."""

IMPORTS = ("mlflow", "mlflow.store.tracking.sqlalchemy_store", "analysis")


class Follower:
    """Updates the view in a child process of low priority, at most every `seconds`.

    Training does not wait for it, an unreachable server costs nothing, and MLflow's import, which takes seconds, is
    done when the study ends. A context manager: its process ends with the block.

    Args:
        folder: the study's folder.
        uri: MLflow tracking URI; None is the database in the study's folder.
        seconds: the least time between two updates.
        runs: as of `mirror`.
    """

    def __init__(self, folder: Path, uri: str | None, seconds: float = 120.0, runs: str = AUTO) -> None:
        self.folder, self.uri, self.runs, self.seconds = folder.resolve(), uri, runs, seconds
        self.updated: float | None = None
        self.process = self._start()
        self._send(IMPORT)

    def _start(self) -> "subprocess.Popen[bytes]":
        with ctrl_c_blocked():
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", CHILD],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        self.unanswered = 0
        with contextlib.suppress(OSError):
            for content in ([*map(str, sys.path)], [str(self.folder), self.uri, self.runs]):
                process.stdin.write(f"{json.dumps(content)}\n".encode())  # pyright: ignore[reportOptionalMemberAccess]
        return process

    def __enter__(self) -> "Follower":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()  # the view can be interrupted at any time
        with contextlib.suppress(OSError):  # what was not sent to it
            self.process.communicate()

    def update_if_due(self) -> None:
        """Update the view, unless the last update was less than `seconds` ago."""
        if self.updated is None or time.monotonic() - self.updated >= self.seconds:
            self.update()

    def update(self) -> None:
        """Start to show what is complete now. Does not wait."""
        self.updated = time.monotonic()
        self._send(UPDATE)

    def finish(self) -> MirrorResult | None:
        """Show everything, and return what `mirror` does; None if the process has died.

        Raises:
            TrackingError: as `mirror`, and if it takes longer than FINISH_SECONDS.
        """
        end = time.monotonic() + PATIENCE_SECONDS
        while self.unanswered and (answer := self._answer(end - time.monotonic())) != b"":
            if answer is None:
                self.__exit__()
                self.process = self._start()
            else:
                self.unanswered -= 1
        self._send(FINISH)
        answer = self._answer(FINISH_SECONDS)
        if answer is None:
            raise TrackingError(f"it took longer than {FINISH_SECONDS / 60:g} minutes")
        if not answer:
            return None
        found = json.loads(answer)
        if isinstance(found, str):
            raise TrackingError(found)
        return MirrorResult(**found)

    def _answer(self, seconds: float) -> bytes | None:
        """The next line of the process, empty if it has died; None if there is none within the time."""
        answers = self.process.stdout
        assert answers
        return answers.readline() if select.select([answers], [], [], max(0.0, seconds))[0] else None

    def _send(self, request: bytes) -> None:
        assert self.process.stdin
        self.unanswered += 1
        with contextlib.suppress(OSError):  # the process has died
            self.process.stdin.write(request)


def mirror_on_request() -> None:
    """Do what each line of standard input asks for; print the result as JSON. Ends with the parent process."""
    folder, uri, runs = json.loads(sys.stdin.readline())
    if uri is None or uri.startswith("http"):
        os.chdir("/")  # MLflow needs a current folder, and the user's may be removed meanwhile
    warnings.simplefilter("ignore")
    answers, sys.stdout = sys.stdout, sys.stderr  # MLflow prints
    for line in sys.stdin:
        found: MirrorResult | str = ""
        if line.encode() == FINISH:
            found = _mirrored(Path(folder), uri, finished=True, runs=runs)
        elif line.encode() == IMPORT:
            _in_background(_import_all)
        else:
            _in_background(_mirrored, Path(folder), uri, finished=False, runs=runs)
        with contextlib.suppress(OSError):
            answers.write(json.dumps(found if isinstance(found, str) else dataclasses.asdict(found)) + "\n")
            answers.flush()


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


def _mirrored(folder: Path, uri: str | None, *, finished: bool, runs: str) -> MirrorResult | str:
    try:
        return mirror(folder, uri, finished=finished, runs=runs)
    except ValueError as error:
        return str(error)

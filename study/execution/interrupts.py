"""Stops a study on SIGINT or SIGTERM: its trials are checkpointed first, and the last line says how to continue."""

import _thread
import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from study.execution.work_queue import Queue

STOP_SECONDS = 60.0
"""Time for the trials to checkpoint, after which the study stops without them."""


class Interrupted(KeyboardInterrupt):
    """A study that a signal stopped. The message says what became of its trials."""


@dataclass(kw_only=True)
class ResumeHint:
    """How to continue a stopped study.

    Attributes:
        command: Resumes the study, once its folder holds its definition.
        started: Whether it does.
    """

    command: str
    started: bool = False

    def __str__(self) -> str:
        return f"`{self.command}` trains the rest" if self.started else "the same command starts again"


@contextlib.contextmanager
def with_resume_hint(command: str) -> Iterator[ResumeHint]:
    """Give a KeyboardInterrupt of the block a message that says how to continue.

    Args:
        command: Resumes the study.
    """
    hint = ResumeHint(command=command)
    try:
        yield hint
    except KeyboardInterrupt as stopped:
        if stopped.args:
            raise
        raise Interrupted(f"stopped; what was recorded stays, and {hint}") from None


def interrupted(queue: Queue) -> Interrupted:
    """Return the exception of a study that was stopped, with how many stacks have a checkpoint."""
    parts = ["stopped; what was recorded stays"]
    if queue.kept:
        parts.append(f"{queue.kept} of the stacks that trained kept a checkpoint")
    if queue.dropped:
        parts.append(f"{queue.dropped} start again")
    return Interrupted(f"{', '.join(parts)}, and `{queue.job.resume}` trains the rest")


@contextlib.contextmanager
def interruptible(queue: Queue, stop_trials: Callable[[], None]) -> Iterator[None]:
    """Inside, SIGINT and SIGTERM stop the study in order. A second signal stops it at once, and so do STOP_SECONDS.

    Args:
        stop_trials: Has every trial checkpoint and end. It is called in its own thread.
    """
    requested, over = threading.Event(), threading.Event()

    def stop() -> None:
        # Not in the signal handler, which may have interrupted a call of the scheduler.
        requested.wait()
        if over.is_set():
            return
        stop_trials()
        if not over.wait(STOP_SECONDS):
            _thread.interrupt_main()

    def handle(_number: int, _frame: Any) -> None:
        if requested.is_set():
            raise Interrupted(f"stopped; what was recorded stays, and `{queue.job.resume}` trains the rest")
        queue.interrupted = True
        requested.set()
        # print may be what the signal interrupted
        os.write(2, b"\nstudy: stopping, the trials are being checkpointed (a second signal stops at once)\n")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    stopper = threading.Thread(target=stop, daemon=True)
    stopper.start()
    handlers = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        over.set()
        requested.set()
        stopper.join()

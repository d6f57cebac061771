"""A study that ends before its time: what trains is kept first, and the last line says how to go on. Knows no
scheduler."""

import _thread
import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from study.execution.work_queue import Queue
from study.tune import witness

STOP_SECONDS = 60.0
"""How long trials have, once the study is to stop, until it stops without them."""


class Interrupted(KeyboardInterrupt):
    """A study that was stopped from outside, with what became of its trials."""


@dataclass(kw_only=True)
class ResumeHint:
    """How to go on: by the command `resume` once the study has begun, and so its folder holds all that this needs."""

    resume: str
    begun: bool = False

    def __str__(self) -> str:
        return f"`{self.resume}` trains the rest" if self.begun else "the same command goes on"

    def begins(self) -> None:
        self.begun = True
        witness.says(_ended_from_outside(self))


@contextlib.contextmanager
def with_a_last_line(resume: str) -> Iterator[ResumeHint]:
    """Inside, an end without a word has a last line, and one by Ctrl-C says how to go on."""
    on = ResumeHint(resume=resume)
    with witness.stands_by(_ended_from_outside(on)):
        try:
            yield on
        except KeyboardInterrupt as stopped:
            if stopped.args:
                raise
            raise Interrupted(f"stopped; what was recorded stays, and {on}") from None


def _ended_from_outside(on: ResumeHint) -> str:
    return f"study: its process was ended from outside; what was recorded stays, and {on}"


def saved(queue: Queue) -> Interrupted:
    """With what became of the stacks that trained."""
    stacks = [f"{queue.kept} of the stacks that trained go on where they were"] if queue.kept else []
    stacks += [f"{queue.dropped} start anew"] if queue.dropped else []
    said = ", ".join(["stopped; what was recorded stays", *stacks])
    return Interrupted(f"{said}, and `{queue.job.resume}` trains the rest")


@contextlib.contextmanager
def interruptible(queue: Queue, end_trials: Callable[[], None]) -> Iterator[None]:
    """Inside, SIGINT and SIGTERM let the trials be kept and end; a second one, or a minute, ends all at once.

    end_trials: called in a thread of its own, to have every trial keep itself and end.
    """
    asked, over = threading.Event(), threading.Event()

    def tell() -> None:
        # Not in the signal's handler, which may have interrupted a call of the scheduler's.
        asked.wait()
        if over.is_set():
            return
        end_trials()
        if not over.wait(STOP_SECONDS):
            _thread.interrupt_main()

    def stop(_number: int, _frame: Any) -> None:
        if asked.is_set():
            raise Interrupted(f"stopped; what was recorded stays, and `{queue.job.resume}` trains the rest")
        queue.interrupted = True
        asked.set()
        # Not by print, which this may have interrupted.
        os.write(2, b"\nstudy: stopping; what trains is being kept (once more: stop at once)\n")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    told = threading.Thread(target=tell, daemon=True)
    told.start()
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        over.set()
        asked.set()
        told.join()

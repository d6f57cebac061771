"""Several processes of this machine, for commands that train without a scheduler."""

import contextlib
import multiprocessing
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.process import BaseProcess
from typing import Any

from study import plugins

END_SECONDS = 5.0
"""How long processes have to end after an interrupt, before they are killed."""


@contextlib.contextmanager
def parallel_map(workers: int) -> Iterator[Callable[..., Any]]:
    """Yield `map`, in several processes if there is more than one worker. A KeyboardInterrupt ends them, at the latest
    after END_SECONDS.
    """
    if workers == 1:
        yield map
        return
    spawn, others = multiprocessing.get_context("spawn"), set(multiprocessing.active_children())
    with (
        _without_main(),
        plugins.safe_path_in_children(),
        ProcessPoolExecutor(workers, spawn, initializer=_start, initargs=(plugins.user_folder,)) as pool,
    ):

        def started_map(function: Callable[..., Any], *iterables: Iterable[Any]) -> Iterator[Any]:
            with ctrl_c_blocked():
                return pool.map(function, *iterables)

        try:
            yield started_map
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)  # before the processes end: nothing is left to fail
            _end(set(multiprocessing.active_children()) - others)
            raise


def _start(folder: str | None) -> None:
    """Prepare a worker. Ctrl-C does nothing to it, but reaches the processes that it starts, as it would elsewhere."""
    signal.signal(signal.SIGINT, lambda *_: None)  # exec resets a handler, but neither SIG_IGN nor a blocked signal
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    plugins.add_folder(folder)


def _end(processes: Iterable[BaseProcess]) -> None:
    """Terminate processes, and kill those that still run after END_SECONDS, as a loop that handles SIGTERM may."""
    deadline = time.monotonic() + END_SECONDS
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        process.kill()
        process.join()


@contextlib.contextmanager
def ctrl_c_blocked() -> Iterator[None]:
    """Block Ctrl-C for processes started here: it reaches every process of a terminal, and the parent ends this one."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Keep new processes from running the user's script again, which may have no guard of `__main__`."""
    main = sys.modules["__main__"]
    before = {name: vars(main)[name] for name in ("__file__", "__spec__") if name in vars(main)}
    vars(main).update(dict.fromkeys(before))
    try:
        yield
    finally:
        vars(main).update(before)

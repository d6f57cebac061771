"""Several processes of this machine, for commands that train without a scheduler."""

import contextlib
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from study import plugins


@contextlib.contextmanager
def parallel_map(workers: int) -> Iterator[Callable[..., Any]]:
    """Yield `map`, in several processes if there is more than one worker."""
    if workers == 1:
        yield map
        return
    spawn = multiprocessing.get_context("spawn")
    with (
        plugins.safe_path_in_children(),
        ProcessPoolExecutor(workers, spawn, initializer=plugins.add_folder, initargs=(plugins.user_folder,)) as pool,
    ):
        yield pool.map

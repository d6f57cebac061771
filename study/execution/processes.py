"""Several processes of this machine, for commands that train without a scheduler."""

import contextlib
import multiprocessing
import sys
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
        _without_main(),
        plugins.safe_path_in_children(),
        ProcessPoolExecutor(workers, spawn, initializer=plugins.add_folder, initargs=(plugins.user_folder,)) as pool,
    ):
        yield pool.map


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

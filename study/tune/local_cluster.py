"""A Ray cluster that one command starts on its own machine, and ends.

It listens on loopback alone and asks for a token (`study.tune.environment`). Its files lie in a folder that no other
user can enter.
"""

import contextlib
import os
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from study.storage.scratch import scratch_folder
from study.text import console

SLOW_SECONDS = 15.0
"""A start that fails later than this was too slow. Ray 2.60 gives each of its agents 15 s and the node 30 s to appear,
and no setting changes that."""

STARTS = {True: 5, False: 2}
"""Most starts, by whether they were too slow. Each slow one leaves more of Ray's bytecode and files in memory."""

TEMP_FOLDER = re.compile(r"[\w./-]{1,24}", re.ASCII)
"""Where Ray can work: it takes ASCII alone. The path of a socket has 107 bytes at most, of which Ray takes 65, and the
name of our own folder 18."""


@contextlib.contextmanager
def temp_folder() -> Iterator[Path]:
    """Make the folder for Ray's sockets and logs, which RAY_TMPDIR names inside the block. It is removed after."""
    parent = tempfile.gettempdir()
    with scratch_folder("study-ray-", parent if TEMP_FOLDER.fullmatch(parent) else "/tmp") as folder:
        before = os.environ.get("RAY_TMPDIR")
        os.environ["RAY_TMPDIR"] = str(folder)
        try:
            yield folder
        finally:
            if before is None:
                del os.environ["RAY_TMPDIR"]
            else:
                os.environ["RAY_TMPDIR"] = before


def init_options(cpus: int | None) -> dict[str, object]:
    """Return options of `ray.init` for a local cluster.

    Args:
        cpus: CPUs that the cluster has; None is those of this machine.
    """
    return {"include_dashboard": False, "num_cpus": cpus}


def start(init: Callable[[], None]) -> None:
    """Call `init`, which starts Ray, again if it fails. Says if it was too slow. Raises the error of the last try."""
    failed: Counter[bool] = Counter()
    while True:
        began = time.monotonic()
        try:
            return init()
        except Exception:  # a process of Ray that dies as it starts raises errors of many kinds
            seconds = time.monotonic() - began
            slow = seconds >= SLOW_SECONDS
            failed[slow] += 1
            if failed[slow] == STARTS[slow]:
                raise
        if slow:
            console.show(f"Ray was not up after {seconds:.0f} s, with {load()}; it is started again")


def load() -> str:
    """Return how busy this machine is, in words."""
    return f"a load of {os.getloadavg()[0]:.0f} on {os.cpu_count()} cores"

"""A Ray cluster that one command starts on its own machine, and ends.

It listens on loopback alone and asks for a token (`study.tune.environment`). Its files lie in a folder that no other
user can enter.
"""

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from study.storage.scratch import scratch_folder

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

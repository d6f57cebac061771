"""A study that takes long, and waiting until a child process has come so far."""

import subprocess
import time
from collections.abc import Callable

from processes import SECONDS

LONG = [
    *("run", "quick", "--set", "data.rows=30000", "--set", "batch=64", "--set", "window=500", "--set", "models=small"),
    *("--set", "methods=none", "--set", "lr=0.05,0.4", "--seeds", "0-1", "--set", "steps=1500"),
    *("--stack", "2", "--workers", "2"),
]


def wait_until(child: subprocess.Popen[str], true: Callable[[], object]) -> None:
    give_up = time.monotonic() + SECONDS
    while not true():
        assert child.poll() is None, child.communicate()[0]
        assert time.monotonic() < give_up
        time.sleep(0.02)

"""Processes of this machine do not run the user's script again, and end with an interrupt."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from study.execution.processes import parallel_map

ROOT = Path(__file__).parents[3]

SCRIPT = """
import math, sys
sys.path.insert(0, {root!r})
print("the script")
from study.execution.processes import parallel_map
with parallel_map(2) as each:
    print(list(each(math.sqrt, [1.0, 4.0])))
print(__file__, __spec__)
"""


def test_a_script_needs_no_guard_of_main(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(root=str(ROOT)))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines() == ["the script", "[1.0, 2.0]", f"{script} None"], done.stderr


INTERRUPTED = """
import sys, time
sys.path.insert(0, {root!r})
from study.execution.processes import parallel_map
try:
    with parallel_map(2) as each:
        for _ in each(time.sleep, [0.0] + 6 * [30.0]):
            print("the first", flush=True)
except KeyboardInterrupt:
    sys.exit(130)
"""


STUBBORN = """
import sys
sys.path.insert(0, {root!r})
from study.execution import processes
processes.END_SECONDS = 0.5
loop = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('trains', flush=True); time.sleep(30)"
try:
    with processes.parallel_map(2) as each:
        list(each(exec, [loop]))
except KeyboardInterrupt:
    sys.exit(130)
"""


def ends_after(send: Callable[[int, int], None], program: str, first: str, folder: Path) -> None:
    """Start a program, interrupt it after its first line, and check that it ends, with exit code 130."""
    script = folder / "script.py"
    script.write_text(program.format(root=str(ROOT)))
    words = [sys.executable, str(script)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert process.stdout
        assert process.stdout.readline() == f"{first}\n"
        send(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=15)
        assert (process.returncode, errors) == (130, "")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("send", [os.kill, os.killpg])
def test_an_interrupt_ends_what_runs_and_what_is_queued(send: Callable[[int, int], None], tmp_path: Path) -> None:
    ends_after(send, INTERRUPTED, "the first", tmp_path)


def test_an_interrupt_ends_a_loop_that_handles_sigterm(tmp_path: Path) -> None:
    ends_after(os.kill, STUBBORN, "trains", tmp_path)


def test_ctrl_c_reaches_the_processes_that_a_loop_starts() -> None:
    show = "import signal; print(signal.pthread_sigmask(signal.SIG_BLOCK, []), signal.getsignal(signal.SIGINT))"
    words = [sys.executable, "-c", show]
    with parallel_map(2) as each:
        shown = list(each(subprocess.check_output, [words]))
    assert shown == [subprocess.check_output(words)]
    assert b"default_int_handler" in shown[0]

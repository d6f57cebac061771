"""A loop leaves no setting behind for the next run of its process."""

import resource
import signal
import subprocess
import sys

import pytest
import torch

from study.loops import process_state


def state() -> dict:
    own = {"handler": signal.getsignal(signal.SIGUSR1), "depth": sys.getrecursionlimit()}
    return process_state._torch_settings() | process_state._limits() | own


@pytest.mark.parametrize(
    "change",
    [
        lambda: torch.set_default_dtype(torch.float64),
        lambda: torch.set_num_threads(torch.get_num_threads() + 1),
        lambda: torch.set_grad_enabled(False),
        lambda: torch.use_deterministic_algorithms(True),
        lambda: torch.set_float32_matmul_precision("medium"),
        lambda: torch.set_default_device("meta"),
        lambda: torch.autograd.set_detect_anomaly(True),
        lambda: torch.set_warn_always(True),
        lambda: setattr(torch.backends.cudnn, "benchmark", True),
        lambda: setattr(torch.backends.cudnn, "allow_tf32", not torch.backends.cudnn.allow_tf32),
        lambda: setattr(torch.backends.cuda.matmul, "allow_tf32", True),
        lambda: setattr(torch.backends.mkldnn, "enabled", False),
        lambda: signal.signal(signal.SIGUSR1, signal.SIG_IGN),
        lambda: sys.setrecursionlimit(sys.getrecursionlimit() + 100),
        lambda: resource.setrlimit(resource.RLIMIT_AS, (2**45, resource.RLIM_INFINITY)),
        lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (200, resource.getrlimit(resource.RLIMIT_NOFILE)[1])),
    ],
)
def test_settings_are_restored(change) -> None:
    before = state()
    with process_state.restored():
        change()
        assert state() != before
    assert state() == before


@pytest.mark.parametrize(
    "change",
    [
        "sys.stdout.close()",
        "os.close(1)",
        "os.dup2(other, 1)",
        "os.close(1); open('other')",
        "sys.stdout = None; os.closerange(0, 3)",
    ],
)
def test_the_output_of_the_next_run_is_that_of_the_process(change: str, tmp_path) -> None:
    """Otherwise its lines would go to the file that takes the number of the closed one: to its losses, perhaps."""
    (tmp_path / "other").write_text("other")
    program = f"""
import os, sys
from study.loops import process_state
other = os.open("other", os.O_RDWR)
for number in range(3):
    with process_state.restored():
        {change}
    losses = os.open("losses", os.O_RDWR | os.O_CREAT)
    print("a line of run", number, flush=True)
    os.close(losses)
print("ends", file=sys.stderr)
assert sys.stdin.read() == ""
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, input="")
    assert done.stdout.splitlines() == [f"a line of run {number}" for number in range(3)]
    assert done.stderr == "ends\n"
    assert (tmp_path / "losses").read_text() == ""
    assert (tmp_path / "other").read_text() == "other"

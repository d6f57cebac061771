"""A loop leaves no setting behind for the next run of its process."""

import signal

import pytest
import torch

from study.loops import process_state


def state() -> dict:
    return process_state._torch_settings() | {"handler": signal.getsignal(signal.SIGUSR1)}


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
    ],
)
def test_settings_are_restored(change) -> None:
    before = state()
    with process_state.restored():
        change()
        assert state() != before
    assert state() == before

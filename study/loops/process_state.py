"""Restores what a user's loop may change in its process, so that the next run of the process does not depend on it."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from typing import Any

TORCH_SETTINGS = {
    "get_default_dtype": "set_default_dtype",
    "get_num_threads": "set_num_threads",
    "is_grad_enabled": "set_grad_enabled",
    "get_deterministic_debug_mode": "set_deterministic_debug_mode",
    "get_float32_matmul_precision": "set_float32_matmul_precision",
    "is_anomaly_enabled": "set_anomaly_enabled",
}
"""Functions of torch that read a global setting, and those that set it."""

TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)


@contextlib.contextmanager
def restored() -> Iterator[None]:
    """Restore the process after the block: folder, environment, output, signals and settings of torch."""
    folder, environment, streams = os.getcwd(), dict(os.environ), (sys.stdin, sys.stdout, sys.stderr)
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    settings = _torch_settings()
    try:
        yield
    finally:
        os.chdir(folder)
        sys.stdin, sys.stdout, sys.stderr = streams
        if dict(os.environ) != environment:
            os.environ.clear()
            os.environ.update(environment)
        _restore_signals(handlers)
        _restore_torch(settings)


def _restore_signals(handlers: Mapping[Any, Any]) -> None:
    for timer in TIMERS:
        signal.setitimer(timer, 0)
    for number, handler in handlers.items():
        if signal.getsignal(number) != handler and handler is not None:  # None was not set by Python
            with contextlib.suppress(ValueError):  # not the main thread, where a loop could not change it
                signal.signal(number, handler)


def _torch_settings() -> dict[str, Any]:
    torch: Any = sys.modules.get("torch")
    if torch is None:
        return {}
    return {name: getattr(torch, name)() for name in (*TORCH_SETTINGS, "get_default_device")}


def _restore_torch(settings: dict[str, Any]) -> None:
    torch: Any = sys.modules.get("torch")
    now = _torch_settings()
    changed = {name: value for name, value in settings.items() if now[name] != value}
    if "get_default_device" in changed:
        device = changed.pop("get_default_device")
        torch.set_default_device(None if device.type == "cpu" else device)  # "cpu" would slow every call of torch
    for name, value in changed.items():
        getattr(torch, TORCH_SETTINGS[name])(value)

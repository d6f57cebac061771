"""Restores what a user's loop may change in its process, so that the next run of the process does not depend on it."""

import contextlib
import fcntl
import operator
import os
import resource
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
    "is_warn_always_enabled": "set_warn_always",
}
"""Functions of torch that read a global setting, and those that set it."""

TORCH_BACKENDS = {
    "cudnn": ("enabled", "benchmark", "deterministic", "allow_tf32"),
    "cuda.matmul": ("allow_tf32",),
    "mkldnn": ("enabled",),
}
"""Settings of `torch.backends`."""

TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)

LIMITS = ("AS", "CPU", "DATA", "FSIZE", "NOFILE", "STACK")
"""Limits of `resource`, without their prefix `RLIMIT_`."""

STANDARD = {0: "r", 1: "w", 2: "w"}
"""Descriptors of the standard input, output and errors, with the modes of their streams."""


@contextlib.contextmanager
def restored() -> Iterator[None]:
    """Restore the process after the block: folder, environment, output, limits, signals and settings of torch."""
    limits, depth, descriptors = _limits(), sys.getrecursionlimit(), _copies()
    folder, environment, streams = _current_folder(), dict(os.environ), (sys.stdin, sys.stdout, sys.stderr)
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    settings = _torch_settings()
    try:
        yield
    finally:
        _restore_limits(limits)
        sys.setrecursionlimit(depth)
        _restore_descriptors(descriptors)
        with contextlib.suppress(FileNotFoundError):
            os.chdir(folder)
        sys.stdin, sys.stdout, sys.stderr = map(_open_stream, streams, STANDARD)
        if dict(os.environ) != environment:
            os.environ.clear()
            os.environ.update(environment)
        _restore_signals(handlers)
        _restore_torch(settings)


def _current_folder() -> str:
    """Return the current folder; the root if it was removed, as Ray removes that of a job."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return os.sep


def _limits() -> dict[int, tuple[int, int]]:
    numbers = [getattr(resource, f"RLIMIT_{name}") for name in LIMITS]
    return {number: resource.getrlimit(number) for number in numbers}


def _restore_limits(limits: Mapping[int, tuple[int, int]]) -> None:
    for number, before in limits.items():
        if resource.getrlimit(number) != before:
            with contextlib.suppress(ValueError, OSError):  # only root may raise a hard limit
                resource.setrlimit(number, before)


def _copies() -> dict[int, int]:
    """Return a copy of each standard descriptor. A file opened later would take the number of one that is closed."""
    found = {}
    for number in STANDARD:
        with contextlib.suppress(OSError):
            found[number] = fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, len(STANDARD))
    return found


def _restore_descriptors(copies: Mapping[int, int]) -> None:
    for number, copy in copies.items():
        if not _is_open_as(number, copy):
            os.dup2(copy, number)
        os.close(copy)


def _is_open_as(number: int, copy: int) -> bool:
    try:
        return os.path.sameopenfile(number, copy)
    except OSError:
        return False


def _open_stream(stream: Any, number: int) -> Any:
    """Return a standard stream, or a new one if the loop closed it."""
    if not getattr(stream, "closed", False):
        return stream
    return open(number, STANDARD[number], buffering=1, closefd=False)


def _restore_signals(handlers: Mapping[Any, Any]) -> None:
    for timer in TIMERS:
        signal.setitimer(timer, 0)
    for number, handler in handlers.items():
        if signal.getsignal(number) != handler and handler is not None:  # None was not set by Python
            with contextlib.suppress(ValueError):  # not the main thread, where a loop could not change it
                signal.signal(number, handler)


def _torch_settings() -> dict[Any, Any]:
    torch: Any = sys.modules.get("torch")
    if torch is None:
        return {}
    settings = {name: getattr(torch, name)() for name in (*TORCH_SETTINGS, "get_default_device")}
    return settings | {(name, setting): getattr(backend, setting) for name, setting, backend in _backends(torch)}


def _restore_torch(settings: dict[Any, Any]) -> None:
    torch: Any = sys.modules.get("torch")
    now = _torch_settings()
    changed = {name: value for name, value in settings.items() if now[name] != value}
    if "get_default_device" in changed:
        device = changed.pop("get_default_device")
        torch.set_default_device(None if device.type == "cpu" else device)  # "cpu" would slow every call of torch
    for name, setting, backend in _backends(torch) if changed else ():
        if (name, setting) in changed:
            setattr(backend, setting, changed.pop((name, setting)))
    for name, value in changed.items():
        getattr(torch, TORCH_SETTINGS[name])(value)


def _backends(torch: Any) -> Iterator[tuple[str, str, Any]]:
    """Yield the name of a backend, that of its setting, and the backend."""
    for name, settings in TORCH_BACKENDS.items():
        for setting in settings:
            yield name, setting, operator.attrgetter(name)(torch.backends)

"""Fails as a test asks: in a worker of Ray, as often as a file of $FAULTS says, for the run seed of its name.

$FAULTS/7.json    {"kind": "kill", "times": 1}
"""

import ctypes
import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path

import torch
from torch import nn

from models import Spec, small

BROKEN: list[str] = []
"""A device that failed fails this process ever after."""


def build(spec: Spec) -> nn.Module:
    broken = Path(os.environ.get("FAULTS", "/nonexistent")) / "gpu"
    if broken.exists() and broken.read_text() == os.environ.get("CUDA_VISIBLE_DEVICES") and _in_a_worker():
        broken.with_name(f"broke.{time.monotonic_ns()}").write_text(str(os.getpid()))
        raise RuntimeError("CUDA error: no CUDA-capable device is detected")
    # As study.training.rng has it: the seed of a run's weights.
    for path in Path(os.environ.get("FAULTS", "/nonexistent")).glob("*.json"):
        digest = hashlib.sha256(f"{path.stem}/weights".encode()).digest()
        if int.from_bytes(digest[:8], "little") >> 1 == torch.initial_seed() and _in_a_worker():
            _fail(path, **json.loads(path.read_text()))
    return small.build(spec)


def _in_a_worker() -> bool:
    if BROKEN and "default_worker" in sys.argv[0]:
        raise RuntimeError("CUDA error: unspecified launch failure")
    return "default_worker" in sys.argv[0]


def _fail(path: Path, kind: str, times: int) -> None:
    for i in range(times):
        try:
            path.with_suffix(f".{i}").open("x").write(str(os.getpid()))
        except FileExistsError:
            continue
        break
    else:
        return
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if kind == "exit":
        sys.exit("the model wants to leave")
    if kind == "hang":
        time.sleep(10_000)
    if kind == "hang in C":
        ctypes.PyDLL(None).sleep(10_000)  # holds Python's lock: no thread runs any more
    if kind == "memory":
        raise MemoryError("no room")
    if kind == "device":
        BROKEN.append(path.stem)
        raise RuntimeError("CUDA error: unspecified launch failure")
    if kind == "eat":
        eaten = []
        while True:
            eaten.append(os.urandom(2**20) * 256)
            time.sleep(0.2)
    raise RuntimeError("an odd shape")

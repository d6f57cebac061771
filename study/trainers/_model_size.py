"""How many runs of a ranker fit into one stack, and how long they take."""

import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

STACK_RUNS_CPU = 40
"""Most runs of a CPU stack: more do not train faster, and fewer, longer trials balance worse over the cores."""

STACK_RUNS_GPU = 1024

BYTES_OF_STACKS_CPU = 3 * 2**30
"""Most memory of one CPU trial, by our estimate."""

SHARE_OF_GPU = 0.7

MOST_EMBEDDINGS = 10**10
"""Most numbers in the embedding rows of a run: with their accumulators 80 GB, of which a GPU holds one."""

SHARE_OF_PRODUCTS = 1.6
"""Speed of a stack of large networks over that of numpy's matrix products, both on one core.

Measured on a processor on which numpy reaches 125 GFLOP/s and oneDNN 215.
"""


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """What a plan needs to know of a model, and only building it can tell (`study.training.sizing`).

    Args:
        run_bytes, run_bytes_gpu: memory of a run in a stack.
        snapshot_bytes: memory that a method with rollback adds.
        work: GFLOP of a run.
        stackable: whether its runs can be computed as a stack.
        clampable: whether it has hidden units to clamp.
    """

    run_bytes: int
    run_bytes_gpu: int
    snapshot_bytes: int
    work: float
    stackable: bool
    clampable: bool

    def with_snapshots(self) -> "ModelSize":
        more = self.snapshot_bytes
        return replace(self, run_bytes=self.run_bytes + more, run_bytes_gpu=self.run_bytes_gpu + more, snapshot_bytes=0)

    def largest_stack(self, device_bytes: int | None) -> int:
        if device_bytes is None:
            return max(1, min(STACK_RUNS_CPU, BYTES_OF_STACKS_CPU // self.run_bytes))
        return max(1, min(STACK_RUNS_GPU, int(device_bytes * SHARE_OF_GPU) // self.run_bytes_gpu))


def expected_seconds(work_of_run: Mapping[str, float]) -> tuple[dict[str, float], str]:
    """Return the seconds of a run of each model on one core, and where the numbers are from.

    Args:
        work_of_run: Model -> GFLOP of a run.
    """
    speed = _gigaflops_per_second()
    seconds = {model: work / (SHARE_OF_PRODUCTS * speed) for model, work in work_of_run.items()}
    return seconds, f"by the size of the networks, and {speed:.0f} GFLOP/s of matrix products per core"


def _gigaflops_per_second() -> float:
    """Matrix products of one core, measured for a moment by numpy, which uses all cores."""
    draws = np.random.default_rng(0)
    a, b = (draws.standard_normal(shape, dtype=np.float32) for shape in ((8, 512, 128), (8, 128, 128)))
    products = np.empty((8, 512, 128), dtype=np.float32)
    best = math.inf
    for _ in range(25):
        started = time.perf_counter()
        np.matmul(a, b, out=products)
        best = min(best, time.perf_counter() - started)
    return 8 * 2e-9 * 512 * 128 * 128 / best / (os.cpu_count() or 1)

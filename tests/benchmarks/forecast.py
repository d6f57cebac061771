"""What a step should take on a GPU that is not at hand: a roofline from its operations, which nothing computes.

    python tests/benchmarks/forecast.py [--models small,large,paper_large_dcn] [--method none] [--runs 10000] [--check]

A step of small stacks is simulated on a device without numbers (`tests/helpers/fake_device.py`). Each operation has
floating-point operations (`torch.utils.flop_counter`), and bytes by the shapes of what it reads and writes. Both grow
straight with the groups of a stack, so two sizes give those of any. A step takes the larger of

    launches       operations * 5 microseconds
    device         sum over operations of max(operations / rate, bytes / bandwidth)

It says nothing of caches, of how far a product is from the peak, or of the judging. --check compares the same formula
with steps of the same path on this CPU, by its own measured rates.
"""

import argparse
import dataclasses
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from study import data
from study.config import Recipe, Run, steps_of
from study.data._dataset import Log
from study.trainers._model_size import SHARE_OF_GPU, STACK_RUNS_GPU
from study.training import devices, fused_mlp
from study.training.sizing import bytes_of_run
from study.training.stack import StackTraining

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "helpers"))

from fake_device import DEVICE, Launches, computing_nothing, try_on_cpu

ROOT = Path(__file__).resolve().parents[2]

LRS = 10
"""Runs of a seed."""
LAUNCH = 5e-6


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rates:
    """Published rates of a device: float32 operations and bytes a second, and bytes of memory."""

    flops: float
    bandwidth: float
    memory: float
    launch: float = LAUNCH


CARDS = {
    "H100": Rates(flops=67e12, bandwidth=3.35e12, memory=80e9),
    "H200": Rates(flops=67e12, bandwidth=4.8e12, memory=141e9),
}
"""SXM versions, float32 without TF32, by NVIDIA's data sheets."""


class Operations(TorchDispatchMode):
    """Collects (floating-point operations, bytes) of each operation that a device starts."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[float, float]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if not func.is_view and func.__name__.split(".")[0] not in Launches.FREE:
            count = flop_registry.get(func.overloadpacket)
            flops = float(count(*args, **kwargs, out_val=out)) if count else 0.0
            self.found.append((flops, float(sum(map(_bytes, tree_leaves((args, kwargs, out)))))))
        return out


def _bytes(x: object) -> int:
    return x.numel() * x.element_size() if isinstance(x, torch.Tensor) else 0


def runs_of(model: str, method: str, groups: int, log: Log, recipe: Recipe) -> list[Run]:
    run = Run(data=log.content, model=model, method=method, lr=0.1, seed=0, recipe=recipe)
    return [dataclasses.replace(run, seed=g, lr=0.01 * (1 + k)) for g in range(groups) for k in range(LRS)]


def operations_of(runs: Sequence[Run], log: Log) -> list[tuple[float, float]]:
    """The operations of the third step of a stack."""
    recipe = dataclasses.replace(runs[0].recipe, steps=3)
    runs = [dataclasses.replace(run, recipe=recipe) for run in runs]
    try_on_cpu(runs, log)
    with computing_nothing():
        training = StackTraining(runs, log, DEVICE)
        for step, rows_GB in enumerate(training.batches()):
            with Operations() as seen:
                training.step(step, rows_GB)
    return seen.found


def of_stack(model: str, method: str, runs: int, log: Log, recipe: Recipe) -> list[tuple[float, float]]:
    """The operations of a step of so many runs."""
    few, more = (operations_of(runs_of(model, method, groups, log, recipe), log) for groups in (2, 4))
    assert len(few) == len(more), "the number of operations does not depend on the stack"
    scale = (runs / LRS - 2) / 2
    pairs = zip(few, more, strict=True)
    return [(max(0.0, a[0] + scale * (b[0] - a[0])), max(0.0, a[1] + scale * (b[1] - a[1]))) for a, b in pairs]


def seconds_of(operations: Sequence[tuple[float, float]], rates: Rates) -> dict[str, float]:
    """Seconds of a step by what would rule it alone, and of the whole."""
    found = {
        "launches": len(operations) * rates.launch,
        "products": sum(flops for flops, _ in operations) / rates.flops,
        "bytes": sum(count for _, count in operations) / rates.bandwidth,
    }
    device = sum(max(flops / rates.flops, count / rates.bandwidth) for flops, count in operations)
    return found | {"step": max(found["launches"], device)}


def forecast(model: str, method: str, runs: int, log: Log, recipe: Recipe) -> list[str]:
    """One line for each card."""
    own = bytes_of_run(model, recipe, log, gpu=True)
    lines = []
    for card, rates in CARDS.items():
        stack = max(1, min(STACK_RUNS_GPU, int(SHARE_OF_GPU * rates.memory) // own, runs))
        found = seconds_of(of_stack(model, method, stack, log, recipe), rates)
        steps = steps_of(recipe, log.train_rows)
        rules = max(("launches", "products", "bytes"), key=found.__getitem__)
        parts = ", ".join(f"{name} {1e3 * found[name]:.2f}" for name in ("launches", "products", "bytes"))
        lines.append(
            f"{model}, {method}, {card}: {stack} runs a stack of {1e-9 * stack * own:.1f} GB; ms a step: {parts}; "
            f"{rules} rule; {runs} runs in {runs / stack * steps * found['step']:.0f} s"
        )
    return lines


def cpu_rates() -> Rates:
    """This CPU's, on one thread, by its CPU time: products, a large copy, and the smallest operation."""
    a, b, small = torch.randn(20, 512, 128), torch.randn(20, 128, 64), torch.zeros(4)
    large = torch.zeros(2**23)

    def seconds(work: Any, times: int) -> float:
        best = float("inf")
        for _ in range(5):
            started = time.process_time()
            for _ in range(times):
                work()
            best = min(best, (time.process_time() - started) / times)
        return best

    return Rates(
        flops=2 * 20 * 512 * 128 * 64 / seconds(lambda: a @ b, 20),
        bandwidth=2 * 4 * len(large) / seconds(lambda: large.mul_(1.0), 5),
        memory=0.0,
        launch=seconds(lambda: small.add_(1.0), 2000),
    )


def check(model: str, method: str, log: Log, recipe: Recipe) -> str:
    """The formula against CPU seconds of the same steps: on a CPU an operation waits for the one before."""
    torch.set_num_threads(1)
    runs = runs_of(model, method, 2, log, dataclasses.replace(recipe, steps=12))
    operations, rates = operations_of(runs, log), cpu_rates()
    found = seconds_of(operations, rates)
    expected = found["step"] + (found["launches"] if found["step"] > found["launches"] else 0.0)
    before = devices.wants_few_operations, fused_mlp.takes
    devices.wants_few_operations, fused_mlp.takes = (lambda _device: True), (lambda *_given: False)
    try:
        training, times = StackTraining(runs, log, torch.device("cpu")), []
        for step, rows_GB in enumerate(training.batches()):
            started = time.process_time()
            training.step(step, rows_GB)
            times.append(time.process_time() - started)
    finally:
        devices.wants_few_operations, fused_mlp.takes = before
    measured = sorted(times)[len(times) // 2]
    return (
        f"check: {model}, {method}, 20 runs on this CPU ({1e-9 * rates.flops:.0f} GFLOP/s, "
        f"{1e-9 * rates.bandwidth:.1f} GB/s): forecast {1e3 * expected:.1f} ms a step, measured {1e3 * measured:.1f} "
        f"({measured / expected:.2f})"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", default="small,large,paper_large_dcn")
    parser.add_argument("--method", default="none")
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--data", default="kuairand", help="data source (default: kuairand)")
    parser.add_argument("--data-dir", type=Path, default=ROOT.parent / "shared/data/KuaiRand-Pure")
    parser.add_argument("--rows", type=int, help="of synthetic data")
    parser.add_argument("--check", action="store_true", help="the formula, on this CPU")
    asked = parser.parse_args(arguments)
    options = {"dir": str(asked.data_dir.resolve())} if asked.data == "kuairand" else {}
    options |= {"rows": asked.rows} if asked.rows else {}
    with tempfile.TemporaryDirectory(prefix="forecast-") as folder:
        log, recipe = data.load(asked.data, options, Path(folder)), Recipe()
        for model in asked.models.split(","):
            checked = [check(model, asked.method, log, recipe)] if asked.check else None
            for line in checked or forecast(model, asked.method, asked.runs, log, recipe):
                print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

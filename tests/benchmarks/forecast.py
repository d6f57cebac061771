"""What a step should take on a GPU that is not at hand: a roofline from its operations, which nothing computes.

    python tests/benchmarks/forecast.py [--models small,large,paper_large_dcn] [--method none] [--runs 10000] [--check]

A step of small stacks is simulated on a device without numbers (`tests/helpers/fake_device.py`). Each operation has
floating-point operations (`torch.utils.flop_counter`), and bytes by the shapes of what it reads and writes. Both grow
straight with the groups of a stack, so two sizes give those of any. A step takes the larger of

    launches       operations * 5 microseconds
    device         sum over operations of max(operations / rate, bytes / bandwidth)

It prints the table of docs/performance.md: the judging by the same formula, and the most bytes that a simulated step
holds beside the planner's estimate. Runs that fit are those of SHARE_OF_GPU of the memory, whatever STACK_RUNS_GPU is.
It says nothing of caches, of how far a product is from the peak, or of what the host does.

--check compares the same formula with steps on this CPU, by its own measured rates: steps as on a GPU, and as
`make bench` trains.
"""

import argparse
import contextlib
import dataclasses
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from study import methods
from study.cli.parser import positive_int
from study.config import Recipe, Run, steps_of
from study.data._dataset import Log
from study.definition import model_options
from study.trainers._model_size import BYTES_OF_STACKS_CPU, SHARE_OF_GPU, STACK_RUNS_GPU
from study.training import devices, evaluation, fused_mlp, matmul
from study.training.sizing import bytes_of_run
from study.training.stack import StackTraining

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "helpers"))

from benchmark_options import digits, log_of
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
    """Collects (floating-point operations, bytes) of each operation that the device starts; those of the host apart."""

    PASSES: ClassVar = {"sort": 4}
    """Times that an operation reads and writes its numbers: a sort takes one for each byte of float32."""

    def __init__(self, device: torch.device = DEVICE) -> None:
        super().__init__()
        self.device, self.found = device, list[tuple[float, float]]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        name = func.__name__.split(".")[0]
        tensors = [x for x in tree_leaves((args, kwargs, out)) if isinstance(x, torch.Tensor)]
        if not func.is_view and name not in Launches.FREE and any(x.device == self.device for x in tensors):
            count = flop_registry.get(func.overloadpacket)
            flops = float(count(*args, **kwargs, out_val=out)) if count else 0.0
            moved = sum(x.numel() * x.element_size() for x in tensors)
            self.found.append((flops, float(self.PASSES.get(name, 1) * moved)))
        return out


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors on the device that were made inside the block and are still referred to.

    Attributes:
        most: The most at the end of an operation, since it was last set to 0.
    """

    def __init__(self) -> None:
        super().__init__()
        self.most = 0
        self._storages: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, torch.Tensor) and x.device == DEVICE:
                storage = x.untyped_storage()
                self._storages[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self._storages = {key: held for key, held in self._storages.items() if not held[0].expired()}
        self.most = max(self.most, sum(count for _, count in self._storages.values()))
        return out


def runs_of(model: str, method: str, groups: int, log: Log, recipe: Recipe) -> list[Run]:
    run = Run(data=log.content, model=model, method=method, lr=0.1, seed=0, recipe=recipe)
    return [dataclasses.replace(run, seed=g, lr=0.01 * (1 + k)) for g in range(groups) for k in range(LRS)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Simulated:
    """A stack on the device without numbers: (floating-point operations, bytes) of each operation, and memory.

    Args:
        step: Operations of a step.
        judging: Those of the judging at the end.
        memory: Bytes that a step holds at most, the log included.
    """

    step: list[tuple[float, float]]
    judging: list[tuple[float, float]]
    memory: float


def simulated(runs: Sequence[Run], log: Log) -> Simulated:
    """Simulate three steps of a stack and its judging; the figures are of the third step."""
    recipe = dataclasses.replace(runs[0].recipe, steps=3)
    runs = [dataclasses.replace(run, recipe=recipe) for run in runs]
    try_on_cpu(runs, log)
    of_step: list[tuple[float, float]] = []
    with computing_nothing(), LiveBytes() as live:
        training = StackTraining(runs, log, DEVICE)
        for step, rows_GB in enumerate(training.batches()):
            live.most = 0
            with Operations() as seen:
                training.step(step, rows_GB)
            of_step = seen.found
        memory = live.most
        with Operations() as judging:
            for measure in (evaluation.measured, evaluation.finite, evaluation.moved):
                measure(training)
    return Simulated(step=of_step, judging=judging.found, memory=memory)


def along(few: float, more: float, runs: int) -> float:
    """Extend a figure of stacks of 2 and of 4 seeds to one of so many runs: it grows straight."""
    return max(0.0, few + (runs / LRS - 2) / 2 * (more - few))


def step_of(few: Simulated, more: Simulated, runs: int) -> list[tuple[float, float]]:
    """The operations of a step of so many runs; their number does not depend on the stack."""
    pairs = zip(few.step, more.step, strict=True)
    return [(along(a[0], b[0], runs), along(a[1], b[1], runs)) for a, b in pairs]


def fitting(few: Simulated, more: Simulated, memory: float) -> int:
    """Return the most runs whose step fits into so many bytes."""
    of_run = (more.memory - few.memory) / (2 * LRS)
    return max(0, int(2 * LRS + (memory - few.memory) / of_run))


def seconds_of(operations: Sequence[tuple[float, float]], rates: Rates) -> dict[str, float]:
    """Seconds of these operations by what would rule them alone, of the device, and of the whole ("all")."""
    found = {
        "launches": len(operations) * rates.launch,
        "products": sum(flops for flops, _ in operations) / rates.flops,
        "bytes": sum(count for _, count in operations) / rates.bandwidth,
    }
    found["device"] = sum(max(flops / rates.flops, count / rates.bandwidth) for flops, count in operations)
    return found | {"all": max(found["launches"], found["device"])}


COLUMNS = (
    "card",
    "runs of a stack",
    "GB of a stack: planner, step",
    "runs that fit: planner, step",
    "ms a step: launches, products, bytes",
    "what rules",
    "judging a stack, s",
    "{runs:,} runs, s",
)


def forecast(model: str, method: str, runs: int, log: Log, recipe: Recipe) -> list[list[str]]:
    """The cells of `COLUMNS` for each card."""
    own = bytes_of_run(model, recipe, log, gpu=True)
    few, more = (simulated(runs_of(model, method, groups, log, recipe), log) for groups in (2, 4))
    rows = []
    for card, rates in CARDS.items():
        room = int(SHARE_OF_GPU * rates.memory)
        stack = max(1, min(STACK_RUNS_GPU, room // own, runs))
        found = seconds_of(step_of(few, more, stack), rates)
        few_s, more_s = (seconds_of(one.judging, rates) for one in (few, more))
        judging = max(along(few_s[name], more_s[name], stack) for name in ("launches", "device"))
        parts = ("launches", "products", "bytes")
        rows.append(
            [
                card,
                f"{stack:,}",
                f"{1e-9 * stack * own:.1f}, {1e-9 * along(few.memory, more.memory, stack):.1f}",
                f"{room // own:,}, {fitting(few, more, room):,}",
                ", ".join(f"{1e3 * found[name]:.3g}" for name in parts),
                max(parts, key=found.__getitem__),
                f"{judging:.2g}",
                digits(runs / stack * (steps_of(recipe, log.train_rows) * found["all"] + judging)),
            ]
        )
    return rows


def cpu_rates() -> Rates:
    """This CPU's, on one thread, by its CPU time: products as in training, a large copy, and the smallest operation."""
    a, b, small = torch.randn(20, 512, 128), torch.randn(20, 128, 64), torch.zeros(4)
    large = torch.zeros(2**23)

    def seconds(work: Callable[[], object], times: int) -> float:
        best = float("inf")
        for _ in range(5):
            started = time.process_time()
            for _ in range(times):
                work()
            best = min(best, (time.process_time() - started) / times)
        return best

    return Rates(
        flops=2 * 20 * 512 * 128 * 64 / seconds(lambda: matmul.product(a, b), 20),
        bandwidth=2 * 4 * len(large) / seconds(lambda: large.mul_(1.0), 5),
        memory=0.0,
        launch=seconds(lambda: small.add_(1.0), 2000),
    )


@contextlib.contextmanager
def path_of_a_gpu() -> Iterator[None]:
    """Steps on this CPU start the operations of a GPU inside the block."""
    before = devices.wants_few_operations, fused_mlp.takes
    devices.wants_few_operations, fused_mlp.takes = (lambda _device: True), (lambda *_given: False)
    try:
        yield
    finally:
        devices.wants_few_operations, fused_mlp.takes = before


def check(model: str, method: str, log: Log, recipe: Recipe, rates: Rates, most_seconds: float = 5.0) -> list[str]:
    """The formula against CPU seconds of the same steps, by the path of a GPU and by that of `make bench`.

    On a CPU an operation waits for the one before, so launches and device add up.
    """
    size = min(2 * LRS, max(1, BYTES_OF_STACKS_CPU // bytes_of_run(model, recipe, log)))
    runs = runs_of(model, method, 2, log, dataclasses.replace(recipe, steps=12))[:size]
    lines = []
    for path, inside in (("a GPU's path", path_of_a_gpu()), ("as make bench trains", contextlib.nullcontext())):
        with inside:
            operations, measured = timed_step(runs, log, most_seconds)
        found = seconds_of(operations, rates)
        expected = found["launches"] + seconds_of(operations, dataclasses.replace(rates, launch=0.0))["all"]
        lines.append(
            f"check: {model}, {method}, {size} runs, {path}: forecast {1e3 * expected:.3g} ms a step, "
            f"measured {1e3 * measured:.3g} ({measured / expected:.2f})"
        )
    return lines


def timed_step(runs: Sequence[Run], log: Log, most_seconds: float) -> tuple[list[tuple[float, float]], float]:
    """Train on this CPU: the operations of the second step, and the median CPU seconds of those after it."""
    cpu = torch.device("cpu")
    training, times, seen = StackTraining(runs, log, cpu), [0.0], Operations(cpu)
    for step, rows_GB in enumerate(training.batches()):
        if step > 2 and sum(times) > most_seconds:
            break
        started = time.process_time()
        with seen if step == 1 else contextlib.nullcontext():
            training.step(step, rows_GB)
        times += [time.process_time() - started] if step > 1 else []
    return seen.found, statistics.median(times[1:])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", default="small,large,paper_large_dcn")
    parser.add_argument("--method", default="none")
    parser.add_argument("--runs", type=positive_int, default=10_000)
    parser.add_argument("--data", default="kuairand", help="data source (default: kuairand)")
    parser.add_argument("--data-dir", type=Path, default=ROOT.parent / "shared/data/KuaiRand-Pure")
    parser.add_argument("--rows", type=positive_int, help="of synthetic data")
    parser.add_argument("--check", action="store_true", help="the formula, on this CPU")
    asked = parser.parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory(prefix="forecast-") as folder:
            _print(asked, log_of(asked, Path(folder)), Recipe())
    except ValueError as error:  # no data there, an unknown model or method
        parser.exit(2, f"{parser.prog}: {error}\n")
    return 0


def _print(asked: argparse.Namespace, log: Log, recipe: Recipe) -> None:
    methods.load(asked.method)  # an unknown name is said before the table
    for model in asked.models.split(","):
        model_options.canonical(model)
    if asked.check:
        torch.set_num_threads(1)
        rates = cpu_rates()
        print(f"this CPU: {1e-9 * rates.flops:.0f} GFLOP/s, {1e-9 * rates.bandwidth:.1f} GB/s", flush=True)
        for model in asked.models.split(","):
            print(*check(model, asked.method, log, recipe, rates), sep="\n", flush=True)
        return
    print(row_of(["", *(column.format(runs=asked.runs) for column in COLUMNS)]))
    print(row_of(["---"] * (1 + len(COLUMNS))))
    for model in asked.models.split(","):
        for cells in forecast(model, asked.method, asked.runs, log, recipe):
            print(row_of([f"`{model}`", *cells]), flush=True)


def row_of(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |".replace("|  |", "| |")


if __name__ == "__main__":
    sys.exit(main())

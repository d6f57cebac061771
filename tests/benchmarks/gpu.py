"""The engine alone on one device: stacks against one process a run, what share of the device's products, who waits.

    python tests/benchmarks/gpu.py --data-dir DIR [--device cuda] [--only rate,waits,small,paper,edges] [--runs 10000]
    python tests/benchmarks/gpu.py --data-dir DIR --only outcomes
    python tests/benchmarks/gpu.py --data-dir DIR --only paper-edges --paper paper_small --tile 1400000 --seeds 16

It needs torch, numpy and pandas, and neither Ray nor MLflow; the last two parts need scipy too. Its parts:

rate    TFLOP/s of large square products, in float32, TF32 and bfloat16: the limit for all that follows.
waits   steps under torch's sync debug mode "error", which ends at the first operation that waits for the device: every
        method on every network, in the settings of `tests/helpers/device_settings.py`. For `small`, kernels a step.
graph   ms a step, plainly and by a CUDA graph, and seconds with all that is around the steps: `small` in stacks of
        several sizes, and every setting of `waits`. Whether the losses have the same bits, and why there is no graph.
small   runs of `small` in stacks; against `plain_torch` as one process, and as sixteen that share the device.
paper   steps of `paper_small` and `paper_large_dcn` at a batch of 65,536: TFLOP/s, and the share of the rate of that
        precision. In bfloat16 the factors of each layer's products are rounded, and all else is float32.
edges   P(divergence) of `small` over lrs, the same runs in float32 and in TF32, and how many runs end differently.
outcomes     runs of `small_dcn` across the edge, on the device and on the CPU: the share that ends alike, and both
             edges; a stack twice, bit for bit; runs alone and in a stack.
paper-edges  LR50 of the paper's five methods on its networks at a batch of 65,536, in each precision of --kinds.

On a CPU the parts run too (without what a CPU does not have), to see that they work.
"""

import argparse
import contextlib
import itertools
import math
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from study.cli.parser import positive_int
from study.config import CONTROL_LRS, CONTROL_SEEDS, Recipe, Rule, Run, steps_of
from study.data._dataset import Log
from study.outcomes.judge import judge
from study.outcomes.reference import control_reference
from study.trainers._model_size import SHARE_OF_GPU, STACK_RUNS_GPU
from study.training import matmul, step_graph
from study.training.sizing import bytes_of_run
from study.training.trainer import Trained, train

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

import plain_torch
from bench import HIDDEN, ROOT, gigaflops_of_run
from benchmark_options import digits, log_of
from conversion import tile
from device_settings import Setting, all_pairs

PARTS = ("rate", "waits", "graph", "small", "paper", "edges", "outcomes", "paper-edges")
FIRST = PARTS[:6]
PAPER = ("paper_small", "paper_large_dcn")
PRECISIONS = {"float32": (torch.float32, "ieee"), "TF32": (torch.float32, "tf32"), "bfloat16": (torch.bfloat16, "ieee")}
"""Type of what is multiplied, and what torch may make of float32 on the way."""
METHODS = "none,layer_clip,agc,lamb,clippy"
ALIKE, ALONE = 0.97, 1e-3
"""Targets: the share of runs that ends alike on the device and on the CPU; how far losses of a run alone may be from
those in a stack, as a share."""
WARM = 10
"""Steps before anything is timed or watched."""


@dataclass(frozen=True, kw_only=True)
class Timed:
    """Of one stack: seconds of everything, and of a step after the first ones; what training gave."""

    seconds: float
    of_step: float
    trained: Trained


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--only", default=",".join(FIRST), help=f"of {', '.join(PARTS)} (default: the first six)")
    parser.add_argument("--runs", type=positive_int, default=10_000, help="of small (default: 10000)")
    parser.add_argument("--stack", type=positive_int, help="runs of a stack (default: as a study would)")
    parser.add_argument("--steps", type=positive_int, help="of a run (default: one pass)")
    parser.add_argument("--paper-steps", type=positive_int, default=40, help="of the paper's networks (default: 40)")
    parser.add_argument("--paper", default=",".join(PAPER), help="models in their place")
    parser.add_argument("--batch", type=positive_int, default=65_536, help="of the paper's networks (default: 65536)")
    parser.add_argument("--kinds", default=",".join(PRECISIONS), help="precisions of paper-edges (default: all)")
    parser.add_argument("--methods", default=METHODS, help=f"of paper-edges (default: {METHODS})")
    parser.add_argument("--lrs", default=",".join(map(str, plain_torch.LRS)), help="of outcomes and paper-edges")
    parser.add_argument("--tile", type=positive_int, help="rows that the slice of KuaiRand is tiled to")
    parser.add_argument("--out", type=Path, help="a CSV file for each run's outcome, of paper-edges")
    parser.add_argument("--seeds", type=positive_int, default=20, help="of each lr, for edges (default: 20)")
    parser.add_argument("--processes", type=positive_int, default=16, help="that share the device (default: 16)")
    parser.add_argument("--data", default="kuairand", help="data source (default: kuairand)")
    parser.add_argument("--data-dir", type=Path, default=ROOT.parent / "shared/data/KuaiRand-Pure")
    parser.add_argument("--rows", type=positive_int, help="of synthetic data")
    asked = parser.parse_args(arguments)
    parts = asked.only.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"no part is called {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if asked.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("this machine has no GPU that torch can use; --device cpu shows that the parts run")

    try:
        _print(asked, parts)
    except (ValueError, FileNotFoundError) as error:  # no data there, an unknown model, too few steps to learn
        parser.exit(2, f"{parser.prog}: {error}\n")
    return 0


def _print(asked: argparse.Namespace, parts: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="gpu-") as folder:
        if asked.tile:
            tile(asked.data_dir, Path(folder) / "tiled", asked.tile)
            asked.data_dir = Path(folder) / "tiled"
        log = log_of(asked, Path(folder))
        print(f"{name_of(asked.device)}, torch {torch.__version__}", flush=True)
        rates = matrix_rates(asked.device)
        for part in parts:
            for line in SAYS[part](asked, log, rates):
                print(line, flush=True)


# --- the parts ---------------------------------------------------------------------------------------------------


def say_rate(_asked: argparse.Namespace, _log: Log, rates: dict[str, float]) -> Iterator[str]:
    yield "rate: " + ", ".join(f"{kind} {rate:.3g} TFLOP/s" for kind, rate in rates.items())


def say_waits(asked: argparse.Namespace, log: Log, _rates: dict[str, float]) -> Iterator[str]:
    if not asked.device.startswith("cuda"):
        yield f"waits: not asked, {asked.device} has no queue"
        return
    for setting in all_pairs():
        runs = runs_of_setting(setting, log)
        kernels = f"; {kernels_of_step(runs, log, asked.device):.0f} kernels a step" if setting.model == "small" else ""
        yield f"waits: {' '.join(setting)}: {waits(runs, log, asked.device)}{kernels}"


def say_graph(asked: argparse.Namespace, log: Log, _rates: dict[str, float]) -> Iterator[str]:
    recipe = Recipe(steps=asked.steps)
    for size in sorted({1, 32, asked.stack or stack_of("small", log, recipe, asked.device)}):
        yield f"graph: {size} runs of small: {by_graph(runs_of('small', size, log, recipe), log, asked.device)}"
    if not asked.device.startswith("cuda"):
        yield f"graph: the settings are not asked, {asked.device} replays nothing"
        return
    for setting in all_pairs():
        yield f"graph: {' '.join(setting)}: {by_graph(runs_of_setting(setting, log), log, asked.device)}"


def by_graph(runs: Sequence[Run], log: Log, device: str) -> str:
    """Train a stack plainly and by a graph, and tell the difference."""
    step_graph._refused = ""  # whatever the stack before has met
    step_graph._notes.clear()
    timed(runs, log, device, cuda_graphs=False)  # what happens once a process
    plain, graph = (timed(runs, log, device, cuda_graphs=asked) for asked in (False, True))
    same = all(
        getattr(plain.trained, name).tobytes() == getattr(graph.trained, name).tobytes() for name in ("loss", "moved")
    )
    told = f"{1e3 * plain.of_step:.3f} and {1e3 * graph.of_step:.3f} ms a step"
    told += f", {plain.seconds:.2f} and {graph.seconds:.2f} s in all, "
    told += f"{'the same' if same else 'OTHER'} losses and distances"
    return "; ".join([told, *graph.trained.notes])


def say_small(asked: argparse.Namespace, log: Log, rates: dict[str, float]) -> Iterator[str]:
    recipe = Recipe(steps=asked.steps)
    runs = runs_of("small", asked.runs, log, recipe)
    size = asked.stack or stack_of("small", log, recipe, asked.device)
    stacks = [runs[i : i + size] for i in range(0, len(runs), size)]
    timed(stacks[0][:2], log, asked.device)  # what happens once a process
    times = [timed(stack, log, asked.device) for stack in stacks]
    seconds = sum(one.seconds for one in times)
    rate = 1e-3 * gigaflops_of_run("small", log, recipe) * len(runs) / seconds
    yield (
        f"small: {len(runs)} runs in {len(stacks)} stacks of at most {size}: {digits(seconds)} s, "
        f"{digits(60 * len(runs) / seconds)} a minute, {digits(1e3 * times[0].of_step)} ms a step, "
        f"{rate:.3g} TFLOP/s ({digits(100 * rate / rates['float32'])}% of float32)"
    )
    shared = plain_torch.shared_of(log, HIDDEN["small"], asked.steps)
    for processes in (1, asked.processes):
        per_minute = 60 * processes / plain_seconds(shared, asked.device, processes)
        ratio = 60 * len(runs) / seconds / per_minute
        told = f"{digits(per_minute)} runs a minute; stacks {digits(ratio)}x as many"
        yield f"small: plain torch, {processes} at a time: {told}"


def say_paper(asked: argparse.Namespace, log: Log, rates: dict[str, float]) -> Iterator[str]:
    recipe = Recipe(steps=asked.paper_steps, batch=asked.batch)
    for model in asked.paper.split(","):
        size = asked.stack or min(64, stack_of(model, log, recipe, asked.device))
        runs = runs_of(model, size, log, recipe)
        of_step = gigaflops_of_run(model, log, recipe) * size / asked.paper_steps
        for kind in PRECISIONS:
            if kind in rates:
                with multiplying(kind):
                    step = timed(runs, log, asked.device).of_step
                rate = 1e-3 * of_step / step
                yield (
                    f"paper: {model}, {size} runs, {kind}: {digits(1e3 * step)} ms a step, {rate:.3g} TFLOP/s, "
                    f"{digits(100 * rate / rates[kind])}% of the rate"
                )


def say_edges(asked: argparse.Namespace, log: Log, rates: dict[str, float]) -> Iterator[str]:
    recipe, rule = Recipe(steps=asked.steps), Rule()
    control = [_run("small", lr, seed, log, recipe) for seed in CONTROL_SEEDS for lr in CONTROL_LRS]
    runs = runs_of("small", len(plain_torch.LRS) * asked.seeds, log, recipe)
    diverged = {}
    for kind in ("float32", "TF32"):
        if kind in rates:
            with multiplying(kind):
                diverged[kind] = outcomes(train(runs, log, asked.device), train(control, log, asked.device), log, rule)
            shares = (diverged[kind][[run.lr == lr for run in runs]].mean() for lr in plain_torch.LRS)
            told = ", ".join(f"{lr:g}: {share:.2f}" for lr, share in zip(plain_torch.LRS, shares, strict=True))
            yield f"edges: {kind}: P(divergence | lr), {asked.seeds} seeds each: {told}"
    if len(diverged) == 2:
        one, other = diverged.values()
        yield f"edges: {int((one & ~other).sum())} runs diverge in float32 alone, {int((other & ~one).sum())} in TF32"


def say_outcomes(asked: argparse.Namespace, log: Log, _rates: dict[str, float]) -> Iterator[str]:
    lrs = [float(lr) for lr in asked.lrs.split(",")]
    recipe, diverged = Recipe(steps=asked.steps), {}
    runs = grid("small_dcn", "none", lrs, range(asked.seeds), log, recipe)
    for device in (asked.device, "cpu"):
        known = control_of("small_dcn", log, recipe, device, asked.stack)
        diverged[device] = outcomes(in_stacks(runs, log, device, asked.stack), known, log, Rule())
    edges = {device: edge_of(runs, found) for device, found in diverged.items()}
    one, other = diverged[asked.device], diverged["cpu"]
    alike = float((one == other).mean())
    yield f"outcomes: {len(runs)} runs: {alike:.1%} end as on the CPU (target {ALIKE:.0%})"
    within = all(low <= edge <= high for edge, *_ in edges.values() for _, low, high in edges.values())
    words = ", ".join(f"{device} {_edge(found)}" for device, found in edges.items())
    yield f"outcomes: LR50: {words}: {'each' if within else 'not each'} within the other's interval"
    stack = runs[: 4 * len(lrs)]
    first, again = (train(stack, log, asked.device) for _ in range(2))
    same = first.loss.tobytes() == again.loss.tobytes() and np.array_equal(first.moved, again.moved, equal_nan=True)
    yield f"outcomes: a stack of {len(stack)} twice: {'the same bits' if same else 'OTHER BITS'}"
    kept = [i for i, lost in enumerate(one[: len(stack)]) if not lost][:: max(1, len(stack) // 4)]
    far = max((_far(train([stack[i]], log, asked.device).loss[0], first.loss[i]) for i in kept), default=math.nan)
    yield f"outcomes: {len(kept)} runs alone: losses differ by {far:.2g} at most (tolerance {ALONE:g})"


def say_paper_edges(asked: argparse.Namespace, log: Log, rates: dict[str, float]) -> Iterator[str]:
    recipe, lrs = Recipe(steps=asked.steps, batch=asked.batch), [float(lr) for lr in asked.lrs.split(",")]
    kinds = [kind for kind in asked.kinds.split(",") if kind in rates]
    told = []
    for model, kind in itertools.product(asked.paper.split(","), kinds):
        with multiplying(kind):
            known = control_of(model, log, recipe, asked.device, asked.stack)
        for method in asked.methods.split(","):
            runs = grid(model, method, lrs, range(asked.seeds), log, recipe)
            with multiplying(kind):
                diverged = outcomes(in_stacks(runs, log, asked.device, asked.stack), known, log, Rule())
            yield f"paper-edges: {model}, {method}, {kind}, {asked.seeds} seeds: LR50 {_edge(edge_of(runs, diverged))}"
            told += [(model, method, kind, run.lr, run.seed, bool(d)) for run, d in zip(runs, diverged, strict=True)]
            if asked.out:  # after each curve, so that what was measured stays
                columns = ["model", "method", "precision", "lr", "seed", "diverged"]
                pd.DataFrame(told, columns=columns).to_csv(asked.out, index=False)


SAYS: dict[str, Callable[[argparse.Namespace, Log, dict[str, float]], Iterator[str]]] = {
    "rate": say_rate,
    "waits": say_waits,
    "graph": say_graph,
    "small": say_small,
    "paper": say_paper,
    "edges": say_edges,
    "outcomes": say_outcomes,
    "paper-edges": say_paper_edges,
}


# --- what they are made of ---------------------------------------------------------------------------------------


def matrix_rates(device: str) -> dict[str, float]:
    """TFLOP/s of the best of ten products of large square matrices, by precision; a CPU's in float32 alone."""
    on_gpu = device.startswith("cuda")
    size, rates = 8192 if on_gpu else 1024, {}
    for kind in PRECISIONS if on_gpu else ["float32"]:
        a, b = (torch.randn(size, size, device=device, dtype=PRECISIONS[kind][0]) for _ in range(2))
        best = math.inf
        with multiplying(kind):
            for _ in range(10):
                _wait(device)
                started = time.perf_counter()
                a @ b
                _wait(device)
                best = min(best, time.perf_counter() - started)
        rates[kind] = 2e-12 * size**3 / best
    return rates


@contextlib.contextmanager
def multiplying(kind: str) -> Iterator[None]:
    """Inside, a GPU multiplies float32 in this precision; for bfloat16, layers round the factors of their products."""
    setting: Any = torch.backends.cuda.matmul
    before = setting.fp32_precision, matmul.product, torch.baddbmm
    setting.fp32_precision = PRECISIONS[kind][1]
    if kind == "bfloat16":
        matmul.product = _rounded_product
        torch.baddbmm = lambda bias, left, right: _rounded_product(left, right).add_(bias)  # pyright: ignore
    try:
        yield
    finally:
        setting.fp32_precision, matmul.product, torch.baddbmm = before


def _rounded_product(left_RNI: Tensor, right_RIO: Tensor, out: Tensor | None = None) -> Tensor:
    found = torch.bmm(left_RNI.bfloat16(), right_RIO.bfloat16()).to(left_RNI.dtype)
    return found if out is None else out.copy_(found)


def runs_of(model: str, count: int, log: Log, recipe: Recipe) -> list[Run]:
    """So many runs without a method: the plain side's lrs, seed after seed."""
    lrs = plain_torch.LRS
    return [_run(model, lrs[i % len(lrs)], i // len(lrs), log, recipe) for i in range(count)]


def grid(model: str, method: str, lrs: Sequence[float], seeds: Sequence[int], log: Log, recipe: Recipe) -> list[Run]:
    """Each lr of each seed, seed after seed."""
    return [replace(_run(model, lr, seed, log, recipe), method=method) for seed in seeds for lr in lrs]


def _run(model: str, lr: float, seed: int, log: Log, recipe: Recipe) -> Run:
    return Run(data=log.content, model=model, method="none", lr=lr, seed=seed, recipe=recipe)


def runs_of_setting(setting: Setting, log: Log) -> list[Run]:
    """One seed, with each of the plain side's lrs."""
    recipe = Recipe(steps=WARM + 10, embeddings=setting.embeddings, precision=setting.precision)
    runs = runs_of(setting.model, len(plain_torch.LRS), log, recipe)
    return [replace(run, method=setting.method, options=setting.options) for run in runs]


def waits(runs: Sequence[Run], log: Log, device: str) -> str:
    """Whether a step of this stack waits for the device, in words."""
    last = steps_of(runs[0].recipe, log.train_rows) - 1
    try:
        train(runs, log, device, _between(WARM, last, torch.cuda.set_sync_debug_mode, "error", 0), cuda_graphs=False)
        return "no step waits for the device"
    except RuntimeError as error:
        return f"a step waits: {str(error).splitlines()[0]}"
    finally:
        torch.cuda.set_sync_debug_mode(0)


def stack_of(model: str, log: Log, recipe: Recipe, device: str) -> int:
    """Runs of a stack, as a study would choose on a device of its own."""
    if not device.startswith("cuda"):
        return 32
    room = SHARE_OF_GPU * torch.cuda.mem_get_info(device)[1]
    return max(1, min(STACK_RUNS_GPU, int(room) // bytes_of_run(model, recipe, log, gpu=True)))


def timed(runs: Sequence[Run], log: Log, device: str, *, cuda_graphs: bool = True) -> Timed:
    """Train a stack. Raises ValueError where it has no step after the first ones."""
    last = steps_of(runs[0].recipe, log.train_rows) - 1
    if last <= WARM:
        raise ValueError(f"a step is timed after the first {WARM + 1}, so a run needs more steps, got {last + 1}")
    at: list[float] = []

    def mark(_: Any) -> None:
        _wait(device)
        at.append(time.perf_counter())

    started = time.perf_counter()
    trained = train(runs, log, device, _between(WARM, last, mark, None, None), cuda_graphs=cuda_graphs)
    _wait(device)
    seconds = time.perf_counter() - started
    return Timed(seconds=seconds, of_step=(at[-1] - at[0]) / (last - WARM), trained=trained)


def _between(first: int, last: int, call: Callable[[Any], object], begin: Any, end: Any) -> Callable[[int], None]:
    """To watch a stack with: call(begin) after the step `first`, call(end) after the step `last`."""

    def watch(step: int) -> None:
        if step == first:
            call(begin)
        if step == last:
            call(end)

    return watch


def kernels_of_step(runs: Sequence[Run], log: Log, device: str) -> float:
    """Kernels and copies that a step starts on the GPU."""
    profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA])
    last = steps_of(runs[0].recipe, log.train_rows) - 1

    def switch(start: bool) -> None:
        _wait(device)
        profiler.start() if start else profiler.stop()

    train(runs, log, device, _between(WARM, last, switch, True, False), cuda_graphs=False)
    on_gpu = [event for event in profiler.events() or [] if event.device_type == torch.autograd.DeviceType.CUDA]
    return len(on_gpu) / (last - WARM)


def plain_seconds(shared: dict[str, Any], device: str, processes: int) -> float:
    """Wall seconds in which so many processes train a run each, all at once; each has trained a few steps before."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        processes, mp_context=context, initializer=_meet, initargs=(context.Barrier(processes),)
    ) as pool:
        list(pool.map(_plain, [shared | {"steps": 5}] * processes, [device] * processes, [True] * processes))
        started = time.perf_counter()
        list(pool.map(_plain, [shared] * processes, [device] * processes, [False] * processes))
        return time.perf_counter() - started


_all: Any = None


def _meet(barrier: Any) -> None:
    global _all
    _all = barrier


def _plain(shared: dict[str, Any], device: str, together: bool) -> None:
    torch.set_num_threads(1)
    plain_torch.train({"lr": 0.1, "seed": 0}, shared, device)
    if together:
        _all.wait(600)  # so that no process takes the place of one that is still starting


def outcomes(trained: Trained, control: Trained, log: Log, rule: Rule) -> np.ndarray:
    """Bool (R,): whether each run diverged, by the study's rule, as this control says what can be learned."""
    unit = np.array([task.constant_loss for task in log.tasks])
    lrs, seeds = np.tile(CONTROL_LRS, len(CONTROL_SEEDS)), np.repeat(CONTROL_SEEDS, len(CONTROL_LRS))
    reference = control_reference(lrs, seeds, control.loss, control.constant, unit, rule, control.moved)
    told = judge(trained.loss, trained.constant, unit, trained.finite, reference, rule, trained.moved)
    return np.array([one.outcome == "diverged" for one in told])


def control_of(model: str, log: Log, recipe: Recipe, device: str, stack: int | None) -> Trained:
    """The control of a model on this device."""
    return in_stacks(grid(model, "none", CONTROL_LRS, CONTROL_SEEDS, log, recipe), log, device, stack)


def in_stacks(runs: Sequence[Run], log: Log, device: str, stack: int | None) -> Trained:
    """Train runs in stacks of so many (None: as a study would). What is judged by held-out rows is left out."""
    size = stack or stack_of(runs[0].model, log, runs[0].recipe, device)
    parts = [train(runs[i : i + size], log, device) for i in range(0, len(runs), size)]
    names = ("loss", "constant", "finite", "moved")
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    return replace(parts[0], **joined, judged={}, counts={})


def edge_of(runs: Sequence[Run], diverged: np.ndarray) -> tuple[float, float, float]:
    """LR50 with its 95% interval; NaN where no lr of the grid reaches it."""
    from analysis.stats import edges, psychometric

    lrs = sorted({run.lr for run in runs})
    diverged_SK = np.zeros((len(runs) // len(lrs), len(lrs)))
    for run, lost in zip(runs, diverged, strict=True):
        diverged_SK[run.seed, lrs.index(run.lr)] = lost
    found = edges.edge_of(lrs, diverged_SK, psychometric.fit(lrs, diverged_SK), 0.5)
    return found["edge"], found["low"], found["high"]


def _edge(found: tuple[float, float, float]) -> str:
    edge, low, high = found
    if math.isnan(edge):
        return "at none of these lrs"
    return f"{edge:.3g} ({low:.3g} to {high:.3g})"


def _far(loss_ST: np.ndarray, other_ST: np.ndarray) -> float:
    """The largest difference of two courses, as a share of the second."""
    return float((np.abs(loss_ST - other_ST) / np.abs(other_ST)).max())


def name_of(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    sys.exit(main())

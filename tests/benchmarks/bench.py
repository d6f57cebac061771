"""Runs a minute, side by side: `study run`, and the plain Ray Tune script that one would write without it.

    python tests/benchmarks/bench.py [--runs 320] [--plain-runs 40] [--repetitions 3] [--data-dir DIR]

Both are child processes, each in a fresh folder, and everything counts: starting Python and Ray, the control, training,
judging, the record, the report and MLflow. Only the conversion of the data is done before. Sides alternate, so that a
busy machine is busy for both. The plain side trains fewer runs, and would start up less often per run if it trained as
many: its rate is also given for as many runs as ours, and the ratio that we quote is that one.

The limit is the rate of this machine's matrix products: as many single-threaded processes as cores, all at once, on
the products of one stack of 32 (forward, and both of the backward pass), against the products of a run:
6 * multiplications of a row * batch * steps. It is measured as torch makes batched products by itself, and as
`study.training.matmul` has it make them.
"""

import argparse
import json
import math
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from study import data
from study.config import Recipe, steps_of
from study.data._dataset import Log
from study.training import matmul
from study.training.networks import build_network, spec_of

ROOT = Path(__file__).resolve().parents[2]
STACK = 32
LRS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.2, 1.6)

HIDDEN = {"small": (64, 64), "large": (256, 256, 256, 256)}
"""What the plain script is told to build."""

LIMITS = ("torch's own", "our")
"""By whose products."""

PARTS = ("start-up", "control", "training", "report", "MLflow", "end")


@dataclass(frozen=True, kw_only=True)
class Timed:
    """One side, once. runs: trained and asked for (no control). seconds: of the whole command. split: seconds of each
    part of it that can be told from outside."""

    runs: int
    seconds: float
    split: dict[str, float]

    @property
    def per_minute(self) -> float:
        return 60 * self.runs / self.seconds

    def per_minute_of(self, runs: int) -> float:
        """The rate of as many runs, had it started up once for all of them."""
        start = self.split.get("start-up", 0.0)
        return 60 * runs / (start + (self.seconds - start) * runs / self.runs)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=320, help="of ours, the control not counted (default: 320)")
    parser.add_argument("--plain-runs", type=int, default=40, help="of the plain script (default: 40)")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--model", default="small", choices=HIDDEN, help="of both sides (default: small)")
    parser.add_argument("--methods", default="none", help="ours, such as none,clippy (default: none)")
    parser.add_argument("--data", default="kuairand", help="data source (default: kuairand)")
    parser.add_argument("--data-dir", type=Path, default=ROOT.parent / "shared/data/KuaiRand-Pure")
    parser.add_argument("--rows", type=int, help="of synthetic data")
    parser.add_argument("--steps", type=int, help="of a run (default: one pass)")
    asked = parser.parse_args(arguments)

    options = {"dir": str(asked.data_dir.resolve())} if asked.data == "kuairand" else {}
    options |= {"rows": asked.rows} if asked.rows else {}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        cache = Path(os.environ.get("STUDY_CACHE") or Path(folder) / "cache")
        log = data.load(asked.data, options, cache)
        gigaflops = gigaflops_of_run(asked.model, log, Recipe(steps=asked.steps))
        print(f"{asked.model} on {asked.data}: {gigaflops:.1f} GFLOP of matrix products a run", flush=True)
        ours, plain, limits = [], [], []  # two limits each
        for repetition in range(asked.repetitions):
            here = Path(folder) / str(repetition)
            before = [machine_gigaflops(asked.model, log, by) for by in LIMITS]
            ours.append(run_ours(asked, options, cache, here / "ours"))
            after = [machine_gigaflops(asked.model, log, by) for by in LIMITS]
            plain.append(run_plain(asked, options, cache, here / "plain"))
            limits.append([60 * statistics.mean(rates) / gigaflops for rates in zip(before, after, strict=True)])
            print(_repetition(repetition + 1, ours[-1], plain[-1], limits[-1]), flush=True)
        print(_summary(ours, plain, limits))
    return 0


def run_ours(asked: argparse.Namespace, options: dict[str, Any], cache: Path, out: Path) -> Timed:
    """`study run` as a child process. RuntimeError, with what it said, where it fails."""
    methods = asked.methods.split(",")
    lrs = LRS[: asked.runs]
    seeds = max(1, asked.runs // (len(lrs) * len(methods)))
    command = [sys.executable, "-m", "study", "run", "lr_curve", "--data", asked.data, "--out", str(out)]
    command += ["--seeds", f"0-{seeds - 1}", "--set", f"models={asked.model}", "--set", f"methods={asked.methods}"]
    command += ["--set", "lr=" + ",".join(map(str, lrs))]
    command += ["--data-dir", options["dir"]] if "dir" in options else []
    command += ["--set", f"data.rows={asked.rows}"] if asked.rows else []
    command += ["--set", f"steps={asked.steps}"] if asked.steps else []
    lines, seconds = run_child(command, cache)
    return Timed(runs=len(lrs) * seeds * len(methods), seconds=seconds, split=split(lines, seconds))


def run_plain(asked: argparse.Namespace, options: dict[str, Any], cache: Path, out: Path) -> Timed:
    """The plain script as a child process. RuntimeError, with what it said, where it fails."""
    script = Path(__file__).with_name("plain_ray_tune.py")
    command = [sys.executable, str(script), "--data", asked.data, "--data-options", json.dumps(options)]
    command += ["--cache", str(cache), "--out", str(out), "--runs", str(asked.plain_runs)]
    command += ["--hidden", *map(str, HIDDEN[asked.model])]
    command += ["--steps", str(asked.steps)] if asked.steps else []
    lines, seconds = run_child(command, cache)
    told = json.loads(lines[-1][1])
    # What Python and its imports took stands outside of what the script can time.
    return Timed(runs=told["runs"], seconds=seconds, split={"start-up": seconds - told["trials_seconds"]})


def split(lines: Sequence[tuple[float, str]], seconds: float) -> dict[str, float]:
    """Seconds of each part of `study run`, from the lines it wrote: (seconds since its start, text)."""
    ends = dict.fromkeys(PARTS, math.nan)
    for at, text in lines:
        if text.startswith("record:"):
            ends["start-up"] = at
        elif "control first" in text:
            ends["control"] = at
        elif " runs · " in text:
            ends["training"] = at
        elif text.startswith("report:"):
            ends["report"] = at
        elif text.startswith("MLflow"):
            ends["MLflow"] = at
    ends["end"] = seconds
    known = [(part, at) for part, at in ends.items() if not math.isnan(at)]
    return {part: at - before for (part, at), (_, before) in zip(known, [("", 0.0), *known], strict=False)}


def gigaflops_of_run(model: str, log: Log, recipe: Recipe) -> float:
    """Matrix products of one run, forward and backward, in GFLOP."""
    multiplications = sum(out * width for out, width in products_of(model, log, recipe))
    return 6e-9 * multiplications * recipe.batch * steps_of(recipe, log.train_rows)


def products_of(model: str, log: Log, recipe: Recipe) -> list[tuple[int, int]]:
    """(out, in) of the model's matrices; heads, which are one product, as one matrix."""
    matrices = [p for p in build_network(model, spec_of(log, recipe)).parameters() if p.dim() == 2]
    heads = [p for p in matrices if p.shape[0] == 1]
    shapes = [(p.shape[0], p.shape[1]) for p in matrices if p.shape[0] > 1]
    return shapes + ([(len(heads), heads[0].shape[1])] if heads else [])


def machine_gigaflops(model: str, log: Log, by: str, seconds: float = 2.0) -> float:
    """GFLOP/s of the model's products, of all cores together: one single-threaded process a core, all at once. by: one
    of LIMITS."""
    cores, recipe = os.cpu_count() or 1, Recipe()
    with ProcessPoolExecutor(cores, mp_context=multiprocessing.get_context("spawn")) as pool:
        begin = time.time() + 5  # processes take some seconds to start
        work = [
            pool.submit(_products, products_of(model, log, recipe), recipe.batch, by, begin, seconds)
            for _ in range(cores)
        ]
        return sum(one.result() for one in work)


def _products(shapes: Sequence[tuple[int, int]], batch: int, by: str, begin: float, seconds: float) -> float:
    torch.set_num_threads(1)
    product = matmul.product if by == "our" and matmul.onednn_is_exact() else torch.bmm
    stacks = [
        (torch.randn(STACK, out, width), torch.randn(STACK, batch, width), torch.randn(STACK, batch, out))
        for out, width in shapes
    ]
    time.sleep(max(0.0, begin - time.time()))
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        for weight, inputs, gradient in stacks:
            product(inputs, weight.mT)
            product(gradient, weight)
            product(gradient.mT, inputs)
        done += 1
    work = 6e-9 * STACK * batch * sum(out * width for out, width in shapes)
    return done * work / (time.perf_counter() - started)


def run_child(command: list[str], cache: Path) -> tuple[list[tuple[float, str]], float]:
    """Run a command: (seconds since its start, line) of all that it wrote, and its seconds."""
    environment = os.environ | {"STUDY_CACHE": str(cache), "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(ROOT)}
    environment.pop("RAY_ADDRESS", None)
    lines = []
    started = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, cwd=ROOT
    ) as child:
        assert child.stdout
        for line in child.stdout:
            lines.append((time.perf_counter() - started, line.rstrip("\n")))
    seconds = time.perf_counter() - started
    if child.returncode:
        said = "\n".join(text for _, text in lines[-30:])
        raise RuntimeError(f"exit code {child.returncode} of {' '.join(command)}\n{said}")
    return lines, seconds


def _repetition(number: int, ours: Timed, plain: Timed, limits: Sequence[float]) -> str:
    parts = ", ".join(f"{part} {seconds:.1f}" for part, seconds in ours.split.items())
    return "\n".join(
        [
            f"repetition {number}",
            f"  ours   {ours.runs} runs in {ours.seconds:.1f} s: {ours.per_minute:.0f} a minute, "
            + _shares([ours.per_minute / limit for limit in limits])
            + f" ({', '.join(f'{limit:.0f}' for limit in limits)} a minute)",
            f"         seconds: {parts}",
            f"  plain  {plain.runs} runs in {plain.seconds:.1f} s: {plain.per_minute:.0f} a minute "
            f"(start-up {plain.split['start-up']:.1f} s; {ours.runs} runs would be "
            f"{plain.per_minute_of(ours.runs):.0f} a minute)",
        ]
    )


def _shares(shares: Sequence[float]) -> str:
    return ", ".join(f"{share:.0%} of the limit of {by} products" for share, by in zip(shares, LIMITS, strict=True))


def _summary(ours: Sequence[Timed], plain: Sequence[Timed], limits: Sequence[Sequence[float]]) -> str:
    ratios = [o.per_minute / p.per_minute_of(o.runs) for o, p in zip(ours, plain, strict=True)]
    median = statistics.median
    of_kinds = zip(*limits, strict=True)
    shares = [median(o.per_minute / limit for o, limit in zip(ours, kind, strict=True)) for kind in of_kinds]
    return "\n".join(
        [
            f"medians of {len(ours)}",
            f"  ours   {median(o.per_minute for o in ours):.0f} runs a minute, {_shares(shares)}",
            f"  plain  {median(p.per_minute for p in plain):.0f} runs a minute as run, "
            f"{median(p.per_minute_of(o.runs) for o, p in zip(ours, plain, strict=True)):.0f} at as many runs as ours",
            f"  ratio  {median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())

"""What an answer costs: LR50 of five methods to within a factor of 1.25 (95% interval), everything included.

    python tests/benchmarks/answer.py [--repetitions 1] [--plain-runs 40] [--data-dir DIR]        (make bench-answer)

One side is `study run edges` on `small_dcn`. The other is a plain Ray Tune script with a grid of 12 lrs and as many
seeds as its intervals need. Their number follows from the recorded grid of `docs/results/lr_small_dcn`: an interval of
S seeds is w wide, in log lr, so one of log(1.25) needs S (w / log(1.25))^2. All of this favors the plain script: its
intervals are those of the logistic alone, which hold for few other shapes; a method whose edge lies above the grid has
as few seeds as the recorded grid; and its rate is that of `small`, a cheaper network (`plain_ray_tune.py`).

The sides alternate. The seconds of the plain script are those of its runs at the measured rate, after one start-up.
"""

import argparse
import math
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from bench import ROOT, Timed, run_child, run_plain

import analysis
from analysis.stats.edges import fits
from analysis.stats.intervals import TAIL
from study.record import tables

RECORDED = ROOT / "docs" / "results" / "lr_small_dcn"
PRECISION = 1.25
LRS = 12


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=1)
    parser.add_argument("--plain-runs", type=int, default=40, help="by which its rate is measured (default: 40)")
    parser.add_argument("--data-dir", type=Path, default=ROOT.parent / "shared/data/KuaiRand-Pure")
    parser.add_argument("--space", default="edges", help="of our side (default: edges)")
    asked = parser.parse_args(arguments)
    asked.model, asked.data, asked.steps = "small", "kuairand", None
    options = {"dir": str(asked.data_dir.resolve())}
    runs = analysis.load(RECORDED)
    seeds = seeds_needed(runs)
    plain_runs = LRS * sum(seeds.values())
    print(f"a grid of {LRS} lrs: {plain_runs:,} runs; seeds: {', '.join(f'{m} {n}' for m, n in seeds.items())}")
    ours, plain = [], []
    with tempfile.TemporaryDirectory(prefix="bench-answer-") as folder:
        cache = Path(os.environ.get("STUDY_CACHE") or Path(folder) / "cache")
        for repetition in range(asked.repetitions):
            here = Path(folder) / str(repetition)
            ours.append(run_search(asked, options, cache, here / "ours"))
            plain.append(run_plain(asked, options, cache, here / "plain"))
            print(line(repetition + 1, ours[-1], plain[-1], plain_runs), flush=True)
    print(summary(ours, plain, plain_runs))
    return 0


def seeds_needed(runs: pd.DataFrame) -> dict[str, int]:
    """Return method -> the seeds of a grid whose interval of LR50 by the logistic is narrower than PRECISION."""
    found = {}
    for (_, curve), fit in fits(runs).items():
        seeds = int(fit.counts.sum())
        low, high = fit.edge(0.5, (TAIL, 1 - TAIL))
        is_inside = math.log10(fit.lrs[0]) <= low and high <= math.log10(fit.lrs[-1])
        found[curve] = math.ceil(seeds * ((high - low) / math.log10(PRECISION)) ** 2) if is_inside else seeds
    return found


def run_search(asked: argparse.Namespace, options: dict[str, str], cache: Path, out: Path) -> Timed:
    """`study run` of the search. runs: those of its cells and control."""
    command = [sys.executable, "-m", "study", "run", asked.space, "--data-dir", options["dir"], "--out", str(out)]
    command += ["--precision", f"{PRECISION:g}", "--set", "models=small_dcn"]
    _, seconds = run_child(command, cache)
    return Timed(runs=len(tables.read_runs(out)), seconds=seconds, split={})


def seconds_of(plain: Timed, runs: int) -> float:
    """The seconds of as many runs of the plain script."""
    return 60 * runs / plain.per_minute_of(runs)


def line(repetition: int, ours: Timed, plain: Timed, plain_runs: int) -> str:
    """Return a line of one repetition."""
    took = seconds_of(plain, plain_runs)
    return (
        f"repetition {repetition}: ours {ours.runs} runs, control included, in {ours.seconds:.0f} s; plain "
        f"{plain_runs:,} runs would take {took:,.0f} s ({plain.per_minute:.0f} a minute); "
        f"ratio {took / ours.seconds:.1f}"
    )


def summary(ours: Sequence[Timed], plain: Sequence[Timed], plain_runs: int) -> str:
    """Return the medians, in runs and in seconds."""
    of_runs = [plain_runs / one.runs for one in ours]
    of_seconds = [seconds_of(p, plain_runs) / o.seconds for o, p in zip(ours, plain, strict=True)]
    median = statistics.median
    return (
        f"medians of {len(ours)}: {median(of_runs):.1f} times as many runs, {median(of_seconds):.1f} times the seconds "
        f"({min(of_seconds):.1f} to {max(of_seconds):.1f})"
    )


if __name__ == "__main__":
    sys.exit(main())

"""What a user waits for that is not training: seconds of commands, of the first training step, and of a study's parts.

    python tests/benchmarks/startup.py [--repetitions 5] [--against CHECKOUT]

Every command is a child process, and the median of several is printed. CHECKOUT is another version of this project (a
git worktree): the two alternate, so that a busy machine is busy for both, and the ratio is printed as well.

The first training step is seen from outside: stacks of one run and one step, until the first of them is recorded. Its
judging and recording count too, so the step itself comes a little earlier.
"""

import argparse
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import bench

SMALL_STUDY = ["run", "quick", "--seeds", "0-1", "--set", "lr=0.1,0.4"]
GIVE_UP_SECONDS = 120.0


@dataclass(frozen=True, kw_only=True)
class Side:
    """A version of the project, with a cache and a working folder of its own."""

    name: str
    checkout: Path
    folder: Path

    def start(self, *words: str) -> subprocess.Popen[str]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "STUDY_", "MLFLOW_"))}
        environment |= {
            "PYTHONPATH": str(self.checkout),
            "STUDY_CACHE": str(self.folder / "cache"),
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "study", *words],
            env=environment,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def lines(self, *words: str) -> tuple[list[tuple[float, str]], float]:
        """(seconds since its start, line) of all that a command wrote, and its seconds. RuntimeError where it fails."""
        started = time.perf_counter()
        with self.start(*words) as child:
            assert child.stdout
            lines = [(time.perf_counter() - started, line.rstrip("\n")) for line in child.stdout]
        seconds = time.perf_counter() - started
        if child.returncode:
            said = "\n".join(text for _, text in lines[-30:])
            raise RuntimeError(f"exit code {child.returncode} of study {' '.join(words)}\n{said}")
        return lines, seconds


def command(*words: str) -> Callable[[Side], dict[str, float]]:
    def measure(side: Side) -> dict[str, float]:
        return {" ".join(words): side.lines(*words)[1]}

    return measure


def cold_plan(side: Side) -> dict[str, float]:
    """A plan that finds the sizes of models anew; the data are converted already."""
    for path in (side.folder / "cache").glob("*.json"):
        path.unlink()
    return {"plan quick, sizes unknown": side.lines("plan", "quick")[1]}


def first_step(side: Side) -> dict[str, float]:
    out = side.folder / "first"
    started = time.perf_counter()
    words = ["run", "quick", "--set", "steps=1", "--stack", "1", "--out", str(out)]
    child = side.start(*words)
    try:
        while not any((out / "runs").glob("*.parquet")):
            if child.poll() is not None or time.perf_counter() - started > GIVE_UP_SECONDS:
                raise RuntimeError(f"no run was recorded by study {' '.join(words)}")
            time.sleep(0.01)
        seconds = time.perf_counter() - started
    finally:
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=GIVE_UP_SECONDS)
        shutil.rmtree(out, ignore_errors=True)
    return {"first training step of run quick": seconds}


def small_study(side: Side) -> dict[str, float]:
    out = side.folder / "small"
    lines, seconds = side.lines(*SMALL_STUDY, "--out", str(out))
    shutil.rmtree(out)
    parts = bench.split(lines, seconds)
    around = sum(parts.get(part, 0.0) for part in ("start-up", "report", "MLflow", "end"))
    return {f"small study: {part}": took for part, took in parts.items()} | {"small study: all but training": around}


MEASURES = (
    command("--help"),
    command("spaces"),
    cold_plan,
    command("plan", "quick"),
    first_step,
    small_study,
)


def table(sides: Sequence[Side], repetitions: int) -> str:
    """Medians, and the ratio of the first side to the second where there are two."""
    seconds: dict[str, dict[str, list[float]]] = {}
    for side in sides:
        side.lines("plan", "quick")  # converts the data
    for measure in MEASURES:
        for _ in range(repetitions):
            for side in sides:
                for what, took in measure(side).items():
                    seconds.setdefault(what, {}).setdefault(side.name, []).append(took)
    head = ["seconds, median", *(side.name for side in sides), *(["ratio"] if len(sides) == 2 else []), "all"]
    rows = [head]
    for what, by_side in seconds.items():
        medians = [statistics.median(by_side.get(side.name, [float("nan")])) for side in sides]
        every = "; ".join(" ".join(f"{s:.2f}" for s in by_side.get(side.name, [])) for side in sides)
        ratio = [f"{medians[0] / medians[1]:.2f}"] if len(sides) == 2 else []
        rows.append([what, *(f"{m:.2f}" for m in medians), *ratio, every])
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="another version, measured in alternation")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="startup-") as folder:
        sides = []
        for name, checkout in (("here", bench.ROOT), ("there", asked.against)):
            if checkout:
                (Path(folder) / name).mkdir()
                sides.append(Side(name=name, checkout=checkout.resolve(), folder=Path(folder) / name))
        print(table(sides, asked.repetitions))
    return 0


if __name__ == "__main__":
    sys.exit(main())

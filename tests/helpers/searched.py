"""A simulated search for the best quality, with known gains and edges."""

from pathlib import Path
from typing import Any

from simulated_tuning import DATA, STEPS, Trainer, opened

from study.config import JUDGED_FROM, Arm, QualitySearch, Recipe, Run, Study
from study.execution.planner import Stack
from study.record.definition import Definition

THRESHOLDS = {"none": {}, "clippy": {"rel": 0.5}}

EDGE = 1.0

GAINS = {("none", 0.1): 0.05, ("none", 0.3): 0.09, ("none", 0.9): 0.12, ("clippy", 0.5): 0.1}


def study_of(**search: Any) -> Study:
    ranges = {"clippy": {"rel": (0.1, 1.0)}}
    return Study(
        name="simulated",
        models=("small",),
        arms=(Arm(method="none"), Arm(method="clippy")),
        lrs=(0.05, 5.0),
        seeds=(0, 1),
        recipe=Recipe(steps=STEPS),
        search=QualitySearch(**{"ranges": ranges, **search}),
    )


def write(folder: Path, cells: list[tuple[str, float, dict[str, float], range]], **search: Any) -> Definition:
    """Record the runs of cells (method, lr, options, seeds). A seed diverges from lr EDGE * 10 ** (0.1 z) on."""
    definition = opened(folder, study_of(**search))
    truth = {
        method: lambda lr, _t, method=method: (GAINS.get((method, lr), 0.05), EDGE) for method in ("none", "clippy")
    }
    train = Trainer(folder, truth, THRESHOLDS, noise=0.001)
    for method, lr, options, seeds in cells:
        runs = [
            Run(
                data=DATA["content"],
                model="small",
                method=method,
                lr=lr,
                seed=s,
                options=options,
                recipe=Recipe(steps=STEPS),
            )
            for s in seeds
        ]
        train(Stack(runs=tuple(runs)))
    return definition


FRESH = range(JUDGED_FROM, JUDGED_FROM + 40)

TUNED = [
    ("none", 0.1, {}, range(2)),
    ("none", 0.3, {}, range(20)),
    ("none", 0.9, {}, range(20)),  # diverges about a third of the time
    ("none", 0.95, {}, range(1)),
    ("clippy", 0.5, {"rel": 0.4}, range(8)),
]

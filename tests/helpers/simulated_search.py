"""Edge searches on known curves with a simulated trainer: no torch, no Ray, no files."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from shapes import Shape
from simulation import LRS

from analysis.stats.intervals import TAIL
from analysis.stats.psychometric import fit_many
from study.config import Arm, EdgeSearch, Run, Study
from study.execution.planner import Stack
from study.search.edge_search import EdgeSource, Recorded

LADDER = (0.0125, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8)
"""Factors of 2 over the two decades of `simulation.LRS`."""


def make_study(methods: Sequence[str] = ("none",), *, lrs: Sequence[float] = LADDER, seed: int = 0, **search) -> Study:
    return Study(
        name="edges",
        models=("small",),
        arms=tuple(Arm(method=method) for method in methods),
        lrs=tuple(lrs),
        seeds=(seed,),
        search=EdgeSearch(**search),
    )


class Trainer:
    """Simulates the outcomes of runs and keeps the record: outcomes by id, and ids that failed.

    Run i of a curve draws from (seed, method, lr, i): the same in every order and after every interruption.
    """

    def __init__(self, curves: Mapping[str, Shape], seed: int = 0, fails: Callable[[Run], bool] = lambda run: False):
        self.curves, self.seed, self.fails = curves, seed, fails
        self.recorded: dict[str, bool] = {}
        self.failed: set[str] = set()
        self.of_trial: dict[str, dict[str, bool]] = {}
        self.runs: dict[str, Run] = {}
        self.trained = 0

    def source(self, study: Study, *, workers: int = 2, largest: int = 32) -> EdgeSource:
        return EdgeSource(
            study,
            "c" * 64,
            recorded=[
                Recorded(
                    id=id, model=run.model, method=run.method, lr=run.lr, seed=run.seed, diverged=self.recorded[id]
                )
                for id, run in self.runs.items()
                if id in self.recorded
            ],
            failed=set(self.failed),
            read=lambda trial: self.of_trial[trial],
            kind_of=lambda run: run.method,
            largest_stack=dict.fromkeys(study.models, largest),
            workers=workers,
        )

    def end(self, source: EdgeSource, stack: Stack) -> None:
        """Record a stack, or give it up, and report it to its source."""
        self.trained += len(stack.runs)
        self.runs |= {run.id: run for run in stack.runs}
        if any(self.fails(run) for run in stack.runs):
            self.failed |= {run.id for run in stack.runs}
            source.given_up(stack, "out of disk")
            return
        self.of_trial[stack.name] = {run.id: self._diverges(run) for run in stack.runs}
        self.recorded |= self.of_trial[stack.name]
        source.recorded(stack)

    def _diverges(self, run: Run) -> bool:
        key = [self.seed, run.seed, int(1e6 * run.lr), *run.method.encode()]
        return bool(np.random.default_rng(key).random() < self.curves[run.method].rate([run.lr])[0])


def run(trainer: Trainer, source: EdgeSource, *, workers: int = 2, order: int = 0, stacks: float = math.inf) -> None:
    """Train the stacks of a source in any order, until it is finished or `stacks` have ended."""
    rng, training = np.random.default_rng(order), []
    while stacks > 0 and not (source.ended and not training):
        while len(training) < workers and (stack := source.next()):
            training.append(stack)
        assert training, "the source has neither ended nor anything to be trained"
        trainer.end(source, training.pop(int(rng.integers(len(training)))))
        stacks -= 1


@dataclass(frozen=True, kw_only=True)
class Found:
    """The result of a search. runs: number trained. low, edge, high: log10 of the interval's ends and the median.

    alone: log10 of the ends of the interval of the logistic alone.
    """

    runs: int
    low: float
    edge: float
    high: float
    alone: tuple[float, float]
    end: str


def search(curve: Shape, seed: int, *, ladder: Sequence[float] = LADDER, **options) -> Found:
    """Return the result of a search of one known curve."""
    return recorded_search(curve, seed, ladder=ladder, **options)[0]


def recorded_search(
    curve: Shape, seed: int, *, ladder: Sequence[float] = LADDER, **options
) -> tuple[Found, list[tuple[float, bool]]]:
    """Return the result of a search, and (lr, diverged) of each run that it trained."""
    study = make_study(lrs=ladder, seed=1000 * seed, **options)
    trainer = Trainer({"none": curve}, seed=seed)
    source = trainer.source(study, workers=1)
    run(trainer, source, workers=1)
    (found,) = source.curves
    assert found.now is not None
    assert found.end is not None
    low, high = found.now.one.edge(source.study.search.level, (TAIL, 1 - TAIL))
    said = Found(
        runs=trainer.trained,
        low=found.now.low,
        edge=found.now.edge,
        high=found.now.high,
        alone=(low, high),
        end=found.end,
    )
    return said, [(trainer.runs[id].lr, diverged) for id, diverged in trainer.recorded.items()]


def grid_width(curves: Sequence[Shape], seeds: int, rng: np.random.Generator, level: float = 0.5) -> float:
    """Return the mean width, in decades, of an edge's interval by the logistic alone, from a grid of 12 lrs with
    independent runs."""
    outcomes_NSK = np.array([rng.random((seeds, len(LRS))) < curve.rate(LRS) for curve in curves]).astype(float)
    ends = [one.edge(level, (TAIL, 1 - TAIL)) for one in fit_many(LRS, outcomes_NSK)]
    return float(np.mean([high - low for low, high in ends]))

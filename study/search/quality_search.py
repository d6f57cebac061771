"""The search for the best quality where training is stable: Optuna proposes, seeds decide. The only file that knows
optuna.

Each arm (model, method) has a budget of its own, in rounds of `batch` cells. A cell is an lr with thresholds.

    rounds 0 and 1   cells spread evenly over the ranges, each trained with the study's seeds
    every other      half of the round goes to new cells that Optuna proposes, likewise; half to the leaders, the cells
                     within risk (`analysis.stats.best`) of the highest mean gain, each with further seeds
    at last          the best cell of all is trained with fresh seeds, which judge it

A few seeds cannot tell a risk of 0.05 from one of 0.2, and of many cells the luckiest leads: so leaders are tested on,
and fall back where they fail. (Simulated, with nothing but the edge to hold back the lr, 16 searches: the best of 80
cells of 4 seeds diverges with a probability of 0.24, the median; what as many runs find with leaders, of 0.02.) All
cells that are tested in a round share its seeds.

Optuna's proposals (TPE: J. Bergstra et al., "Algorithms for hyper-parameter optimization", NeurIPS 2011) see each
cell's mean gain as the objective, and k / n - risk as a constraint; a diverged run has gain 0, so that no NaN and no
infinity reaches Optuna.

An arm's next round is a pure function of its own recorded rounds and the study's first seed: arms do not wait for each
other, and an interrupted search ends where an undisturbed one does. The record is the truth; `optuna.journal`, beside
it, is a view for people, written anew at every start. Each of its trials is a cell's runs of one round.
"""

import functools
import itertools
import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from analysis.stats.best import best_like, gains, task_of, within_risk
from study.config import JUDGED_FROM, Arm, QualitySearch, Run, Study, canonical_json
from study.execution.planner import Stack
from study.record import tables
from study.record.definition import Definition, study_exists
from study.record.failures import read_failures
from study.trainers.protocol import Trainer
from study.training.rng import stream

SPREAD_ROUNDS = 2

DIGITS = 2
"""Of a proposed lr or threshold: as people say them, and closer than any of them can be told apart."""

TRIES = 20
"""Proposals for each new cell, before a round goes to its leaders instead."""

JOURNAL = "optuna.journal"

Cell = tuple[tuple[str, float], ...]
"""What is tuned, in the order of names: (("lr", 0.3), ("rel", 0.5))."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A cell with what is known of it: runs, diverged runs, and their mean gain."""

    cell: Cell
    n: int
    k: int
    gain: float


def check(study: Study, trainer: Trainer) -> None:
    """Raises ValueError, in the user's words, for a search that cannot be."""
    search = study.search
    assert isinstance(search, QualitySearch)
    # A narrowed study may leave out methods that have ranges; but a name that is none is a slip.
    for method in set(search.ranges) - {arm.method for arm in study.arms}:
        trainer.thresholds_of(method)
    if rounds_of(study) < 1:
        raise ValueError(
            f"a budget of {search.budget} runs fills no round of {search.batch} cells of {len(study.seeds)} seeds"
        )
    last = max(_seeds_of_round(study, rounds_of(study) - 1))
    if last >= JUDGED_FROM:
        raise ValueError(f"seeds from {JUDGED_FROM} on are for judging; tuning would take seed {last}")
    for arm in study.arms:
        thresholds = trainer.thresholds_of(arm.method)
        for name, ends in search.ranges.get(arm.method, {}).items():
            if name not in thresholds:
                known = ", ".join(thresholds) or "none"
                raise ValueError(f"{arm.method} has no threshold {name!r} to be tuned; it has {known}")
            if name in arm.options:
                raise ValueError(f"{arm.method}.{name} is tuned, and cannot be {arm.options[name]:g} as well")
            for end in ends:
                trainer.canonical_options(arm.method, {**arm.options, name: end})


def rounds_of(study: Study) -> int:
    """Rounds of an arm's tuning: as many as the budget fills."""
    search = study.search
    assert isinstance(search, QualitySearch)
    return search.budget // (search.batch * len(study.seeds))


def runs_at_most(study: Study) -> int:
    """Runs that the search of the whole study trains, the control apart."""
    search = study.search
    assert isinstance(search, QualitySearch)
    of_arm = rounds_of(study) * search.batch * len(study.seeds) + search.judged
    return len(study.models) * len(study.arms) * of_arm


def _seeds_of_round(study: Study, number: int) -> tuple[int, ...]:
    """The seeds with which a round tests its leaders; new cells take the study's own."""
    block = number - SPREAD_ROUNDS + 1
    if block < 1:
        return study.seeds
    first = max(study.seeds) + 1 + (block - 1) * len(study.seeds)
    return tuple(range(first, first + len(study.seeds)))


def spread(ranges: Mapping[str, tuple[float, float]], count: int, seed: int) -> list[Cell]:
    """`count` cells, evenly spread over the ranges on a logarithmic scale; fewer where rounding makes two of them one.

    ranges: name -> (low, high). Points of a Kronecker sequence: multiples, modulo 1, of the powers of 1 / phi, where
    phi ** (D + 1) = phi + 1 for D ranges (the golden ratio, where D is 1), from a random start.
    """
    phi = 2.0
    for _ in range(64):
        phi = (1 + phi) ** (1 / (len(ranges) + 1))
    start = np.random.default_rng(seed).random(len(ranges))
    points = (start + np.outer(np.arange(count), phi ** -np.arange(1.0, len(ranges) + 1))) % 1
    ends = list(ranges.items())
    cells = [
        _cell(
            {name: low * (high / low) ** float(u) for (name, (low, high)), u in zip(ends, point, strict=True)}, ranges
        )
        for point in points
    ]
    return list(dict.fromkeys(cells))


def propose(
    scored: Sequence[Scored], ranges: Mapping[str, tuple[float, float]], risk: float, count: int, seed: int
) -> list[Cell]:
    """New cells to be tried, by Optuna's TPE: at most `count`, fewer where the ranges have hardly any left.

    A pure function of its arguments. scored: the cells that were tried. ranges: name -> (low, high).
    """
    optuna = _optuna()
    space = _distributions(ranges)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=1))
    study.add_trials([_trial(one.cell, space, one.n, one.k, one.gain, risk, {}) for one in scored])
    tried, new = {one.cell for one in scored}, []
    for _ in range(TRIES * count):
        asked = study.ask(space)
        cell = _cell(asked.params, ranges)
        if cell not in tried:
            tried.add(cell)
            new.append(cell)
        if len(new) == count:
            break
    return new


def leaders(scored: Sequence[Scored], risk: float, count: int) -> list[Cell]:
    """The cells within risk of the highest mean gains, the best first; the cells' own order breaks ties."""
    within = [one for one in scored if within_risk(np.array(one.k), np.array(one.n), risk)]
    return [one.cell for one in sorted(within, key=lambda one: (-one.gain, one.cell))[:count]]


def _cell(values: Mapping[str, float], ranges: Mapping[str, tuple[float, float]]) -> Cell:
    return tuple(
        (name, min(max(float(f"{values[name]:.{DIGITS}g}"), low), high)) for name, (low, high) in sorted(ranges.items())
    )


@dataclass(kw_only=True)
class _Tuning:
    """The search of one model and arm. rounds: the runs of each, as (cell, runs). waiting: ids of runs that train."""

    model: str
    arm: Arm
    ranges: dict[str, tuple[float, float]]
    rounds: list[list[tuple[Cell, list[Run]]]] = field(default_factory=list)
    waiting: set[str] = field(default_factory=set)
    judging: bool = False
    ended: bool = False

    @property
    def name(self) -> str:
        options = f" {canonical_json(self.arm.options)}" if self.arm.options else ""
        return f"{self.model} {self.arm.method}{options}"


class QualitySource:
    """Hands out the stacks of a search for the best quality: a `study.execution.work_source.Source`.

    data: what the record keeps of the data (`study.data.describe`). folder: of the study; what its record holds already
    is not trained again, and nothing is written before the first stack is asked for. workers: trials at a time.
    largest_stack: runs of a stack at most, by model. trainer: of the study. Raises ValueError as
    `check` does, and where the data have no such task.
    """

    def __init__(
        self,
        study: Study,
        data: Mapping[str, Any],
        folder: Path,
        *,
        workers: int,
        largest_stack: Mapping[str, int],
        trainer: Trainer,
    ) -> None:
        assert isinstance(study.search, QualitySearch)
        check(study, trainer)
        task_of(data, study.search)
        self._definition = Definition(study=study, data=dict(data), versions={})
        self._study, self._search, self._folder, self._trainer = study, study.search, folder, trainer
        self._parts = max(1, workers // (len(study.models) * len(study.arms)))
        self._largest_stack = largest_stack
        self._known: dict[str, tuple[bool, float]] = {}
        self._failed: set[str] = set()
        if study_exists(folder):
            self._failed |= set(read_failures(folder))
            self._learn()
        self._journal: _Journal | None = None
        self._ready: deque[Stack] = deque()
        lrs = (min(self._study.lrs), max(self._study.lrs))
        self._tunings = [
            _Tuning(
                model=model,
                arm=arm,
                ranges=dict(sorted(({"lr": lrs} | self._search.ranges.get(arm.method, {})).items())),
            )
            for model in self._study.models
            for arm in self._study.arms
        ]
        self._of_run: dict[str, _Tuning] = {}
        for tuning in self._tunings:
            self._advance(tuning, replaying=True)

    def next(self) -> Stack | None:
        if self._journal is None:
            self._journal = _Journal(self._folder / JOURNAL)
            for tuning in self._tunings:
                for number in range(self._whole_rounds(tuning)):
                    self._show(tuning, number)
        return self._ready.popleft() if self._ready else None

    @property
    def ended(self) -> bool:
        return not self._ready and all(tuning.ended or tuning.judging for tuning in self._tunings)

    @property
    def left(self) -> dict[str, int]:
        found = dict.fromkeys(self._study.models, 0)
        of_round = self._search.batch * len(self._study.seeds)
        for tuning in self._tunings:
            rounds = 0 if tuning.judging or tuning.ended else rounds_of(self._study) - len(tuning.rounds)
            judged = 0 if tuning.judging or tuning.ended else self._search.judged
            found[tuning.model] += len(tuning.waiting) + rounds * of_round + judged
        return found

    @property
    def state(self) -> str:
        tuning = [t for t in self._tunings if not (t.judging or t.ended)]
        if not tuning:
            return "judging"
        done = sum(self._whole_rounds(tuning) for tuning in self._tunings)
        return f"{done} of {rounds_of(self._study) * len(self._tunings)} rounds"

    def outline(self) -> list[str]:
        """What is searched, and how far each arm has come."""
        search, study = self._search, self._study
        task, rounds = task_of(self._definition.data, search), rounds_of(study)
        of_round = f"{search.batch} cells x {len(study.seeds)} seeds"
        lines = [
            f"search    the best gain of {task} where at most {search.risk:.2g} of the runs diverge",
            f"budget    {rounds} rounds of {of_round} an arm, then {search.judged} fresh seeds for its best cell",
            f"runs      {runs_at_most(study)} at most",
        ]
        for tuning in self._tunings:
            ranges = ", ".join(
                f"{name} {low:g}" + (f" to {high:g}" if high > low else "")
                for name, (low, high) in tuning.ranges.items()
            )
            done = f"{self._whole_rounds(tuning)} of {rounds} rounds are done"
            lines.append(f"{tuning.name}: {ranges}; {'all done' if tuning.ended else done}")
        return lines

    def recorded(self, stack: Stack) -> None:
        self._learn([stack.name])
        self._told(stack)

    def given_up(self, stack: Stack, reason: str) -> None:
        self._failed |= {run.id for run in stack.runs}
        self._told(stack)

    def _told(self, stack: Stack) -> None:
        tuning = self._of_run[stack.runs[0].id]
        tuning.waiting -= {run.id for run in stack.runs}
        if not tuning.waiting:
            if not tuning.judging:
                self._show(tuning, len(tuning.rounds) - 1)
            self._advance(tuning, replaying=False)

    def _learn(self, trials: Sequence[str] | None = None) -> None:
        """Read what the runs of these trials came to, or all."""
        runs = tables.read_runs(self._folder, trials)
        gain = gains(runs, tables.read_losses(self._folder, trials=trials), self._definition)
        diverged = (runs["outcome"] == "diverged").tolist()
        self._known |= {
            run: (dead, gain[run]) for run, dead in zip(runs["run_id"], diverged, strict=True) if run in gain
        }

    def _advance(self, tuning: _Tuning, *, replaying: bool) -> None:
        """Go on from a round that is whole, to the first that has runs to be trained."""
        while not (tuning.waiting or tuning.ended):
            if tuning.judging:
                tuning.ended = True
            elif len(tuning.rounds) < rounds_of(self._study):
                tuning.rounds.append(self._round(tuning))
                missing = self._missing([run for _, runs in tuning.rounds[-1] for run in runs])
                # A round with failed runs is tried again at a resume, unless others were built on it.
                if replaying and missing and self._failed.issuperset(run.id for run in missing):
                    missing = [] if self._built_on(tuning) else missing
                self._hand_out(tuning, missing)
                if not missing and self._journal:
                    self._show(tuning, len(tuning.rounds) - 1)
            else:
                tuning.judging = True
                self._hand_out(tuning, self._missing(self._to_judge(tuning)))

    def _missing(self, runs: Sequence[Run]) -> list[Run]:
        return [run for run in runs if run.id not in self._known]

    def _hand_out(self, tuning: _Tuning, runs: Sequence[Run]) -> None:
        tuning.waiting = {run.id for run in runs}
        self._of_run |= dict.fromkeys(tuning.waiting, tuning)
        if not runs:
            return
        # Runs of a seed share batches.
        runs = sorted(runs, key=lambda run: run.seed)
        parts = max(math.ceil(len(runs) / self._largest_stack[tuning.model]), min(self._parts, len(runs)))
        ends = [round(i * len(runs) / parts) for i in range(parts + 1)]
        self._ready.extend(Stack(runs=tuple(runs[a:b])) for a, b in itertools.pairwise(ends))

    def _whole_rounds(self, tuning: _Tuning) -> int:
        return len(tuning.rounds) - bool(tuning.waiting and not tuning.judging)

    def _built_on(self, tuning: _Tuning) -> bool:
        """Whether the record holds runs that only come after this round."""
        if len(tuning.rounds) < rounds_of(self._study):
            after = [run for _, runs in self._round(tuning) for run in runs]
        else:
            after = self._to_judge(tuning)
        before = {run.id for one in tuning.rounds for _, runs in one for run in runs}
        return any(run.id in self._known and run.id not in before for run in after)

    def _round(self, tuning: _Tuning) -> list[tuple[Cell, list[Run]]]:
        """The arm's next round, from those before it."""
        search, number = self._search, len(tuning.rounds)
        scored = self._scored(tuning)
        seed = stream(self._study.seeds[0], "suggest", tuning.name) % 2**31
        best: list[Cell] = []
        if number < SPREAD_ROUNDS:
            start = number * search.batch
            cells = spread(tuning.ranges, SPREAD_ROUNDS * search.batch, seed)[start : start + search.batch]
        else:
            best = leaders(scored, search.risk, search.batch // 2)
            seed = stream(seed, str(number)) % 2**31
            cells = propose(scored, tuning.ranges, search.risk, search.batch - len(best), seed)
        fresh = [(cell, self._runs(tuning, cell, self._study.seeds)) for cell in cells]
        return fresh + [(cell, self._runs(tuning, cell, _seeds_of_round(self._study, number))) for cell in best]

    def _scored(self, tuning: _Tuning) -> list[Scored]:
        known: dict[Cell, list[tuple[bool, float]]] = {}
        for one in tuning.rounds:
            for cell, runs in one:
                known.setdefault(cell, []).extend(self._known[run.id] for run in runs if run.id in self._known)
        return [_scored(cell, results) for cell, results in known.items() if results]

    def _runs(self, tuning: _Tuning, cell: Cell, seeds: Iterable[int]) -> list[Run]:
        values = dict(cell)
        lr = values.pop("lr")
        arm = Arm(method=tuning.arm.method, options=self._canonical(tuning.arm, values))
        return [self._study.run(self._definition.data["content"], tuning.model, arm, lr, seed) for seed in seeds]

    def _canonical(self, arm: Arm, values: Mapping[str, float]) -> dict[str, Any]:
        defaults = self._trainer.thresholds_of(arm.method)
        return arm.options | {name: value for name, value in values.items() if value != defaults[name]}

    def _to_judge(self, tuning: _Tuning) -> list[Run]:
        """Fresh seeds of the best cell, by all that the record holds of this arm; none where no cell is within risk."""
        ids = {run.id for one in tuning.rounds for _, runs in one for run in runs} & self._known.keys()
        if not ids:
            return []
        runs = tables.read_runs(self._folder)
        gain = gains(runs, tables.read_losses(self._folder), self._definition)
        found = best_like(min(ids), runs, gain, self._definition)
        if found is None:
            return []
        cell = tuple((name, float(found[name])) for name in sorted(tuning.ranges))
        return self._runs(tuning, cell, range(JUDGED_FROM, JUDGED_FROM + self._search.judged))

    def _show(self, tuning: _Tuning, number: int) -> None:
        """Write a round into the view."""
        assert self._journal is not None
        for cell, runs in tuning.rounds[number]:
            results = [self._known[run.id] for run in runs if run.id in self._known]
            if results:
                seeds = [run.seed for run in runs if run.id in self._known]
                self._journal.add(tuning.name, tuning.ranges, _scored(cell, results), seeds, self._search.risk)


def _scored(cell: Cell, results: Sequence[tuple[bool, float]]) -> Scored:
    gain = math.fsum(gain for _, gain in results) / len(results)
    return Scored(cell=cell, n=len(results), k=sum(diverged for diverged, _ in results), gain=gain)


class _Journal:
    """The view that `optuna-dashboard` opens: a study for each arm, a trial for each cell of each round."""

    def __init__(self, path: Path) -> None:
        self._path, self._studies = path, {}
        path.unlink(missing_ok=True)

    def add(
        self, name: str, ranges: Mapping[str, tuple[float, float]], one: Scored, seeds: Sequence[int], risk: float
    ) -> None:
        said = {"n": one.n, "diverged": one.k, "seeds": list(seeds)}
        self._study(name).add_trial(_trial(one.cell, _distributions(ranges), one.n, one.k, one.gain, risk, said))

    def _study(self, name: str) -> Any:
        if name not in self._studies:
            optuna = _optuna()
            backend = optuna.storages.journal.JournalFileBackend(str(self._path))
            storage = optuna.storages.JournalStorage(backend)
            self._studies[name] = optuna.create_study(storage=storage, study_name=name, direction="maximize")
        return self._studies[name]


def _trial(
    cell: Cell, space: Mapping[str, Any], n: int, k: int, gain: float, risk: float, said: Mapping[str, Any]
) -> Any:
    assert math.isfinite(gain), f"a gain of {gain} for Optuna"
    return _optuna().create_trial(
        params=dict(cell),
        distributions=dict(space),
        value=gain,
        constraints={"divergence": k / n - risk},
        user_attrs=dict(said),
    )


def _distributions(ranges: Mapping[str, tuple[float, float]]) -> dict[str, Any]:
    distribution = _optuna().distributions.FloatDistribution
    return {name: distribution(low, high, log=True) for name, (low, high) in sorted(ranges.items())}


@functools.cache
def _optuna() -> Any:
    import optuna
    import optuna.storages.journal

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna

"""Search the best quality at which training is stable: Optuna proposes cells, seeds decide.

Each arm of each model has a budget of its own, in rounds of `batch` cells. A cell is an lr with thresholds.

    rounds 0 and 1   cells spread evenly over the ranges, each trained with the study's seeds
    later rounds     half of the cells are new, proposed by Optuna (`study.search.optuna_tpe`) and trained likewise;
                     half are the leaders, the cells within risk (`analysis.stats.best`) of the highest mean gain, each
                     trained with further seeds
    at the end       the best cell is trained with fresh seeds, which judge it

A few seeds cannot tell a risk of 0.05 from one of 0.2, and among many cells the luckiest leads. So leaders are tested
with further seeds and drop out if they fail. (In 16 simulated searches where only divergence limits the lr, the best of
80 cells with 4 seeds diverges with probability 0.24, the median; with leaders, the same number of runs gives 0.02.) All
cells that are tested in a round share its seeds.

An arm's next round is a pure function of its own recorded rounds and the study's first seed. So arms do not wait for
each other, and an interrupted search ends where an undisturbed one does. The record is the truth; `optuna.journal`
beside it is a view, rewritten at every start.
"""

import itertools
import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from analysis.stats.best import best_like, gains, task_of
from study.config import JUDGED_FROM, Arm, QualitySearch, Run, Study, canonical_json
from study.execution.planner import Stack
from study.record import tables
from study.record.definition import Definition, study_exists
from study.record.failures import read_failures
from study.search.cells import Cell, Scored, leaders, scored_cell, spread
from study.search.optuna_tpe import JOURNAL, Journal, propose
from study.search.validation import SPREAD_ROUNDS, check, rounds_of, runs_at_most, seeds_of_round
from study.streams import stream
from study.trainers.protocol import Trainer


@dataclass(kw_only=True)
class _Tuning:
    """The search of one model and arm.

    rounds: For each round, its (cell, runs). waiting: Ids of runs in training.
    """

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
    """The stacks of a search for quality: a `study.execution.work_source.Source`.

    Args:
        study: A study whose search is a `QualitySearch`.
        data: What the record keeps of the data (`study.data.describe`).
        folder: Of the study. Recorded runs are not trained again; nothing is written before the first `next`.
        workers: Trials at a time.
        largest_stack: The most runs of a stack, by model.
        trainer: Of the study.

    Raises:
        ValueError: As `study.search.validation.check`, or if the data have no such task.
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
        self._journal: Journal | None = None
        self._ready: deque[Stack] = deque()
        lrs_of = self._study.lrs_of
        self._tunings = [
            _Tuning(
                model=model,
                arm=arm,
                ranges=dict(
                    sorted(
                        ({"lr": (min(lrs_of(arm)), max(lrs_of(arm)))} | self._search.ranges.get(arm.method, {})).items()
                    )
                ),
            )
            for model in self._study.models
            for arm in self._study.arms
        ]
        self._of_run: dict[str, _Tuning] = {}
        for tuning in self._tunings:
            self._advance(tuning, replaying=True)

    def next(self) -> Stack | None:
        if self._journal is None:
            self._journal = Journal(self._folder / JOURNAL)
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
        """Return lines that describe the search and how far each arm has come."""
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
        """Read the results of these trials, or of all."""
        runs = tables.read_runs(self._folder, trials)
        gain = gains(runs, tables.read_losses(self._folder, trials=trials), self._definition)
        diverged = (runs["outcome"] == "diverged").tolist()
        self._known |= {
            run: (dead, gain[run]) for run, dead in zip(runs["run_id"], diverged, strict=True) if run in gain
        }

    def _advance(self, tuning: _Tuning, *, replaying: bool) -> None:
        """Continue from a whole round to the first that has runs to train."""
        while not (tuning.waiting or tuning.ended):
            if tuning.judging:
                tuning.ended = True
            elif len(tuning.rounds) < rounds_of(self._study):
                tuning.rounds.append(self._round(tuning))
                missing = self._missing([run for _, runs in tuning.rounds[-1] for run in runs])
                # A resume retries a round with failed runs, unless later rounds are built on it.
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
        """Whether the record holds runs that come after this round."""
        if len(tuning.rounds) < rounds_of(self._study):
            after = [run for _, runs in self._round(tuning) for run in runs]
        else:
            after = self._to_judge(tuning)
        before = {run.id for one in tuning.rounds for _, runs in one for run in runs}
        return any(run.id in self._known and run.id not in before for run in after)

    def _round(self, tuning: _Tuning) -> list[tuple[Cell, list[Run]]]:
        """The arm's next round, computed from those before it."""
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
        return fresh + [(cell, self._runs(tuning, cell, seeds_of_round(self._study, number))) for cell in best]

    def _scored(self, tuning: _Tuning) -> list[Scored]:
        known: dict[Cell, list[tuple[bool, float]]] = {}
        for one in tuning.rounds:
            for cell, runs in one:
                known.setdefault(cell, []).extend(self._known[run.id] for run in runs if run.id in self._known)
        return [scored_cell(cell, results) for cell, results in known.items() if results]

    def _runs(self, tuning: _Tuning, cell: Cell, seeds: Iterable[int]) -> list[Run]:
        values = dict(cell)
        lr = values.pop("lr")
        arm = Arm(method=tuning.arm.method, options=self._canonical(tuning.arm, values))
        return [self._study.run(self._definition.data["content"], tuning.model, arm, lr, seed) for seed in seeds]

    def _canonical(self, arm: Arm, values: Mapping[str, float]) -> dict[str, Any]:
        defaults = self._trainer.thresholds_of(arm.method)
        return arm.options | {name: value for name, value in values.items() if value != defaults[name]}

    def _to_judge(self, tuning: _Tuning) -> list[Run]:
        """The runs of the best cell on fresh seeds; none if no cell is within risk."""
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
        """Write a round to the journal."""
        assert self._journal is not None
        for cell, runs in tuning.rounds[number]:
            results = [self._known[run.id] for run in runs if run.id in self._known]
            if results:
                seeds = [run.seed for run in runs if run.id in self._known]
                self._journal.add(tuning.name, tuning.ranges, scored_cell(cell, results), seeds, self._search.risk)

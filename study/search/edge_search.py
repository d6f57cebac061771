"""Search the edge of each curve: train where it is uncertain.

A curve (model and arm) starts with a ladder of learning rates. Then `study.search.placement` places its runs, batch by
batch, by the posterior of its edge. Every run has a seed of its own, so the runs of a curve are independent although
seeds carry thresholds. Run i has the i-th seed in every curve.

If the edge probably lies beyond the tried lrs, the range grows by factors of 2, up to HIGHEST and down to LOWEST,
before the curve ends as censored. A curve ends when its edge has the requested precision after two batches in a row,
when it is censored, or when its budget is spent. One batch is not enough: the first interval that is narrow enough
is too often narrow by chance, and on shallow curves it covered the edge in 91% of simulations.

**A curve's next batch is a pure function of its earlier batches and the study's first seed.** So an interrupted search
resumes from the record and ends where an undisturbed one does. Precision and budget only decide where it ends, so a
search can continue with other values. Curves do not wait for each other.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from analysis.loading import curve_labels
from study.config import CONTROL_SEEDS, Arm, EdgeSearch, Run, Study, canonical_json
from study.execution.planner import Stack
from study.record import tables
from study.record.confirmations import confirmed_ids
from study.record.definition import read_definition, study_exists
from study.record.failures import read_failures
from study.search.placement import (
    ABOVE,
    BELOW,
    HIGHEST,
    KNOWN,
    LOWEST,
    SPENT,
    CurvePosterior,
    curve_posterior,
    first_batch,
    next_batch,
)


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """A recorded run and whether it diverged."""

    id: str
    model: str
    method: str
    lr: float
    seed: int
    diverged: bool


class CurveSearch:
    """The search of one curve: its batches and the outcomes of their runs.

    Run i has the i-th seed. If the record has that run, its lr is taken from there, so that a record continues even
    where another version or machine would place runs elsewhere.

    Args:
        study: A study whose search is an `EdgeSearch`.
        content: The hash of the data.
        model: Of the curve.
        arm: Of the curve.
        recorded: Runs of the record, of this and other curves.
        failed: Ids of runs that are missing for a reason.
    """

    def __init__(
        self, study: Study, content: str, model: str, arm: Arm, recorded: Iterable[Recorded], failed: Collection[str]
    ) -> None:
        assert isinstance(study.search, EdgeSearch)
        self.study, self.search, self.content, self.model, self.arm = study, study.search, content, model, arm
        self.tried: list[Run] = []
        self.diverged: dict[str, bool | None] = {}
        self.waiting: list[Run] = []
        self.training: set[str] = set()
        self.now: CurvePosterior | None = None
        self.end: str | None = None
        self.known = False
        self.batches = 0
        like = [one for one in recorded if (one.model, one.method) == (model, arm.method)]
        self._recorded = {one.seed: one for one in like if self._run(one.lr, one.seed).id == one.id}
        self._failed = failed
        self._advance()

    @property
    def whole(self) -> bool:
        return not (self.waiting or self.training)

    @property
    def left(self) -> int:
        """An estimate of the runs still to train: those in progress, or what the curve's spread requires."""
        at_hand = len(self.waiting) + len(self.training)
        if self.end:
            return at_hand
        spread = self.now.spread if self.now else 0.06
        level = self.search.level
        # Exact for a logistic of known scale; 30 and 1.3 are what an unknown scale costs in simulations.
        known = (4 * 1.96 * spread / math.log10(self.search.precision)) ** 2 / (4 * level * (1 - level))
        return max(at_hand, min(round(30 + 1.3 * known), self.search.budget) - len(self.tried) + at_hand)

    def settle(self, outcomes: Mapping[str, bool | None]) -> None:
        """Record outcomes by run id, None for a run without one. A whole batch is followed by the next or the end."""
        self.diverged |= outcomes
        self.training -= set(outcomes)
        self._stand()
        self._advance()

    def _advance(self) -> None:
        """Start further batches as far as the record has their runs."""
        while self.whole and not self.end:
            runs = self._next_batch()
            self.tried += runs
            self.batches += 1
            known = {run.id: self._recorded[run.seed].diverged for run in runs if run.seed in self._recorded}
            missing = [run for run in runs if run.id not in known]
            went_on = max(self._recorded, default=-1) > runs[-1].seed
            if went_on and all(run.id in self._failed for run in missing):
                # Later runs were placed without these: training them now would make another search.
                known |= dict.fromkeys((run.id for run in missing), None)
            else:
                self.waiting = missing
            self.diverged |= known
            self._stand()

    def _stand(self) -> None:
        """Update the posterior after a whole batch, and whether the search is over."""
        if not self.whole:
            return
        diverged = [self.diverged[run.id] for run in self.tried]
        self.now = curve_posterior([run.lr for run in self.tried], diverged, self.search.level)
        end, known_before = self.now.end(self.search), self.known
        self.known = end == KNOWN
        self.end = None if self.known and not known_before else end
        if len(self.tried) >= self.search.budget:
            self.end = end or SPENT
        elif max(self._recorded, default=-1) > self.tried[-1].seed:
            self.end = None  # the record continues: an earlier command requested more precision

    def _next_batch(self) -> list[Run]:
        first = min(self.study.seeds) + len(self.tried)
        if self.now is None:
            lrs = first_batch(self.study.lrs_of(self.arm))
        else:
            rng = np.random.default_rng([min(self.study.seeds), self.batches])
            lrs = next_batch(self.now, len(self.tried), self.search.level, rng)
        lrs = lrs[: self.search.budget - len(self.tried)]
        recorded = {seed: one.lr for seed, one in self._recorded.items()}
        return [self._run(recorded.get(first + i, lr), first + i) for i, lr in enumerate(lrs)]

    def _run(self, lr: float, seed: int) -> Run:
        return self.study.run(self.content, self.model, self.arm, lr, seed)

    def __str__(self) -> str:
        """`0.51 (0.46 to 0.57)`, `> 3.2 (1.6 to ?)`, `> 3.2`, `< 0.01`, or "" while nothing is known."""
        now = self.now
        if now is None:
            return ""
        edge = _shown(now.edge)
        if now.edge > now.highest:
            edge = f"> {_shown(now.highest)}"
        if now.edge < now.lowest:
            edge = f"< {_shown(now.lowest)}"
        if now.low >= now.highest or now.high <= now.lowest:
            return edge
        low = _shown(now.low) if now.low >= now.lowest else "0"
        high = _shown(now.high) if now.high <= now.highest else "?"
        return f"{edge} ({low} to {high})"


class EdgeSource:
    """The searches of a study's curves as one source of stacks; see `study.execution.work_source`.

    Args:
        study: A study whose search is an `EdgeSearch`.
        content: The hash of the data.
        recorded: The recorded runs of its cells.
        failed: Ids of runs that are missing for a reason.
        read: Returns, for a recorded trial, run id -> whether it diverged.
        kind_of: Runs of different kinds cannot share a stack.
        largest_stack: The most runs of a stack, by model.
        workers: Trials at a time.

    Raises:
        ValueError: If the search would run out of seeds, or the ladder leaves the allowed range of lrs.
    """

    def __init__(
        self,
        study: Study,
        content: str,
        *,
        recorded: Iterable[Recorded],
        failed: Iterable[str],
        read: Callable[[str], Mapping[str, bool]],
        kind_of: Callable[[Run], str],
        largest_stack: Mapping[str, int],
        workers: int,
    ) -> None:
        assert isinstance(study.search, EdgeSearch)
        if min(study.seeds) + study.search.budget > CONTROL_SEEDS[0]:
            raise ValueError(f"{study.search.budget} seeds from {min(study.seeds)} on reach those of the control")
        outside = [lr for arm in study.arms for lr in study.lrs_of(arm) if not LOWEST <= lr <= HIGHEST]
        if outside:
            raise ValueError(f"a search of edges begins within lr {LOWEST:g} to {HIGHEST:g}, got {outside[0]:g}")
        self.study, self.search = study, study.search
        self._read, self._kind_of, self._largest, self._workers = read, kind_of, largest_stack, workers
        recorded, failed = list(recorded), set(failed)
        self.curves = [
            CurveSearch(study, content, model, arm, recorded, failed) for model in study.models for arm in study.arms
        ]
        self._of_run = {run.id: curve for curve in self.curves for run in curve.waiting}
        self._stacks: dict[str, str] = {}
        labels = curve_labels((arm.method, arm.options) for arm in study.arms)
        keys = (canonical_json([arm.method, arm.options]) for arm in study.arms)
        self._labels = dict(zip(keys, labels, strict=True))

    def next(self) -> Stack | None:
        """Return a stack that is full or gives every free worker work, or None.

        Its first runs are those of the curve with the fewest runs; runs of other curves join if they may share the
        stack.
        """
        waiting = [curve for curve in self.curves if curve.waiting]
        if not waiting:
            return None
        first = min(waiting, key=lambda curve: len(curve.diverged))
        kind = self._kind_of(first.waiting[0])
        alike = [c for c in waiting if c.model == first.model and self._kind_of(c.waiting[0]) == kind]
        runs = [run for curve in [first, *(c for c in alike if c is not first)] for run in curve.waiting]
        free = max(1, self._workers - len(set(self._stacks.values())))
        share = math.ceil(sum(len(curve.waiting) for curve in waiting) / free)
        stack = Stack(runs=tuple(runs[: min(share, self._largest[first.model])]))
        for run in stack.runs:
            curve = self._of_run[run.id]
            curve.waiting.remove(run)
            curve.training.add(run.id)
            self._stacks[run.id] = stack.name
        return stack

    @property
    def ended(self) -> bool:
        return all(curve.end and curve.whole for curve in self.curves)

    @property
    def left(self) -> dict[str, int]:
        found = dict.fromkeys(self.study.models, 0)
        for curve in self.curves:
            found[curve.model] += curve.left
        return found

    @property
    def state(self) -> str:
        """`1 of 5 edges found, 1 out of budget · none 0.51 (0.4 to 0.66)`: last the open curve with fewest runs."""
        ends = Counter(curve.end for curve in self.curves)
        found = f"{ends[KNOWN]} of {len(self.curves)} edges found"
        if censored := ends[ABOVE] + ends[BELOW]:
            found += f", {censored} censored"
        if ends[SPENT]:
            found += f", {ends[SPENT]} out of budget"
        open_curves = [curve for curve in self.curves if curve.now and curve.end is None]
        if not open_curves:
            return found
        first = min(open_curves, key=lambda curve: len(curve.diverged))
        return f"{found} · {self._name(first)} {first}"

    def outline(self) -> list[str]:
        """Return lines that describe the search and how far each curve has come."""
        search, seed, study = self.search, min(self.study.seeds), self.study
        shared, *others = {study.lrs_of(arm) for arm in study.arms}
        if others:
            shared = () if all(arm.lrs for arm in study.arms) else study.lrs
        begin = self._first_runs(shared, " a curve") if shared else "each curve at lrs of its own"
        lines = [
            f"search    of {len(self.curves)} curves, the lr at which {_share(search.level)} of the runs diverge, to"
            f" within a factor of {search.precision:g} (95% interval)",
            f"begin     {begin}; seeds from {seed} on, one a run",
        ]
        for arm in study.arms:
            if (lrs := study.lrs_of(arm)) != shared:
                label = self._labels[canonical_json([arm.method, arm.options])]
                lines.append(f"          {label}: {self._first_runs(lrs)}")
        lines.append(f"budget    {search.budget} runs a curve, {search.budget * len(self.curves):,} in all, at most")
        return lines + [f"{self._name(curve)}: {self._told(curve)}" for curve in self.curves if curve.now]

    def _first_runs(self, lrs: Sequence[float], of: str = "") -> str:
        """`6 runs at lrs 0.1, 0.2, 0.4`."""
        runs = min(len(first_batch(lrs)), self.search.budget)
        return f"{runs} runs{of} at lrs {', '.join(f'{lr:g}' for lr in sorted(set(lrs)))}"

    def recorded(self, stack: Stack) -> None:
        found = self._read(stack.name)
        self._settle({run.id: found.get(run.id) for run in stack.runs})

    def given_up(self, stack: Stack, reason: str) -> None:
        self._settle(dict.fromkeys(run.id for run in stack.runs))

    def _settle(self, outcomes: Mapping[str, bool | None]) -> None:
        touched: dict[int, tuple[CurveSearch, dict[str, bool | None]]] = {}
        for run, diverged in outcomes.items():
            curve = self._of_run.pop(run)
            del self._stacks[run]
            touched.setdefault(id(curve), (curve, {}))[1][run] = diverged
        for curve, own in touched.values():
            curve.settle(own)
            self._of_run |= {run.id: curve for run in curve.waiting}

    def _name(self, curve: CurveSearch) -> str:
        label = self._labels[canonical_json([curve.arm.method, curve.arm.options])]
        return label if len(self.study.models) == 1 else f"{curve.model} · {label}"

    def _told(self, curve: CurveSearch) -> str:
        seen = [dead for dead in curve.diverged.values() if dead is not None]
        missing = len(curve.diverged) - len(seen)
        runs = f"{len(seen)} runs, {sum(seen)} diverged" + (f", {missing} missing" if missing else "")
        ends = {
            KNOWN: "known",
            ABOVE: f"censored: not reached up to lr {HIGHEST:g}",
            BELOW: f"censored: already below lr {LOWEST:g}",
            SPENT: "its budget is spent",
            None: "so far",
        }
        return f"{runs}; edge {curve}, {ends[curve.end]}"


def _shown(x: float) -> str:
    """An lr from its log10, to two digits: 0.51, 3.2, 100."""
    return f"{float(f'{10**x:.2g}'):g}"


def _share(level: float) -> str:
    return "half" if level == 0.5 else f"{100 * level:.3g}%"


def source(
    study: Study,
    content: str,
    folder: Path,
    *,
    workers: int = 1,
    largest_stack: Mapping[str, int] | None = None,
    kind_of: Callable[[Run], str] = lambda run: run.id,
) -> EdgeSource:
    """Return the search of a study as far as the record in `folder` has come.

    Args:
        study: A study whose search is an `EdgeSearch`.
        content: The hash of the data.
        folder: Of the study; need not exist.
        workers: Trials at a time.
        largest_stack: The most runs of a stack, by model. None if no stack is requested.
        kind_of: Runs of different kinds cannot share a stack. Of the trainer; not needed if no stack is requested.
    """
    begun = study_exists(folder)
    return EdgeSource(
        study,
        content,
        recorded=_recorded(folder) if begun else (),
        failed=read_failures(folder) if begun else (),
        read=lambda trial: tables.diverged_in(folder, trial),
        kind_of=kind_of,
        largest_stack=largest_stack or {},
        workers=workers,
    )


def _recorded(folder: Path) -> list[Recorded]:
    """The runs of the study's cells without those of confirmations, which are no part of the search."""
    runs = tables.read_runs(folder)
    named = confirmed_ids(folder, read_definition(folder))
    runs = runs[(runs["role"] == "cell") & ~runs["run_id"].isin(list(named))]
    columns = (runs[name].tolist() for name in ("run_id", "model", "method", "lr", "seed", "outcome"))
    return [
        Recorded(id=run, model=model, method=method, lr=lr, seed=seed, diverged=outcome == "diverged")
        for run, model, method, lr, seed, outcome in zip(*columns, strict=True)
    ]

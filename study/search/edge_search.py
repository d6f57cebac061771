"""The edge of each curve, found by training where it is uncertain: a source of stacks that looks at what was recorded.

A curve (model and arm) begins with a ladder of learning rates. Then, batch by batch, each of its runs goes to the lr x
at which the variance of the edge e (in decades, under the posterior of `analysis.stats.edges`) is expected to fall
most:

    fall(x) = Cov(e, P(x))^2 / (p (1 - p))        p = E[P(x)]

which is the square of the correlation of e and the run's outcome, times the variance of e. The runs of a batch are
placed one after another, each as if those before it had ended as a draw from the posterior says. A tenth of them go to
lrs drawn at random over the tried range: a guard against a wrong model. Every run has a seed of its own, so that the
runs of a curve are independent even though seeds carry thresholds; run i has the i-th seed, whatever the curve.

A curve whose edge lies beyond the tried lrs, by the posterior's word, grows its range by factors of 2, up to HIGHEST
and down to LOWEST, before it ends as censored. It ends once its edge is known to the precision asked for after two
batches in a row, or censored, or once its budget is spent. (After one is too soon: of the intervals along the way, the
first that is narrow enough is too often narrow by luck, and on shallow curves covered 91% of the time.)

**A curve's next batch is a pure function of the batches before it and the study's first seed**: an interrupted search
is taken up from the record, and ends where an undisturbed one does. Precision and budget only say where it ends, so
that a search can go on with other ones later. Curves do not wait for each other.

Placing trials by the posterior: L. L. Kontsevich and C. W. Tyler, "Bayesian adaptive estimation of psychometric slope
and threshold", Vision Research 39 (1999), who minimize entropy; for an edge at a low level, variance needs fewer runs.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import special

from analysis.stats.intervals import TAIL
from analysis.stats.psychometric import Fit, fit
from study.config import CONTROL_SEEDS, Arm, EdgeSearch, Run, Study
from study.execution.planner import Stack
from study.record import tables
from study.record.confirmations import read_confirmations
from study.record.definition import read_definition, study_exists
from study.record.failures import read_failures

HIGHEST, LOWEST = 100.0, 1e-4
"""The lrs up and down to which a range grows. Below, a network of any size here is too slow to learn at all."""

SMALLEST_BATCH, LARGEST_BATCH, BATCH_SHARE = 6, 32, 0.15
"""A batch has this share of the runs before it, within these bounds: larger ones end too late, smaller ones fill no
stack."""

GUARD_SHARE = 0.1
RUNGS = 4
"""Factors of 2 by which a range grows in one batch."""

MORE_LIKELY_THAN_NOT = 0.5

DRAWS = 1500
CANDIDATES = 120
GOLDEN = 0.6180339887498949

KNOWN, ABOVE, BELOW, SPENT = "known", "above", "below", "spent"


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What the runs of a curve say. low, edge, high: 95% interval and median of log10 of the edge, which may be
    infinite. lowest, highest: log10 of the tried lrs. above, below: probability that the edge lies beyond these.
    spread: median of the logistic's scale, in decades."""

    one: Fit
    low: float
    edge: float
    high: float
    lowest: float
    highest: float
    above: float
    below: float
    spread: float

    def end(self, search: EdgeSearch) -> str | None:
        """Why the search of this curve is over; None where it is not."""
        if self.above >= 1 - TAIL and self.highest >= math.log10(HIGHEST):
            return ABOVE
        if self.below >= 1 - TAIL and self.lowest <= math.log10(LOWEST):
            return BELOW
        inside = self.lowest <= self.low and self.high <= self.highest
        return KNOWN if inside and self.high - self.low <= math.log10(search.precision) else None


def standing(lrs: Sequence[float], diverged: Sequence[bool | None], level: float) -> Standing:
    """From the runs of a curve, each with a seed of its own. lrs, diverged: one a run, the latter None where it is
    missing."""
    tried = sorted(set(lrs))
    seen = [(lr, bool(dead)) for lr, dead in zip(lrs, diverged, strict=True) if dead is not None]
    matrix = np.full((max(1, len(seen)), len(tried)), np.nan)
    for i, (lr, dead) in enumerate(seen):
        matrix[i, tried.index(lr)] = dead
    one = fit(tried, matrix)
    low, edge, high = one.edge(level, (TAIL, 0.5, 1 - TAIL))
    lowest, highest = math.log10(tried[0]), math.log10(tried[-1])
    edges = _edges(one, level)
    order = np.argsort(one.sigma)
    middle = np.searchsorted(np.cumsum(one.weight[order]), 0.5)
    return Standing(
        one=one,
        low=low,
        edge=edge,
        high=high,
        lowest=lowest,
        highest=highest,
        above=float(one.weight[edges > highest].sum()),
        below=float(one.weight[edges < lowest].sum()),
        spread=float(one.sigma[order][min(middle, len(order) - 1)]),
    )


def first_batch(ladder: Sequence[float]) -> list[float]:
    """The ladder, as often as it takes to make about a batch."""
    return [lr for lr in ladder for _ in range(max(1, round(SMALLEST_BATCH / len(ladder))))]


def next_batch(now: Standing, tried: int, level: float, rng: np.random.Generator) -> list[float]:
    """The lrs of a curve's next runs, after `tried` of them."""
    if now.above > MORE_LIKELY_THAN_NOT and now.highest < math.log10(HIGHEST):
        return _rungs(now.one.lrs[-1], 2.0)
    if now.below > MORE_LIKELY_THAN_NOT and now.lowest > math.log10(LOWEST):
        return _rungs(now.one.lrs[0], 0.5)
    count = min(max(SMALLEST_BATCH, round(BATCH_SHARE * tried)), LARGEST_BATCH)
    guards = int(rng.binomial(count, GUARD_SHARE))
    x = [*_placed(now, count - guards, level, rng), *rng.uniform(now.lowest, now.highest, guards)]
    return [_as_said(10**value) for value in x]


def _rungs(end: float, factor: float) -> list[float]:
    """A batch on the next factors of 2 beyond the end of a range."""
    rungs = [_as_said(min(max(end * factor**i, LOWEST), HIGHEST)) for i in range(1, RUNGS + 1)]
    return first_batch(list(dict.fromkeys(rungs)))


def _placed(now: Standing, count: int, level: float, rng: np.random.Generator) -> list[float]:
    """log10 of the lrs at which runs are expected to make the variance of the edge fall most."""
    ends = np.cumsum(now.one.weight)
    at = np.minimum(np.searchsorted(ends, (np.arange(DRAWS) + 0.5) / DRAWS * ends[-1]), len(ends) - 1)
    mu, sigma, floor, plateau = (v[at] for v in (now.one.mu, now.one.sigma, now.one.floor, now.one.plateau))
    # A range grows by a factor of 2 where its end comes into question. What lies beyond that counts as just beyond.
    low = max(now.lowest - math.log10(2), math.log10(LOWEST))
    high = min(now.highest + math.log10(2), math.log10(HIGHEST))
    edge = np.clip(_edges(now.one, level)[at], low, high)
    # Candidates are where the outcome is open: points of the drawn curves between 1 and 99% of their rise.
    some = np.linspace(0, DRAWS - 1, CANDIDATES).astype(int)
    rise = special.logit(0.01 + 0.98 * ((np.arange(CANDIDATES) * GOLDEN) % 1))
    x = np.unique(np.clip(mu[some] + sigma[some] * rise, low, high))
    rate = floor[:, None] + ((1 - floor) * plateau)[:, None] * special.expit((x - mu[:, None]) / sigma[:, None])
    weight, placed = np.full(DRAWS, 1 / DRAWS), []
    for _ in range(count):
        p = weight @ rate
        fall = ((weight * (edge - weight @ edge)) @ rate) ** 2 / (p * (1 - p))
        best = int(np.argmax(fall))
        placed.append(float(x[best]))
        weight = weight * (rate[:, best] if rng.random() < p[best] else 1 - rate[:, best])
        weight /= weight.sum()
    return placed


def _edges(one: Fit, level: float) -> np.ndarray:
    """log10 of the edge at every point of a posterior; -inf: P is above the level everywhere, inf: never."""
    need = (level - one.floor) / ((1 - one.floor) * one.plateau)
    inside = (need > 0) & (need < 1)
    edges = np.where(need <= 0, -np.inf, np.inf)
    edges[inside] = one.mu[inside] + one.sigma[inside] * special.logit(need[inside])
    return edges


def _as_said(lr: float) -> float:
    """Three digits: as people write an lr, and finer than any edge is known."""
    return float(f"{lr:.3g}")


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """A run of the record, and whether it diverged."""

    id: str
    model: str
    method: str
    lr: float
    seed: int
    diverged: bool


class CurveSearch:
    """The search of one curve: its batches, and what has become of their runs.

    recorded: runs of the record, of this and of other curves. Run i is the one with the i-th seed: where the record has
    it, it is taken as it is, so that a record goes on even where another version or machine would place runs elsewhere.
    failed: ids of runs that are missing for a reason.
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
        self.now: Standing | None = None
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
        """A guess: what is under way, or what the spread of the curve asks for."""
        at_hand = len(self.waiting) + len(self.training)
        if self.end:
            return at_hand
        spread = self.now.spread if self.now else 0.06
        level = self.search.level
        # Of a logistic whose scale is known; the rest is what not knowing it takes, in simulations.
        known = (4 * 1.96 * spread / math.log10(self.search.precision)) ** 2 / (4 * level * (1 - level))
        return max(at_hand, min(round(30 + 1.3 * known), self.search.budget) - len(self.tried) + at_hand)

    def settle(self, outcomes: Mapping[str, bool | None]) -> None:
        """Runs have ended, None: without an outcome. After the last of a batch comes the next, or the end."""
        self.diverged |= outcomes
        self.training -= set(outcomes)
        self._stand()
        self._advance()

    def _advance(self) -> None:
        """Begin the next batch where the one before is whole and the search goes on, as far as the record goes."""
        while self.whole and not self.end:
            runs = self._next_batch()
            self.tried += runs
            self.batches += 1
            known = {run.id: self._recorded[run.seed].diverged for run in runs if run.seed in self._recorded}
            missing = [run for run in runs if run.id not in known]
            went_on = max(self._recorded, default=-1) > runs[-1].seed
            if went_on and all(run.id in self._failed for run in missing):
                # What came after them was placed without them, and would be another search's with them.
                known |= dict.fromkeys((run.id for run in missing), None)
            else:
                self.waiting = missing
            self.diverged |= known
            self._stand()

    def _stand(self) -> None:
        """What a whole batch says of the curve, and whether its search is over."""
        if not self.whole:
            return
        diverged = [self.diverged[run.id] for run in self.tried]
        self.now = standing([run.lr for run in self.tried], diverged, self.search.level)
        end, known_before = self.now.end(self.search), self.known
        self.known = end == KNOWN
        self.end = None if self.known and not known_before else end
        if len(self.tried) >= self.search.budget:
            self.end = end or SPENT
        elif max(self._recorded, default=-1) > self.tried[-1].seed:
            self.end = None  # it has gone on, to a precision that was asked for before

    def _next_batch(self) -> list[Run]:
        first = min(self.study.seeds) + len(self.tried)
        if self.now is None:
            lrs = first_batch(self.study.lrs)
        else:
            rng = np.random.default_rng([min(self.study.seeds), self.batches])
            lrs = next_batch(self.now, len(self.tried), self.search.level, rng)
        lrs = lrs[: self.search.budget - len(self.tried)]
        recorded = {seed: one.lr for seed, one in self._recorded.items()}
        return [self._run(recorded.get(first + i, lr), first + i) for i, lr in enumerate(lrs)]

    def _run(self, lr: float, seed: int) -> Run:
        return self.study.run(self.content, self.model, self.arm, lr, seed)

    def __str__(self) -> str:
        """`0.51 (0.46 to 0.57)`, `> 3.2`, `< 0.01`, or nothing where nothing is known."""
        now = self.now
        if now is None:
            return ""
        if now.edge > now.highest:
            return f"> {_shown(now.highest)}"
        if now.edge < now.lowest:
            return f"< {_shown(now.lowest)}"
        low = _shown(now.low) if now.low >= now.lowest else "0"
        high = _shown(now.high) if now.high <= now.highest else "?"
        return f"{_shown(now.edge)} ({low} to {high})"


class EdgeSource:
    """The searches of a study's curves as one source of stacks; see `study.execution.work_source`.

    content: of the data. recorded: the runs of its cells. failed: ids of runs that are missing for a reason. read:
    whether the runs of a trial diverged, id by id, once they are recorded. kind_of: what tells apart
    runs that cannot share a stack. largest_stack: runs of a stack at most, by model. workers: trials at a time.

    Raises ValueError where the search would run out of seeds.
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
        outside = [lr for lr in study.lrs if not LOWEST <= lr <= HIGHEST]
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

    def next(self) -> Stack | None:
        """As many runs as make a full stack, or give every free worker work: those of the curve with the fewest runs,
        and of others that may share its stack."""
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
        """`edges: none 0.51 (0.4 to 0.66), clippy > 3.2`; of many curves, how many have ended."""
        if len(self.curves) > MOST_SHOWN:
            return f"{sum(curve.end is not None for curve in self.curves)} of {len(self.curves)} edges found"
        shown = [f"{self._name(curve)} {curve}" for curve in self.curves if curve.now]
        return f"edges: {', '.join(shown) or 'none yet'}"

    def outline(self) -> list[str]:
        search, seed, ladder = self.search, min(self.study.seeds), first_batch(self.study.lrs)
        lines = [
            f"search    of {len(self.curves)} curves, the lr at which {_share(search.level)} of the runs diverge, to"
            f" within a factor of {search.precision:g} (95% interval)",
            f"begin     {min(len(ladder), search.budget)} runs a curve at lrs"
            f" {', '.join(f'{lr:g}' for lr in sorted(set(ladder)))}; seeds from {seed} on, one a run",
            f"budget    {search.budget} runs a curve, {search.budget * len(self.curves):,} in all, at most",
        ]
        return lines + [f"{self._name(curve)}: {self._told(curve)}" for curve in self.curves if curve.now]

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
        method, options = curve.arm.method, curve.arm.options
        if sum(arm.method == method for arm in self.study.arms) > 1:
            method = " ".join([method, *(f"{key}={value}" for key, value in options.items())])
        return method if len(self.study.models) == 1 else f"{curve.model} · {method}"

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


MOST_SHOWN = 6
"""Curves that a line of progress has room for."""


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
    """The search of a study as far as it has come by the record in `folder`, if there is one. content: of the data.
    largest_stack, kind_of: of the trainer; not needed where no stack is taken."""
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
    """The runs of the study's cells, but for those that were named to confirm an lr: they are no part of the search."""
    runs = tables.read_runs(folder)
    definition = read_definition(folder)
    named = {run.id for one in read_confirmations(folder) for run in one.runs(definition)}
    runs = runs[(runs["role"] == "cell") & ~runs["run_id"].isin(list(named))]
    columns = (runs[name].tolist() for name in ("run_id", "model", "method", "lr", "seed", "outcome"))
    return [
        Recorded(id=run, model=model, method=method, lr=lr, seed=seed, diverged=outcome == "diverged")
        for run, model, method, lr, seed, outcome in zip(*columns, strict=True)
    ]

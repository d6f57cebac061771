"""From a study to the trials that are still to be trained: cells -> runs -> stacks, minus what is recorded."""

import dataclasses
import hashlib
import heapq
import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from study.config import Run, Study, control_of, runs_of
from study.record.schema import check_tasks
from study.trainers.protocol import Limits, Trainer

T = TypeVar("T")

STACK_COSTS_RUNS = 2
"""What a stack takes beside its runs, in the time of a run: measured, roughly, for the small networks."""


MOST_CUTS = 256
"""How often a plan is cut finer to see whether it ends sooner."""


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Runs to be trained together, and the name of their trial: the hash of their ids."""

    runs: tuple[Run, ...]

    @property
    def name(self) -> str:
        return hashlib.sha256(",".join(run.id for run in self.runs).encode()).hexdigest()[:32]

    @property
    def is_control(self) -> bool:
        return self.runs[0].role == "control"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a study still needs. `cells` and `runs` count the whole study, the control beside it; `control` and `stacks`
    are to be trained. A search has no cells and stacks ahead of time: it hands them out as it goes."""

    cells: int
    runs: int
    control_runs: int
    recorded: int
    control: tuple[Stack, ...]
    stacks: tuple[Stack, ...]
    limits: Limits

    @property
    def missing(self) -> int:
        return sum(len(stack.runs) for stack in (*self.control, *self.stacks))


def plan(
    study: Study,
    trainer: Trainer,
    recorded: Collection[str] = (),
    *,
    workers: int,
    stack: int | None = None,
    device_bytes: int | None = None,
) -> Plan:
    """Return what is still to be trained.

    Args:
        study: the study of the trainer, or a part of it.
        trainer: says what can share a stack, and how large a stack may be.
        recorded: ids of runs that need no training.
        workers: trials at a time.
        stack: most runs of a stack; None is the trainer's choice.
        device_bytes: GPU memory of one trial; None is a CPU.

    Raises:
        ValueError: the study cannot be trained on its data, or the trainer takes no stacks.
    """
    limits, content = trainer.limits(study, device_bytes), trainer.content
    check_tasks(task["name"] for task in trainer.tasks)
    if stack and stack > 1 and not limits.stackable:
        raise ValueError(f"--stack {stack} is for rankers; a {study.trainer} trains one run at a time")
    largest = {model: stack or limits.largest_stack[model] for model in study.models}
    cells = [] if study.search else runs_of(study, content)
    control = control_of(study, content)
    missing_cells = _missing(cells, recorded) if recorded else cells
    # A control without cells to judge would train for nothing.
    needed = set(study.models) if study.search else {run.model for run in missing_cells}
    missing_control = [run for run in control if run.id not in recorded and run.model in needed]
    limits = dataclasses.replace(limits, largest_stack=largest)
    return Plan(
        cells=0 if study.search else study.cells,
        runs=len(cells),
        control_runs=len(control),
        recorded=len(cells) - len(missing_cells),
        control=stacks_of(missing_control, trainer, limits, workers),
        stacks=stacks_of(missing_cells, trainer, limits, workers),
        limits=limits,
    )


def stacks_of(runs: Sequence[Run], trainer: Trainer, limits: Limits, workers: int) -> tuple[Stack, ...]:
    """Return runs in stacks, each of one model and kind. `trainer`, `limits` and `workers` as in `plan`."""
    of_model: dict[str, list[Run]] = {}
    for run in runs:
        of_model.setdefault(run.model, []).append(run)
    largest = limits.largest_stack
    stacks = [s for m, own in of_model.items() for s in _stacks(own, trainer.kind_of, largest[m], workers)]
    # The largest first: small ones at the end leave fewer workers without work.
    return tuple(sorted(stacks, key=lambda s: -limits.work_of_run[s.runs[0].model] * len(s.runs)))


def _missing(cells: Sequence[Run], recorded: Collection[str]) -> list[Run]:
    """The runs that are not recorded. Ids by curve take a tenth of the time that `Run.id` takes."""
    missing = []
    for _, of_curve in itertools.groupby(cells, lambda run: (run.model, run.method, id(run.options))):
        first, *others = of_curve
        id_of = first.ids_like()
        missing += [run for run in (first, *others) if id_of(run.lr, run.seed) not in recorded]
    return missing


def _stacks(runs: Sequence[Run], kind_of: Callable[[Run], str], largest: int, workers: int) -> list[Stack]:
    """Stacks of at most `largest` runs of one model, each of one kind: the fewest that keep all workers at work."""
    workers = min(workers, max(1, len(runs)))
    kinds: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        kinds[kind_of(run)].append(run)
    seeds = {kind: Counter(Counter(run.seed for run in of_kind).values()) for kind, of_kind in kinds.items()}
    most = dict.fromkeys(kinds, max(1, min(largest, math.ceil(len(runs) / workers))))
    sizes = {kind: _sizes(seeds[kind], most[kind]) for kind in kinds}
    best, best_time = most, _rounds(sizes, workers)
    # Where the last round leaves workers idle, one stack more, and smaller ones, may end sooner.
    for _ in range(min(workers, MOST_CUTS) if runs else 0):
        kind = max(sizes, key=lambda k: max(sizes[k]))
        most = most | {kind: math.ceil(len(kinds[kind]) / (sizes[kind].total() + 1))}
        sizes = sizes | {kind: _sizes(seeds[kind], most[kind])}
        if (time := _rounds(sizes, workers)) < best_time:
            best, best_time = most, time
    return [stack for kind, of_kind in kinds.items() for stack in _cut(of_kind, best[kind])]


def _sizes(seeds: Counter[int], size: int) -> Counter[int]:
    """Size of a stack -> how many there are, as `_cut` makes them of seeds that have so many runs: runs -> seeds."""
    groups, sizes = Counter[int](), Counter[int]()
    for runs, count in seeds.items():
        for part, parts in _even_sizes(runs, size):
            groups[part] += parts * count
    for runs, count in groups.items():
        for part, parts in _even_sizes(count, max(1, size // runs)):
            sizes[part * runs] += parts
    return sizes


def _rounds(sizes: Mapping[str, Counter[int]], workers: int) -> int:
    """When the last worker is done, in the time of a run, if whoever is free takes the largest stack that is left."""
    free_at = [(0, workers)]  # workers that are free at the same time are one entry: there may be thousands
    for runs, stacks in sorted(sum(sizes.values(), Counter[int]()).items(), reverse=True):
        while stacks:
            time, free = heapq.heappop(free_at)
            taking = min(free, stacks)
            stacks -= taking
            heapq.heappush(free_at, (time + runs + STACK_COSTS_RUNS, taking))
            if free > taking:
                heapq.heappush(free_at, (time, free - taking))
    return max(time for time, _ in free_at)


def _cut(runs: Sequence[Run], size: int) -> list[Stack]:
    """Runs of one kind in stacks of at most `size`: whole seeds together (they share batches), groups of one size."""
    of_seed: dict[int, list[Run]] = defaultdict(list)
    for run in runs:
        of_seed[run.seed].append(run)
    by_count: dict[int, list[list[Run]]] = defaultdict(list)
    for together in of_seed.values():
        for part in _even_parts(together, size):
            by_count[len(part)].append(part)
    return [
        Stack(runs=tuple(run for group in part for run in group))
        for count, groups in by_count.items()
        for part in _even_parts(groups, max(1, size // count))
    ]


def _even_sizes(count: int, size: int) -> list[tuple[int, int]]:
    """The lengths of `_even_parts` of so many items: (length, parts)."""
    parts = math.ceil(count / size)
    length, longer = divmod(count, parts)
    return [(n, k) for n, k in ((length + 1, longer), (length, parts - longer)) if k]


def _even_parts(items: Sequence[T], size: int) -> list[list[T]]:
    """Cut into the fewest parts of at most `size`, as even as can be."""
    count = math.ceil(len(items) / size)
    bounds = [round(i * len(items) / count) for i in range(count + 1)]
    return [list(items[a:b]) for a, b in itertools.pairwise(bounds)]

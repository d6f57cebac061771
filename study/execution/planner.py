"""From a study to the trials that are still to be trained: cells -> runs -> stacks, minus what is recorded."""

import dataclasses
import functools
import hashlib
import heapq
import itertools
import math
import os
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from study import model_options
from study.config import CONTROL_LRS, CONTROL_SEEDS, Arm, QualitySearch, Run, Study, canonical_json, to_json
from study.data._dataset import Log
from study.execution.plan_cache import is_ours, recalled

if TYPE_CHECKING:
    import models

T = TypeVar("T")

STACK_RUNS_CPU = 40
"""Runs of a CPU stack at most: more do not train faster, and fewer, longer trials balance worse over the cores."""

STACK_RUNS_GPU = 1024

BYTES_OF_STACKS_CPU = 3 * 2**30
"""Memory that one CPU trial may take by our estimate."""

SHARE_OF_GPU = 0.7

STACK_COSTS_RUNS = 2
"""What a stack takes beside its runs, in the time of a run: measured, roughly, for the small networks."""

WORK_BESIDE = 1.4e-4
"""GFLOP an example that fit into the time that embeddings, judging and recording take: measured, roughly."""


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
    one_by_one: tuple[str, ...]
    """Models that cannot be stacked."""
    largest_stack: dict[str, int]
    """Runs of a stack at most, by model."""
    work_of_run: dict[str, float]
    """What one run takes, by model, in GFLOP of matrix products; see `work`."""

    @property
    def missing(self) -> int:
        return sum(len(stack.runs) for stack in (*self.control, *self.stacks))


@dataclass(frozen=True, kw_only=True)
class Size:
    """What a plan needs to know of a model, and only building it can tell.

    run_bytes, run_bytes_gpu: see `bytes_of_run`. snapshot_bytes: see `bytes_of_snapshots`. work: see `work`.
    stackable: whether its runs can be computed as a stack. clampable: whether it has hidden units to clamp.
    """

    run_bytes: int
    run_bytes_gpu: int
    snapshot_bytes: int
    work: float
    stackable: bool
    clampable: bool

    def with_snapshots(self) -> "Size":
        """Of a run that a method puts back to snapshots of itself."""
        more = self.snapshot_bytes
        return dataclasses.replace(
            self, run_bytes=self.run_bytes + more, run_bytes_gpu=self.run_bytes_gpu + more, snapshot_bytes=0
        )


def checked(study: Study, cache: Path | None = None) -> Study:
    """Return the study with its models and arms in canonical form.

    Args:
        study: What was asked for.
        cache: A folder that keeps answers; see `study.execution.plan_cache`.

    Raises:
        ValueError: If a model, a method or an option is unknown or out of range.
    """

    def find(arm: Arm) -> dict[str, Any]:
        from study import methods

        return methods.check(arm.method, arm.options)

    models = []
    for model in study.models:
        question, find_model = ["model", model], functools.partial(model_options.canonical, model)
        models.append(recalled(cache, question, find_model, ours=_is_our_model(model)))
    arms = []
    for arm in study.arms:
        question = ["options", arm.method, repr(sorted(arm.options.items()))]
        ours = is_ours("study.methods", arm.method)
        arms.append(Arm(method=arm.method, options=recalled(cache, question, functools.partial(find, arm), ours=ours)))
    once = {canonical_json([arm.method, arm.options]): arm for arm in arms}
    study = dataclasses.replace(study, models=tuple(dict.fromkeys(models)), arms=tuple(once.values()))
    if isinstance(study.search, QualitySearch):
        from study.search import quality_search

        quality_search.check(study, cache)
    return study


def plan(
    study: Study,
    log: Log,
    recorded: Collection[str] = (),
    *,
    workers: int,
    stack: int | None = None,
    device_bytes: int | None = None,
    cache: Path | None = None,
) -> Plan:
    """What is to be trained. workers: trials at a time. stack: runs of a stack at most, in place of our choice.
    device_bytes: memory of one trial's share of a GPU; None is a CPU. cache: where sizes of models are remembered.

    Raises ValueError where the data fill no batch, and where a method clamps hidden units that a model does not have.
    """
    sizes = {model: size_of(model, study, log, cache) for model in study.models}
    acts_on = {method: _acts_on(method, cache) for method in dict.fromkeys(arm.method for arm in study.arms)}
    bare = [model for model, size in sizes.items() if not size.clampable]
    for method, acts in acts_on.items():
        if bare and "unit_limit" in acts:
            raise ValueError(f"{method} clamps what activation functions put out, and {bare[0]} has none that is known")
    # One size for all methods of a study: where one of them keeps snapshots, room is left for them.
    goes_back = any("rollback_options" in acts for acts in acts_on.values())
    sizes = {model: size.with_snapshots() if goes_back else size for model, size in sizes.items()}
    largest = {model: stack or _largest_stack(sizes[model], device_bytes) for model in study.models}
    cells = [] if study.search else runs_of(study, log.content)
    control = control_of(study, log.content)
    missing_cells = [run for run in cells if run.id not in recorded]
    # A control without cells to judge would train for nothing.
    needed = set(study.models) if study.search else {run.model for run in missing_cells}
    missing_control = [run for run in control if run.id not in recorded and run.model in needed]
    kind_of = kinds(cache)

    def stacks_of(missing: Sequence[Run]) -> tuple[Stack, ...]:
        stacks: list[Stack] = []
        for model in study.models:
            stacks += _stacks([run for run in missing if run.model == model], kind_of, largest[model], workers)
        # The largest first: small ones at the end leave fewer workers without work.
        return tuple(sorted(stacks, key=lambda s: -sizes[s.runs[0].model].work * len(s.runs)))

    return Plan(
        cells=0 if study.search else len(study.models) * len(study.arms) * len(study.lrs),
        runs=len(cells),
        control_runs=len(control),
        recorded=sum(run.id in recorded for run in cells),
        control=stacks_of(missing_control),
        stacks=stacks_of(missing_cells),
        one_by_one=tuple(model for model in study.models if not sizes[model].stackable),
        largest_stack=largest,
        work_of_run={model: sizes[model].work for model in study.models},
    )


def runs_of(study: Study, data: str) -> list[Run]:
    """Every run of the study's cells, on the data of that content; curve by curve."""
    return [
        Run(data=data, model=model, method=arm.method, options=arm.options, lr=lr, seed=seed, recipe=study.recipe)
        for model in study.models
        for arm in study.arms
        for seed in study.seeds
        for lr in study.lrs
    ]


def control_of(study: Study, data: str) -> list[Run]:
    """The control: untreated, on a ladder of lrs, with reserved seeds; one for each model."""
    return [
        Run(data=data, model=model, method="none", lr=lr, seed=seed, recipe=study.recipe)
        for model in study.models
        for seed in CONTROL_SEEDS
        for lr in CONTROL_LRS
    ]


def measured_gigaflops_per_second() -> float:
    """Matrix products of one core, in a moment's measurement by numpy, which uses all of them."""
    draws = np.random.default_rng(0)
    a, b = (draws.standard_normal(shape, dtype=np.float32) for shape in ((8, 512, 128), (8, 128, 128)))
    products = np.empty((8, 512, 128), dtype=np.float32)
    best = math.inf
    for _ in range(25):
        started = time.perf_counter()
        np.matmul(a, b, out=products)
        best = min(best, time.perf_counter() - started)
    return 8 * 2e-9 * 512 * 128 * 128 / best / (os.cpu_count() or 1)


def kinds(cache: Path | None = None) -> Callable[[Run], str]:
    """What tells apart the runs that cannot share a stack: the method, and its options that are not thresholds.

    cache: as in `plan`.
    """

    def find(method: str) -> list[str]:
        from study import methods

        return list(methods.signature(method).options)

    @functools.cache  # asked once a run is to be stacked: who only looks at a search imports no method
    def options(method: str) -> list[str]:
        question = ["options of", method]
        return recalled(cache, question, functools.partial(find, method), ours=is_ours("study.methods", method))

    def kind_of(run: Run) -> str:
        return canonical_json([run.method, {k: v for k, v in run.options.items() if k in options(run.method)}])

    return kind_of


def _acts_on(method: str, cache: Path | None) -> list[str]:
    """What the method does beside the update."""

    def find() -> list[str]:
        from study import methods

        return methods.acts_on(method)

    return recalled(cache, ["acts on", method], find, ours=is_ours("study.methods", method))


def _stacks(runs: Sequence[Run], kind_of: Callable[[Run], str], largest: int, workers: int) -> list[Stack]:
    """Stacks of at most `largest` runs of one model, each of one kind: the fewest that keep all workers at work."""
    kinds: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        kinds[kind_of(run)].append(run)
    size = max(1, min(largest, math.ceil(len(runs) / workers)))
    cut = {kind: _cut(of_kind, size) for kind, of_kind in kinds.items()}
    best, best_time = cut, _rounds(cut, workers)
    # Where the last round leaves workers idle, one stack more, and smaller ones, may end sooner.
    for _ in range(workers if runs else 0):
        kind = max(cut, key=lambda k: max(len(stack.runs) for stack in cut[k]))
        cut = cut | {kind: _cut(kinds[kind], math.ceil(len(kinds[kind]) / (len(cut[kind]) + 1)))}
        if _rounds(cut, workers) < best_time:
            best, best_time = cut, _rounds(cut, workers)
    return [stack for of_kind in best.values() for stack in of_kind]


def _rounds(cut: Mapping[str, Sequence[Stack]], workers: int) -> float:
    """When the last worker is done, in the time of a run, if whoever is free takes the largest stack that is left."""
    busy_until = [0.0] * workers
    for runs in sorted((len(stack.runs) for of_kind in cut.values() for stack in of_kind), reverse=True):
        heapq.heapreplace(busy_until, busy_until[0] + runs + STACK_COSTS_RUNS)
    return max(busy_until)


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


def _even_parts(items: Sequence[T], size: int) -> list[list[T]]:
    """Cut into the fewest parts of at most `size`, as even as can be."""
    count = math.ceil(len(items) / size)
    bounds = [round(i * len(items) / count) for i in range(count + 1)]
    return [list(items[a:b]) for a, b in itertools.pairwise(bounds)]


def _largest_stack(size: Size, device_bytes: int | None) -> int:
    if device_bytes is None:
        return max(1, min(STACK_RUNS_CPU, BYTES_OF_STACKS_CPU // size.run_bytes))
    return max(1, min(STACK_RUNS_GPU, int(device_bytes * SHARE_OF_GPU) // size.run_bytes_gpu))


def size_of(model: str, study: Study, log: Log, cache: Path | None = None) -> Size:
    """The size of a model on this data, by this recipe; as it was found before, where it was.

    Raises ValueError where the data fill no batch.
    """

    def find() -> dict[str, Any]:
        from study.training.networks import has_hidden_units, spec_of, stackable

        spec = spec_of(log, study.recipe)
        return {
            "run_bytes": bytes_of_run(model, study, log),
            "run_bytes_gpu": bytes_of_run(model, study, log, gpu=True),
            "snapshot_bytes": bytes_of_snapshots(model, study, log),
            "work": work(model, study, log),
            "stackable": stackable(model, spec),
            "clampable": has_hidden_units(model, spec),
        }

    question = ["size", model, to_json(study.recipe), log.content]
    return Size(**recalled(cache, question, find, ours=_is_our_model(model)))


def _is_our_model(model: str) -> bool:
    return is_ours("models", model_options.parse(model)[0])


def bytes_of_run(model: str, study: Study, log: Log, *, gpu: bool = False) -> int:
    """Memory of one run in a stack, estimated: weights with gradient, state and temporaries; embedding rows with
    accumulators; what a batch reads of them, and its gradient; the scores of the held-out rows; and what the backward
    pass needs of the activations, where all runs go through a layer together.

    On CPU within 20% of what was measured (docs/performance.md); not measured on a GPU.
    """
    import torch

    from study.training import fused_mlp
    from study.training.networks import build_network, spec_of

    spec = spec_of(log, study.recipe)
    parameters, activations, _ = _counts(model, spec)
    dtype = getattr(torch, study.recipe.precision)
    with torch.device("meta"):
        network = build_network(model, spec)
    if fused_mlp.takes(network, dtype, torch.device("cuda" if gpu else "cpu")):
        activations = 0
    rows = sum(log.vocabulary) * study.recipe.embedding_dim
    ids_BF = log.ids[: study.recipe.batch]
    # On a GPU the number of touched rows is never read back: there are as many as ids.
    touched = ids_BF.size if gpu else sum(len(np.unique(ids_BF[:, f])) for f in range(spec.features))
    of_batch = (2 * ids_BF.size + 6 * touched) * spec.embedding_dim
    heldout = (len(log.labels) - log.train_rows) * len(log.tasks)
    numbers = 4 * parameters + 2 * rows + of_batch + heldout
    return int(dtype.itemsize * (numbers + 0.65 * study.recipe.batch * activations))


def bytes_of_snapshots(model: str, study: Study, log: Log) -> int:
    """What `study.training.rollback` adds to a run: two copies of its weights and embedding rows with their
    accumulators, and what the network's state was before the step."""
    import torch

    from study.training.networks import spec_of

    parameters, _, _ = _counts(model, spec_of(log, study.recipe))
    rows = sum(log.vocabulary) * study.recipe.embedding_dim
    return getattr(torch, study.recipe.precision).itemsize * (2 * (2 * parameters + 2 * rows) + 3 * parameters)


def work(model: str, study: Study, log: Log) -> float:
    """What a run takes, in GFLOP of matrix products: its own, and those that fit into what it does beside."""
    from study.training.networks import spec_of
    from study.training.stack import steps_of

    products = _counts(model, spec_of(log, study.recipe))[2]
    examples = study.recipe.batch * steps_of(study.recipe, log.train_rows)
    return 6e-9 * products * examples + WORK_BESIDE * examples


def _counts(model: str, spec: "models.Spec") -> tuple[int, int, int]:
    """Parameters, activations of one row, and multiplications of one row in matrix products."""
    import torch

    from study.training.networks import build_network

    with torch.device("meta"):
        network = build_network(model, spec)
        activations: list[int] = [2 * spec.width]
        for module in network.modules():
            if not list(module.children()):
                module.register_forward_hook(lambda _m, _i, out: activations.append(out.numel()))
        try:
            network(torch.empty(1, spec.width))
        except (RuntimeError, NotImplementedError):
            activations.append(sum(p.shape[0] for p in network.parameters() if p.dim() > 1))
    parameters = sum(p.numel() for p in network.parameters())
    return parameters, sum(activations), sum(p.numel() for p in network.parameters() if p.dim() > 1)

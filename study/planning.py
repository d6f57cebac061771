"""From a study to the trials that are still to be trained: cells -> runs -> stacks, minus what is recorded."""

import dataclasses
import hashlib
import itertools
import math
import time
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

import models
from study import methods, plugins
from study.config import CONTROL_LRS, CONTROL_SEEDS, Arm, Run, Study, canonical_json
from study.log import Log
from study.networks import build_network, spec_of, stackable
from study.training import steps_of

T = TypeVar("T")

STACK_RUNS_CPU = 32
"""Runs of a CPU stack at most: more do not train faster, and fewer, longer trials balance worse over the cores."""

STACK_RUNS_GPU = 1024

BYTES_OF_STACKS_CPU = 3 * 2**30
"""Memory that one CPU trial may take by our estimate."""

SHARE_OF_GPU = 0.7

WORK_BESIDE = 1e-4
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
    """What a study still needs. `cells` and `runs` count the whole study, the control beside it; `stacks` are those to
    be trained, the control's first."""

    cells: int
    runs: int
    control_runs: int
    recorded: int
    stacks: tuple[Stack, ...]
    one_by_one: tuple[str, ...]
    """Models that cannot be stacked."""
    work_of_run: dict[str, float]
    """What one run takes, by model, in GFLOP of matrix products; see `work`."""

    @property
    def work(self) -> float:
        """What the runs to be trained take, likewise."""
        return sum(self.work_of_run[stack.runs[0].model] * len(stack.runs) for stack in self.stacks)

    @property
    def missing(self) -> int:
        return sum(len(stack.runs) for stack in self.stacks)


def checked(study: Study) -> Study:
    """The study with its arms in canonical form. ValueError, in the user's words, for unknown models or methods and
    for options out of range."""
    for model in study.models:
        plugins.load("models", model, "model", "build")
    arms = [Arm(method=arm.method, options=methods.check(arm.method, arm.options)) for arm in study.arms]
    once = {canonical_json([arm.method, arm.options]): arm for arm in arms}
    return dataclasses.replace(study, arms=tuple(once.values()))


def plan(
    study: Study,
    log: Log,
    recorded: Collection[str] = (),
    *,
    workers: int,
    stack: int | None = None,
    device_bytes: int | None = None,
) -> Plan:
    """What is to be trained. workers: trials at a time. stack: runs of a stack at most, in place of our choice.
    device_bytes: memory of one trial's share of a GPU; None is a CPU.

    Raises ValueError where the data fill no batch.
    """
    steps_of(study.recipe, log.train_rows)
    cells = runs_of(study, log.content)
    control = control_of(study, log.content)
    missing_cells = [run for run in cells if run.id not in recorded]
    # A control without cells to judge would train for nothing.
    needed = {run.model for run in missing_cells}
    missing_control = [run for run in control if run.id not in recorded and run.model in needed]
    stacks = []
    for model in study.models:
        largest = stack or _largest_stack(model, study, log, device_bytes)
        for missing in (missing_control, missing_cells):
            stacks += _stacks([run for run in missing if run.model == model], largest, workers)
    spec = spec_of(log, study.recipe)
    return Plan(
        cells=len(study.models) * len(study.arms) * len(study.lrs),
        runs=len(cells),
        control_runs=len(control),
        recorded=sum(run.id in recorded for run in cells),
        stacks=tuple(sorted(stacks, key=lambda s: not s.is_control)),
        one_by_one=tuple(model for model in study.models if not stackable(model, spec)),
        work_of_run={model: work(model, study, log) for model in study.models},
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
    """Matrix products of one core, in a moment's measurement."""
    a, b = torch.randn(8, 512, 128), torch.randn(8, 128, 128)
    best = math.inf
    for _ in range(25):
        started = time.perf_counter()
        torch.bmm(a, b)
        best = min(best, time.perf_counter() - started)
    return 8 * 2e-9 * 512 * 128 * 128 / best / torch.get_num_threads()


def _stacks(runs: Sequence[Run], largest: int, workers: int) -> list[Stack]:
    """Stacks of at most `largest` runs, of one method and its options each, whole seeds together (they share batches)
    and groups of one size; as many that all workers have work to the end."""
    kinds: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        signature = methods.signature(run.method)
        options = {k: v for k, v in run.options.items() if k in signature.options}
        kinds[canonical_json([run.model, run.method, options])].append(run)
    stacks = []
    for of_kind in kinds.values():
        size = max(1, min(largest, math.ceil(len(of_kind) / workers)))
        of_seed: dict[int, list[Run]] = defaultdict(list)
        for run in of_kind:
            of_seed[run.seed].append(run)
        by_count: dict[int, list[list[Run]]] = defaultdict(list)
        for together in of_seed.values():
            for part in _even_parts(together, size):
                by_count[len(part)].append(part)
        for count, groups in by_count.items():
            for part in _even_parts(groups, max(1, size // count)):
                stacks.append(Stack(runs=tuple(run for group in part for run in group)))
    return stacks


def _even_parts(items: Sequence[T], size: int) -> list[list[T]]:
    """Cut into the fewest parts of at most `size`, as even as can be."""
    count = math.ceil(len(items) / size)
    bounds = [round(i * len(items) / count) for i in range(count + 1)]
    return [list(items[a:b]) for a, b in itertools.pairwise(bounds)]


def _largest_stack(model: str, study: Study, log: Log, device_bytes: int | None) -> int:
    budget = BYTES_OF_STACKS_CPU if device_bytes is None else int(device_bytes * SHARE_OF_GPU)
    most = STACK_RUNS_CPU if device_bytes is None else STACK_RUNS_GPU
    return max(1, min(most, budget // bytes_of_run(model, study, log)))


def bytes_of_run(model: str, study: Study, log: Log) -> int:
    """Memory of one run in a stack, estimated: weights with gradient, state and temporaries; embedding rows with
    accumulators; activations with their gradients."""
    parameters, activations, _ = _size(model, spec_of(log, study.recipe))
    width = 8 if study.recipe.precision == "float64" else 4
    rows = sum(log.vocabulary) * study.recipe.embedding_dim
    return width * (6 * parameters + 2 * rows + 3 * study.recipe.batch * activations)


def work(model: str, study: Study, log: Log) -> float:
    """What a run takes, in GFLOP of matrix products: its own, and those that fit into what it does beside."""
    products = _size(model, spec_of(log, study.recipe))[2]
    examples = study.recipe.batch * steps_of(study.recipe, log.train_rows)
    return 6e-9 * products * examples + WORK_BESIDE * examples


def _size(model: str, spec: models.Spec) -> tuple[int, int, int]:
    """Parameters, activations of one row, and multiplications of one row in matrix products."""
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

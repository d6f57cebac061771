"""`study range-test`: one run a seed whose lr rises step by step, and what it says beside the edges."""

import contextlib
import itertools
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analysis.stats.range_rules import explosion
from study.commands.recorded_lrs import recorded_lrs
from study.commands.request import RunRequest, out_folder, study_and_trainer
from study.config import MAX_LR, Arm, Study, canonical_json
from study.definition import overrides
from study.execution.processes import parallel_map
from study.record.definition import RecordError, check_not_a_view, read_definition, study_exists
from study.record.range_tests import (
    Ramp,
    arm_columns,
    read_range_tests,
    recorded_tests,
    setting_of,
    write_range_tests,
)
from study.record.tables import check_not_published
from study.search.placement import HIGHEST
from study.storage import stores
from study.storage.lock import LOCK_FILE, locked
from study.storage.stores import cache_folder
from study.text.console import show
from study.text.wording import count
from study.trainers.protocol import Trainer, open_trainer

LOW_FACTOR, HIGH_FACTOR = 0.01, 10.0
"""Without --from and --to, the lr rises from a hundredth of the lowest lr of the study to ten times its highest."""

WIDE = 1e-6, HIGHEST
"""The same of a study without lrs."""


@dataclass(frozen=True, kw_only=True)
class RangeRequest:
    """What to test. low, high: None is around the lrs of the study. seeds: how many, from 0, or `100-115`."""

    low: float | None = None
    high: float | None = None
    steps: int = 400
    seeds: str = "4"

    def ramp(self, study: Study) -> Ramp:
        """Return the lr of each step. Raises ValueError."""
        lrs = [lr for arm in study.arms for lr in study.lrs_of(arm)]
        low, high = (LOW_FACTOR * min(lrs), min(HIGH_FACTOR * max(lrs), MAX_LR)) if lrs else WIDE
        return Ramp(
            low=float(f"{low:.3g}") if self.low is None else self.low,
            high=float(f"{high:.3g}") if self.high is None else self.high,
            steps=self.steps,
        )

    def seed_numbers(self) -> tuple[int, ...]:
        """Return the seeds. Raises ValueError."""
        text = self.seeds.strip()
        found = overrides.seeds(f"0-{text}")[:-1] if text.isdecimal() else overrides.seeds(text)
        if not found:
            raise ValueError("--seeds needs at least 1")
        return found


class ShortLoopError(ValueError):
    """A loop ended by itself before its loss exploded and its lr reached the end of the ramp.

    Args:
        steps: of the loop.
        of: the ramp's steps.
    """

    def __init__(self, steps: int, of: int) -> None:
        super().__init__(steps, of)
        self.steps, self.of = steps, of

    def __str__(self) -> str:
        return f"the loop ended after {self.steps} of {self.of} steps of its range test; give --steps {self.steps}"


@dataclass(frozen=True, kw_only=True)
class _Job:
    """Seeds of a curve that are tested as one stack, and where to write them."""

    study: Study
    model: str
    arm: Arm
    seeds: tuple[int, ...]
    ramp: Ramp
    device: str
    folder: Path


def range_test(request: RunRequest, wanted: RangeRequest) -> str:
    """Train the range tests that are not recorded, write their table and figure, and return the text.

    Args:
        request: the space, its settings and the study's folder.
        wanted: the ramp and the seeds.

    Raises:
        ValueError: the ramp or the space has no range test; nothing was trained or written.
    """
    from analysis.report import range_tests as page

    study, trainer = study_and_trainer(request)
    folder = out_folder(request, study)
    ramp, seeds = wanted.ramp(recorded_lrs(study, folder)), wanted.seed_numbers()
    trainer.range_test(study)  # refuses what has none
    for seed in seeds:
        study.run(trainer.content, study.models[0], study.arms[0], ramp.high, seed)  # raises for a reserved seed
    train_range_tests(study, trainer, folder, lambda _model, _arm: ramp, seeds, request)
    found = page.of_folder(folder, setting_of(study, trainer.content), study.arms)
    assert found, "they have just been recorded"
    try:
        found.write(folder)
    except OSError as error:
        raise stores.StorageError(f"cannot write to {folder} ({error.strerror or error})") from error
    stores.publish(folder, ("tables/*.csv", "tables/*.json", "figures/*.png"))
    return f"\n{found.text}\n\nfigure: {folder}/figures/{page.NAME}.png\ntables: {folder}/tables/{page.NAME}.csv"


def train_range_tests(
    study: Study,
    trainer: Trainer,
    folder: Path,
    ramp_of: Callable[[str, Arm], Ramp | None],
    seeds: Sequence[int],
    request: RunRequest,
) -> None:
    """Train the range tests of a study's curves that are not recorded, on this machine.

    Args:
        study: its models and arms are tested.
        trainer: of the study.
        folder: the study's folder.
        ramp_of: returns the ramp of a curve (model and arm); None leaves it out.
        seeds: one range test of each curve a seed.
        request: names the device and how many stacks train at a time.

    Raises:
        RecordError: the folder holds another study, or is no place for a record.
    """
    setting, limits = setting_of(study, trainer.content), trainer.limits(study)
    cpus, gpus = trainer.resources() or (1, 0)
    device = request.device or ("cuda" if gpus else "cpu")
    check_not_a_view(folder)
    check_not_published(folder)
    if study_exists(folder):
        _check_same(folder, setting)
    try:
        trainer.check_device(device)
    except ValueError as error:
        raise ValueError(f"this machine {error}") from None
    with _no_empty_folder(folder), locked(folder):
        stores.probe(folder)
        trainer.write_folder(folder)
        recorded, jobs, ramps = read_range_tests(folder), [], []
        for model, arm in itertools.product(study.models, study.arms):
            if (ramp := ramp_of(model, arm)) is None:
                continue
            ramps.append(ramp)
            tests = recorded_tests(recorded, setting, model, columns_of(trainer, study, model, arm), ramp)
            known = set(tests["seed"])
            missing = [seed for seed in seeds if seed not in known]
            for start in range(0, len(missing), limits.largest_stack[model]):
                part = tuple(missing[start : start + limits.largest_stack[model]])
                jobs.append(
                    _Job(study=study, model=model, arm=arm, seeds=part, ramp=ramp, device=device, folder=folder)
                )
        ends = {f"from lr {ramp.low:g} to {ramp.high:g}" for ramp in ramps}
        show(
            f"{study.name}: range tests of {count(len(ramps), 'curve')}, {count(len(seeds), 'seed')} each, "
            f"{ramps[0].steps} steps {ends.pop() if len(ends) == 1 else 'over a range of its own'}; "
            f"{count(sum(len(job.seeds) for job in jobs), 'run')} to train"
        )
        at_a_time = min((os.cpu_count() or 1) / max(cpus, 1), 1 / gpus if gpus else math.inf)  # all use the first GPU
        _train(jobs, trainer, request.workers or max(1, int(at_a_time)))


@contextlib.contextmanager
def _no_empty_folder(folder: Path) -> Iterator[None]:
    """Remove a new folder if the block refuses the study before anything is recorded."""
    is_new = not folder.exists()
    try:
        yield
    except ValueError:
        if is_new and folder.exists() and [path.name for path in folder.iterdir()] == [LOCK_FILE]:
            with contextlib.suppress(OSError):  # another process began here meanwhile
                (folder / LOCK_FILE).unlink()
                folder.rmdir()
        raise


def _check_same(folder: Path, setting: str) -> None:
    definition = read_definition(folder)
    if setting_of(definition.study, definition.data["content"]) != setting:
        raise RecordError(f"{folder} holds a study with other data, recipe or trainer; choose another folder")


def columns_of(trainer: Trainer, study: Study, model: str, arm: Arm) -> dict[str, str]:
    """Return the columns of range tests that name an arm."""
    return arm_columns(arm, *trainer.columns(study.run(trainer.content, model, arm, 1.0, 0)))


def _train(jobs: Sequence[_Job], trainer: Trainer, workers: int) -> None:
    """Test the stacks, several at a time, and say so after each."""
    if not jobs:
        return
    started, done = time.perf_counter(), 0
    hints = trainer.hints()
    with parallel_map(min(workers, len(jobs))) as each:
        for job, seconds in zip(jobs, each(_test, jobs, [hints] * len(jobs)), strict=True):
            done += 1
            show(
                f"{done}/{len(jobs)}: {job.model} {job.arm.method}, {count(len(job.seeds), 'seed')} in {seconds:.1f} s "
                f"({time.perf_counter() - started:.0f} s in all)"
            )


def _test(job: _Job, hints: dict[str, Any]) -> float:
    """Train a stack and record it. Returns the seconds."""
    study, lrs = job.study, job.ramp.lrs()
    trainer = open_trainer(study, cache_folder(), hints)
    runs = [study.run(trainer.content, job.model, job.arm, lrs[-1], seed) for seed in job.seeds]
    own_code = trainer.own_code(job.model, job.arm)  # before training: its files may change meanwhile
    together, tasks = trainer.limits(study).stackable, [task["name"] for task in trainer.tasks]
    train, rows, started = trainer.range_test(study), [], time.perf_counter()
    for stack in [runs] if together else [[run] for run in runs]:
        tested = train(stack, lrs, job.device, job.folder)
        steps = np.arange(tested.loss.shape[1]) if tested.steps is None else tested.steps
        step_lr = [lrs[step] for step in steps if step < len(lrs)]
        loss_RS = tested.loss[:, : len(step_lr)].sum(-1)
        if len(lrs) > (last := int(steps[-1]) + 1) and math.isinf(max(explosion(step_lr, loss) for loss in loss_RS)):
            raise ShortLoopError(last, len(lrs))
        same = {
            "setting": setting_of(study, trainer.content),
            "model": job.model,
            **columns_of(trainer, study, job.model, job.arm),
            "lr_from": job.ramp.low,
            "lr_to": job.ramp.high,
            "lr_steps": job.ramp.steps,
            "step_lr": step_lr,
            "seconds": tested.seconds,
            "device": trainer.device_name(job.device),
            "version": trainer.version,
            "own_code": canonical_json(own_code) if own_code else None,
        }
        for run, loss in zip(stack, tested.loss[:, : len(step_lr)], strict=True):
            rows += [{**same, "seed": run.seed, "task": task, "loss": loss[:, t]} for t, task in enumerate(tasks)]
    write_range_tests(job.folder, rows)
    return time.perf_counter() - started

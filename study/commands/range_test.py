"""`study range-test`: one run a seed whose lr rises step by step, and what it says beside the edges."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from study.commands.request import RunRequest, out_folder, study_and_trainer
from study.config import Arm, Study, canonical_json
from study.definition import overrides
from study.execution.processes import parallel_map
from study.record.definition import RecordError, check_not_a_view, read_definition, study_exists
from study.record.range_tests import (
    Ramp,
    arm_columns,
    read_range_tests,
    recorded_seeds,
    setting_of,
    write_range_tests,
)
from study.record.tables import check_not_published
from study.storage import stores
from study.storage.lock import locked
from study.storage.stores import cache_folder
from study.text.console import show
from study.text.wording import count
from study.trainers.protocol import Trainer, open_trainer

LOW_FACTOR, HIGH_FACTOR = 0.01, 10.0
"""Without --from and --to, the lr rises from a hundredth of the lowest lr of the space to ten times its highest."""


@dataclass(frozen=True, kw_only=True)
class RangeRequest:
    """What to test. low, high: None is around the lrs of the space. seeds: how many, from 0, or `100-115`."""

    low: float | None = None
    high: float | None = None
    steps: int = 400
    seeds: str = "4"

    def ramp(self, study: Study) -> Ramp:
        """Return the lr of each step. Raises ValueError."""
        lrs = [lr for arm in study.arms for lr in study.lrs_of(arm)]
        low = float(f"{LOW_FACTOR * min(lrs):.3g}") if self.low is None else self.low
        high = float(f"{HIGH_FACTOR * max(lrs):.3g}") if self.high is None else self.high
        return Ramp(low=low, high=high, steps=self.steps)

    def seed_numbers(self) -> tuple[int, ...]:
        """Return the seeds. Raises ValueError."""
        text = self.seeds.strip()
        found = overrides.seeds(f"0-{text}")[:-1] if text.isdecimal() else overrides.seeds(text)
        if not found:
            raise ValueError("--seeds needs at least 1")
        return found


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
    ramp, seeds = wanted.ramp(study), wanted.seed_numbers()
    trainer.range_test(study)  # refuses what has none
    for seed in seeds:
        study.run(trainer.content, study.models[0], study.arms[0], ramp.high, seed)  # raises for a reserved seed
    folder = out_folder(request, study)
    check_not_a_view(folder)
    check_not_published(folder)
    setting = setting_of(study, trainer.content)
    if study_exists(folder):
        _check_same(folder, setting)
    largest, device = trainer.limits(study).largest_stack, request.device or "cpu"
    trainer.check_device(device)
    stores.probe(folder)
    with locked(folder):
        trainer.write_folder(folder)
        recorded, jobs = read_range_tests(folder), []
        for model in study.models:
            for arm in study.arms:
                known = recorded_seeds(recorded, setting, model, _columns(trainer, study, model, arm), ramp)
                missing = [seed for seed in seeds if seed not in known]
                for start in range(0, len(missing), largest[model]):
                    part = tuple(missing[start : start + largest[model]])
                    jobs.append(
                        _Job(study=study, model=model, arm=arm, seeds=part, ramp=ramp, device=device, folder=folder)
                    )
        curves, runs = count(len(study.models) * len(study.arms), "curve"), sum(len(job.seeds) for job in jobs)
        show(
            f"{study.name}: range tests of {curves}, {count(len(seeds), 'seed')} each, {ramp.steps} steps from lr "
            f"{ramp.low:g} to {ramp.high:g}; {count(runs, 'run')} to train"
        )
        _train(jobs, trainer, request.workers or os.cpu_count() or 1)
    found = page.of_folder(folder, setting)
    assert found, "they have just been recorded"
    try:
        found.write(folder)
    except OSError as error:
        raise stores.StorageError(f"cannot write to {folder} ({error.strerror or error})") from error
    stores.publish(folder, ("tables/*.csv", "tables/*.json", "figures/*.png"))
    return f"\n{found.text}\n\nfigure: {folder}/figures/{page.NAME}.png\ntables: {folder}/tables/{page.NAME}.csv"


def _check_same(folder: Path, setting: str) -> None:
    definition = read_definition(folder)
    if setting_of(definition.study, definition.data["content"]) != setting:
        raise RecordError(f"{folder} holds a study with other data, recipe or trainer; choose another --out")


def _columns(trainer: Trainer, study: Study, model: str, arm: Arm) -> dict[str, str]:
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
        same = {
            "setting": setting_of(study, trainer.content),
            "model": job.model,
            **_columns(trainer, study, job.model, job.arm),
            "lr_from": job.ramp.low,
            "lr_to": job.ramp.high,
            "lr_steps": job.ramp.steps,
            "step_lr": [lrs[step] for step in steps if step < len(lrs)],
            "seconds": tested.seconds,
            "device": trainer.device_name(job.device),
            "version": trainer.version,
            "own_code": canonical_json(own_code) if own_code else None,
        }
        for run, loss in zip(stack, tested.loss[:, : len(same["step_lr"])], strict=True):
            rows += [{**same, "seed": run.seed, "task": task, "loss": loss[:, t]} for t, task in enumerate(tasks)]
    write_range_tests(job.folder, rows)
    return time.perf_counter() - started

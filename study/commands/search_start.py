"""Where a search of edges begins if its study has no lrs: around the lr at which range tests explode."""

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from study.commands.range_test import WIDE, ShortLoopError, columns_of, train_range_tests
from study.commands.recorded_lrs import arm_key, complete, lrs_of_record, recorded_lrs
from study.commands.request import RunRequest
from study.config import Arm, Study
from study.loops.range_test import LrNotTakenError
from study.record.range_tests import LEAST_STEPS, Ramp, read_range_tests, recorded_tests, setting_of
from study.trainers.protocol import Trainer

if TYPE_CHECKING:
    import pandas as pd

RAMP = Ramp(low=WIDE[0], high=WIDE[1], steps=400)
SEEDS = tuple(range(4))
BELOW = 100.0
"""The first seed's ramp is wide. That of all seeds begins so many times below the lr at which the first explodes."""

NEEDS_LRS = "the study needs lrs, as range tests cannot find them"

RUNGS = (0.25, 0.5, 1.0)
"""Where a curve begins, in units of the median lr at which its range tests explode. Edges lie somewhat below that
median (docs/range_test.md)."""


def with_lrs(study: Study, trainer: Trainer, folder: Path, request: RunRequest) -> Study:
    """Return a study whose arms all have lrs: their own, those of the record, or those of range tests, trained now.

    A model that the record lacks begins where the recorded arms do. The search extends itself if its edge lies outside.

    Raises:
        ValueError: the trainer has no range test, or a loop ended before its loss exploded.
    """
    if (study := recorded_lrs(study, folder)).has_lrs:
        return study
    check(study, trainer)
    known = lrs_of_record(folder)
    untested = tuple(arm for arm in study.arms if not (arm.lrs or known.get(arm_key(arm))))
    exploded = _explosions(dataclasses.replace(study, arms=untested, compare=()), trainer, folder, request)
    return complete(study, folder, {arm: _ladder(lrs) for arm, lrs in exploded.items()})


def check(study: Study, trainer: Trainer) -> None:
    """Raise ValueError if a study without lrs has no range tests that find them."""
    try:
        trainer.range_test(study)
    except ValueError as error:
        raise ValueError(f"{NEEDS_LRS}: {error}") from None


def _explosions(
    study: Study, trainer: Trainer, folder: Path, request: RunRequest, steps: int = RAMP.steps
) -> dict[str, list[float]]:
    """Arm -> for each model, the median lr at which its range tests explode; inf where the first one never does."""
    try:
        return _tested(study, trainer, folder, request, dataclasses.replace(RAMP, steps=steps))
    except ShortLoopError as error:
        if error.steps < LEAST_STEPS:
            raise ValueError(f"{NEEDS_LRS}: {error.steps} steps of its loop are too few") from None
        return _explosions(study, trainer, folder, request, error.steps)
    except LrNotTakenError as error:
        raise ValueError(f"{NEEDS_LRS}: {error}") from None


def _tested(study: Study, trainer: Trainer, folder: Path, request: RunRequest, ramp: Ramp) -> dict[str, list[float]]:
    """The same, by range tests of as many steps as `ramp`.

    A loss explodes some steps after its lr has become too large. So a first seed shows where the others begin: their lr
    rises over two decades only, and this lag is short.
    """
    from analysis.stats.range_tests import quantile

    curves = [(model, arm) for arm in study.arms for model in study.models]
    one = dataclasses.replace(study, models=study.models[:1], arms=study.arms[:1], compare=())
    for part in (one, study):  # a loop that is too short is found by one run
        train_range_tests(part, trainer, folder, lambda _model, _arm: ramp, SEEDS[:1], request)
    first, ramps, tests = {}, {}, read_range_tests(folder)
    for model, arm in curves:
        first[model, arm_key(arm)] = lr = _read(tests, study, trainer, model, arm, ramp)[0]
        if math.isfinite(lr):
            narrow = Ramp(low=float(f"{lr / BELOW:.2g}"), high=float(f"{lr:.3g}"), steps=ramp.steps)
            ramps[model, arm_key(arm)] = narrow
    if ramps:
        train_range_tests(study, trainer, folder, lambda model, arm: ramps.get((model, arm_key(arm))), SEEDS, request)
    found: dict[str, list[float]] = {}
    tests = read_range_tests(folder)
    for model, arm in curves:
        lr, narrow = first[model, arm_key(arm)], ramps.get((model, arm_key(arm)))
        if narrow:
            lrs = np.sort(_read(tests, study, trainer, model, arm, narrow))
            lr = min(lr, quantile(lrs, 0.5))
        found.setdefault(arm_key(arm), []).append(lr)
    return found


def _read(tests: "pd.DataFrame", study: Study, trainer: Trainer, model: str, arm: Arm, ramp: Ramp) -> list[float]:
    """Where the recorded range tests of a curve explode: an lr for each seed.

    The smoothed loss follows the loss some steps later. In a short loop these would be a large part of the ramp, so its
    losses are smoothed over the same share of the ramp as in 400 steps.
    """
    from analysis.stats.range_rules import BETA, explosion

    setting, columns = setting_of(study, trainer.content), columns_of(trainer, study, model, arm)
    own = recorded_tests(tests, setting, model, columns, ramp)
    beta = BETA ** (RAMP.steps / ramp.steps)
    return [explosion(lr, loss, beta) for lr, loss in zip(own["step_lr"], own["loss"], strict=True)]


def _ladder(explosions: list[float]) -> tuple[float, ...]:
    """The lrs at which the search of an arm begins, for all models."""
    at = [min(lr, RAMP.high) for lr in explosions]
    return tuple(sorted({float(f"{lr * rung:.2g}") for lr in at for rung in RUNGS}))

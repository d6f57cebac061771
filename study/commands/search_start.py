"""Where a search of edges begins if its study has no lrs: around the lr at which range tests explode."""

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from study.commands.range_test import ShortLoopError, columns_of, train_range_tests
from study.commands.request import RunRequest
from study.config import Arm, Study, canonical_json
from study.record.definition import read_definition, study_exists
from study.record.range_tests import LEAST_STEPS, Ramp, read_range_tests, recorded_tests, setting_of
from study.search.placement import HIGHEST
from study.trainers.protocol import Trainer

if TYPE_CHECKING:
    import pandas as pd

RAMP = Ramp(low=1e-6, high=HIGHEST, steps=400)
SEEDS = tuple(range(4))
BELOW = 100.0
"""The first seed's ramp is wide. That of all seeds begins so many times below the lr at which the first explodes."""

RUNGS = (0.25, 0.5, 1.0)
"""Where a curve begins, in units of the median lr at which its range tests explode. Edges lie somewhat below that
median (docs/range_test.md)."""


def recorded_lrs(study: Study, folder: Path) -> Study:
    """Return a study without lrs with those of its record; unchanged if an arm is not recorded."""
    return study if study.has_lrs else _with(study, folder, {})


def with_lrs(study: Study, trainer: Trainer, folder: Path, request: RunRequest) -> Study:
    """Return a study whose arms all have lrs: their own, those of the record, or those of range tests, trained now.

    A model that the record lacks begins where the recorded arms do. The search extends itself if its edge lies outside.

    Raises:
        ValueError: the trainer has no range test, or a loop ended before its loss exploded.
    """
    if (study := recorded_lrs(study, folder)).has_lrs:
        return study
    check(study, trainer)
    known = _recorded(folder)[1]
    untested = tuple(arm for arm in study.arms if not (arm.lrs or known.get(_key(arm))))
    exploded = _explosions(dataclasses.replace(study, arms=untested, compare=()), trainer, folder, request)
    return _with(study, folder, {arm: _ladder(lrs) for arm, lrs in exploded.items()})


def check(study: Study, trainer: Trainer) -> None:
    """Raise ValueError if a study without lrs has no range tests that find them."""
    try:
        trainer.range_test(study)
    except ValueError as error:
        raise ValueError(f"the study has no lrs, and range tests cannot find them: {error}") from None


def _with(study: Study, folder: Path, ladders: dict[str, tuple[float, ...]]) -> Study:
    """The study with the lrs of its record and these; unchanged if an arm has neither."""
    before, known = _recorded(folder)
    lrs_of = ladders | known
    arms = tuple(dataclasses.replace(arm, lrs=arm.lrs or lrs_of.get(_key(arm), ())) for arm in study.arms)
    if not all(arm.lrs for arm in arms):
        return study
    if not before:
        return dataclasses.replace(study, arms=arms)
    control = study.control_lrs or before.control_lrs
    return dataclasses.replace(study, arms=arms, lrs=before.lrs, control_lrs=control)


def _recorded(folder: Path) -> tuple[Study | None, dict[str, tuple[float, ...]]]:
    """The recorded study, and the lrs of its arms."""
    if not study_exists(folder):
        return None, {}
    before = read_definition(folder).study
    return before, {_key(arm): before.lrs_of(arm) for arm in before.arms}


def _explosions(
    study: Study, trainer: Trainer, folder: Path, request: RunRequest, steps: int = RAMP.steps
) -> dict[str, list[float]]:
    """Arm -> for each model, the median lr at which its range tests explode; inf where the first one never does."""
    try:
        return _tested(study, trainer, folder, request, dataclasses.replace(RAMP, steps=steps))
    except ShortLoopError as error:
        if error.steps < LEAST_STEPS:
            few = f"the study has no lrs, and {error.steps} steps of its loop are too few to find them"
            raise ValueError(few) from None
        return _explosions(study, trainer, folder, request, error.steps)


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
        first[model, _key(arm)] = lr = _read(tests, study, trainer, model, arm, ramp)[0]
        if math.isfinite(lr):
            narrow = Ramp(low=float(f"{lr / BELOW:.2g}"), high=float(f"{lr:.3g}"), steps=ramp.steps)
            ramps[model, _key(arm)] = narrow
    if ramps:
        train_range_tests(study, trainer, folder, lambda model, arm: ramps.get((model, _key(arm))), SEEDS, request)
    found: dict[str, list[float]] = {}
    tests = read_range_tests(folder)
    for model, arm in curves:
        lr, narrow = first[model, _key(arm)], ramps.get((model, _key(arm)))
        if narrow:
            lrs = np.sort(_read(tests, study, trainer, model, arm, narrow))
            lr = min(lr, quantile(lrs, 0.5))
        found.setdefault(_key(arm), []).append(lr)
    return found


def _read(tests: "pd.DataFrame", study: Study, trainer: Trainer, model: str, arm: Arm, ramp: Ramp) -> list[float]:
    """Where the recorded range tests of a curve explode: an lr for each seed."""
    from analysis.stats.range_rules import explosion

    setting, columns = setting_of(study, trainer.content), columns_of(trainer, study, model, arm)
    own = recorded_tests(tests, setting, model, columns, ramp)
    return [explosion(lr, loss) for lr, loss in zip(own["step_lr"], own["loss"], strict=True)]


def _ladder(explosions: list[float]) -> tuple[float, ...]:
    """The lrs at which the search of an arm begins, for all models."""
    at = [min(lr, RAMP.high) for lr in explosions]
    return tuple(sorted({float(f"{lr * rung:.2g}") for lr in at for rung in RUNGS}))


def _key(arm: Arm) -> str:
    return canonical_json([arm.method, arm.options])

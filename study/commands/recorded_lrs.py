"""The lrs of a study's record, for a study whose space has none: range tests have set them (`search_start`)."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from study.config import Arm, Study, canonical_json
from study.record.definition import read_definition, study_exists


def recorded_lrs(study: Study, folder: Path) -> Study:
    """Return a study without lrs with those of its record; unchanged if an arm is not recorded."""
    return study if study.has_lrs else complete(study, folder, {})


def complete(study: Study, folder: Path, ladders: Mapping[str, tuple[float, ...]]) -> Study:
    """Return the study with the lrs of its record, or else these; unchanged if an arm has neither.

    Args:
        study: some of its arms have no lrs.
        folder: the study's folder.
        ladders: `arm_key` -> lrs.
    """
    lrs_of = {**ladders, **lrs_of_record(folder)}
    arms = tuple(dataclasses.replace(arm, lrs=arm.lrs or lrs_of.get(arm_key(arm), ())) for arm in study.arms)
    if not all(arm.lrs for arm in arms):
        return study
    if not study_exists(folder):
        return dataclasses.replace(study, arms=arms)
    before = read_definition(folder).study
    control = study.control_lrs or before.control_lrs
    return dataclasses.replace(study, arms=arms, lrs=before.lrs, control_lrs=control)


def lrs_of_record(folder: Path) -> dict[str, tuple[float, ...]]:
    """Return `arm_key` -> lrs of each recorded arm; empty without a record."""
    if not study_exists(folder):
        return {}
    before = read_definition(folder).study
    return {arm_key(arm): before.lrs_of(arm) for arm in before.arms}


def arm_key(arm: Arm) -> str:
    """Return the method and the options of an arm as JSON."""
    return canonical_json([arm.method, arm.options])

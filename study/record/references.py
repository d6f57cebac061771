"""The reference of each model, from the recorded runs of its control."""

import dataclasses
import itertools
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from study.config import Run, Study, control_of, further_control
from study.outcomes.recorded import losses_by_run
from study.outcomes.reference import Reference, control_reference
from study.record import tables
from study.record.definition import RecordError
from study.record.schema import FIRST_LOSSES


def references(
    study: Study,
    data: Mapping[str, Any],
    folder: Path,
    models: Iterable[str],
    losses: pd.DataFrame | None = None,
    runs: pd.DataFrame | None = None,
) -> dict[str, Reference]:
    """Return what each model's control could learn, from its recorded runs (`control_ids`).

    Args:
        study: its rule judges the control.
        data: of the study's definition.
        folder: the study's folder.
        models: names of models.
        losses: all recorded losses; None reads those of the controls, once for all models.
        runs: all recorded runs; None reads them.

    Raises:
        ValueError: a control is not recorded, or it learned nothing.
    """
    runs, found = tables.read_runs(folder) if runs is None else runs, {}
    recorded = set(runs["run_id"])
    controls = {model: control_ids(study, data["content"], model, recorded) for model in models}
    for model, ids in controls.items():
        runs_of_model = runs[runs["run_id"].isin(ids)]
        if runs_of_model.empty:
            raise RecordError(f"the control of {model} is not recorded in {folder}")
        if losses is None:
            losses = tables.read_losses(folder, [run for control in controls.values() for run in control])
        found_losses = losses.loc[losses["run_id"].isin(ids)]
        if found_losses.empty:
            raise RecordError(f"the losses of the control of {model} are not in {folder}")
        by_run = losses_by_run(found_losses, [task["name"] for task in data["tasks"]])
        runs_of_model = runs_of_model.set_index("run_id").loc[list(by_run)]
        own = list(by_run.values())
        constants, first_loss = [run.constant for run in own], None
        if "baseline" in runs_of_model and (runs_of_model["baseline"] == FIRST_LOSSES).any():
            first_loss = _first_losses(runs_of_model["seed"], [run.loss[0] for run in own])
            constants = [np.broadcast_to(first_loss, run.loss.shape) for run in own]
        reference = control_reference(
            runs_of_model["lr"].to_numpy(),
            runs_of_model["seed"].to_numpy(dtype="int64"),
            [run.loss for run in own],
            constants,
            np.array([task["constant_loss"] for task in data["tasks"]]),
            study.rule,
            None if runs_of_model["moved"].isna().all() else runs_of_model["moved"].to_numpy(dtype="float64"),
            step_RT=[run.step for run in own],
        )
        found[model] = dataclasses.replace(reference, first_loss=first_loss and tuple(map(float, first_loss)))
    return found


def control_ids(study: Study, data: str, model: str, recorded: Collection[str]) -> list[str]:
    """Return the ids of a model's control: of its ladder, and of each lr by which it grew, if all seeds are recorded.

    Args:
        study: the study.
        data: content hash of the data.
        model: name of the model.
        recorded: ids of recorded runs.
    """
    further = ([run.id for run in runs] for runs in further_control(study, data, model))
    grown = itertools.takewhile(lambda ids: all(run in recorded for run in ids), further)
    return [*(run.id for run in control_of(study, data, [model])), *itertools.chain.from_iterable(grown)]


def next_control(study: Study, data: str, model: str, reference: Reference, runs: pd.DataFrame) -> list[Run]:
    """Return the runs by which a model's control grows: its next lr, if the gain still rises at the highest.

    A model with recorded runs in cells keeps the reference that judged them: its control does not grow.

    Args:
        study: the study.
        data: content hash of the data.
        model: name of the model.
        reference: of the model (`references`).
        runs: all recorded runs.
    """
    if not reference.rises or (runs.loc[runs["model"] == model, "role"] == "cell").any():
        return []
    further = further_control(study, data, model)
    recorded = set(runs["run_id"])
    return next(([run for run in own if run.id not in recorded] for own in further if own[0].lr > reference.lr), [])


def _first_losses(seeds: Iterable[int], first_RK: Iterable[np.ndarray]) -> list[float]:
    """Return each task's loss at initialization: the median over seeds of the first finite losses."""
    finite = pd.DataFrame(list(first_RK), index=pd.Index(seeds)).replace([np.inf, -np.inf], np.nan)
    medians = finite.groupby(level=0).first().median()
    if medians.isna().any():
        raise ValueError("the first loss of every run of the control is not finite")
    return medians.astype(float).tolist()

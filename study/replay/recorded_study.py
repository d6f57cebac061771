"""A recorded study, loaded to train its runs once more."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from study import data, methods
from study.config import RANKER, Arm, Rule, Run, Study
from study.data._dataset import Log
from study.definition.own_code import SHOWN
from study.outcomes.gains import gains
from study.outcomes.judge import Outcome, judge
from study.outcomes.onset import Moments, control_curve, moments
from study.outcomes.recorded import stack_losses
from study.outcomes.reference import Reference
from study.record.definition import Definition, RecordError, read_definition
from study.record.recorded_code import code_of
from study.record.references import control_ids, references
from study.record.schema import threshold_column
from study.record.tables import read_losses, read_runs
from study.storage import stores
from study.text import console
from study.trainers import warm_start
from study.trainers.ranker import Trainer
from study.training.trainer import StepError, Trained, train
from study.training.weights import Weights


@dataclass(frozen=True, kw_only=True)
class RecordedStudy:
    """A study's folder with all that a replay needs.

    Attributes:
        folder: The folder.
        study: The study.
        described: What the definition says of the data.
        runs: One row for each recorded run.
        log: The data.
        start: The weights that its runs start from, if any.
        references: Model -> reference gain.
        control: Model -> the control's gain by step (`study.outcomes.onset.control_curve`).
    """

    folder: Path
    study: Study
    described: dict[str, Any]
    runs: pd.DataFrame
    log: Log
    start: Weights | None
    references: dict[str, Reference]
    control: dict[str, np.ndarray]

    @property
    def tasks(self) -> list[str]:
        return task_names(self.described)

    def gains(self, loss_RTK: np.ndarray, constant_RTK: np.ndarray, model: str) -> np.ndarray:
        """Return the gain of the training loss, (R, T), in units of the reference gain."""
        return training_gains(loss_RTK, constant_RTK, self.described, self.references[model])

    def moments(self, loss_TK: np.ndarray, constant_TK: np.ndarray, model: str) -> Moments | None:
        """Return the moments of a run; None if it did not diverge."""
        gain_T = self.gains(loss_TK[None], constant_TK[None], model)[0]
        return moments(gain_T, self.control[model], self.study.rule)


def load_study(folder: Path, cache: Path, models: Sequence[str] | None = None) -> RecordedStudy:
    """Load a study to train its runs once more.

    Args:
        folder: The folder of the study.
        cache: The folder of prepared data.
        models: The models to replay; None takes all of the study.

    Raises:
        ValueError: If there is no study, its data have changed, or its control is missing.
    """
    definition, log = load_data(folder, cache)
    study, described = definition.study, definition.data
    models = models or study.models
    of_model = references(study, described, folder, models)
    runs, control = read_runs(folder), {}
    recorded = set(runs["run_id"])
    for model, reference in of_model.items():
        safe = runs["run_id"].isin(control_ids(study, log.content, model, recorded)) & (runs["lr"] == reference.lr)
        loss_RTK, constant_RTK = _losses(folder, runs.loc[safe, "run_id"].tolist(), task_names(described))
        control[model] = control_curve(training_gains(loss_RTK, constant_RTK, described, reference))
    return RecordedStudy(
        folder=folder,
        study=study,
        described=described,
        runs=runs,
        log=log,
        start=warm_start.kept(folder, study.recipe),
        references=of_model,
        control=control,
    )


def load_data(folder: Path, cache: Path) -> tuple[Definition, Log]:
    """Return the definition of a study and its data.

    Raises:
        ValueError: If there is no study, or its data have changed.
    """
    definition = read_definition(folder)
    study = definition.study
    if study.trainer != RANKER:
        raise RecordError(f"runs of the trainer {study.trainer} cannot be replayed; only those of rankers can")
    log = data.load(study.data, study.data_options, cache)
    if log.content != definition.data["content"]:
        raise RecordError(f"the data {study.data} have changed since {folder} was trained")
    return definition, log


def task_names(described: Mapping[str, Any]) -> list[str]:
    """Return the names of the tasks of a study's data."""
    return [task["name"] for task in described["tasks"]]


def training_gains(
    loss_RTK: np.ndarray, constant_RTK: np.ndarray, described: Mapping[str, Any], reference: Reference
) -> np.ndarray:
    """Return the gain of the training loss, (R, T), in units of the reference gain."""
    unit_K = np.array([task["constant_loss"] for task in described["tasks"]])
    return gains(loss_RTK, constant_RTK, unit_K)[:, :, 0] / reference.gain


def recorded_losses(folder: Path, run_id: str, tasks: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the recorded losses of a run and of the best constant predictor, each (T, K)."""
    loss_RTK, constant_RTK = _losses(folder, [run_id], tasks)
    return loss_RTK[0], constant_RTK[0]


def _losses(folder: Path, ids: Sequence[str], tasks: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    _, loss_RTK, constant_RTK, _ = stack_losses(read_losses(folder, ids), tasks)
    return loss_RTK, constant_RTK


def find_run(folder: Path, prefix: str) -> str:
    """Return the id of the recorded run whose id begins with `prefix`.

    Raises:
        ValueError: If no run's id begins so, or several do.
    """
    ids = read_runs(folder)["run_id"]
    found = [run for run in ids if run.startswith(prefix)]
    if not prefix or not found:
        raise ValueError(f"no recorded run's id begins with {prefix!r}; {folder}/runs.parquet has all ids")
    if len(found) > 1:
        raise ValueError(f"{len(found)} runs' ids begin with {prefix!r}, such as {found[0][:12]} and {found[1][:12]}")
    return found[0]


def run_of(row: Mapping[str, Any], study: Study) -> Run:
    """Return the run of a row of the record.

    Raises:
        ValueError: If another version recorded the run in a way that this version cannot repeat.
    """
    signature = methods.signature(row["method"])
    options = json.loads(row["options"]) if isinstance(row["options"], str) and row["options"] else {}
    columns = {name: threshold_column(name) for name in signature.thresholds}
    options |= {name: float(row[c]) for name, c in columns.items() if c in row and not pd.isna(row[c])}
    arm = Arm(method=row["method"], options=methods.check(row["method"], options))
    run = study.run(row["data"], row["model"], arm, float(row["lr"]), int(row["seed"]))
    if run.id != row["run_id"]:
        raise ValueError(f"run {row['run_id'][:12]} was recorded by another version and cannot be trained again")
    return run


def train_again(runs: Sequence[Run], log: Log, **options: Any) -> Trained:
    """Train recorded runs again, as `train`. One that raised when it was recorded ends there again, with losses of NaN.

    Raises:
        ValueError: If a run raises while its losses and weights are finite, or beside others.
    """
    try:
        return train(runs, log, **options)
    except StepError as error:
        if error.trained is None:
            why = console.kind_and_line(error.__cause__ or error)
            raise ValueError(f"run {runs[0].id[:12]} raised {why}") from error
        return error.trained


def first_difference(before: np.ndarray, after: np.ndarray) -> int | None:
    """Return the first step at which losses, each (T, K), differ in their bits; None if none does.

    Two NaN are equal: which one a processor produces depends on its inputs. Zeros of different sign are not.
    """
    both = min(len(before), len(after))
    one, other = before[:both], after[:both]
    same = (one == other) & (np.signbit(one) == np.signbit(other)) | np.isnan(one) & np.isnan(other)
    if not same.all():
        return int(np.flatnonzero(~same.all(axis=1))[0])
    return None if len(before) == len(after) else both


def changed_code_text(row: Mapping[str, Any], study: Study) -> str:
    """Return a clause that names own modules whose code changed since a run was recorded, or nothing."""
    arm = Arm(row["method"])  # the modules of a ranker do not depend on options
    now = Trainer(study, stores.cache_folder()).own_code(row["model"], arm)
    changed = [(m, then, now.get(m, "none")) for m, then in code_of(row.get("own_code")).items() if now.get(m) != then]
    return "; ".join(f"{m} changed since (code {then[:SHOWN]} then, {new[:SHOWN]} now)" for m, then, new in changed)


def bits_text(differs_from: int | None, recorded_by: str, changed_code: str) -> str:
    """Return a clause that says whether repeated losses equal the recorded ones.

    Args:
        differs_from: `first_difference`.
        recorded_by: Version and device of the record.
        changed_code: `changed_code_text`.
    """
    same = "the losses equal the recorded ones bit for bit"
    differ = f"the losses are NOT the recorded ones, from step {differs_from} on (recorded by {recorded_by})"
    return "; ".join(filter(None, (same if differs_from is None else differ, changed_code)))


def outcomes_of(trained: Trained, log: Log, reference: Reference, rule: Rule) -> list[Outcome]:
    """Return the outcome of each run of a trained stack, in its order."""
    constant_losses = np.array([task.constant_loss for task in log.tasks])
    return judge(trained.loss, trained.constant, constant_losses, trained.finite, reference, rule, trained.moved)

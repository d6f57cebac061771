"""Shows each training run in MLflow as a run of its own: its loss curve, outcome, lr and seed.

They are in an experiment beside the study's, `<study> training runs`. MLflow charts the newest ten runs of an
experiment, and these would hide the curves. MLflow takes about as long for each as for a cell, so larger studies
have none unless the user asks (`study.tracking.choices`).

The loss is the training loss, the sum over tasks. A chart holds at most POINTS of its steps: every n-th from the first,
and the last, each as it was recorded. A recorded run never changes, so each is written once.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from study.config import QualitySearch
from study.record import tables
from study.record.definition import Definition
from study.record.schema import is_threshold
from study.tracking import client as connection
from study.tracking.choices import AUTO, MOST_RUNS, NONE
from study.tracking.view import arm_params, content_hash, mlflow_name
from study.tracking.writing import CONTENT, FINISHED, KEY, KIND, create, every_run, finish, log

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from mlflow import MlflowClient

POINTS = 50
VIEW = 2
"""Increase it when the same run is to be shown in another way."""

PART = " training runs"
NOTE = (
    "Training runs: one run of MLflow for each recorded run of the study, with its loss at up to 50 of its steps. "
    'Filter by params.method, params.lr or params.seed, or metrics."outcome/diverged" = 1. A view of the record, '
    "rebuilt by `study mlflow`."
)


def mirror_runs(
    client: "MlflowClient", folder: Path, definition: Definition, *, own: bool, began: int, which: str = AUTO
) -> int | None:
    """Make MLflow show the recorded runs of a study, each once. Writes only those that it lacks.

    Args:
        client: of the tracking server.
        folder: the study's folder.
        definition: of the study.
        own: as of `open_experiment`.
        began: when the first run was recorded, in milliseconds since 1970.
        which: one of `choices.RUNS`.

    Returns:
        How many runs are shown; None if the study is too large. What MLflow has of one that was smaller stays.
    """
    planned = 0 if definition.study.search else definition.study.cells * len(definition.study.seeds)
    if which == AUTO and planned > MOST_RUNS:
        return None
    name = connection.experiment_name(folder, definition, own=own, part=PART)
    if which == NONE and client.get_experiment_by_name(name) is None:
        return 0
    wanted: dict[str, dict[str, Any]] = {}
    if which != NONE:
        runs = tables.read_runs(folder)
        if which == AUTO and len(runs) > MOST_RUNS:
            return None
        wanted = {row["run_id"]: row for row in _rows(runs)}
    experiment = connection.open_experiment(client, folder, definition, own=own, part=PART, note=NOTE)
    names = _names(definition, wanted)
    hashes = {
        run: content_hash([VIEW, names[run], _params(row), _tags(row), _metrics(row)]) for run, row in wanted.items()
    }
    there = _delete_others(client, experiment, hashes)
    missing = [row for run, row in wanted.items() if run not in there]
    if missing:
        curves = dict(_loss_curves(tables.read_losses(folder, [row["run_id"] for row in missing])))
        for row in missing:
            run = row["run_id"]
            _write(client, experiment, row, names[run], hashes[run], curves.get(run, []), began)
        if not own:  # if a server dies before it answers, MLflow asks again, and a run may exist twice
            _delete_others(client, experiment, hashes)
    return len(wanted)


def thinned(steps: int) -> list[int]:
    """Return the positions of the steps that a chart shows: every n-th, and the last."""
    every = max(1, math.ceil(steps / POINTS))
    return sorted({*range(0, steps, every), steps - 1}) if steps else []


def _loss_curves(losses: "pd.DataFrame") -> Iterator[tuple[str, list[tuple[int, float]]]]:
    """Yield run id, and (step, training loss) of the steps that a chart shows. A loss that is not finite has none."""
    for run, of_run in losses.groupby("run_id", sort=False):
        total: np.ndarray = sum(loss.astype("float64") for loss in of_run["loss"])  # type: ignore[assignment]
        steps = of_run["step"].iloc[0]
        numbers = range(len(total)) if steps is None else steps
        shown = [(int(numbers[i]), float(total[i])) for i in thinned(len(total))]
        yield str(run), [(step, loss) for step, loss in shown if math.isfinite(loss)]


def _rows(runs: "pd.DataFrame") -> list[dict[str, Any]]:
    from analysis.loading import records

    return records(runs.astype(object).where(runs.notna(), None))


def _delete_others(client: "MlflowClient", experiment: str, wanted: Mapping[str, str]) -> set[str]:
    """Delete all runs of ours but one of each that shows what is wanted. Returns the ids of the runs that are shown."""
    there: set[str] = set()
    for found in [*every_run(client, experiment)]:  # pages are counted from the start: deleting moves later runs
        run, tags = found.data.tags.get(KEY, ""), found.data.tags
        if tags.get(KIND) != "run":
            continue
        if found.info.status == FINISHED and run not in there and wanted.get(run) == tags.get(CONTENT):
            there.add(run)
        else:
            client.delete_run(found.info.run_id)
    return there


def _write(
    client: "MlflowClient",
    experiment: str,
    row: Mapping[str, Any],
    name: str,
    content: str,
    curve: Sequence[tuple[int, float]],
    began: int,
) -> None:
    tags = _tags(row) | {KIND: "run", KEY: row["run_id"], CONTENT: content}
    run = create(client, experiment, name, began, tags)
    metrics = [("loss", loss, step) for step, loss in curve]
    last = curve[-1][0] if curve else 0
    metrics += [(name, value, last) for name, value in _metrics(row).items()]
    log(client, run, began, metrics, _params(row))
    finish(client, run, began, row["seconds"] or 0.0)  # the last call: until then the run does not count


def _names(definition: Definition, wanted: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return the name of each run. It has the values in which the runs of its method may differ."""
    of_method: dict[str, list[Mapping[str, Any]]] = {}
    study = definition.study
    searched = study.search.ranges if isinstance(study.search, QualitySearch) else {}
    for arm in study.arms:
        of_method.setdefault(arm.method, []).append(arm.options)
    found = {}
    for run, row in wanted.items():
        values, alike = _params(row), of_method.get(row["method"], [])
        differ = {name for name in values if any(arm.get(name) != alike[0].get(name) for arm in alike)}
        differ |= values.keys() & searched.get(row["method"], {}).keys()
        label = " ".join([row["method"], *(f"{name}={values[name]}" for name in sorted(differ))])
        found[run] = f"{row['model']} · {label} · lr {row['lr']:.6g} · seed {row['seed']}"
    return found


def _params(row: Mapping[str, Any]) -> dict[str, str]:
    thresholds = [name for name, value in row.items() if is_threshold(name) and value is not None]
    arm = arm_params(row, thresholds)
    run = {"lr": f"{row['lr']:.12g}", "seed": str(row["seed"]), "role": row["role"], "steps": str(row["steps"])}
    return {"study": row["study"], "model": row["model"]} | arm | run


def _tags(row: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(row[name]) for name in ("outcome", "reason", "device", "version") if row[name] is not None}


def _metrics(row: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of a run; `outcome/diverged` is 0 or 1, and none for the control."""
    found: dict[str, Any] = {"outcome/kept": row["kept"], "outcome/final_loss": row["final_loss"]}
    found["outcome/diverged_at_step"] = row["diverged_at_step"]
    if row["outcome"] is not None:
        found["outcome/diverged"] = row["outcome"] == "diverged"
    quality = ("auc_", "rmse_", "score_", "error_")
    found |= {f"quality/{name}": value for name, value in row.items() if name.startswith(quality)}
    return {mlflow_name(k): float(v) for k, v in found.items() if v is not None and math.isfinite(v)}

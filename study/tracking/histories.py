"""Reads the runs of an MLflow experiment as a long table of losses: one row a run and step."""

import urllib.parse
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from study.loops.losses_table import Columns
from study.text.wording import count
from study.tracking.client import check_scheme, open_client, quiet_mlflow, tracking_errors
from study.tracking.writing import every_run

if TYPE_CHECKING:  # MLflow takes a second to import
    from mlflow import MlflowClient
    from mlflow.entities import Run

RUN = "MLflow run"
"""The column that identifies runs."""

MOST_NAMES = 5
"""Most names of runs in a note."""


def read_experiment(uri: str | None, name: str, columns: Columns) -> tuple[pa.Table, Columns, list[str]]:
    """Return the metric histories of an experiment's runs as a table, in order of their start.

    A step that was logged twice, as after a resume, has its last value. Where several losses are named, the steps of
    all of them are read.

    Args:
        uri: tracking URI of MLflow.
        name: of the experiment.
        columns: `params.x` or `tags.x` for lr, seed and curve (default: params), and `metrics.x` for losses.

    Returns:
        The table, its columns, and notes: which runs were left out, and what they lack.

    Raises:
        ValueError: there is no such experiment, or none of its runs has all that is named.
        TrackingError: MLflow cannot be read.
    """
    _check_place(uri)
    assert uri is not None
    columns = replace(columns, run=None, step="step")
    rows: dict[str, list[Any]] = {column: [] for column in (RUN, *columns.names)}
    lacking: dict[str, list[str]] = defaultdict(list)
    with quiet_mlflow(), tracking_errors(Path(), uri, own=False, again="study import mlflow"):
        client = open_client(uri)
        for run in _runs(client, name):
            of_run, lacks = _values(run, columns)
            if not lacks:
                steps, lacks = _steps(client, run, columns)
                for step, losses in steps.items():
                    for column, value in ({RUN: run.info.run_id, "step": step} | of_run | losses).items():
                        rows[column].append(value)
            if lacks:
                lacking[lacks].append(run.info.run_name or run.info.run_id)
    notes = [
        f"note: {count(len(runs), 'run')} left out, without {lacks}: {_some(runs)}" for lacks, runs in lacking.items()
    ]
    if not rows[RUN]:
        if not lacking:
            raise ValueError(f"the experiment {name} has no runs")
        raise ValueError(f"no run of the experiment {name} can be imported; {notes[0].removeprefix('note: ')}")
    for column in columns.curve:
        rows[column] = _numbers_or_texts(rows[column])
    return pa.table(rows), replace(columns, run=RUN), notes


def _check_place(uri: str | None) -> None:
    """Raise ValueError for an address that never works, and where there is nothing to read: MLflow would create it."""
    if not uri:
        raise ValueError("study import mlflow needs --tracking-uri, or $MLFLOW_TRACKING_URI")
    scheme, found, rest = uri.partition("://")
    sqlite = scheme.partition("+")[0] == "sqlite"
    if found and not sqlite and scheme != "file":
        check_scheme(uri)
        return
    quoted = rest.removeprefix("/") if sqlite else rest
    path = Path(urllib.parse.unquote(quoted.partition("?")[0]) if found else uri)
    if not path.exists():
        raise ValueError(f"there is no MLflow database or folder at {path}")


def _runs(client: "MlflowClient", name: str) -> Iterator["Run"]:
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        known = [found.name for found in client.search_experiments(max_results=20)]
        raise ValueError(f"MLflow has no experiment {name!r}; it has {', '.join(known)}")
    return every_run(client, experiment.experiment_id, order="start_time")


def _values(run: "Run", columns: Columns) -> tuple[dict[str, Any], str]:
    """Return lr, seed and curve of a run, and what it lacks."""
    numbers = [columns.lr, *([columns.seed] if columns.seed else [])]
    values: dict[str, Any] = {}
    for name in (*numbers, *columns.curve):
        kind, key = name.split(".", 1) if name.startswith(("params.", "tags.")) else ("params", name)
        value = getattr(run.data, kind).get(key)
        if value is None:
            return {}, name
        if name in numbers:
            number = _number(value)
            if number is None:
                return {}, f"a number as {name}"
            value = number
        values[name] = value
    return values, ""


def _steps(client: "MlflowClient", run: "Run", columns: Columns) -> tuple[Mapping[int, dict[str, float]], str]:
    """Return step -> metric -> value of a run, and what it lacks."""
    found: dict[int, dict[str, float]] = defaultdict(dict)
    metrics = (*columns.loss, *columns.baseline)
    for name in metrics:
        key = name.removeprefix("metrics.")
        if key not in run.data.metrics:
            return {}, name
        points = client.get_metric_history(run.info.run_id, key)
        if len(points) > 1 and len({point.step for point in points}) == 1:
            return {}, f"steps of {name}"
        for point in sorted(points, key=lambda point: point.timestamp):
            found[point.step][name] = point.value
    whole = {step: losses for step, losses in sorted(found.items()) if len(losses) == len(metrics)}
    return whole, "" if whole else f"common steps of {', '.join(metrics)}"


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _numbers_or_texts(values: Sequence[str]) -> list[Any]:
    """Return numbers if all values are; params of MLflow are texts."""
    numbers = {value: _number(value) for value in set(values)}
    return [numbers[value] for value in values] if None not in numbers.values() else list(values)


def _some(runs: Sequence[str]) -> str:
    return ", ".join(runs[:MOST_NAMES]) + (", ..." if len(runs) > MOST_NAMES else "")

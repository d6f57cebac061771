"""Writes one run of MLflow: its tags, metrics and parameters, in batches; and reads all runs, page by page."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from study.tracking.view import mlflow_name

if TYPE_CHECKING:  # MLflow takes a second to import
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun

METRICS_PER_BATCH = 900  # MLflow accepts 1,000 metrics and params in one call
PAGE = 1_000
LONGEST_VALUE = 5_000

PARENT, COLOUR = "mlflow.parentRunId", "mlflow.runColor"
KIND, KEY, CONTENT, STATE = "study.kind", "study.key", "study.content", "study.state"
ANSWERS = "study.answers"
"""Tags of our runs: the kind (study, curve, cell; run, of a training run), which one, a hash of what it shows (of a
curve's answers: ANSWERS), and whether it is complete. Runs without these tags are the user's own and stay."""
FINISHED = "FINISHED"


def every_run(client: "MlflowClient", experiment: str, order: str = "run_id") -> "Iterator[MlflowRun]":
    """Yield the runs of an experiment, in the order of one of their attributes."""
    token = None
    while True:
        page = client.search_runs([experiment], max_results=PAGE, order_by=[f"attribute.{order}"], page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def create(client: "MlflowClient", experiment: str, name: str, start: int, tags: dict[str, str]) -> str:
    tags = {mlflow_name(k): v[:LONGEST_VALUE] for k, v in tags.items()}
    run: MlflowRun = client.create_run(experiment, start_time=start, tags=tags, run_name=name)
    return run.info.run_id


def log(
    client: "MlflowClient",
    run_id: str,
    at: int,
    metrics: list[tuple[str, float, int]],
    params: dict[str, str],
    tags: Mapping[str, str] = MappingProxyType({}),
) -> None:
    from mlflow.entities import Metric, Param, RunTag

    first = [Param(mlflow_name(k), v[:LONGEST_VALUE]) for k, v in params.items()]
    marks = [RunTag(name, value) for name, value in tags.items()]
    for i in range(0, max(len(metrics), 1), METRICS_PER_BATCH):
        batch = [Metric(name, value, at, step) for name, value, step in metrics[i : i + METRICS_PER_BATCH]]
        client.log_batch(run_id, metrics=batch, params=first if i == 0 else [], tags=marks)


def finish(client: "MlflowClient", run_id: str, start: int, seconds: float) -> None:
    client.set_terminated(run_id, FINISHED, end_time=start + round(seconds * 1000))

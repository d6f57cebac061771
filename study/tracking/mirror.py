"""Shows the record in MLflow: divergence rates as curves, one line a curve, with every cell under its curve.

    experiment   one per study
      study        definition, report, tables and figures as artifacts
      curve        one per curve, at the top level; metrics of each cell at the step of its lr (`view.lr_steps`);
                   its edges, ratio and claimed lr at step 0
        cell         one per learning rate of the curve; all its metrics at step 0

A small study has a second experiment, with a run for each of its training runs (`study.tracking.training_runs`).

A metric is a chart, and the part of its name before a slash is a section of the page. MLflow sorts both by name, so
`divergence/rate` is among the first. A study of more than MOST_CELLS cells has no runs for them: MLflow takes longer to
write each than training may. Its curves hold the same numbers, and `tables/cells.csv` of the study's run has a row a
cell. Of more than MOST_CURVES curves, `tables/edges.csv` alone holds the answers. More than MOST_CELLS curves have no
runs either.

The record is the truth and MLflow is a view of it: `mirror` can be repeated, interrupted and run against an empty
server at any time. It ends with exactly one run per curve, cell and study. MLflow's metrics are append-only, so a curve
whose numbers have changed is written as a new generation, and then the old one is deleted. A tag holds a hash of what
a run shows. A generation counts once its curve has the tag `study.state = complete`.
"""

import functools
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from study.record.definition import read_definition
from study.text.wording import count
from study.tracking.choices import AUTO
from study.tracking.client import (
    check_scheme,
    create_database,
    default_uri,
    open_client,
    open_experiment,
    quiet_mlflow,
    tracking_errors,
    view_lock,
    without_credentials,
)
from study.tracking.training_runs import mirror_runs
from study.tracking.view import MOST_RATES, Curve, StudyRun, build_view, content_hash, mlflow_name
from study.tracking.writing import (
    ANSWERS,
    COLOUR,
    CONTENT,
    FINISHED,
    KEY,
    KIND,
    LONGEST_VALUE,
    PARENT,
    STATE,
    create,
    every_run,
    finish,
    log,
)

if TYPE_CHECKING:  # MLflow takes a second to import
    from mlflow import MlflowClient


@dataclass(frozen=True, kw_only=True)
class MirrorResult:
    """Where to see a study in MLflow.

    curves, cells: how many the view has. runs: training runs of their own; None for a large study. uri: without
    credentials. url_path: of the page of charts, to be appended to the server's address. too_many: curves, so that the
    study has none there.
    """

    experiment_id: str
    uri: str
    curves: int
    cells: int
    url_path: str
    runs: int | None = None
    too_many: bool = False

    def __str__(self) -> str:
        shown = f"{count(self.curves, 'curve')}, {count(self.cells, 'cell')}"
        if self.too_many:
            shown = "the study without its curves, which are in tables/edges.csv and cells.csv,"
        runs = f", {count(self.runs, 'training run')}" if self.runs else ""
        return f"MLflow: {shown}{runs} in {self.uri}"


def mirror(folder: Path, uri: str | None = None, *, finished: bool = True, runs: str = AUTO) -> MirrorResult:
    """Make MLflow show the record of the study in `folder`, and return where. Writes only what has changed.

    Args:
        folder: the study's folder.
        uri: MLflow tracking URI; None is the database in the folder (`default_uri`).
        finished: no more runs will come, so curves with missing runs are shown too (with the tag `missing`). If False,
            a curve is shown once all of its planned runs are recorded.
        runs: which studies have a run of MLflow for each training run, one of `choices.RUNS`.

    Raises:
        TrackingError: the URI can never work, or MLflow does not answer or refuses. The next call continues.
        study.record.definition.RecordError: the folder holds no study.
    """
    folder = folder.resolve()
    own = uri is None or uri == default_uri(folder)
    uri = uri or default_uri(folder)
    if not own:
        check_scheme(uri)
    definition = read_definition(folder)
    curves, study = build_view(folder, definition, finished=finished)
    with view_lock(folder), quiet_mlflow(), tracking_errors(folder, uri, own=own):
        if own:
            create_database(folder)
        client = open_client(uri)
        experiment = open_experiment(client, folder, definition, own=own)
        view = _read_view(client, experiment)
        valid: dict[str, str] = {}
        for curve in curves:
            run_id = _matching_run(view, curve)
            if run_id is None and curve.missing and not finished:
                run_id = _complete_run(view, curve.key)
            elif run_id is None:
                run_id = _write_curve(client, experiment, curve)
            elif curve.answers is not None and ANSWERS not in view.runs[run_id]:
                log(client, run_id, curve.start, _answers(curve), {}, {ANSWERS: content_hash(curve.answers)})
            if run_id is not None:
                valid[curve.key] = run_id
        if study is not None:
            valid[study.key] = _write_study(client, experiment, view, study)
        if not own and not view.runs.keys() >= set(valid.values()):
            # If a server dies before it answers, MLflow asks again, and a run may exist twice.
            view = _read_view(client, experiment)
        _delete_all_but(client, view, set(valid.values()))
        trained = None
        if study is not None:
            trained = mirror_runs(client, folder, definition, own=own, began=study.start, which=runs)
    shown = [curve for curve in curves if curve.key in valid]
    return MirrorResult(
        experiment_id=experiment,
        uri=without_credentials(uri),
        curves=len(shown),
        cells=sum(len(set(view.children(valid[c.key])) - view.unfinished) or len(c.cells) for c in shown),
        url_path=f"/#/experiments/{experiment}/runs?compareRunsMode=CHART&workflowType=machine_learning",
        runs=trained,
        too_many=study is not None and not curves,
    )


@dataclass(frozen=True, kw_only=True)
class _View:
    """Our runs in MLflow: id -> tags. unfinished: those that were never completely written."""

    runs: dict[str, dict[str, str]]
    unfinished: frozenset[str]

    def tops(self, key: str) -> list[str]:
        return self._by[False, key]

    def children(self, run_id: str) -> list[str]:
        return self._by[True, run_id]

    @functools.cached_property
    def _by(self) -> dict[tuple[bool, str], list[str]]:
        """Cells by their parent, the others by their key."""
        found: dict[tuple[bool, str], list[str]] = defaultdict(list)
        for run_id, tags in self.runs.items():
            is_cell = tags[KIND] == "cell"
            found[is_cell, tags.get(PARENT if is_cell else KEY, "")].append(run_id)
        return found


def _read_view(client: "MlflowClient", experiment: str) -> _View:
    ours = [run for run in every_run(client, experiment) if KIND in run.data.tags]
    unfinished = frozenset(run.info.run_id for run in ours if run.info.status != FINISHED)
    return _View(runs={run.info.run_id: run.data.tags for run in ours}, unfinished=unfinished)


def _complete_run(view: _View, key: str) -> str | None:
    """The run that shows a curve or the study now. If a kill left two, either: it is compared before it is used."""
    return next((i for i in view.tops(key) if view.runs[i].get(STATE) == "complete"), None)


def _matching_run(view: _View, curve: Curve) -> str | None:
    """The run that shows exactly this curve and each of its cells (a user may have deleted one)."""
    answers = None if curve.answers is None else content_hash(curve.answers)
    for run_id in view.tops(curve.key):
        tags = view.runs[run_id]
        cells = sorted(view.runs[child].get(KEY, "") for child in view.children(run_id))
        wanted = sorted(cell.key for cell in curve.cells) if curve.nested else []
        whole = tags.get(STATE) == "complete" and cells == wanted
        if whole and tags.get(CONTENT) == curve.content and answers in (None, tags.get(ANSWERS, answers)):
            return run_id
    return None


def _write_curve(client: "MlflowClient", experiment: str, curve: Curve) -> str:
    """Write a new generation. Only its last call makes it count."""
    seconds = sum(cell.seconds for cell in curve.cells)
    tags = curve.params | {"missing": str(curve.missing), COLOUR: curve.colour}
    tags |= {KIND: "curve", KEY: curve.key, CONTENT: curve.content}
    tags |= {} if curve.answers is None else {ANSWERS: content_hash(curve.answers)}
    run_id = create(client, experiment, curve.name, curve.start, tags | {STATE: "incomplete"})
    metrics = [
        (name, value, cell.step) for cell in curve.cells for name, value in list(cell.metrics.items())[:MOST_RATES]
    ]
    log(client, run_id, curve.start, metrics + _answers(curve), curve.params)
    for cell in curve.cells if curve.nested else ():
        tags = cell.params | {COLOUR: curve.colour, KIND: "cell", KEY: cell.key, PARENT: run_id}
        cell_id = create(client, experiment, cell.name, cell.start, tags)
        log(client, cell_id, cell.start, [(name, value, 0) for name, value in cell.metrics.items()], cell.params)
        finish(client, cell_id, cell.start, cell.seconds)
    finish(client, run_id, curve.start, seconds)
    client.set_tag(run_id, STATE, "complete")
    return run_id


def _write_study(client: "MlflowClient", experiment: str, view: _View, study: StudyRun) -> str:
    """Write the study's run, or replace its files and tags."""
    from mlflow.entities import RunTag

    run_id = _complete_run(view, study.key) or next(iter(view.tops(study.key)), None)
    before = {} if run_id is None else view.runs[run_id]
    if run_id is not None and before.get(STATE) == "complete" and before.get(CONTENT) == study.content:
        return run_id
    if run_id is None:
        tags = {"study": study.params["study"], KIND: "study", KEY: study.key, STATE: "incomplete"}
        run_id = create(client, experiment, study.name, study.start, tags)
    else:
        client.set_tag(run_id, STATE, "updating")
    log(client, run_id, study.start, [], study.params)
    for name in study.files:
        client.log_artifact(run_id, str(study.folder / name), str(Path(name).parent) if "/" in name else None)
    finish(client, run_id, study.start, 0)
    tags = study.tags | {CONTENT: study.content, STATE: "complete"}
    client.log_batch(run_id, tags=[RunTag(mlflow_name(k), v[:LONGEST_VALUE]) for k, v in tags.items()])
    return run_id


def _answers(curve: Curve) -> list[tuple[str, float, int]]:
    return [(name, value, 0) for name, value in (curve.answers or {}).items()]


def _delete_all_but(client: "MlflowClient", view: _View, kept: set[str]) -> None:
    """Delete all other runs of ours, cells before their curve: a cell left alone would stand at the top level."""
    top_of = {i: tags.get(PARENT) if tags[KIND] == "cell" else i for i, tags in view.runs.items()}
    doomed = [i for i, top in top_of.items() if top not in kept or i in view.unfinished - kept]
    for run_id in sorted(doomed, key=lambda i: view.runs[i][KIND] != "cell"):
        client.delete_run(run_id)

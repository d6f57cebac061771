"""Shows the record in MLflow: divergence rates as curves, one line a curve, with every cell under its curve.

    experiment   one per study
      study        edges, contrasts and what can be claimed as metrics; definition, report, tables, figures as artifacts
      curve        one per curve, at the top level; every cell's metrics at step = round(lr * 1e6)
        cell         one per learning rate of the curve; the same metrics at step 0

A study of more than MOST_CELLS has no runs for its cells: each takes MLflow longer than training may, and nobody opens
thousands of them one by one. Its curves hold the same numbers, and `tables/cells.csv` of the study's run has a row a
cell. Of more than MOST_CURVES, what was found is in `tables/edges.csv` alone: each metric is a chart of its own.

The record is the truth and this is a view of it: `mirror` can be repeated, interrupted and run against an empty server
at any time, and ends with exactly one run per curve, cell and study. MLflow's metrics only ever grow, so a curve whose
numbers have changed is written anew, as a new generation, and then the old one is deleted. What a run holds is hashed
into a tag of its own; a generation counts from the moment its curve says `study.state = complete`.
"""

import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import importlib
import json
import logging
import math
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from study import telemetry
from study.config import canonical_json, to_json
from study.record.confirmations import read_confirmations
from study.record.definition import Definition, read_definition
from study.storage import stores

if TYPE_CHECKING:  # MLflow takes a second to import, and only those who look at it should wait
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun

VIEW = 1
"""Raised when the same record would be shown in another way: every run is then written anew."""

DATABASE = "mlflow.db"
ARTIFACTS = "mlflow-artifacts"
SHOWN_FILES = ("study.json", "report.html", "runs.parquet")
LR_UNITS = 1e6
METRICS_PER_BATCH = 900  # MLflow takes 1,000 metrics and params in one call
PAGE = 1_000
LONGEST_VALUE = 5_000
WAIT_SECONDS = 60.0

MOST_CELLS = 2_000
MOST_CURVES = 100
END_SECONDS = 600.0
"""How long the end of a study waits for MLflow to show it; later, `study mlflow` does."""


class TrackingError(ValueError):
    """The MLflow view could not be written or shown, in words for its user. The record is as it was."""


@dataclass(frozen=True, kw_only=True)
class MirrorResult:
    """Where a study is to be seen. curves, cells: how many the view now has; uri: without credentials;
    url_path: of the page with the charts, to be put behind the server's address."""

    experiment_id: str
    uri: str
    curves: int
    cells: int
    url_path: str

    def __str__(self) -> str:
        return f"MLflow: {self.curves} curves, {self.cells} cells in {self.uri}"


def default_uri(folder: Path) -> str:
    """The SQLite database inside the study's folder, for one machine."""
    return f"sqlite:///{folder.resolve() / DATABASE}"


def mirror(folder: Path, uri: str | None = None, *, finished: bool = True) -> MirrorResult:
    """Make MLflow show what the record of the study in `folder` holds; nothing where it already does.

    uri: an MLflow tracking URI, None for `default_uri`. finished: no more runs are coming, so that curves with missing
    runs are shown too (they carry the tag `missing`); else a curve is written once it has all of its planned runs.

    Raises TrackingError where MLflow does not answer or refuses: the next call catches up. Raises
    study.record.definition.RecordError where there is no study.
    """
    folder = folder.resolve()
    definition = read_definition(folder)
    curves, study = _wanted(folder, definition, finished)
    own = uri is None or uri == default_uri(folder)
    uri = uri or default_uri(folder)
    with _one_at_a_time(folder), _quiet_and_prompt(), _said_plainly(folder, uri, own):
        if own:
            _create_database(folder)
        client = _client(uri)
        experiment = _experiment(client, folder, definition, own)
        view = _read_view(client, experiment)
        kept: dict[str, str] = {}
        for curve in curves:
            run_id = _shown(view, curve)
            if run_id is None and curve.missing and not finished:
                run_id = _complete(view, curve.key)
            elif run_id is None:
                run_id = _write_curve(client, experiment, curve)
            if run_id is not None:
                kept[curve.key] = run_id
        if study is not None:
            kept[study.key] = _write_study(client, experiment, view, study)
        if not own and not view.runs.keys() >= set(kept.values()):
            # A server that dies before it answers may have done what it was asked; MLflow asks again, and has it twice.
            view = _read_view(client, experiment)
        _delete_all_but(client, view, set(kept.values()))
        now = [curve for curve in curves if curve.key in kept]
    return MirrorResult(
        experiment_id=experiment,
        uri=without_credentials(uri),
        curves=len(now),
        cells=sum(len(set(view.children(kept[c.key])) - view.unfinished) or len(c.cells) for c in now),
        url_path=f"/#/experiments/{experiment}/runs?compareRunsMode=CHART&workflowType=machine_learning",
    )


class Follower:
    """Keeps the view near the record while a study trains: curves that are complete appear in MLflow as they end.

    A process of its own writes, at low priority and at most every `seconds`: training waits for nothing, a server that
    is away costs nothing, and what takes MLflow seconds to import is there when the study ends. A context: its process
    ends with it, and with us however we end.
    """

    def __init__(self, folder: Path, uri: str | None, seconds: float = 120.0) -> None:
        self.seconds = seconds
        self.looked: float | None = None
        self.child: subprocess.Popen[str] | None = None
        # The URI goes through the environment: a command line is there for everyone to read, password included.
        settings = dict(os.environ) | ({"MLFLOW_TRACKING_URI": uri} if uri else {})
        with contextlib.suppress(OSError):
            self.child = subprocess.Popen(
                [sys.executable, "-m", "study", "mlflow", str(folder.resolve()), "--follow"],
                env=settings,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )

    def __enter__(self) -> "Follower":
        return self

    def __exit__(self, *_: object) -> None:
        if self.child is None:
            return
        if self.looked is None:
            self.child.kill()  # it has nothing to write
        try:
            self.child.communicate(timeout=WAIT_SECONDS)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.communicate()

    def nudge(self) -> None:
        """There is something new in the record."""
        if self.looked is None or time.monotonic() - self.looked >= self.seconds:
            self.look()

    def look(self) -> None:
        """Show what is complete now."""
        self.looked = time.monotonic()
        self._say("look")

    def end(self) -> MirrorResult | None:
        """Show all there is; returns what `mirror` does, once it is done. None where the process has died.

        Raises TrackingError as `mirror` does, and where it takes longer than END_SECONDS.
        """
        self.looked = time.monotonic()
        if not self._say("end") or self.child is None or self.child.stdout is None:
            return None
        if not select.select([self.child.stdout], [], [], END_SECONDS)[0]:
            self.child.kill()  # a view can be interrupted at any time
            raise TrackingError(f"it took longer than {END_SECONDS / 60:g} minutes")
        answer = self.child.stdout.readline()
        if not answer:
            return None
        said = json.loads(answer)
        if "error" in said:
            raise TrackingError(said["error"])
        return MirrorResult(**said)

    def _say(self, order: str) -> bool:
        if self.child is None or self.child.stdin is None:
            return False
        try:
            print(order, file=self.child.stdin, flush=True)
        except OSError:
            return False
        return True


def follow(folder: Path, uri: str | None, orders: Iterable[str], answers: TextIO) -> None:
    """The other side of a `Follower`: a line "look" writes what is complete, "end" writes everything and is answered
    by a line of JSON, the fields of a `MirrorResult` or {"error": ...}."""
    _import_what_mirroring_takes()
    for order in orders:
        answer: dict[str, Any]
        try:
            answer = dataclasses.asdict(mirror(folder, uri, finished=order.strip() == "end"))
        except ValueError as error:
            answer = {"error": str(error)}
        if order.strip() == "end":
            print(json.dumps(answer), file=answers, flush=True)


def _import_what_mirroring_takes() -> None:
    with warnings.catch_warnings(), _quiet_and_prompt():
        warnings.simplefilter("ignore")
        for name in ("mlflow", "mlflow.store.tracking.sqlalchemy_store", "analysis"):
            importlib.import_module(name)


def serve(folder: Path, port: int | None = None, uri: str | None = None) -> None:
    """Bring the view up to date, serve it on loopback, print the address of its charts, and stay until Ctrl-C.

    port: None takes 5000, or any free one. A uri with http is a server already: its address is printed, no more.
    Raises TrackingError where the view cannot be written or the server does not start.
    """
    shown = mirror(folder, uri)
    if uri is not None and uri.startswith(("http://", "https://")):
        print(f"{shown.uri.rstrip('/')}{shown.url_path}", flush=True)
        return
    with _ended_with_its_terminal(), server(folder, port=port, uri=uri) as address:
        print(f"{address}{shown.url_path}\nCtrl-C ends it.", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                time.sleep(3600)


@contextlib.contextmanager
def server(folder: Path, *, port: int | None = None, uri: str | None = None) -> Iterator[str]:
    """An MLflow server of the database at `uri`, as a child process on loopback, for as long as the context lasts.

    Yields its address, `http://127.0.0.1:PORT`, once it answers. Raises TrackingError where it does not in time.
    """
    folder = folder.resolve()
    port = _free_port(port)
    address = f"http://127.0.0.1:{port}"
    log = folder / "mlflow-server.log"
    # Telemetry off, no job runners (2 GB of memory), and MLflow's own guard against foreign web pages stays on.
    # The database goes through the environment: a command line is there for everyone to read, password included.
    settings = {k: v for k, v in os.environ.items() if k != "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE"} | {
        "MLFLOW_BACKEND_STORE_URI": uri or default_uri(folder),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        **telemetry.disabled(),
    }
    command = [sys.executable, "-P", "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--artifacts-destination", str(folder / ARTIFACTS)]
    try:
        with log.open("w") as output:
            child = subprocess.Popen(
                command,
                env=settings,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C is for us; we end the child and its workers
            )
    except OSError as error:
        raise TrackingError(f"cannot start the MLflow server in {folder} ({error.strerror})") from None
    try:
        _wait_until_up(child, address, log)
        yield address
    finally:
        _end(child)


def without_credentials(uri: str) -> str:
    """A tracking URI that can be shown: no user, password, or query."""
    scheme, found, rest = uri.partition("://")
    if not found or scheme == "sqlite":
        return uri
    # From the last @, since a password that nobody has quoted may hold any of the others.
    return f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}"


# What the record says ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Cell:
    key: str
    name: str
    step: int
    metrics: dict[str, float]
    params: dict[str, str]
    seconds: float
    start: int


@dataclass(frozen=True, kw_only=True)
class _Curve:
    key: str
    name: str
    params: dict[str, str]
    colour: str
    missing: int
    cells: tuple[_Cell, ...]
    nested: bool
    """Whether each of its cells is a run, too."""
    start: int

    @functools.cached_property
    def content(self) -> str:
        cells = [[c.key, c.name, c.step, c.metrics, c.params, c.seconds] for c in self.cells]
        alone = [] if self.nested else ["cells are no runs"]
        return _hash([VIEW, self.key, self.name, self.params, self.colour, self.missing, cells, *alone])


@dataclass(frozen=True, kw_only=True)
class _Shelf:
    """The run that holds the study itself. files: path inside the folder -> hash of the content. answers: its metrics;
    None while runs are still coming, when those of before stay."""

    key: str
    folder: Path
    name: str
    params: dict[str, str]
    tags: dict[str, str]
    files: dict[str, str]
    answers: dict[str, float] | None
    start: int

    @property
    def content(self) -> str:
        return _hash([VIEW, self.params, self.tags, self.files])


def _wanted(folder: Path, definition: Definition, finished: bool) -> tuple[list[_Curve], _Shelf | None]:
    """What the view should hold: its curves, most telling first, and the study, None before its first run.

    Times are those of the record, so that a rebuild writes the same again. MLflow lists and draws the newest runs
    first: curves are newer than the study, the study than the cells, and the first curve is the newest.
    """
    import analysis
    from analysis.figures.palette import method_styles
    from analysis.loading import CELL, CURVE, threshold_columns

    runs = analysis.load(folder)
    if runs.empty:
        return [], None
    study = definition.study
    tasks = [task["name"] for task in definition.data["tasks"]]
    plan = {(lr, seed) for lr in study.lrs for seed in study.seeds}
    began = min(int(path.stat().st_mtime * 1000) for path in (folder / "runs").glob("*.parquet"))
    cells_of: dict[tuple[str, str], list[tuple[Any, Any]]] = {}
    scores = analysis.quality(runs, definition).set_index(CELL).to_dict("index")
    for rate in analysis.divergence_rates(runs).to_dict("records"):
        at = (rate["model"], rate["curve"], rate["lr"])
        cells_of.setdefault(at[:2], []).append((rate, scores[at]))
    groups = dict(iter(runs.groupby(CURVE)))
    planned_cells = 0 if study.search else len(study.models) * len(study.arms) * len(study.lrs)
    place_of = {model: place for place, model in enumerate(study.models)}

    curves = []
    order = sorted(cells_of, key=lambda pair: place_of[pair[0]])
    method_of = {pair: groups[pair]["method"].iloc[0] for pair in order}
    look_of = method_styles(method_of.values())
    alike: Counter[str] = Counter()
    place_in = {}
    for pair in order:
        place_in[pair] = alike[method_of[pair]]
        alike[method_of[pair]] += 1
    for rank, (model, label) in enumerate(order):
        share = place_in[model, label] / alike[method_of[model, label]]
        group = groups[model, label]
        params = {"study": study.name, "model": model} | _arm(group.iloc[0].to_dict(), threshold_columns(runs))
        key = _hash([model, params])
        seconds: dict[float, float] = {}
        for lr, spent in zip(group["lr"], group["seconds"].fillna(0), strict=True):
            seconds[lr] = seconds.get(lr, 0.0) + spent
        cells = tuple(
            _Cell(
                key=_hash([key, rate["lr"]]),
                name=f"{model} · {label} · lr {rate['lr']:.6g}",
                step=round(rate["lr"] * LR_UNITS),
                metrics=_metrics(rate, score, tasks),
                params=params | {"lr": f"{rate['lr']:.12g}"},
                seconds=round(seconds[rate["lr"]], 3),
                start=began - (rank + 1) * 10_000 - place,
            )
            for place, (rate, score) in enumerate(cells_of[model, label])
        )
        missing = len(plan - set(zip(group["lr"], group["seed"], strict=True)))
        start = began + 100_000 - rank
        curves.append(
            _Curve(
                key=key,
                name=f"{model} · {label}",
                params=params,
                colour=_paler(look_of[method_of[model, label]].colour, share),
                missing=missing,
                cells=cells,
                nested=max(planned_cells, len(scores)) <= MOST_CELLS,
                start=start,
            )
        )
    in_plan = runs["lr"].isin(study.lrs) & runs["seed"].isin(study.seeds)
    planned = len(study.models) * len(study.arms) * len(plan)
    counts = {"runs": len(runs), "diverged": (runs["outcome"] == "diverged").sum(), "missing": planned - in_plan.sum()}
    # A study grows: what can change is a tag, since a parameter stays as it was first written.
    axes = {"models": study.models, "methods": dict.fromkeys(arm.method for arm in study.arms)}
    axes |= {"lrs": study.lrs, "seeds": study.seeds}
    shown = [name for name in SHOWN_FILES if (folder / name).is_file()]
    for kind, ending in (("tables", "csv"), ("figures", "png")):
        shown += [f"{kind}/{path.name}" for path in sorted((folder / kind).glob(f"*.{ending}"))]
    return curves, _Shelf(
        key="study",
        folder=folder,
        name=f"study · {study.name}",
        params={"study": study.name, "data": study.data, "data_content": definition.data["content"]}
        | {f"recipe.{k}": str(v) for k, v in to_json(study.recipe).items()}
        | {f"rule.{k}": str(v) for k, v in to_json(study.rule).items()},
        tags={name: str(int(count)) for name, count in counts.items()}
        | {name: ", ".join(map(str, values)) for name, values in axes.items()},
        files={name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in shown},
        answers=_answers(folder, definition, runs) if finished else None,
        start=began,
    )


def _answers(folder: Path, definition: Definition, runs: Any) -> dict[str, float]:
    """What the study found, `study LR50 small clippy` -> value, finite ones only: an edge that was not reached is no
    number, but has a low end. (MLflow's page of charts is in alphabetical order: "study" comes after what the curves
    have. A word before a slash would be a section of its own, ahead of them.)"""
    from analysis.loading import CURVE
    from analysis.stats.contrasts import contrasts
    from analysis.stats.edges import edges, fits
    from analysis.stats.recommend import recommend

    if runs.groupby(CURVE).ngroups > MOST_CURVES:
        return {}
    fitted, confirmations = fits(runs), read_confirmations(folder)
    ratios = contrasts(runs, definition, confirmations=confirmations, fitted=fitted)
    claims = recommend(runs, definition, confirmations=confirmations, fitted=fitted)
    return (
        _named(edges(runs, 0.5, fitted), {"edge": "LR50", "low": "LR50_low", "high": "LR50_high"})
        | _named(edges(runs, 0.05, fitted), {"edge": "LR05", "low": "LR05_low", "high": "LR05_high"})
        | _named(ratios.loc[ratios["planned"].astype(bool)], RATIOS)
        | _named(claims, CLAIMS)
    )


RATIOS = {"ratio": "LR50_ratio", "low": "LR50_ratio_low", "high": "LR50_ratio_high", "p_holm": "LR50_ratio_p"} | {
    f"difference{end}": f"quality_difference{end}" for end in ("", "_low", "_high")
}
CLAIMS = {"lr": "claimed_lr", "bound": "claimed_risk", "nominated": "nominated_lr", "quality_median": "quality"}


def _named(table: Any, columns: Mapping[str, str]) -> dict[str, float]:
    found = {}
    for row in table.to_dict("records"):
        for column, name in columns.items():
            value = float(row[column])
            # 0 is no low end of a learning rate or a ratio, but the absence of one.
            if math.isfinite(value) and not (column == "low" and value == 0):
                found[_name(f"study {name} {row['model']} {row['curve']}")] = float(f"{value:.6g}")
    return found


def _arm(run: dict[Any, Any], thresholds: list[str]) -> dict[str, str]:
    """Method, thresholds and options of a run, as people write them."""
    options = json.loads(run["options"]) if run["options"] else {}
    written = {name: f"{run[name]:.12g}" for name in thresholds if not math.isnan(run[name])}
    written |= {name: value if isinstance(value, str) else json.dumps(value) for name, value in options.items()}
    return {"method": run["method"]} | written


def _paler(colour: str, share: float) -> str:
    """`#rrggbb`, mixed with white: curves of one method keep its colour, and are told apart."""
    levels = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(level + 0.8 * share * (255 - level)):02x}" for level in levels)


def _metrics(rate: Mapping[Any, Any], scores: Mapping[Any, Any], tasks: list[str]) -> dict[str, float]:
    """Of one cell, finite values only: MLflow stores infinity as a number, and its pages break on NaN."""
    values = {
        "divergence_rate": rate["rate"],
        "divergence_rate_low": rate["low"],
        "divergence_rate_high": rate["high"],
        "micro_rate": rate["micro_rate"],
        "undertrained_rate": rate["undertrained"] / rate["n"],
        "n": rate["n"],
    }
    for name in ("kept", *(f"{score}_{task}" for task in tasks for score in ("auc", "rmse"))):
        values |= {name: scores[name]} if name in scores else {}
    return {_name(k): float(f"{v:.6g}") for k, v in values.items() if math.isfinite(v)}


def _name(text: str) -> str:
    """A name that MLflow takes: letters, digits, and _ - . / space."""
    return re.sub(r"[^\w\-. /]", "_", text, flags=re.ASCII)


def _hash(content: Any) -> str:
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()[:32]


# What MLflow holds ---------------------------------------------------------------------------------------------------

PARENT, COLOUR = "mlflow.parentRunId", "mlflow.runColor"
KIND, KEY, CONTENT, STATE = "study.kind", "study.key", "study.content", "study.state"
ANSWERS = "study.answers"
"""Tags by which a run of ours is known: what it is (study, curve, cell), which one, a hash of what it holds (of the
study: and one of its metrics, set before they are written), and whether it holds all of it. Runs without them are the
user's own and are left alone."""
FINISHED = "FINISHED"


@dataclass(frozen=True, kw_only=True)
class _View:
    """The runs of ours that MLflow shows, by id: their tags. unfinished: those that were never written to their end."""

    runs: dict[str, dict[str, str]]
    unfinished: frozenset[str]

    def tops(self, key: str) -> list[str]:
        return self._by[False, key]

    def children(self, run_id: str) -> list[str]:
        return self._by[True, run_id]

    @functools.cached_property
    def _by(self) -> dict[tuple[bool, str], list[str]]:
        """Cells by their parent, all others by their key."""
        found: dict[tuple[bool, str], list[str]] = defaultdict(list)
        for run_id, tags in self.runs.items():
            is_cell = tags[KIND] == "cell"
            found[is_cell, tags.get(PARENT if is_cell else KEY, "")].append(run_id)
        return found


def _read_view(client: "MlflowClient", experiment: str) -> _View:
    runs, unfinished, token = {}, set(), None
    while True:
        page = client.search_runs([experiment], max_results=PAGE, order_by=["attribute.run_id"], page_token=token)
        ours = [run for run in page if KIND in run.data.tags]
        runs |= {run.info.run_id: run.data.tags for run in ours}
        unfinished |= {run.info.run_id for run in ours if run.info.status != FINISHED}
        token = page.token
        if not token:
            return _View(runs=runs, unfinished=frozenset(unfinished))


def _complete(view: _View, key: str) -> str | None:
    """The generation of a curve that is shown now. Where a kill left two, either: what differs is written anew."""
    return next((i for i in view.tops(key) if view.runs[i].get(STATE) == "complete"), None)


def _shown(view: _View, curve: _Curve) -> str | None:
    """The run that shows exactly this curve, with each of its cells (someone may have deleted one by hand)."""
    for run_id in view.tops(curve.key):
        tags = view.runs[run_id]
        cells = sorted(view.runs[child].get(KEY, "") for child in view.children(run_id))
        wanted = sorted(cell.key for cell in curve.cells) if curve.nested else []
        whole = tags.get(STATE) == "complete" and cells == wanted
        if whole and tags.get(CONTENT) == curve.content:
            return run_id
    return None


def _write_curve(client: "MlflowClient", experiment: str, curve: _Curve) -> str:
    """A new generation. It counts as written only by its last call."""
    seconds = sum(cell.seconds for cell in curve.cells)
    tags = curve.params | {"missing": str(curve.missing), COLOUR: curve.colour}
    tags |= {KIND: "curve", KEY: curve.key, CONTENT: curve.content}
    run_id = _create(client, experiment, curve.name, curve.start, tags | {STATE: "incomplete"})
    metrics = [(name, value, cell.step) for cell in curve.cells for name, value in cell.metrics.items()]
    _log(client, run_id, curve.start, metrics, curve.params)
    for cell in curve.cells if curve.nested else ():
        tags = cell.params | {COLOUR: curve.colour, KIND: "cell", KEY: cell.key, PARENT: run_id}
        cell_id = _create(client, experiment, cell.name, cell.start, tags)
        _log(client, cell_id, cell.start, [(name, value, 0) for name, value in cell.metrics.items()], cell.params)
        _finish(client, cell_id, cell.start, cell.seconds)
    _finish(client, run_id, curve.start, seconds)
    client.set_tag(run_id, STATE, "complete")
    return run_id


def _write_study(client: "MlflowClient", experiment: str, view: _View, shelf: _Shelf) -> str:
    """Its files are replaced where they lie, so that a report written ten times is kept once; metrics cannot be, so
    other ones make a new generation."""
    from mlflow.entities import RunTag

    answers = None if shelf.answers is None else _hash([VIEW, shelf.answers])
    run_id = _complete(view, shelf.key) or next(iter(view.tops(shelf.key)), None)
    if answers is not None:
        fit = [i for i in view.tops(shelf.key) if view.runs[i].get(ANSWERS, answers) == answers]
        # The one that has them, before one that could still take them.
        run_id = max(fit, key=lambda i: (ANSWERS in view.runs[i], view.runs[i].get(STATE) == "complete"), default=None)
    before = view.runs[run_id] if run_id is not None else {}
    whole = before.get(STATE) == "complete"
    measured = answers is None or (whole and ANSWERS in before)
    if run_id is not None and whole and measured and before.get(CONTENT) == shelf.content:
        return run_id
    marks = {} if answers is None else {ANSWERS: answers}
    if run_id is None:
        tags = {"study": shelf.params["study"], KIND: "study", KEY: shelf.key, STATE: "incomplete"} | marks
        run_id = _create(client, experiment, shelf.name, shelf.start, tags)
    else:
        client.log_batch(run_id, tags=[RunTag(k, v) for k, v in ({STATE: "updating"} | marks).items()])
    metrics = [] if measured else [(name, value, 0) for name, value in (shelf.answers or {}).items()]
    _log(client, run_id, shelf.start, metrics, shelf.params)
    for name in shelf.files:
        client.log_artifact(run_id, str(shelf.folder / name), str(Path(name).parent) if "/" in name else None)
    _finish(client, run_id, shelf.start, 0)
    tags = shelf.tags | {CONTENT: shelf.content, STATE: "complete"}
    client.log_batch(run_id, tags=[RunTag(_name(k), v[:LONGEST_VALUE]) for k, v in tags.items()])
    return run_id


def _delete_all_but(client: "MlflowClient", view: _View, kept: set[str]) -> None:
    """Cells before their curve: a cell must not be left at the top level, where nobody would look for its curve."""
    top_of = {i: tags.get(PARENT) if tags[KIND] == "cell" else i for i, tags in view.runs.items()}
    doomed = [i for i, top in top_of.items() if top not in kept or i in view.unfinished - kept]
    for run_id in sorted(doomed, key=lambda i: view.runs[i][KIND] != "cell"):
        client.delete_run(run_id)


def _create(client: "MlflowClient", experiment: str, name: str, start: int, tags: dict[str, str]) -> str:
    tags = {_name(k): v[:LONGEST_VALUE] for k, v in tags.items()}
    run: MlflowRun = client.create_run(experiment, start_time=start, tags=tags, run_name=name)
    return run.info.run_id


def _log(
    client: "MlflowClient", run_id: str, at: int, metrics: list[tuple[str, float, int]], params: dict[str, str]
) -> None:
    from mlflow.entities import Metric, Param

    first = [Param(_name(k), v[:LONGEST_VALUE]) for k, v in params.items()]
    for i in range(0, max(len(metrics), 1), METRICS_PER_BATCH):
        batch = [Metric(name, value, at, step) for name, value, step in metrics[i : i + METRICS_PER_BATCH]]
        client.log_batch(run_id, metrics=batch, params=first if i == 0 else [])


def _finish(client: "MlflowClient", run_id: str, start: int, seconds: float) -> None:
    client.set_terminated(run_id, FINISHED, end_time=start + round(seconds * 1000))


def _experiment(client: "MlflowClient", folder: Path, definition: Definition, own: bool) -> str:
    """The id of the study's experiment; created, or brought back, where it is not there."""
    from mlflow.exceptions import MlflowException

    name = definition.study.name
    artifacts = (folder / ARTIFACTS).as_uri() if own else None
    if not own:
        name = f"{name} {_folder_id(folder)[:8]}"  # other folders may hold a study of this name
    found = client.get_experiment_by_name(name)
    if found is not None and found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    if found is not None and artifacts not in (None, found.artifact_location):
        # The folder has moved, and MLflow would write files where it used to be.
        client.rename_experiment(found.experiment_id, f"{name} (moved {uuid.uuid4().hex[:8]})")
        client.delete_experiment(found.experiment_id)
        found = None
    if found is not None:
        return found.experiment_id
    note = (
        "P(divergence | learning rate): the charts show one line per curve; the steps of their axis are the learning "
        "rate in millionths. Each curve's cells are nested under it. A view of the study's record, rebuilt by "
        "`study mlflow`."
    )
    # The kind makes MLflow open the page of runs and not its page for language models.
    tags = {"study": name, "mlflow.note.content": note, "mlflow.experimentKind": "custom_model_development"}
    try:
        return client.create_experiment(name, artifact_location=artifacts, tags=tags)
    except MlflowException:
        # It is there by now, where a server had died before it answered, and was asked again.
        if (found := client.get_experiment_by_name(name)) is None:
            raise
        return found.experiment_id


def _folder_id(folder: Path) -> str:
    """What tells this study's folder apart on a shared server; goes with the folder wherever it is moved."""
    store = stores.store_for(folder)
    if (found := store.get("mlflow-id")) is None:
        store.create("mlflow-id", uuid.uuid4().hex.encode())
        found = store.get("mlflow-id") or b""  # who came first has named it
    return found.decode().strip()


def _create_database(folder: Path) -> None:
    """Set up beside its name and renamed: MLflow cannot open a database whose set-up was interrupted."""
    if (folder / DATABASE).exists():
        return
    for left in folder.glob(f".{DATABASE}.*"):
        left.unlink(missing_ok=True)
    beside = folder / f".{DATABASE}.{uuid.uuid4().hex}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow uses what SQLAlchemy will drop; not for our user to mend
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        store = SqlAlchemyStore(f"sqlite:///{beside}", (folder / ARTIFACTS).as_uri())
    store.engine.dispose()
    beside.replace(folder / DATABASE)


def _client(uri: str) -> "MlflowClient":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=uri)


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Two that mirror at once would each see the other's half-written generation as rubbish."""
    try:
        file = (folder / ".mlflow.lock").open("a")
    except OSError as error:
        raise TrackingError(f"cannot write to {folder} ({error.strerror})") from None
    with file:
        until = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise TrackingError(f"another process is writing the MLflow view of {folder}") from None
                time.sleep(0.05)
        yield


@contextlib.contextmanager
def _quiet_and_prompt() -> Iterator[None]:
    """MLflow without telemetry and chatter, and without minutes of retries, unless the user has asked for them."""
    settings = telemetry.disabled() | {
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
        "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    }
    added = [name for name in settings if name not in os.environ]
    os.environ.update({name: settings[name] for name in added})
    loggers = [logging.getLogger(name) for name in ("mlflow", "mlflow.store.db.utils", "alembic", "urllib3")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        for name in added:
            os.environ.pop(name, None)


@contextlib.contextmanager
def _said_plainly(folder: Path, uri: str, own: bool) -> Iterator[None]:
    """Whatever goes wrong in MLflow, in one line. The cause is cut off: it may hold the URI with its password."""
    from mlflow.exceptions import MlflowException, RestException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    shown, remote = without_credentials(uri), uri.startswith(("http://", "https://"))
    try:
        yield
    except (MlflowException, RequestException, SQLAlchemyError, OSError, ImportError) as error:
        why = _first_line(error, uri)
        if own:
            message = f"cannot write {folder / DATABASE} ({why}); move it away, and it is rebuilt from the record"
        elif remote and not isinstance(error, RestException):
            again = f"study mlflow {stores.address(folder)}"
            message = f"the tracking server at {shown} does not answer; `{again}` catches up when it does"
        else:
            message = f"{shown} does not serve as a tracking URI ({why})"
        raise TrackingError(message) from None


def _first_line(error: BaseException, uri: str) -> str:
    text = (str(error).strip() or type(error).__name__).splitlines()[0].replace(uri, without_credentials(uri))
    user, _, password = uri.partition("://")[2].rpartition("@")[0].partition(":")
    for secret in (password, urllib.parse.unquote(password), f"{user}@"):
        text = text.replace(secret, "***") if len(secret) > 1 else text
    return text[:300]


# The server ----------------------------------------------------------------------------------------------------------


def _free_port(port: int | None) -> int:
    for candidate in (5000, 0) if port is None else (port,):
        with socket.socket() as probe, contextlib.suppress(OSError, OverflowError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", candidate))
            return probe.getsockname()[1]
    raise TrackingError(f"port {port} cannot be used; leave --port out to have a free one chosen")


def _wait_until_up(child: subprocess.Popen, address: str, log: Path) -> None:
    until = time.monotonic() + WAIT_SECONDS
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback is not behind a proxy
    while time.monotonic() < until:
        if child.poll() is not None:
            raise TrackingError(f"the MLflow server did not start (exit status {child.returncode}); see {log}")
        try:
            with direct.open(f"{address}/health", timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise TrackingError(f"the MLflow server does not answer at {address}; see {log}")


def _end(child: subprocess.Popen) -> None:
    """The child leads a process group of its own, which holds its workers and nothing else."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(timeout=10)


@contextlib.contextmanager
def _ended_with_its_terminal() -> Iterator[None]:
    """A closed terminal ends us as Ctrl-C does, so that no server is left behind; a `kill` does for every command."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    before = signal.signal(signal.SIGHUP, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)

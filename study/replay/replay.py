"""Recorded runs trained once more with everything watched: one run for its figures, many for what foretells.

    DIR/replay/<run_id>/trace.parquet    one row a run, step and layer (`study.replay.probe`)
    DIR/replay/<run_id>/moments.json     what was replayed, whether the losses are the recorded ones, and the moments
    DIR/replay/<run_id>/*.png            the figures (`analysis.figures.replay`)
    DIR/signals/<name>.parquet           of many runs: one row a run and step, with the onset (`analysis.stats.signals`)

Nothing here is part of the record: all of it can be made again.
"""

import contextlib
import dataclasses
import json
import multiprocessing
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from study import data, methods
from study.commands.rescore import references
from study.config import Run, Study, to_json
from study.data._dataset import Log
from study.execution import warm_start
from study.execution.planner import Stack, control_of, kinds
from study.execution.trial import outcomes_of
from study.outcomes import judge
from study.outcomes.judge import Reference
from study.outcomes.onset import Moments, control_curve, moments
from study.record import tables
from study.record.definition import Definition, RecordError, read_definition
from study.replay.probe import Watch
from study.replay.sharpness import ALL
from study.training.trainer import train
from study.training.weights import Weights

CLOSE = 6
"""Steps to either side of a moment at which a replay takes the sharpness each time."""

WARM_UP_STEPS = 40
"""In the first steps, signals have the sharpness every other time: most divergences begin there."""

SIGNAL_HELD_ROWS = 512
SIGNAL_TOLERANCE = 0.03
SIGNAL_STACK = 16


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """A study's folder as a replay needs it. gain: G of each model, with control: c_t of each (`study.outcomes.onset`).
    start: the weights that its runs start from."""

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
        return [task["name"] for task in self.described["tasks"]]

    def gains(self, loss_RTK: np.ndarray, constant_RTK: np.ndarray, model: str) -> np.ndarray:
        """The gain of the training loss, (R, T), in units of G."""
        unit_K = np.array([task["constant_loss"] for task in self.described["tasks"]])
        return judge.gains(loss_RTK, constant_RTK, unit_K)[:, :, 0] / self.references[model].gain

    def moments(self, loss_TK: np.ndarray, constant_TK: np.ndarray, model: str) -> Moments | None:
        gain_T = self.gains(loss_TK[None], constant_TK[None], model)[0]
        return moments(gain_T, self.control[model], self.study.rule)


def opened(folder: Path, cache: Path, models: Sequence[str] | None = None) -> Recorded:
    """Raises ValueError where there is no study, where its data are others now, or where the control is missing."""
    definition, log = data_of(folder, cache)
    study, described = definition.study, definition.data
    models = models or study.models
    found = references(study, described, folder, models)
    here = Recorded(
        folder=folder,
        study=study,
        described=described,
        runs=tables.read_runs(folder),
        log=log,
        start=warm_start.kept(folder, study.recipe),
        references=found,
        control={},
    )
    for model in models:
        ids = [r.id for r in control_of(study, log.content) if r.model == model and r.lr == found[model].lr]
        _, loss, constant, _ = judge.stack_losses(tables.read_losses(folder, ids), here.tasks)
        here.control[model] = control_curve(here.gains(loss, constant, model))
    return here


def data_of(folder: Path, cache: Path) -> tuple[Definition, Log]:
    """What a study is, and its data. Raises ValueError where there is no study, or where its data are others now."""
    definition = read_definition(folder)
    study = definition.study
    log = data.load(study.data, study.data_options, cache)
    if log.content != definition.data["content"]:
        raise RecordError(f"{study.data} holds other data now than those that {folder} was trained on")
    return definition, log


def run_named(folder: Path, prefix: str) -> str:
    """The id of the one recorded run whose id begins so. Raises ValueError where there is none or more than one."""
    ids = tables.read_runs(folder)["run_id"]
    found = [run for run in ids if run.startswith(prefix)]
    if not prefix or not found:
        raise ValueError(f"no recorded run's id begins with {prefix!r}; runs.parquet beside the report has all ids")
    if len(found) > 1:
        raise ValueError(f"{len(found)} runs' ids begin with {prefix!r}, such as {found[0][:12]} and {found[1][:12]}")
    return found[0]


def run_of(row: Mapping[str, Any], study: Study) -> Run:
    """A recorded run as it was asked for. Raises ValueError where it cannot be told from the record."""
    signature = methods.signature(row["method"])
    options = json.loads(row["options"]) if isinstance(row["options"], str) and row["options"] else {}
    options |= {name: float(row[name]) for name in signature.thresholds if name in row and not pd.isna(row[name])}
    run = Run(
        data=row["data"],
        model=row["model"],
        method=row["method"],
        options=methods.check(row["method"], options),
        lr=float(row["lr"]),
        seed=int(row["seed"]),
        recipe=study.recipe,
    )
    if run.id != row["run_id"]:
        raise ValueError(f"run {row['run_id'][:12]} was recorded by another version, which this one cannot train again")
    return run


def replay(folder: Path, prefix: str, cache: Path, *, beside: str | None = None, sharpness_every: int = 20) -> str:
    """Train a run again, and the same seed and lr under other methods, with everything watched. Returns what to say.

    beside: methods of the study, such as none,clippy, or all. Raises ValueError in the user's words.
    """
    run_id = run_named(folder, prefix)
    table = tables.read_runs(folder).set_index("run_id", drop=False)
    row = table.loc[run_id].to_dict()
    here = opened(folder, cache, [row["model"]])
    run = run_of(row, here.study)
    others = _beside(here.study, run, beside)
    out = folder / "replay" / run_id
    out.mkdir(parents=True, exist_ok=True)
    traces, told, lines = [], [], []
    for one in (run, *others):
        # The others are looked at closely where the run that was asked for has its moments.
        trace, about = _replayed(here, one, sharpness_every, told[0] if told else None)
        traces.append(trace)
        told.append(about)
        lines.append(f"{one.method} at lr {one.lr:g}, seed {one.seed}: {_said(about)}")
    _write_parquet(out / "trace.parquet", pd.concat(traces, ignore_index=True))
    content = {"run_id": run_id, "tasks": here.tasks, "runs": told, "versions": read_definition(folder).versions}
    (out / "moments.json").write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    from analysis.figures import replay as causes

    figures = causes.write(out)
    return "\n".join([*lines, f"replay: {out}", *(f"  {figure.name}" for figure in figures)])


def _beside(study: Study, run: Run, beside: str | None) -> list[Run]:
    """The same run under other arms of the study."""
    if beside is None:
        return []
    known = list(dict.fromkeys(arm.method for arm in study.arms))
    wanted = known if beside == "all" else [name.strip() for name in beside.split(",")]
    if unknown := [name for name in wanted if name not in known]:
        raise ValueError(f"the study has no method {unknown[0]!r}; it has {', '.join(known)}")
    arms = [arm for arm in study.arms if arm.method in wanted]
    runs = [dataclasses.replace(run, method=arm.method, options=methods.check(arm.method, arm.options)) for arm in arms]
    return [other for other in runs if other.id != run.id]


def _replayed(
    here: Recorded, run: Run, sharpness_every: int, first: Mapping[str, Any] | None
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The trace of one run, and what is to be said of it. first: the same of the run beside which it is replayed; of
    that one alone the sharpness is taken by layer."""
    recorded = here.runs.loc[here.runs["run_id"] == run.id]
    if len(recorded):
        _, loss, constant, _ = judge.stack_losses(tables.read_losses(here.folder, [run.id]), here.tasks)
        before, constant_TK = loss[0], constant[0]
    else:
        plain = train([run], here.log, start=here.start)
        before, constant_TK = plain.loss[0], plain.constant[0]
    found = here.moments(before, constant_TK, run.model)
    own = None if found is None else dataclasses.asdict(found)
    near = ((own if first is None else first["moments"]) or {}).values()

    def close(step: int) -> bool:
        return step % sharpness_every == 0 or any(abs(step - at) <= CLOSE for at in near)

    watch = Watch(here.log, sharpness_at=close, blocks=first is None)
    trained = train([run], here.log, look=watch, start=here.start)
    outcome = outcomes_of(trained, here.log, here.references[run.model], here.study.rule)[0]
    differs = difference(before, trained.loss[0])
    about = {
        "run_id": run.id,
        "run": to_json(run),
        "method": run.method,
        "outcome": outcome.outcome,
        "reason": outcome.reason,
        "diverged_at_step": outcome.diverged_at_step,
        "moments": own,
        "recorded": bool(len(recorded)),
        "same_bits": differs is None if len(recorded) else None,
        "differs_from_step": differs,
        "recorded_by": f"{recorded['version'].iloc[0]} on {recorded['device'].iloc[0]}" if len(recorded) else None,
    }
    trace = watch.table()
    gain_T = here.gains(trained.loss, trained.constant, run.model)[0]
    steps = trace["step"].to_numpy()
    of_run = trace["layer"] == ALL
    losses = {"loss": trained.loss[0].sum(1), "constant": trained.constant[0].sum(1), "gain": gain_T}
    losses["control_gain"] = here.control[run.model][: len(gain_T)]
    losses |= {f"loss_{task}": trained.loss[0][:, k] for k, task in enumerate(here.tasks)}
    for name, values in losses.items():
        trace[name] = np.where(of_run, values[steps], np.nan)
    return trace.assign(method=run.method), about


def difference(before: np.ndarray, after: np.ndarray) -> int | None:
    """The first step at which the losses (S, T) are not the same bits; None where all are."""
    both = min(len(before), len(after))
    one, other = before[:both], after[:both]
    # Zero has two signs, and is equal to itself with either. Which NaN it is depends on what the processor was given.
    same = (one == other) & (np.signbit(one) == np.signbit(other)) | np.isnan(one) & np.isnan(other)
    if not same.all():
        return int(np.flatnonzero(~same.all(axis=1))[0])
    return None if len(before) == len(after) else both


def said_of_bits(differs: int | None, recorded_by: str) -> str:
    """Whether a run that was trained again is the recorded one. differs: as `difference` has it."""
    if differs is None:
        return "the losses equal the recorded ones bit for bit"
    return f"the losses are NOT the recorded ones, from step {differs} on (recorded by {recorded_by})"


def _said(about: Mapping[str, Any]) -> str:
    what = about["outcome"] if about["reason"] is None else f"{about['outcome']} ({about['reason']})"
    if at := about["moments"]:
        what += f", healthy at step {at['healthy']}, rising from {at['rising']}, gone at {at['gone']}"
    if not about["recorded"]:
        return f"{what}; not in the record"
    return f"{what}; {said_of_bits(about['differs_from_step'], about['recorded_by'])}"


# --- signals -----------------------------------------------------------------------------------------------------


def signals_of(folder: Path, runs: Sequence[Run], cache: Path, sharpness_every: int) -> Path:
    """Train runs that can share a stack once more and write what was seen of each, step by step."""
    here = opened(folder, cache, sorted({run.model for run in runs}))
    watch = Watch(
        here.log,
        sharpness_at=lambda step: step % 2 == 0 if step < WARM_UP_STEPS else step % sharpness_every == 0,
        blocks=False,
        layers=False,
        tolerance=SIGNAL_TOLERANCE,
        held_rows=SIGNAL_HELD_ROWS,
    )
    trained = train(runs, here.log, look=watch, start=here.start)
    table = watch.table().drop(columns="layer").set_index(["run_id", "step"])
    parts = []
    for r, run in enumerate(runs):
        found = here.moments(trained.loss[r], trained.constant[r], run.model)
        gain_T = here.gains(trained.loss[r][None], trained.constant[r][None], run.model)[0]
        own = table.loc[run.id].assign(
            loss=trained.loss[r].sum(1),
            constant=trained.constant[r].sum(1),
            gain=gain_T,
            onset=None if found is None else found.rising,
            gone=None if found is None else found.gone,
        )
        parts.append(own.reset_index().assign(run_id=run.id))
    path = folder / "signals" / f"{_name(runs)}.parquet"
    path.parent.mkdir(exist_ok=True)
    whole = pd.concat(parts, ignore_index=True)
    _write_parquet(path, whole.assign(**{name: whole[name].astype("Float64") for name in ("onset", "gone")}))
    return path


def signals(
    folder: Path,
    cache: Path,
    *,
    seeds: Sequence[int] | None = None,
    models: Sequence[str] | None = None,
    only_methods: Sequence[str] | None = None,
    sharpness_every: int = 40,
    workers: int = 1,
    told: Callable[[int, int], None] = lambda _done, _all: None,
) -> int:
    """Watch every recorded run of the study's cells that was not watched yet; the number of runs that now are.

    seeds, models, only_methods: of these alone. told(done, all): after each stack. Raises ValueError where there are
    no such runs.
    """
    definition = read_definition(folder)
    table = tables.read_runs(folder)
    table = table.loc[table["role"] == "cell"]
    for column, wanted in (("seed", seeds), ("model", models), ("method", only_methods)):
        if wanted is not None:
            table = table.loc[table[column].isin(list(wanted))]
    if table.empty:
        raise ValueError(f"{folder} holds no such runs")
    seen = watched(folder)
    runs = [run_of(row, definition.study) for row in table.to_dict("records") if row["run_id"] not in seen]
    stacks = list(_stacks(runs, cache))
    done = len(table) - len(runs)
    told(done, len(table))
    asked = [(folder, stack, cache, sharpness_every) for stack in stacks]
    with _at_a_time(min(workers, len(stacks) or 1)) as each:
        for path in each(signals_of, *zip(*asked, strict=True)) if asked else ():
            done += len(set(pq.read_table(path, columns=["run_id"])["run_id"].to_pylist()))
            told(done, len(table))
    return done


def watched(folder: Path) -> set[str]:
    """Ids of the runs whose signals are there."""
    files = sorted((folder / "signals").glob("*.parquet"))
    return {run for path in files for run in pq.read_table(path, columns=["run_id"])["run_id"].unique().to_pylist()}


def _stacks(runs: Sequence[Run], cache: Path) -> Iterator[list[Run]]:
    """Runs of one model and kind, a seed's beside each other, at most `SIGNAL_STACK` at a time."""
    kind_of = kinds(cache)
    together: dict[tuple[str, str], list[Run]] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        together.setdefault((run.model, kind_of(run)), []).append(run)
    for of_kind in together.values():
        for start in range(0, len(of_kind), SIGNAL_STACK):
            yield of_kind[start : start + SIGNAL_STACK]


@contextlib.contextmanager
def _at_a_time(workers: int) -> Iterator[Callable[..., Any]]:
    if workers == 1:
        yield map
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool.map


def _name(runs: Sequence[Run]) -> str:
    return Stack(runs=tuple(runs)).name


def _write_parquet(path: Path, table: pd.DataFrame) -> None:
    """Whole, or not at all."""
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    floats = table.select_dtypes("float64").columns
    table.astype(dict.fromkeys(floats, "float32")).to_parquet(beside, index=False, compression="zstd")
    beside.replace(path)

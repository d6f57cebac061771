"""`study status`: runs that are done, training, diverged, failed and missing, from the study's folder alone.

The record says what is done. Heartbeats (`study.execution.heartbeat`) say what trains, and the lock names the driver.
A crash leaves both behind, so a heartbeat counts only while its process lives, or, on another machine, its driver.
"""

import json
import shlex
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any

import pandas as pd

from study.commands.progress import duration
from study.config import IMPORTED, EdgeSearch, Study, control_of, further_control, has_grid, planned_ids
from study.execution import checkpoint, heartbeat
from study.record import tables
from study.record.confirmations import read_confirmations
from study.record.definition import Definition, RecordError, read_definition, study_exists
from study.record.failures import read_failures
from study.record.range_tests import read_range_tests
from study.storage import holder, lock, stores
from study.text.wording import count

FRESH_SECONDS = 90.0
"""The time since the last heartbeat is shown if it is longer, by the clocks of both machines. It decides nothing."""

MOST_LRS = 100
MOST_CURVES = 200
"""A model with more lrs or curves is in no table."""

STATES = ("training", "diverged", "undertrained", "failed", "missing")
LEGEND = "d diverged, u undertrained, t training, f failed"


@dataclass(kw_only=True)
class Cell:
    """Counts of the runs that differ only in seed. done = diverged + undertrained + completed.

    planned = done + training + failed + missing; None for a search, which plans as it goes.
    """

    model: str
    curve: str
    lr: float
    planned: int | None = None
    done: int = 0
    training: int = 0
    diverged: int = 0
    undertrained: int = 0
    failed: int = 0
    missing: int = 0


@dataclass(frozen=True, kw_only=True)
class Status:
    """Progress of a study.

    Args:
        study, folder: name and address.
        driver: the process that holds the study; None if there is none.
        at_work: whether the driver lives, as far as is known. True if the lock cannot be read.
        total, control: counts of the study's runs and of the control's.
        cells: counts by cell.
        training: stacks that train.
        silent: stacks whose processes are gone.
        kept: number of stacks with a checkpoint.
        failures: reason -> runs.
        confirmations, outline, code: lines for people; `code` names own modules that changed between the runs.
        imported: whether the runs were imported; nothing can be trained then.
        lock_error: why the lock cannot be read, which names the driver.
        stopped: why the study stopped after a control, and the ways on; then no run of a cell is trained.
    """

    study: str
    folder: str
    driver: str | None
    at_work: bool
    total: dict[str, int | None]
    control: dict[str, int]
    cells: list[Cell]
    training: list[dict[str, Any]] = field(default_factory=list)
    silent: list[dict[str, Any]] = field(default_factory=list)
    kept: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    confirmations: list[str] = field(default_factory=list)
    outline: list[str] = field(default_factory=list)
    imported: bool = False
    code: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    lock_error: str | None = None


def status(folder: Path, *, as_json: bool = False) -> str:
    """Return the text of `study status`, or JSON."""
    found = read_status(folder)
    if not as_json:
        return text(found)
    # `asdict` copies each of 500,000 cells, which takes seconds.
    return json.dumps(vars(found) | {"cells": [vars(cell) for cell in found.cells]}, indent=1, allow_nan=False)


def read_status(folder: Path) -> Status:
    """Return the progress of the study in a folder. Raises RecordError if there is no study."""
    from analysis.text.control import control_notes
    from analysis.text.mixture import code_notes

    if not study_exists(folder):
        _refuse_range_tests(folder)
    definition = read_definition(folder)
    study, content = definition.study, definition.data["content"]
    runs = tables.read_runs(folder)
    recorded_ids = set(runs["run_id"])
    confirmations, other_runs = _confirmations(folder, definition, recorded_ids)
    recorded: Any = runs[(runs["role"] == "cell") & ~runs["run_id"].isin(list(other_runs))]
    failures = read_failures(folder, recorded_ids)
    driver = lock.read_holder(folder)
    at_work = bool(driver) and not driver.get("gone")
    alive, silent = _trials(folder, at_work=at_work)
    trains = {run for trial in alive for run in trial["runs"]} - recorded_ids
    grid = has_grid(study)
    cells = _planned_cells(study, content, recorded, failures, trains) if grid else _found_cells(recorded)
    control = _control(study, content, recorded_ids | trains | failures.keys())
    total: dict[str, int | None] = {"planned": len(cells) * len(study.seeds) if grid else None}
    total |= {name: sum(map(attrgetter(name), cells)) for name in STATES} | {"done": len(recorded)}
    if not grid:
        total |= {"missing": None, "training": len(trains - control), "failed": len(failures.keys() - control)}
    return Status(
        study=study.name,
        folder=stores.address(folder),
        driver=driver.get("who"),
        lock_error=driver.get("unreadable"),
        at_work=at_work,
        total=total,
        control={
            "planned": len(control),
            "done": len(control & recorded_ids),
            "training": len(control & trains),
            "failed": len(control & failures.keys()),
        },
        cells=cells,
        training=[_trial_counts(trial) for trial in alive],
        silent=[_trial_counts(trial) for trial in silent],
        kept=len(checkpoint.checkpointed_stacks(folder)),
        failures=dict(Counter(failures.values()).most_common()),
        confirmations=confirmations,
        outline=_outline(study, content, folder),
        imported=study.trainer == IMPORTED,
        code=code_notes(runs),
        stopped=control_notes(definition, folder, runs),
    )


def text(status: Status, width: int = 120) -> str:
    """Return the status for a terminal that is `width` characters wide."""
    total, control = status.total, status.control
    failed_word = "missing" if status.imported else "failed"
    planned = "" if total["planned"] is None else f" of {total['planned']}"
    failed = (total["failed"] or 0) + control["failed"]
    lines = [f"{status.study}: {total['done']}{planned} runs recorded, {failed} {failed_word}, in {status.folder}"]
    if counts := [f"{total[name]} {name}" for name in STATES if total[name] and name != "failed"]:
        lines.append(f"  {', '.join(counts)}")
    if control["done"] < control["planned"]:
        lines.append(f"  control: {control['done']} of {control['planned']} done, {control['training']} training")
    lines += [
        *([] if status.imported else [f"  {_driver(status)}"]),
        *(f"  training: {_trial_line(trial)}" for trial in status.training),
        *(f"  process gone: {_trial_line(trial)}" for trial in status.silent),
        *(f"  {line}" for line in status.outline),
        *status.confirmations,
        *(f"  {line}" for line in (*status.code, *status.stopped)),
        *(f"  {failed_word}: {count(n, 'run')}: {reason}" for reason, n in status.failures.items()),
    ]
    grid = "" if status.outline else table(status.cells, width)
    return "\n".join(lines) + (f"\n\n{grid}" if grid else "")


def table(cells: Sequence[Cell], width: int = 120) -> str:
    """Return one block a model, with a row for each lr and a column for each curve. Wide tables are split."""
    blocks: list[str] = []
    models: defaultdict[str, list[Cell]] = defaultdict(list)
    for cell in cells:
        models[cell.model].append(cell)
    for model, own in models.items():
        lrs, curves = sorted({cell.lr for cell in own}), list(dict.fromkeys(cell.curve for cell in own))
        if len(lrs) > MOST_LRS or len(curves) > MOST_CURVES:
            many = f"{count(len(curves), 'curve')} and {count(len(lrs), 'lr')}"
            blocks.append(f"{model}: {many} are too many for a table; --json has every cell")
            continue
        counts = {(cell.curve, cell.lr): _cell_text(cell) for cell in own}
        left = [text.rjust(max(2, *(len(f"{lr:g}") for lr in lrs))) for text in ("lr", *(f"{lr:g}" for lr in lrs))]
        columns = [[curve, *(counts.get((curve, lr), "-") for lr in lrs)] for curve in curves]
        while columns:
            rows = left
            while columns and (rows is left or len(rows[0]) + 2 + max(map(len, columns[0])) <= width):
                column = columns.pop(0)
                rows = [f"{row}  {cell:{max(map(len, column))}}" for row, cell in zip(rows, column, strict=True)]
            blocks.append("\n".join([f"{model}: runs done of those planned ({LEGEND})", *map(str.rstrip, rows)]))
    return "\n\n".join(blocks)


def _cell_text(cell: Cell) -> str:
    more = {"d": cell.diverged, "u": cell.undertrained, "t": cell.training, "f": cell.failed}
    planned = "" if cell.planned is None else f"/{cell.planned}"
    return " ".join([f"{cell.done}{planned}", *(f"{n}{letter}" for letter, n in more.items() if n)])


def _planned_cells(
    study: Study, content: str, recorded: pd.DataFrame, failures: Mapping[str, str], trains: set[str]
) -> list[Cell]:
    from analysis.loading import curve_labels

    outcomes = dict(zip(recorded["run_id"], recorded["outcome"], strict=True))
    states = dict.fromkeys(failures, "failed") | dict.fromkeys(trains, "training") | outcomes
    labels = dict(zip(map(id, study.arms), curve_labels((a.method, a.options) for a in study.arms), strict=True))
    first, planned = study.seeds[0], len(study.seeds)
    cells: list[Cell] = []
    for model, arm, lr, seed, run_id in planned_ids(study, content):
        if seed == first:
            cells.append(Cell(model=model, curve=labels[id(arm)], lr=lr, planned=planned, missing=planned))
        if run_id in states:
            cell = cells[-1]
            cell.missing -= 1
            cell.done += run_id in outcomes
            if (state := states[run_id]) in STATES:
                setattr(cell, state, getattr(cell, state) + 1)
    return cells


def _control(study: Study, content: str, seen: set[str]) -> set[str]:
    """Ids of the control: of its ladder, and of each lr by which it grows, of which a run was seen."""
    ids = {run.id for run in control_of(study, content)}
    for model in study.models:
        for runs in further_control(study, content, model):
            own = {run.id for run in runs}
            if not own & seen:
                break
            ids |= own
    return ids


def _found_cells(recorded: pd.DataFrame) -> list[Cell]:
    """The cells of the recorded runs, of a study without a grid."""
    from analysis.loading import CELL, in_order, records, with_curves

    if recorded.empty:
        return []
    runs: Any = with_curves(recorded)
    flags = {name: (runs["outcome"] == name).astype("int64") for name in ("diverged", "undertrained")}
    counted = runs[[*CELL, "method"]].assign(done=1, **flags)
    cells = in_order(counted.groupby([*CELL, "method"], as_index=False, sort=False).sum())
    return [Cell(**{name: row[name] for name in (*CELL, "done", *flags)}) for row in records(cells)]


def _trials(folder: Path, *, at_work: bool) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the trials that train, and those whose process is gone. Those of other machines end with the driver."""
    alive, silent = [], []
    for trial, found in heartbeat.each(folder, warnings.warn).items():
        found = found | {"trial": trial, "silent": max(0.0, time.time() - found["beat"])}
        lives = holder.is_alive(found)
        trains = not found.get("ended") and (at_work if lives is None else lives)
        (alive if trains else silent).append(found)
    return alive, silent


def _refuse_range_tests(folder: Path) -> None:
    """Raise RecordError for a folder that holds range tests and no study: a search may be about to begin there."""
    tests, driver = len(read_range_tests(folder)), lock.read_holder(folder)
    at_work = f"; {driver['who']} is at work" if driver.get("gone") is False else ""
    if tests or at_work:
        recorded = f"{count(tests, 'range test')} {'is' if tests == 1 else 'are'} recorded there"
        raise RecordError(f"{stores.address(folder)} holds no study yet: {recorded}{at_work}")


def _trial_counts(trial: Mapping[str, Any]) -> dict[str, Any]:
    counts = {name: trial.get(name) for name in ("trial", "model", "method", "host", "pid", "step", "steps")}
    seconds = {"seconds": round(trial["seconds"], 1), "silent_seconds": round(trial["silent"], 1)}
    return counts | {"runs": len(trial["runs"])} | seconds


def _trial_line(trial: Mapping[str, Any]) -> str:
    steps = f" of {trial['steps']}" if trial["steps"] else ""
    silent = trial["silent_seconds"]
    last = f", last heartbeat {duration(silent)} ago" if silent > FRESH_SECONDS else ""
    return (
        f"{count(trial['runs'], 'run')} of {trial['method']} on {trial['model']}, step {trial['step']:g}{steps} after "
        f"{duration(trial['seconds'])}, process {trial['pid']:g} on {trial['host']}{last}"
    )


def _driver(status: Status) -> str:
    if status.lock_error:
        return f"unknown whether a driver is at work: {status.lock_error}"
    if status.driver and status.at_work:
        return f"driver: {status.driver}"
    unfinished = status.total["missing"] or status.total["failed"] or status.control["failed"] or status.silent
    what = f"nothing is training: {status.driver} has ended" if status.driver else "nothing is training"
    kept = f"; {status.kept} stacks have checkpoints" if status.kept else ""
    goes_on = (status.driver or unfinished) and not status.stopped
    resume = f"; `study resume {shlex.quote(status.folder)}` continues" if goes_on else ""
    return what + kept + resume


def _outline(study: Study, content: str, folder: Path) -> list[str]:
    """Lines about an edge search; none for other studies."""
    if not isinstance(study.search, EdgeSearch):
        return []
    from study.search import edge_search

    return edge_search.source(study, content, folder).outline()


def _confirmations(folder: Path, definition: Definition, done: set[str]) -> tuple[list[str], set[str]]:
    """Return a line for each confirmation, and the ids of their runs that are in no cell of the study."""
    lines: list[str] = []
    ids: set[str] = set()
    for confirmation in read_confirmations(folder):
        own = {run.id for run in confirmation.runs(definition)}
        seeds, methods = confirmation.seeds, ", ".join(dict.fromkeys(arm.method for arm in confirmation.arms))
        lines.append(
            f"  confirmation at lr {confirmation.lr:g} of {methods}, {len(seeds)} seeds ({seeds[0]} to {seeds[-1]}): "
            f"{len(own & done)} of {len(own)} done"
        )
        ids |= own
    if ids and has_grid(definition.study):
        ids.difference_update(run_id for *_, run_id in planned_ids(definition.study, definition.data["content"]))
    return lines, ids

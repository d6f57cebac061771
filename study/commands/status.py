"""Where a study stands, from its folder alone, while it trains or after: done, training, diverged, failed, missing.

The record says what is done. What trains now is told by files that its processes write (`study.execution.heartbeat`),
and who drives it by the lock's; a crash leaves both behind, so they count for as long as they are fresh.
"""

import json
import os
import socket
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from study.commands.progress import duration
from study.config import Arm, EdgeSearch, Study, control_of, runs_of
from study.execution import checkpoint, heartbeat
from study.record import tables
from study.record.confirmations import read_confirmations
from study.record.definition import Definition, read_definition
from study.record.failures import read_failures
from study.storage import lock, stores

FRESH_SECONDS = 90.0
"""A process that has been silent for longer counts as gone."""

MOST_LRS = 100
COUNTS = ("planned", "done", "training", "diverged", "undertrained", "failed", "missing")


@dataclass(kw_only=True)
class Cell:
    """Runs that differ only in seed, counted. done = diverged + undertrained + completed; training, failed and missing
    are apart from it, and from each other. planned: None where a search plans as it goes."""

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
    """Where a study stands. driver: who holds it, None where no one does. at_work: whether that one is alive, as far as
    can be told. training: stacks under way. silent: stacks whose processes are gone. kept: stacks with a checkpoint."""

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


def status(folder: Path, *, as_json: bool = False) -> str:
    """Return the text of `study status`, or JSON."""
    found = read_status(folder)
    return as_json_text(found) if as_json else text(found)


def read_status(folder: Path) -> Status:
    """Raises RecordError where there is no study."""
    definition = read_definition(folder)
    study, content = definition.study, definition.data["content"]
    runs = tables.read_runs(folder)
    confirmations, beside = _confirmations(folder, definition, runs)
    recorded: Any = runs[(runs["role"] == "cell") & ~runs["run_id"].isin(beside)]
    failures = read_failures(folder, set(runs["run_id"]))
    alive, silent = _trials(folder)
    trains = {run for trial in alive for run in trial["runs"]} - set(runs["run_id"])
    cells = _searched(recorded) if study.search else _planned(study, content, recorded, failures, trains)
    control = {run.id for run in control_of(study, content)}
    total: dict[str, int | None] = {name: sum(getattr(cell, name) or 0 for cell in cells) for name in COUNTS}
    total["done"] = len(recorded)
    if study.search:
        total |= {"planned": None, "missing": None}
        total |= {"training": len(trains - control), "failed": len(failures.keys() - control)}
    holder = lock.read_holder(folder)
    return Status(
        study=study.name,
        folder=stores.address(folder),
        driver=holder.get("who"),
        at_work=bool(holder) and not holder["gone"],
        total=total,
        control={
            "planned": len(control),
            "done": len(control & set(runs["run_id"])),
            "training": len(control & trains),
            "failed": len(control & failures.keys()),
        },
        cells=cells,
        training=[_shown(trial) for trial in alive],
        silent=[_shown(trial) for trial in silent],
        kept=len(checkpoint.begun(folder)),
        failures=dict(Counter(failures.values()).most_common()),
        confirmations=confirmations,
        outline=_outline(study, content, folder),
    )


def text(status: Status, width: int = 120) -> str:
    """For a terminal."""
    total, control = status.total, status.control
    of = "" if total["planned"] is None else f" of {total['planned']}"
    failed = (total["failed"] or 0) + control["failed"]
    beside = [f"{total[name]} {name}" for name in ("training", "diverged", "undertrained", "missing") if total[name]]
    first = control["planned"] - control["done"]
    lines = [
        f"{status.study}: {total['done']}{of} runs recorded, {failed} failed, in {status.folder}",
        *([f"  {', '.join(beside)}"] if beside else []),
        *(
            [f"  control: {control['done']} of {control['planned']} done, {control['training']} training"]
            if first
            else []
        ),
        f"  {_who(status)}",
        *(f"  trains: {_line(trial)}" for trial in status.training),
        *(f"  gone: {_line(trial)}" for trial in status.silent),
        *(f"  {line}" for line in status.outline),
        *status.confirmations,
        *(f"  failed: {n} runs: {reason}" for reason, n in status.failures.items()),
    ]
    grid = "" if status.outline else table(status.cells, width)
    return "\n".join(lines) + (f"\n\n{grid}" if grid else "")


def as_json_text(status: Status) -> str:
    return json.dumps(asdict(status), indent=1, allow_nan=False)


def table(cells: Sequence[Cell], width: int = 120) -> str:
    """A block a model, a row an lr, a column a curve: runs done of those planned, and what else they are."""
    blocks = []
    for model in dict.fromkeys(cell.model for cell in cells):
        of_model = {(cell.curve, cell.lr): _cell(cell) for cell in cells if cell.model == model}
        lrs, curves = sorted({lr for _, lr in of_model}), list(dict.fromkeys(curve for curve, _ in of_model))
        if len(lrs) > MOST_LRS:
            blocks.append(f"{model}: {len(lrs)} lrs are more than a table shows; --json has every cell")
            continue
        left = max(2, *(len(f"{lr:g}") for lr in lrs))
        columns = [[curve, *(of_model.get((curve, lr), "-") for lr in lrs)] for curve in curves]
        widths = [max(map(len, column)) for column in columns]
        while columns:
            fit = 1
            while fit < len(columns) and left + sum(w + 2 for w in widths[: fit + 1]) <= width:
                fit += 1
            shown = [[text.ljust(w) for text in column] for column, w in zip(columns[:fit], widths[:fit], strict=True)]
            rows = zip(["lr", *(f"{lr:g}" for lr in lrs)], *shown, strict=True)
            lines = ["  ".join([row[0].rjust(left), *row[1:]]).rstrip() for row in rows]
            blocks.append("\n".join([f"{model}: runs done of those planned ({LEGEND})", *lines]))
            columns, widths = columns[fit:], widths[fit:]
    return "\n\n".join(blocks)


LEGEND = "d diverged, u undertrained, t training, f failed"


def _cell(cell: Cell) -> str:
    more = {"d": cell.diverged, "u": cell.undertrained, "t": cell.training, "f": cell.failed}
    of = "" if cell.planned is None else f"/{cell.planned}"
    return " ".join([f"{cell.done}{of}", *(f"{n}{letter}" for letter, n in more.items() if n)])


def _planned(
    study: Study, content: str, recorded: pd.DataFrame, failures: Mapping[str, str], trains: set[str]
) -> list[Cell]:
    """Every cell of the plan. A recorded run is found by its id."""
    outcomes = dict(zip(recorded["run_id"], recorded["outcome"], strict=True))
    labels = _labels(study.arms)
    cells: dict[tuple[str, str, float], Cell] = {}
    for run in runs_of(study, content):
        label = labels[_key(run.method, run.options)]
        key = (run.model, label, run.lr)
        cell = cells.get(key)
        if cell is None:
            cell = cells[key] = Cell(model=run.model, curve=label, lr=run.lr, planned=0)
        cell.planned = (cell.planned or 0) + 1
        name = run.id  # a hash that is made each time
        if name in outcomes:
            cell.done += 1
            cell.diverged += outcomes[name] == "diverged"
            cell.undertrained += outcomes[name] == "undertrained"
        elif name in trains:
            cell.training += 1
        elif name in failures:
            cell.failed += 1
        else:
            cell.missing += 1
    return list(cells.values())


def _searched(recorded: pd.DataFrame) -> list[Cell]:
    """The cells that there are."""
    from analysis.loading import CELL, in_order, records, with_curves

    if recorded.empty:
        return []
    runs: Any = with_curves(recorded)
    flags = {name: (runs["outcome"] == name).astype("int64") for name in ("diverged", "undertrained")}
    counted = runs[[*CELL, "method"]].assign(done=1, **flags)
    cells = in_order(counted.groupby([*CELL, "method"], as_index=False, sort=False).sum())
    return [Cell(**{name: row[name] for name in (*CELL, "done", *flags)}) for row in records(cells)]


def _key(method: str, options: Mapping[str, Any]) -> tuple[str, str]:
    return method, json.dumps(options, sort_keys=True)


def _labels(arms: Sequence[Arm]) -> dict[tuple[str, str], str]:
    from analysis.loading import curve_labels

    labels = curve_labels((arm.method, arm.options) for arm in arms)
    return {_key(arm.method, arm.options): label for arm, label in zip(arms, labels, strict=True)}


def _trials(folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Trials under way, and those whose process is gone."""
    alive, silent = [], []
    for trial, found in heartbeat.each(folder).items():
        found = found | {"trial": trial, "silent": max(0.0, time.time() - found["beat"])}
        found["runs"] = [run for run in found.get("runs", []) if isinstance(run, str)]
        gone = found["silent"] > FRESH_SECONDS or found.get("ended") or not _lives(found["host"], found["pid"])
        (silent if gone else alive).append(found)
    return alive, silent


def _shown(trial: Mapping[str, Any]) -> dict[str, Any]:
    shown = {name: trial.get(name) for name in ("trial", "model", "method", "host", "pid", "step", "steps")}
    seconds = {
        "seconds": round(max(0.0, trial["beat"] - trial["since"]), 1),
        "silent_seconds": round(trial["silent"], 1),
    }
    return shown | {"runs": len(trial["runs"])} | seconds


def _line(trial: Mapping[str, Any]) -> str:
    of = f" of {trial['steps']}" if trial["steps"] else ""
    heard = (
        f", last heard of {duration(trial['silent_seconds'])} ago" if trial["silent_seconds"] > FRESH_SECONDS else ""
    )
    return (
        f"{trial['runs']} runs of {trial['method']} on {trial['model']}, step {trial['step']:g}{of} after "
        f"{duration(trial['seconds'])}, process {trial['pid']:g} on {trial['host']}{heard}"
    )


def _lives(host: Any, pid: Any) -> bool:
    """Whether a process lives; of another machine, that cannot be told, and it may."""
    if host != socket.gethostname():
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError, ValueError, TypeError):
        pass
    return True


def _who(status: Status) -> str:
    again = f"study resume {status.folder} goes on"
    kept = f"; {status.kept} stacks are kept as far as they came" if status.kept and not status.at_work else ""
    if status.driver is None:
        unfinished = status.total["missing"] or status.total["failed"] or status.control["failed"] or status.silent
        return f"no one trains it{kept}{f': {again}' if unfinished else ''}"
    if status.at_work:
        return f"at work: {status.driver}"
    return f"no one trains it: {status.driver} held it, and is gone{kept}: {again}"


def _outline(study: Study, content: str, folder: Path) -> list[str]:
    """Where a search of edges stands."""
    if not isinstance(study.search, EdgeSearch):
        return []
    from study.search import edge_search

    return edge_search.source(study, content, folder).outline()


def _confirmations(folder: Path, definition: Definition, runs: pd.DataFrame) -> tuple[list[str], list[str]]:
    """A line for each confirmation, and the ids of their runs that are none of the study's cells."""
    confirmations = read_confirmations(folder)
    if not confirmations:
        return [], []
    done = set(runs["run_id"])
    own = set() if definition.study.search else {r.id for r in runs_of(definition.study, definition.data["content"])}
    lines, beside = [], set()
    for confirmation in confirmations:
        ids = {run.id for run in confirmation.runs(definition)}
        seeds, methods = confirmation.seeds, ", ".join(dict.fromkeys(arm.method for arm in confirmation.arms))
        lines.append(
            f"  confirmation at lr {confirmation.lr:g} of {methods}, {len(seeds)} seeds ({seeds[0]} to {seeds[-1]}): "
            f"{len(ids & done)} of {len(ids)} done"
        )
        beside |= ids - own
    return lines, sorted(beside)

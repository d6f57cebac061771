"""Records of any size within seconds: every planned run of a study, with losses, as if it had been trained.

Run r of seed s diverges above its arm's edge times the seed's factor, both drawn once. Losses of a run that learns fall
by `d = gain * G`, and those of a diverged one come back in its second half.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from study.config import Run, control_of, runs_of
from study.record.definition import Definition, open_study
from study.record.schema import COLUMNS, LOSSES, extra_column_type
from study.record.tables import write_tables
from study.trainers.protocol import Trainer

GAIN = 0.5


def write_fake_record(folder: Path, trainer: Trainer, *, stack: int = 40) -> int:
    """Write the record of a trainer's study.

    Args:
        folder: to write into.
        trainer: of the study; it must be a ranker, whose tasks are regressions.
        stack: runs of a trial.

    Returns:
        How many runs were written, the control included.
    """
    study, content = trainer.study, trainer.content
    open_study(folder, Definition(study=study, data=trainer.description(), versions={"torch": "2"}))
    control, cells = control_of(study, content), runs_of(study, content)
    runs = [*control, *cells]
    draws = np.random.default_rng(0)
    arms = list(dict.fromkeys((run.method, _json(run.options)) for run in runs))
    edge = dict(zip(arms, 10 ** draws.normal(0.0, 0.5, len(arms)), strict=True))
    factor = dict(zip(study.seeds, 10 ** draws.normal(0.0, 0.15, len(study.seeds)), strict=True))
    stacks = [of_role[i : i + stack] for of_role in (control, cells) for i in range(0, len(of_role), stack)]
    for i, own in enumerate(stacks):
        limit = np.array([edge[run.method, _json(run.options)] * factor.get(run.seed, np.inf) for run in own])
        _write_trial(folder, f"{i:08d}", own, np.array([run.lr for run in own]) > limit, trainer)
    return len(runs)


def _write_trial(folder: Path, trial: str, runs: Sequence[Run], diverged: np.ndarray, trainer: Trainer) -> None:
    steps, tasks = trainer.steps_of(runs[0]) or 1, trainer.tasks
    columns: dict[str, Any] = dict.fromkeys(COLUMNS.names, [None] * len(runs))
    control = runs[0].role == "control"
    parts = [trainer.columns(run) for run in runs]
    same = {"study": trainer.study.name, "micro_episodes": 0, "episodes": "[]", "spikes": 0, "final_loss": 0.5}
    same |= {"moved": 3.0, "steps": steps, "seconds": 0.01, "device": "cpu", "version": "study 1"}
    columns |= {name: [value] * len(runs) for name, value in same.items()}
    own = ("data", "model", "method", "lr", "seed", "role")
    columns |= {name: [getattr(run, name) for run in runs] for name in own}
    columns |= {
        "run_id": [run.id for run in runs],
        "thresholds": [_json(thresholds) for thresholds, _ in parts],
        "options": [_json(options) for _, options in parts],
    }
    noise = np.random.default_rng(int(runs[0].id[:12], 16)).normal(size=len(runs))
    if not control:
        kept = np.where(diverged, 0.0, 1.0) + 0.02 * noise
        columns |= {
            "outcome": np.where(diverged, "diverged", "completed").tolist(),
            "reason": [("collapsed" if bad else None) for bad in diverged],
            "diverged_at_step": [(steps // 2 if bad else None) for bad in diverged],
            "kept": kept.tolist(),
        }
        for task in tasks:
            columns |= {f"kept_{task['name']}": kept.tolist(), f"diverged_{task['name']}": diverged.tolist()}
            columns |= {f"rmse_{task['name']}": (1.2 - 0.4 * kept).tolist()}
    extra = [name for name in columns if name not in COLUMNS.names]
    schema = pa.schema([*COLUMNS, *((name, extra_column_type(name)) for name in extra)])
    write_tables(folder, trial, pa.table(columns, schema=schema), _losses(runs, diverged, steps, tasks))


def _losses(runs: Sequence[Run], diverged: np.ndarray, steps: int, tasks: Sequence[Any]) -> pa.Table:
    t = np.arange(steps) / steps
    rows: dict[str, list[Any]] = {name: [] for name in LOSSES.names}
    for task in tasks:
        constant = np.full(steps, task["constant_loss"], np.float32)
        learns = constant * (1 - GAIN * np.minimum(1.0, 0.5 + t))
        falls = np.where(t < 0.5, learns, constant)
        for seed in dict.fromkeys(run.seed for run in runs):
            _add(rows, None, seed, task["name"], constant)
        for run, bad in zip(runs, diverged, strict=True):
            _add(rows, run.id, run.seed, task["name"], falls if bad else learns)
    return pa.table(rows, schema=LOSSES)


def _add(rows: dict[str, list[Any]], *values: Any) -> None:
    for column, value in zip(rows.values(), values, strict=True):
        column.append(value)


def _json(values: Any) -> str:
    return json.dumps(values, sort_keys=True)

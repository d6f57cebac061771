"""Simulated training: records runs with a known gain and a known edge."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from simulated_record import CONTENT

from study.config import Run, Study
from study.execution.planner import Stack
from study.record.definition import Definition, open_study
from study.record.tables import write_trial

STEPS = 24
TASKS: tuple[dict[str, Any], ...] = (
    {"name": "click", "kind": "binary", "base": 0.4, "scale": 1.0, "constant_loss": 0.67, "constant_rmse": None},
    {"name": "play", "kind": "regression", "base": 2.0, "scale": 1.0, "constant_loss": 1.0, "constant_rmse": 1.4},
)
DATA = {
    "source": "synthetic",
    "content": CONTENT,
    "rows": 22_000,
    "train_rows": 20_000,
    "heldout_rows": 2_000,
    "id_names": ["user"],
    "vocabulary": [10],
    "number_names": [],
    "tasks": [{"unit": "", **task} for task in TASKS],
    "facts": {},
}

Truth = Callable[[float, Mapping[str, float]], tuple[float, float]]
"""lr and thresholds -> (gain of a healthy run, LR50)."""


class Trainer:
    """Records the runs of a stack. Seed s diverges above edge * 10 ** (spread * z_s), with every method."""

    def __init__(
        self,
        folder: Path,
        truth: Mapping[str, Truth],
        thresholds: Mapping[str, Mapping[str, float]],
        *,
        spread: float = 0.1,
        noise: float = 0.002,
    ) -> None:
        self.folder, self.truth, self.thresholds = folder, truth, thresholds
        self.spread, self.noise = spread, noise
        self.trained: list[Run] = []

    def __call__(self, stack: Stack) -> None:
        rows, losses = [], []
        for run in stack.runs:
            row, of_run = self._run(run)
            rows.append(row)
            losses += of_run
        for seed in {run.seed for run in stack.runs}:
            losses += [{"run_id": None, "seed": seed, "task": t["name"], "loss": _constant(t)} for t in TASKS]
        write_trial(self.folder, stack.name, rows, losses)
        self.trained += stack.runs

    def _run(self, run: Run) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        thresholds = {**self.thresholds[run.method], **run.options}
        gain, edge = self.truth[run.method](run.lr, thresholds)
        z = float(np.random.default_rng([run.seed, 1]).normal())
        own = float(np.random.default_rng([run.seed, int(run.id[:12], 16)]).normal())
        diverged = run.lr >= edge * 10 ** (self.spread * z)
        gain = gain + self.noise * own
        row = {
            "run_id": run.id,
            "study": "simulated",
            "data": run.data,
            "model": run.model,
            "method": run.method,
            "options": "{}",
            "thresholds": json.dumps(thresholds),
            "lr": run.lr,
            "seed": run.seed,
            "role": run.role,
            "outcome": "diverged" if diverged else "completed",
            "reason": "nonfinite" if diverged else None,
            "diverged_at_step": 5 if diverged else None,
            "micro_episodes": 0,
            "episodes": "[]",
            "spikes": 0,
            "kept": None if diverged else 1.0,
            "steps": STEPS,
            "seconds": 1.0,
            "device": "cpu",
            "version": "0",
            "auc_click": None if diverged else 0.5 + gain,
            "rmse_play": None if diverged else 1.4 - gain,
        }
        losses = [
            {
                "run_id": run.id,
                "seed": run.seed,
                "task": task["name"],
                "loss": _constant(task) * np.float32(np.nan if diverged else 1 - gain),
            }
            for task in TASKS
        ]
        return row, losses


def _constant(task: Mapping[str, Any]) -> np.ndarray:
    return np.full(STEPS, task["constant_loss"], np.float32)


def opened(folder: Path, study: Study) -> Definition:
    return open_study(folder, Definition(study=study, data=DATA, versions={}))

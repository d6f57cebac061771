"""What the tests of several folders share: records."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from study.config import Arm, Run, Study
from study.record.definition import Definition, open_study
from study.record.tables import write_trial

TASKS = ("click", "time")

STEPS = 6


def make_definition(content: str = "c" * 64, **changes: Any) -> Definition:
    values: dict[str, Any] = {
        "name": "edges",
        "models": ("small",),
        "arms": (Arm(method="none"),),
        "lrs": (0.1, 0.2),
        "seeds": (0, 1),
    }
    return Definition(
        study=Study(**values | changes), data={"content": content, "tasks": [TASK]}, versions={"torch": "2"}
    )


TASK = {"name": "click", "kind": "binary", "base": 0.4, "scale": 1.0, "constant_loss": 0.67, "constant_rmse": None}


def row_id(lr: float = 0.1, seed: int = 0, model: str = "small", method: str = "clippy") -> str:
    """The id of the run that `make_row` describes."""
    return Run(data="c" * 64, model=model, method=method, lr=lr, seed=seed).id


A0, B0, B1 = row_id(0.2, 0), row_id(0.1, 0), row_id(0.1, 1)
"""The runs of `write_two_trials`."""


def make_row(lr: float = 0.1, seed: int = 0, **changes: Any) -> dict[str, Any]:
    return {
        "run_id": row_id(lr, seed, **{name: changes[name] for name in ("model", "method") if name in changes}),
        "study": "edges",
        "data": "c" * 64,
        "model": "small",
        "method": "clippy",
        "options": "{}",
        "thresholds": '{"abs": 0.01, "rel": 0.5}',
        "lr": lr,
        "seed": seed,
        "role": "cell",
        "outcome": "completed",
        "reason": None,
        "diverged_at_step": None,
        "micro_episodes": 1,
        "episodes": "[[2, 0.6, 3]]",
        "spikes": 0,
        "final_loss": 0.6,
        "kept": 0.9,
        "moved": 3.4,
        "steps": STEPS,
        "seconds": 1.5,
        "device": "cpu",
        "version": "0.1.0",
        "kept_click": 0.8,
        "kept_time": None,
        "diverged_click": False,
        "diverged_time": None,
        "auc_click": 0.7,
        "rmse_time": 1.25,
    } | changes


def make_losses(run_ids: dict[str, int]) -> list[dict[str, Any]]:
    curve = np.arange(STEPS, dtype=np.float32)
    rows = [
        {"run_id": run_id, "seed": seed, "task": task, "loss": curve + 10 * seed + k}
        for run_id, seed in run_ids.items()
        for k, task in enumerate(TASKS)
    ]
    rows += [
        {"run_id": None, "seed": seed, "task": task, "loss": -curve - 10 * seed - k}
        for seed in sorted(set(run_ids.values()))
        for k, task in enumerate(TASKS)
    ]
    return rows


def write_two_trials(folder: Path) -> None:
    open_study(folder, make_definition())
    write_trial(folder, "b", [make_row(0.1, 0), make_row(0.1, 1)], make_losses({B0: 0, B1: 1}))
    row = make_row(0.2, 0, outcome="diverged", reason="nonfinite", diverged_at_step=3, kept=None, final_loss=None)
    losses = make_losses({A0: 0})
    losses[0]["loss"] = np.array([0, 1, 2, math.nan, math.inf, math.nan], np.float32)
    write_trial(folder, "a", [row], losses)

"""One trial: train a stack, judge its runs, and write them to the record. Knows no scheduler."""

import math
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import study
from study import divergence, methods, record
from study.config import CONTROL_SEEDS, Rule, Run, canonical_json
from study.log import Log
from study.training import Trained, train


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What Ray Tune schedules: a stack of runs of a study, all of the same model and method.

    reference: what the control of their model could learn; None for the control itself.
    """

    study: str
    runs: tuple[Run, ...]
    rule: Rule
    reference: divergence.Reference | None


def execute(trial: Trial, where: Path | str, log: Log, name: str, device: str = "cpu") -> dict[str, float]:
    """Train the trial's runs and record them as `name`. Returns counts: runs, diverged, undertrained, seconds.

    where: the study's folder, or its address (`study.storage`)."""
    started = time.perf_counter()
    trained = train(trial.runs, log, device)
    outcomes = _outcomes(trial, trained, log)
    rows = [_row(trial, run, i, trained, outcomes, log, device) for i, run in enumerate(trial.runs)]
    record.write_trial(where, name, rows, _losses(trial.runs, trained, log))
    return {
        "runs": len(rows),
        "diverged": sum(row.get("outcome") == "diverged" for row in rows),
        "undertrained": sum(row.get("outcome") == "undertrained" for row in rows),
        "seconds": time.perf_counter() - started,
    }


def _outcomes(trial: Trial, trained: Trained, log: Log) -> list[divergence.Outcome] | None:
    if trial.reference is None:
        return None
    return divergence.judge(
        trained.loss,
        trained.constant,
        np.array([task.constant_loss for task in log.tasks]),
        trained.finite,
        trial.reference,
        trial.rule,
        trained.moved,
    )


def _row(
    trial: Trial,
    run: Run,
    i: int,
    trained: Trained,
    outcomes: list[divergence.Outcome] | None,
    log: Log,
    device: str,
) -> dict[str, Any]:
    signature = methods.signature(run.method)
    row: dict[str, Any] = {
        "run_id": run.id,
        "study": trial.study,
        "data": run.data,
        "model": run.model,
        "method": run.method,
        "options": canonical_json({k: v for k, v in run.options.items() if k in signature.options}),
        "thresholds": canonical_json(
            {
                name: run.options.get(name, default)
                for name, default in signature.thresholds.items()
                if name in run.options or name not in methods.COMMON
            }
        ),
        "lr": run.lr,
        "seed": run.seed,
        "role": "control" if run.seed in CONTROL_SEEDS else "cell",
        "moved": _finite(trained.moved[i]),
        "steps": trained.loss.shape[1],
        "seconds": trained.seconds,
        "device": device_name(device),
        "version": f"study {study.__version__}, torch {torch.__version__}",
    }
    row |= {name: _finite(values[i]) for name, values in trained.judged.items()}
    row |= {name: int(values[i]) for name, values in trained.counts.items()}
    if outcomes is None:
        return row | {"final_loss": divergence.final_loss(trained.loss[i], trial.rule)}
    return row | outcomes[i].columns([task.name for task in log.tasks])


def _losses(runs: Sequence[Run], trained: Trained, log: Log) -> list[dict[str, Any]]:
    rows, seeds = [], set()
    for i, run in enumerate(runs):
        for t, task in enumerate(log.tasks):
            if run.seed not in seeds:
                rows.append({"run_id": None, "seed": run.seed, "task": task.name, "loss": trained.constant[i, :, t]})
            rows.append({"run_id": run.id, "seed": run.seed, "task": task.name, "loss": trained.loss[i, :, t]})
        seeds.add(run.seed)
    return rows


def device_name(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None

"""One trial: train a stack, judge its runs, and write them to the record. Knows no scheduler."""

import math
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

import study
from study import methods
from study.config import CONTROL_SEEDS, Rule, Run, canonical_json
from study.data._dataset import Log
from study.execution import warm_start
from study.execution.checkpoint import Checkpoint
from study.execution.heartbeat import Heartbeat
from study.outcomes import judge
from study.record import tables
from study.training.stack import steps_of
from study.training.trainer import Trained, train


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What Ray Tune schedules: a stack of runs of a study, all of the same model and method.

    reference: what the control of their model could learn; None for the control itself.
    """

    study: str
    runs: tuple[Run, ...]
    rule: Rule
    reference: judge.Reference | None


@dataclass(frozen=True, kw_only=True)
class Care:
    """How a trial is looked after. checkpoint_seconds: between two checkpoints; 0 is none. limit_seconds: without a
    step, after which its process is ended; 0 is never. stopping: whether it is to be kept and ended. about: what else
    its heartbeat says.
    """

    checkpoint_seconds: float = 0.0
    limit_seconds: float = 0.0
    stopping: Callable[[], bool] = lambda: False
    about: Mapping[str, Any] = field(default_factory=dict)


def execute(
    trial: Trial, where: Path | str, log: Log, name: str, device: str = "cpu", care: Care | None = None
) -> dict[str, Any]:
    """Train the trial's runs, from its checkpoint where there is one, and record them as `name`. where: the study's
    folder, or its address (`study.storage.stores`).

    Returns counts: runs, diverged, undertrained, seconds; and notes, sentences for the user. Raises
    `checkpoint.StoppedError` where it was to be stopped.
    """
    started = time.perf_counter()
    care = care or Care()
    ids, notes = [run.id for run in trial.runs], []
    first = trial.runs[0]
    about = {"model": first.model, "method": first.method, "runs": ids, "steps": steps_of(first.recipe, log.train_rows)}
    about |= care.about
    with Heartbeat(where, name, about, limit_seconds=care.limit_seconds, stopping=care.stopping) as heartbeat:
        keeper = Checkpoint(
            where,
            name,
            ids,
            device=device,
            every_seconds=care.checkpoint_seconds,
            stopping=lambda: heartbeat.stopping,
            note=notes.append,
        )
        start = warm_start.kept(where, first.recipe)
        trained = train(trial.runs, log, device, heartbeat.watch, checkpointer=keeper, start=start)
        reference = trial.reference
        outcomes = None if reference is None else outcomes_of(trained, log, reference, trial.rule)
        rows = [_row(trial, run, i, trained, outcomes, log, device) for i, run in enumerate(trial.runs)]
        tables.write_trial(where, name, rows, _losses(trial.runs, trained, log))
        keeper.remove()
    return {
        "runs": len(rows),
        "diverged": sum(row.get("outcome") == "diverged" for row in rows),
        "undertrained": sum(row.get("outcome") == "undertrained" for row in rows),
        "seconds": time.perf_counter() - started,
        "notes": notes,
    }


def outcomes_of(trained: Trained, log: Log, reference: judge.Reference, rule: Rule) -> list[judge.Outcome]:
    """What became of each run of a trained stack, in its order."""
    return judge.judge(
        trained.loss,
        trained.constant,
        np.array([task.constant_loss for task in log.tasks]),
        trained.finite,
        reference,
        rule,
        trained.moved,
    )


def _row(
    trial: Trial,
    run: Run,
    i: int,
    trained: Trained,
    outcomes: list[judge.Outcome] | None,
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
        return row | {"final_loss": judge.final_loss(trained.loss[i], trial.rule)}
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

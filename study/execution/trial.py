"""One trial: train a stack, judge its runs, and write them to the record. Knows no scheduler and no kind of trainer."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from study.config import Arm, Rule, Run, canonical_json
from study.execution.checkpoint import Checkpoint
from study.execution.heartbeat import Heartbeat
from study.outcomes.judge import final_loss, finite_or_none, judge
from study.outcomes.reference import Reference
from study.record import tables
from study.record.schema import FIRST_LOSSES
from study.text import console
from study.trainers.protocol import RunError, TrainedRuns, Trainer


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A stack of runs of a study: one job of the scheduler.

    Args:
        study: name of the study.
        runs: of one model and kind (`Trainer.kind_of`).
        rule: when a run counts as diverged.
        reference: what the control of their model could learn; None for the control itself.
    """

    study: str
    runs: tuple[Run, ...]
    rule: Rule
    reference: Reference | None


@dataclass(frozen=True, kw_only=True)
class TrialOptions:
    """How a trial is supervised.

    Args:
        checkpoint_seconds: time between two checkpoints; 0 writes none.
        limit_seconds: without a step for so long, the process is ended; 0 is never.
        stopping: asked after each step; True ends the trial after a checkpoint.
        about: more values for the heartbeat file.
        raised: the trial's only run has raised before. It has diverged if it raises again while its losses or weights
            are not finite.
    """

    checkpoint_seconds: float = 0.0
    limit_seconds: float = 0.0
    stopping: Callable[[], bool] = lambda: False
    about: Mapping[str, Any] = field(default_factory=dict)
    raised: bool = False


def execute(
    trial: Trial,
    where: Path | str,
    trainer: Trainer,
    name: str,
    device: str = "cpu",
    options: TrialOptions | None = None,
) -> dict[str, Any]:
    """Train the trial's runs and record them.

    Args:
        trial: the runs, and how to judge them.
        where: the study's folder, or its URL.
        trainer: trains them.
        name: of the trial's files. A checkpoint of that name is continued.
        device: "cpu" or "cuda".
        options: how the trial is supervised.

    Returns:
        Counts `runs`, `diverged` and `undertrained`; `seconds`; and `notes`, sentences for the user.

    Raises:
        StoppedError: the trial was asked to stop.
        RunError: some of its runs raised.
    """
    started = time.perf_counter()
    options = options or TrialOptions()
    ids, notes = [run.id for run in trial.runs], []
    first, steps = trial.runs[0], trainer.steps_of(trial.runs[0])
    about = {"model": first.model, "method": first.method, "runs": ids, "steps": steps, **options.about}
    own_code = _own_code(trainer, trial)  # before training: its files may change meanwhile
    with Heartbeat(where, name, about, limit_seconds=options.limit_seconds, stopping=options.stopping) as heartbeat:
        checkpoint = Checkpoint(
            where,
            name,
            ids,
            steps=steps,
            made_by=trainer.made_by(device) | {f"code of {name}": code for name, code in own_code.items()},
            every_seconds=options.checkpoint_seconds,
            stopping=lambda: heartbeat.stopping,
            note=notes.append,
        )
        try:
            trained = trainer.train(
                trial.runs, device=device, folder=where, on_step=heartbeat.watch, checkpointer=checkpoint
            )
        except RunError as error:
            if not (error.trained and error.__cause__ and options.raised):
                raise
            trained = replace(error.trained, raised=console.kind_and_line(error.__cause__))
            notes.append(f"{first.method} at lr {first.lr:g}, seed {first.seed} diverged, and raised {trained.raised}")
        notes += trained.notes
        rows = record(trial, trained, where, trainer, name, device)
        checkpoint.remove()
    return {
        "runs": len(rows),
        "diverged": sum(row.get("outcome") == "diverged" for row in rows),
        "undertrained": sum(row.get("outcome") == "undertrained" for row in rows),
        "seconds": time.perf_counter() - started,
        "notes": notes,
    }


def record(
    trial: Trial, trained: TrainedRuns, where: Path | str, trainer: Trainer, name: str, device: str = "cpu"
) -> list[dict[str, Any]]:
    """Judge trained runs and write them to the record.

    Args:
        trial: the runs, and how to judge them.
        trained: what training them gave.
        where: the study's folder, or its URL.
        trainer: of the study.
        name: of the trial's files.
        device: "cpu" or "cuda".

    Returns:
        Their rows in the record.
    """
    rows = _rows(trial, trained, trainer, device)
    tables.write_trial(where, name, rows, _losses(trial, trained, trainer))
    return rows


def _rows(trial: Trial, trained: TrainedRuns, trainer: Trainer, device: str) -> list[dict[str, Any]]:
    """The runs as rows of the record."""
    tasks, outcomes = trainer.tasks, None
    if trial.reference:
        constant_losses = np.array([task["constant_loss"] for task in tasks])
        outcomes = judge(
            trained.loss,
            _baseline(trial, trained),
            constant_losses,
            trained.finite,
            trial.reference,
            trial.rule,
            trained.moved,
            step_T=trained.steps,
            declared_R=trained.declared,
            lr_R=[run.lr for run in trial.runs],
        )
    steps = trained.loss.shape[1] if trained.steps is None else int(trained.steps[-1]) + 1
    same = {"device": trainer.device_name(device), "version": trainer.version, "seconds": trained.seconds}
    rows = []
    for i, run in enumerate(trial.runs):
        thresholds, options = trainer.columns(run)
        row: dict[str, Any] = {
            "run_id": run.id,
            "study": trial.study,
            "data": run.data,
            "model": run.model,
            "method": run.method,
            "options": canonical_json(options),
            "thresholds": canonical_json(thresholds),
            "lr": run.lr,
            "seed": run.seed,
            "role": run.role,
            "moved": None if trained.moved is None else finite_or_none(trained.moved[i]),
            "steps": steps,
            **same,
        }
        code = trainer.own_code(run.model, Arm(run.method, run.options))
        row |= {"own_code": canonical_json(code)} if code else {}
        row |= {"baseline": FIRST_LOSSES} if trained.baseline is None else {}
        row |= {"raised": trained.raised} if trained.raised else {}
        row |= {"declared": True} if trained.declared is not None and trained.declared[i] else {}
        row |= {name: finite_or_none(values[i]) for name, values in trained.judged.items()}
        row |= {name: int(values[i]) for name, values in trained.counts.items()}
        if outcomes is None:
            row["final_loss"] = final_loss(trained.loss[i], trial.rule, trained.steps)
        else:
            row |= outcomes[i].columns([task["name"] for task in tasks])
        rows.append(row)
    return rows


def _own_code(trainer: Trainer, trial: Trial) -> dict[str, str]:
    """The user's own modules that the runs depend on, each with the hash of its code."""
    runs = {canonical_json([run.model, run.method, run.options]): run for run in trial.runs}
    codes = [trainer.own_code(run.model, Arm(run.method, run.options)) for run in runs.values()]
    return {name: found for code in codes for name, found in code.items()}


def _baseline(trial: Trial, trained: TrainedRuns) -> np.ndarray:
    """The losses that each loss is paired with. Raises ValueError where the control was paired with others."""
    first_loss = trial.reference.first_loss if trial.reference else None
    if trial.reference and (first_loss is None) is (trained.baseline is None):
        raise ValueError("some runs give the targets of their losses, and others do not")
    if trained.baseline is not None:
        return trained.baseline
    if first_loss is None:  # a run of the control: the median over its seeds follows once all are recorded
        first_loss = np.where(np.isfinite(trained.loss[:, :1]), trained.loss[:, :1], 1.0)
    return np.broadcast_to(np.asarray(first_loss, np.float32), trained.loss.shape)


def _losses(trial: Trial, trained: TrainedRuns, trainer: Trainer) -> list[dict[str, Any]]:
    rows, seeds, baseline = [], set(), _baseline(trial, trained)
    for i, run in enumerate(trial.runs):
        for t, task in enumerate(trainer.tasks):
            one = {"seed": run.seed, "task": task["name"], "step": trained.steps}
            if run.seed not in seeds:
                rows.append({"run_id": None, **one, "loss": baseline[i, :, t]})
            rows.append({"run_id": run.id, **one, "loss": trained.loss[i, :, t]})
        seeds.add(run.seed)
    return rows

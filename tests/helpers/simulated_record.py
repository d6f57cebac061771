"""Simulated records of a study: known edges, one threshold per seed, and matching losses.

Seed s of a model diverges with a method from the lr 10 ** (log10(edge) + spread * z_s) on, z_s standard normal and the
same for every method (paired seeds). Losses follow `d = gain * G`: they rise to what the run keeps, fall for good
where it diverges, and fall and come back where it has a micro divergence.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from study.config import CONTROL_LRS, CONTROL_SEEDS, Arm, Recipe, Run, Study
from study.record.confirmations import Confirmation, write_confirmation
from study.record.definition import Definition, open_study
from study.record.tables import write_trial

CONTENT = "5" * 64

TASKS: tuple[dict[str, Any], ...] = (
    {"name": "click", "kind": "binary", "base": 0.38, "scale": 1.0, "constant_loss": 0.664, "constant_rmse": None},
    {"name": "like", "kind": "binary", "base": 0.02, "scale": 1.0, "constant_loss": 0.098, "constant_rmse": None},
    {"name": "play", "kind": "regression", "base": 2.1, "scale": 1.4, "constant_loss": 1.0, "constant_rmse": 1.43},
)

GAINS = {"click": 0.09, "like": 0.06, "play": 0.16}
"""The reference gain of each task, in units of its own constant loss."""

MODELS = ("small", "large_dcn")
METHODS = ("none", "layer_clip", "agc", "lamb", "clippy")
LRS = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.2, 1.6)
EDGES = {"none": 0.48, "layer_clip": 0.85, "agc": 1.35, "lamb": 0.55, "clippy": np.inf}
"""LR50 of `small`. LR50 of `large_dcn` is 0.7 times as high."""

THRESHOLDS: dict[str, dict[str, float]] = {
    "none": {},
    "layer_clip": {"max_norm": 0.1},
    "agc": {"clip": 0.01},
    "lamb": {"mu": 0.1},
    "clippy": {"rel": 0.5, "abs": 0.01},
}

FADES = ("layer_clip", "agc", "lamb")


def reference() -> dict[str, dict[str, float]]:
    """model -> the control's safe lr, the reference gain (in total and per task), its noise, the constant's loss."""
    constant = sum(t["constant_loss"] for t in TASKS)
    total = sum(GAINS[t["name"]] * t["constant_loss"] for t in TASKS) / constant
    per_task = {f"gain_{name}": gain for name, gain in GAINS.items()}
    of_all = {"lr": 0.08, "gain": total, "noise": 0.01 * total, "constant_loss": constant}
    return dict.fromkeys(MODELS, of_all | per_task)


def simulated_definition(
    *,
    models: Sequence[str] = MODELS,
    arms: Sequence[Arm] | None = None,
    lrs: Sequence[float] = LRS,
    seeds: Sequence[int] = tuple(range(8)),
    steps: int = 200,
    name: str = "simulated",
) -> Definition:
    arms = [Arm(method=m) for m in METHODS] if arms is None else arms
    study = Study(
        name=name,
        models=tuple(models),
        arms=tuple(arms),
        lrs=tuple(lrs),
        seeds=tuple(seeds),
        recipe=Recipe(steps=steps),
    )
    data = {
        "source": "synthetic",
        "content": CONTENT,
        "rows": 120_000,
        "train_rows": 102_400,
        "heldout_rows": 17_600,
        "id_names": ["user", "item"],
        "vocabulary": [900, 4000],
        "number_names": ["hour"],
        "tasks": [{"unit": "log(1 + s)" if t["kind"] == "regression" else "", **t} for t in TASKS],
        "facts": {"name": "simulated", "licence": "none needed"},
    }
    return Definition(study=study, data=data, versions={"torch": "2.13.0", "python": "3.11.9"})


def write_simulated_study(
    folder: Path,
    definition: Definition | None = None,
    *,
    edges: Mapping[str, float] = EDGES,
    spread: float = 0.09,
    leave_out: Sequence[tuple[str, str, float, int]] = (),
    with_losses: bool = True,
) -> Definition:
    """Write the record of a study, including the control, into `folder` and return its definition.

    edges: method -> LR50 of `small` (infinity: never diverges; 0: always). A method without one takes that of `none`.
    spread: standard deviation, in decades, of the seeds' thresholds. leave_out: (model, method, lr, seed) of runs that
    are planned and not recorded.
    """
    definition = open_study(folder, definition or simulated_definition())
    study = definition.study
    steps = study.recipe.steps or 200
    for model in study.models:
        for number, arm in enumerate(study.arms):
            rows, losses = [], []
            for seed in study.seeds:
                for lr in study.lrs_of(arm):
                    if (model, arm.method, lr, seed) in leave_out:
                        continue
                    row, curves = _run(definition, model, arm, lr, seed, steps, edges, spread)
                    rows.append(row)
                    losses += curves
            _write(folder, f"{model}-{number:02d}", rows, losses, study.seeds, steps, with_losses)
        rows, losses = [], []
        for lr in CONTROL_LRS:
            for seed in CONTROL_SEEDS:
                row, curves = _run(definition, model, Arm(method="none"), lr, seed, steps, {"none": np.inf}, spread)
                rows.append(row | {"outcome": None, "kept": None, "final_loss": row["final_loss"]})
                losses += curves
        _write(folder, f"{model}-control", rows, losses, CONTROL_SEEDS, steps, with_losses)
    return definition


def write_simulated_confirmation(folder: Path, definition: Definition, confirmation: Confirmation) -> None:
    """Name a confirmation of a simulated study, and write its runs."""
    write_confirmation(folder, confirmation)
    rows, losses, steps = [], [], definition.study.recipe.steps or 200
    for run in confirmation.runs(definition):
        arm = Arm(run.method, run.options)
        row, curves = _run(definition, run.model, arm, run.lr, run.seed, steps, EDGES, 0.09)
        rows.append(row)
        losses += curves
    _write(folder, confirmation.name, rows, losses, confirmation.seeds, steps, True)


def _write(
    folder: Path, trial: str, rows: list, losses: list, seeds: Sequence[int], steps: int, with_losses: bool
) -> None:
    constants = [
        {"run_id": None, "seed": seed, "task": t["name"], "loss": _constant(t, seed, steps)}
        for seed in seeds
        for t in TASKS
    ]
    write_trial(folder, trial, rows, [*constants, *losses] if with_losses else [])


def _run(
    definition: Definition,
    model: str,
    arm: Arm,
    lr: float,
    seed: int,
    steps: int,
    edges: Mapping[str, float],
    spread: float,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    run = Run(
        data=definition.data["content"],
        model=model,
        method=arm.method,
        lr=lr,
        seed=seed,
        options=arm.options,
        recipe=definition.study.recipe,
    )
    noise = np.random.default_rng(int(run.id[:12], 16))
    edge = edges.get(arm.method, edges["none"]) * (0.7 if model != "small" else 1.0)
    threshold = edge * 10 ** (spread * float(np.random.default_rng([seed, len(model)]).normal()))
    outcome, reason, at = "completed", None, None
    pace = 20 if arm.method == "lamb" else 60
    kept = 1 - np.exp(-lr * pace) if lr < 0.1 else 1.0
    if arm.method in FADES:
        kept *= 1 - 0.6 * min(1.0, lr / threshold) ** 2
    kept += 0.02 * noise.normal()
    micro = 0
    if lr >= threshold:
        outcome, reason = "diverged", "never_learned" if lr > 1.6 * threshold else "collapsed"
        if lr > 2.5 * threshold and noise.random() < 0.5:
            reason = "nonfinite"
        at = int(noise.integers(20, 60) if reason != "collapsed" else noise.integers(60, max(61, steps - 40)))
        kept = -0.01 + 0.03 * noise.normal()
    elif kept < 0.25:
        outcome = "undertrained"
    elif lr > 0.5 * threshold and noise.random() < 0.4:
        micro = 1
    shape = _shape(steps, kept, at, reason, micro, noise)
    losses = []
    for task in TASKS:
        constant = _constant(task, seed, steps)
        gain = GAINS[task["name"]] * shape + 0.02 * noise.normal(size=steps)
        loss = constant - task["constant_loss"] * gain
        if reason == "nonfinite":
            loss[at:] = np.nan
        losses.append({"run_id": run.id, "seed": seed, "task": task["name"], "loss": loss.astype(np.float32)})
    tail = np.sum([entry["loss"][-25:] for entry in losses], axis=0)
    thresholds = THRESHOLDS.get(arm.method, {}) | {k: v for k, v in arm.options.items() if not isinstance(v, str)}
    texts = {k: v for k, v in arm.options.items() if isinstance(v, str)}
    row = {
        "run_id": run.id,
        "study": definition.study.name,
        "data": run.data,
        "model": model,
        "method": arm.method,
        "options": _json(texts),
        "thresholds": _json(thresholds),
        "lr": lr,
        "seed": seed,
        "role": run.role,
        "outcome": outcome,
        "reason": reason,
        "diverged_at_step": at,
        "micro_episodes": micro,
        "episodes": "[[80, 0.7, 20]]" if micro else "[]",
        "spikes": int(noise.poisson(0.3)),
        "final_loss": None if reason == "nonfinite" else float(tail.mean()),
        "kept": None if reason == "nonfinite" else kept,
        "moved": None if reason == "nonfinite" else 3.5,
        "steps": steps,
        "seconds": 1.5,
        "device": "cpu",
        "version": "0.1.0",
    }
    for task in TASKS:
        name = task["name"]
        row[f"kept_{name}"] = None if reason == "nonfinite" else kept + 0.02 * noise.normal()
        row[f"diverged_{name}"] = outcome == "diverged"
        alive = max(kept, 0.0) * (1 + 0.3 * np.log10(max(lr, 0.1) / 0.1) * (arm.method == "clippy"))
        if task["kind"] == "binary":
            auc = 0.5 + 0.2 * alive + 0.004 * noise.normal()
            row[f"auc_{name}"] = None if reason == "nonfinite" else float(np.clip(auc, 0, 1))
        else:
            rmse = task["constant_rmse"] * (1 - 0.09 * alive) + 0.004 * noise.normal()
            row[f"rmse_{name}"] = None if reason == "nonfinite" else float(rmse)
    return row, losses


def _shape(
    steps: int, kept: float, at: int | None, reason: str | None, micro: int, noise: np.random.Generator
) -> np.ndarray:
    """Gain of a run at each step, as a share of the reference gain."""
    t = np.arange(steps)
    healthy = 1 - np.exp(-t / 25)
    if at is not None:
        top = 0.9 * healthy if reason == "collapsed" else 0.1 * healthy
        return np.where(t < at, top, kept + (top - kept) * np.exp(-(t - at) / 4.0))
    shape = kept * healthy
    if micro:
        shape = shape - 0.8 * np.exp(-(((t - 0.5 * steps) / 8.0) ** 2))
    return shape + 0.02 * noise.normal()


def _constant(task: Mapping[str, Any], seed: int, steps: int) -> np.ndarray:
    noise = np.random.default_rng([seed, len(task["name"]), 7])
    return (task["constant_loss"] * (1 + 0.03 * noise.normal(size=steps))).astype(np.float32)


def _json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, sort_keys=True)

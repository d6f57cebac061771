"""Rollbacks equal those of a plain loop, and change nothing without a spike."""

import copy
import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stacks import LOG, Plain, make_run
from torch import Tensor
from torch.nn import functional
from torch_schedules import shares_of

import analysis
from study import data, methods
from study.config import Arm, Recipe, Run, Study, runs_of
from study.execution.trial import Trial, execute
from study.outcomes.recorded import judge_recorded
from study.outcomes.reference import Reference
from study.record import tables
from study.record.definition import Definition, open_study
from study.trainers.ranker import Trainer
from study.training.rng import batches
from study.training.rollback import RollbackOptions, Rollbacks, StatePart
from study.training.trainer import train

# Toy runs hardly spike. A negative `spike`, which users cannot set, makes a usual loss one.
RECIPE = Recipe(batch=64, steps=70, warmup=6, window=150, precision="float64", eps=0.0)
F64 = torch.float64


def loop(
    run: Run, *, spike: float, back: int, skip: int, lower: float = 1.0
) -> tuple[np.ndarray, list[int], list[int]]:
    """Train one run with torch.optim.Adagrad as `study.training.rollback` describes.

    Returns:
        Losses (S, T), held-out logits, the steps of rollbacks, and the steps of rest.
    """
    recipe = run.recipe
    plain = Plain(run, LOG)
    adagrad = torch.optim.Adagrad(
        plain.parameters(), lr=1.0, initial_accumulator_value=recipe.initial_accumulator, eps=recipe.eps
    )
    ids, numbers = torch.from_numpy(LOG.ids).long(), torch.from_numpy(LOG.numbers).double()
    labels = torch.from_numpy(LOG.labels).double()
    shares = shares_of(recipe, recipe.steps or 0)
    learned, usual = 0, []  # usual: losses that are no spike
    mean = variance = 0.0

    def keep() -> tuple[Any, ...]:
        return copy.deepcopy((plain.state_dict(), adagrad.state_dict(), learned, len(usual), mean, variance))

    snapshots = [keep(), keep()]
    spiked, waits, lr, first = False, 0, run.lr, None
    losses, rolled_back, rested = [], [], []
    for step, rows in enumerate(
        batches(run.seed, rows=LOG.train_rows, batch=recipe.batch, window=recipe.window, steps=recipe.steps or 0)
    ):
        buffers = copy.deepcopy(dict(plain.named_buffers()))
        logits = plain(ids[rows], numbers[rows])
        if waits:  # a resting run keeps its running statistics
            plain.load_state_dict(plain.state_dict() | buffers)
        of_task = [
            functional.mse_loss(logits[:, t], labels[rows, t])
            if task.kind == "regression"
            else functional.binary_cross_entropy_with_logits(logits[:, t], labels[rows, t])
            for t, task in enumerate(LOG.tasks)
        ]
        losses.append([value.item() for value in of_task])
        loss = sum(losses[-1])
        first = loss if first is None else first
        unusual = len(usual) >= 10 and loss > mean + spike * math.sqrt(variance)
        if waits == 0 and (unusual or loss > 10 * first):
            spiked = True
        elif waits == 0:
            usual.append(loss)
            weight = max(1 / len(usual), 1 / 20)
            away = loss - mean
            mean, variance = mean + weight * away, (1 - weight) * (variance + weight * away**2)
        if step % 5 == 0 and spiked:
            snapshots = [snapshots[0], copy.deepcopy(snapshots[0])]
            weights, state, learned, count, mean, variance = copy.deepcopy(snapshots[0])
            plain.load_state_dict(weights)
            adagrad.load_state_dict(state)
            usual, spiked, waits, lr = usual[:count], False, skip, lr * lower
            rolled_back.append(step)
        if step % back == 0 and step:
            snapshots = [snapshots[1], keep()]
        if waits:
            waits -= 1
            rested.append(step)
            continue
        for group in adagrad.param_groups:
            group["lr"] = lr * shares[learned]
        learned += 1
        adagrad.zero_grad()
        torch.stack(of_task).sum().backward()
        with torch.sparse.check_sparse_tensor_invariants(True):
            adagrad.step()
    plain.eval()
    with torch.no_grad():
        heldout = plain(ids[LOG.train_rows :], numbers[LOG.train_rows :])
    return np.array(losses), heldout, rolled_back, rested


@pytest.mark.parametrize(
    ("model", "schedule"),
    [("small", "constant"), ("small_dcn", "constant"), ("own_models.batch_norm", "constant"), ("small", "cosine")],
)
@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("rollback", {"spike": -0.5, "back": 7, "skip": 6}),
        ("rollback", {"spike": -1.0, "back": 4, "skip": 1}),
        ("rollback_lower_lr", {"spike": -0.5, "back": 7, "lower": 0.25}),
    ],
)
def test_rollbacks_equal_those_of_a_plain_loop(method: str, options: dict[str, Any], model: str, schedule: str) -> None:
    """A run that returns returns to its place in the schedule of the lr, too."""
    recipe = dataclasses.replace(RECIPE, schedule=schedule)
    run = make_run(method=method, model=model, lr=0.3, options=options, recipe=recipe)
    beside = [
        dataclasses.replace(run, options=options | {"spike": math.inf}),
        dataclasses.replace(run, options=options | {"spike": -2.0}, lr=0.4, seed=2),
    ]
    trained = train([beside[0], run, beside[1]], LOG)
    loss, heldout, rolled_back, rested = loop(run, **({"skip": 1} | options))
    assert len(rolled_back) >= 2
    np.testing.assert_allclose(trained.loss[1], loss, rtol=1e-5)
    errors = heldout[:, 1] - torch.from_numpy(LOG.labels[LOG.train_rows :, 1])
    rmse = errors.square().mean().sqrt().item() * LOG.tasks[1].scale
    assert trained.judged["rmse_watch"][1] == pytest.approx(rmse, rel=1e-6)
    assert trained.counts["rollbacks"].tolist()[:2] == [0, len(rolled_back)]
    assert trained.counts["skipped_steps"].tolist()[:2] == [0, len(rested)]


@pytest.mark.parametrize("embeddings", ["adagrad", "method"])
@pytest.mark.parametrize(
    ("method", "base"), [*(("rollback", base) for base in methods.BASES), ("rollback_lower_lr", "adagrad")]
)
@pytest.mark.parametrize("model", ["small", "own_models.batch_norm"])
def test_without_spikes_a_run_equals_an_untreated_one(method: str, model: str, base: str, embeddings: str) -> None:
    """Bit for bit, in a stack with a run that rolls back repeatedly."""
    recipe = dataclasses.replace(RECIPE, steps=30, precision="float32", embeddings=embeddings, eps=1e-7)
    lr = 0.3 if base == "adagrad" else 0.01
    run = make_run(method=method, model=model, lr=lr, options={"base": base, "spike": math.inf}, recipe=recipe)
    spiking = dataclasses.replace(run, options={"base": base, "spike": -100.0})
    trained = train([spiking, run], LOG)
    untreated = train([dataclasses.replace(run, method="none", options={"base": base})], LOG)
    assert trained.loss[1].tobytes() == untreated.loss[0].tobytes()
    assert {name: values[1] for name, values in trained.judged.items()} == {
        name: values[0] for name, values in untreated.judged.items()
    }
    assert trained.counts["rollbacks"][1] == 0
    assert trained.counts["rollbacks"][0] > 0
    assert untreated.counts == {}


@pytest.mark.parametrize("embeddings", ["adagrad", "method"])
@pytest.mark.parametrize("base", methods.BASES)
@pytest.mark.parametrize("model", ["small", "own_models.batch_norm"])
def test_a_resting_run_does_not_change(model: str, base: str, embeddings: str) -> None:
    """After its rollback to the first weights, its losses on the same rows equal the first."""
    recipe = dataclasses.replace(RECIPE, steps=33, precision="float32", embeddings=embeddings, eps=1e-7)
    log = dataclasses.replace(LOG, train_rows=64)
    options = {"base": base, "spike": -100.0, "back": 100, "skip": 100}
    run = make_run(method="rollback", model=model, lr=0.01, options=options, recipe=recipe)
    trained = train([run, dataclasses.replace(run, lr=0.02)], log)
    resting = int(trained.counts["skipped_steps"][0])
    assert 10 < resting < 30
    loss = trained.loss[0]
    # every batch holds the same 64 rows, in another order
    np.testing.assert_allclose(loss[-resting + 1 :], np.broadcast_to(loss[0], (resting - 1, 3)), rtol=1e-5)
    assert abs(loss[-resting - 1] - loss[0]).max() > 1e-4


def test_the_record_counts_rollbacks(tmp_path: Path) -> None:
    """The counts belong to runs, and are not thresholds that name curves."""
    log = dataclasses.replace(LOG, content="c" * 64)
    arms = (
        Arm(method="none"),
        Arm(method="rollback", options={"back": 4, "skip": 3}),
        Arm(method="rollback_lower_lr", options={"back": 4}),
    )
    recipe = dataclasses.replace(RECIPE, steps=40)
    study = Study(name="back", models=("small",), arms=arms, lrs=(0.1, 8.0), seeds=(0, 1), recipe=recipe)
    described = data.describe(study.data, log)
    open_study(tmp_path, Definition(study=study, data=described, versions={}))
    reference = Reference(lr=0.02, gain=0.2, task_gain=(0.2, None, 0.1))
    trainer = Trainer(study, tmp_path, log=log)
    for i, arm in enumerate(arms):
        runs = tuple(run for run in runs_of(study, log.content) if run.method == arm.method)
        trial = Trial(study=study.name, runs=runs, rule=study.rule, reference=reference)
        execute(trial, tmp_path, trainer, f"{i:032x}")
    table = analysis.load(tmp_path)
    assert sorted(set(table["curve"])) == ["none", "rollback", "rollback_lower_lr"]
    counted = table.set_index(["method", "lr", "seed"])[["rollbacks", "skipped_steps"]]
    assert counted.loc["none"].isna().all(axis=None)
    assert (counted.loc[("rollback", 8.0), "rollbacks"] > 0).all()
    assert (counted.loc[("rollback", 8.0), "skipped_steps"] >= 3).all()
    lowered = counted.loc["rollback_lower_lr"]
    assert (lowered["skipped_steps"] == lowered["rollbacks"]).all()
    rates = analysis.divergence_rates(table)
    assert "rollbacks" not in rates
    assert rates["n"].tolist() == [2] * 6


def test_a_run_that_only_rolled_back_is_diverged_and_a_slow_one_undertrained(tmp_path: Path) -> None:
    """Both stay near their start: one blows up and rolls back repeatedly, one makes small steps."""
    log = dataclasses.replace(LOG, content="c" * 64)
    arms = (Arm(method="rollback", options={"spike": 10.0, "back": 5, "skip": 20}),)
    study = Study(name="back", models=("small",), arms=arms, lrs=(1e-4, 8.0), seeds=(0, 1), recipe=RECIPE)
    described = data.describe(study.data, log)
    open_study(tmp_path, Definition(study=study, data=described, versions={}))
    reference = Reference(lr=0.02, gain=0.2, task_gain=(0.2, None, 0.1), moved=1.0)
    execute(
        Trial(study=study.name, runs=runs_of(study, log.content), rule=study.rule, reference=reference),
        tmp_path,
        Trainer(study, tmp_path, log=log),
        "0" * 32,
    )
    table = analysis.load(tmp_path)
    back = table["lr"] == 8.0
    assert (table.loc[back, "rollbacks"] >= 2).all()
    assert (table.loc[~back, "rollbacks"] == 0).all()
    assert table.loc[back, "moved"].isna().all()
    assert set(table.loc[back, "outcome"]) == {"diverged"}
    assert set(table.loc[back, "reason"]) == {"never_learned"}
    assert (table.loc[~back, "moved"] < 0.5).all()
    assert set(table.loc[~back, "outcome"]) == {"undertrained"}
    losses = tables.read_losses(tmp_path)
    moved = dict(zip(table["run_id"], table["moved"].to_numpy(dtype=float, na_value=math.nan), strict=True))
    constants = np.array([task.constant_loss for task in log.tasks])
    tasks = [task.name for task in log.tasks]
    again = judge_recorded(losses, tasks, constants, (), reference, study.rule, moved)
    assert [again[run].outcome for run in table["run_id"]] == table["outcome"].tolist()


def watched(losses: list[list[float]], **asked: Any) -> tuple[Rollbacks, Tensor]:
    """Return the rollbacks, and after each step the steps that each run learned from, (S, R)."""
    weight = torch.zeros(len(losses[0]), dtype=F64)
    rollbacks = Rollbacks(
        RollbackOptions(**asked),
        [StatePart(get=lambda: weight, axes=(len(weight),))],
        runs=len(weight),
        lr_shares_S=torch.ones(len(losses), dtype=F64),
        dtype=F64,
        device=torch.device("cpu"),
    )
    seen = []
    for step, row in enumerate(losses):
        rollbacks.step(step, torch.tensor(row, dtype=F64).unsqueeze(1))
        weight += ~rollbacks.resting_R
        seen.append(weight.clone())
    return rollbacks, torch.stack(seen)


def test_rollbacks_by_hand() -> None:
    """Snapshots are taken at steps 8 and 16. At step 20, the spike of step 17 restores that of step 8.

    Steps 20 to 22 are rest. A NaN causes a rollback in its own run; a loss below the usual causes none.
    """
    losses = [[1.0 + 0.01 * (step % 2), 1.0 + 0.01 * (step % 3), 1.0] for step in range(26)]
    losses[17][0] = 1.5
    losses[18][1] = math.nan
    losses[19][2] = 0.2
    rollbacks, seen = watched(losses, spike=4.0, back=8, skip=3)
    assert seen[19].tolist() == [20.0, 20.0, 20.0]
    assert seen[22].tolist() == [8.0, 8.0, 23.0]
    assert seen[25].tolist() == [11.0, 11.0, 26.0]
    assert rollbacks.counts()["rollbacks"].tolist() == [1, 1, 0]
    assert rollbacks.counts()["skipped_steps"].tolist() == [3, 3, 0]
    assert rollbacks.lr_share_R.tolist() == [1.0, 1.0, 1.0]


def test_a_loss_of_ten_times_the_first_is_a_spike_at_any_step() -> None:
    losses = [[2.0, 2.0] for _ in range(8)]
    losses[2] = [20.1, 19.9]
    rollbacks, seen = watched(losses, spike=4.0, back=8, skip=1, lower=0.5)
    assert seen[5].tolist() == [0.0, 6.0]
    assert seen[7].tolist() == [2.0, 8.0]
    assert rollbacks.lr_share_R.tolist() == [0.5, 1.0]


def test_a_second_spike_rolls_back_to_the_same_snapshot() -> None:
    """After a rollback, both snapshots are the restored one."""
    losses = [[1.0 + 0.01 * (step % 2)] for step in range(50)]
    for step in (33, 42):
        losses[step] = [3.0]
    rollbacks, seen = watched(losses, spike=4.0, back=8, skip=1)
    # snapshots at 24 and 32; rollback to 24 at 35; snapshot at 40; rollback to 24, not 32, at 45
    assert seen[35].item() == 24.0
    assert seen[44].item() == 33.0
    assert seen[45].item() == 24.0
    assert rollbacks.counts()["rollbacks"].item() == 2

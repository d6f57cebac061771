"""Missing labels: loss, constant predictor and quality are of the labelled rows, with the same bits in every stack."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from stacks import LOG, RECIPE, bits_of, make_run, plain_loop, ragged_stack, with_missing

from study.training import losses
from study.training.metrics import auc
from study.training.rng import batches
from study.training.trainer import StepError, train

MISSING = with_missing(LOG, 0.4, 0.97, 0.0)
"""Some batches of 64 rows have no label of the second task."""


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "small_dcn", "method": "clippy"},
        {"model": "small_mmoe"},
        {"model": "own_models.branching"},
        {"model": "small", "recipe": dataclasses.replace(RECIPE, precision="float64")},
        {"model": "small", "recipe": dataclasses.replace(RECIPE, embeddings="method")},
        {"model": "small", "method": "rollback", "options": {"spike": 0.5, "back": 4, "skip": 3}},
    ],
    ids=["fused", "stacked", "separate", "float64", "method", "rollback"],
)
def test_a_run_has_the_same_bits_alone_and_in_every_stack(changes: dict[str, Any]) -> None:
    run = make_run(**changes)
    alone = train([run], MISSING)
    others = ragged_stack(run)[::3]
    together = train([*others[:4], run, *others[4:]], MISSING)
    assert bits_of(together, 4) == bits_of(alone, 0)
    assert np.isfinite(alone.loss).all()


@pytest.mark.parametrize("model", ["small_dcn", "small_mmoe", "own_models.batch_norm"])
def test_losses_equal_those_of_a_plain_loop_over_labelled_rows(model: str) -> None:
    recipe = dataclasses.replace(RECIPE, steps=50, eps=0.0, precision="float64", warmup=20)
    run = make_run(model=model, lr=0.1, recipe=recipe)
    trained = train([dataclasses.replace(run, seed=1), run], MISSING)
    loss, heldout = plain_loop(run, MISSING)
    empty = loss == 0
    assert empty[:, 1].any()
    assert not empty[:, [0, 2]].any()
    for step in np.flatnonzero(empty[:, 1]):
        loss[step, 1] = loss[step - 1, 1] if step else 1.0
    np.testing.assert_allclose(trained.loss[1], loss, rtol=1e-6)

    truth = MISSING.labels[MISSING.train_rows :]
    known = ~np.isnan(truth)
    click = auc(heldout[known[:, 0], 0], truth[known[:, 0], 0])
    assert trained.judged["auc_click"][1] == pytest.approx(click, abs=1e-9)
    errors = heldout[known[:, 1], 1] - truth[known[:, 1], 1]
    rmse = math.sqrt(np.mean(errors**2)) * MISSING.tasks[1].scale
    assert trained.judged["rmse_watch"][1] == pytest.approx(rmse, rel=1e-6)


def test_the_constant_predictor_is_of_the_same_rows() -> None:
    run = make_run()
    trained = train([run], MISSING)
    steps = RECIPE.steps
    assert steps
    order = batches(run.seed, rows=LOG.train_rows, batch=RECIPE.batch, window=RECIPE.window, steps=steps)
    base = LOG.tasks[0].base
    for step, rows in enumerate(order):
        labels = MISSING.labels[rows, 0].astype(np.float64)
        loss = -np.where(labels == 1, np.log(base), np.log1p(-base))[~np.isnan(labels)]
        assert trained.constant[0, step, 0] == pytest.approx(loss.mean(), rel=1e-5)


@pytest.mark.parametrize("model", ["small", "own_models.batch_norm"])
def test_labels_that_are_all_there_take_the_path_of_before(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def unused(*_: object) -> None:
        raise AssertionError

    before = bits_of(train([make_run(model=model)], LOG), 0)
    monkeypatch.setattr("study.training.stack.labelled", unused)
    assert bits_of(train([make_run(model=model)], LOG), 0) == before
    with pytest.raises(AssertionError):
        train([make_run(model=model)], MISSING)


def test_one_missing_label_weighs_the_others() -> None:
    labels = torch.tensor([[[1.0, 0.0, math.nan, 1.0], [math.nan] * 4]])
    filled, share = losses.labelled(labels)
    torch.testing.assert_close(share, torch.tensor([[[1 / 3, 1 / 3, 0, 1 / 3], [0.0] * 4]]))
    logits = torch.tensor([[[0.0, 0.0, 9.0, 0.0], [5.0] * 4]])
    loss = losses.mean_losses(logits, filled, [LOG.tasks[0], LOG.tasks[1]], share)
    torch.testing.assert_close(loss, torch.tensor([[math.log(2), 0.0]]))


def test_a_task_without_held_out_labels_has_no_quality() -> None:
    labels = np.array(LOG.labels)
    labels[LOG.train_rows :, 0] = np.nan
    trained = train([make_run()], dataclasses.replace(LOG, labels=labels))
    assert math.isnan(trained.judged["auc_click"][0])
    assert np.isfinite(trained.judged["auc_like"][0])


def test_constants_of_a_run_that_raised_are_those_of_a_run_that_did_not() -> None:
    run = make_run(model="own_models.guarded", options={"weight_decay": 1e3}, method="none", lr=1e4)
    with pytest.raises(StepError) as raised:
        train([run], MISSING)
    assert raised.value.trained is not None
    healthy = train([dataclasses.replace(run, lr=1e-4)], MISSING)
    np.testing.assert_array_equal(raised.value.trained.constant, healthy.constant)

"""The lr's schedule and the embeddings' own lr: torch's schedulers, torch's Adagrad, and the same bits in any stack."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from stacks import LOG, RECIPE, Plain, assert_resumes, bits_of, make_run, plain_loop, ragged_stack
from torch_schedules import shares_of

from study.config import Recipe
from study.training.lr_schedule import lr_share, words
from study.training.stack_method import StackMethod
from study.training.trainer import train
from study.transforms import Leaf

SCHEDULES: dict[str, dict[str, Any]] = {
    "constant": {},
    "linear": {"schedule": "linear"},
    "linear to a tenth": {"schedule": "linear", "final_factor": 0.1},
    "cosine": {"schedule": "cosine"},
    "cosine to a quarter": {"schedule": "cosine", "final_factor": 0.25},
    "step": {"schedule": "step"},
    "step of 4": {"schedule": "step", "decay_steps": 4, "decay_factor": 0.5},
}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2, 7, 100])
@pytest.mark.parametrize("warmup", [0, 1, 5, 20])
def test_each_step_equals_torchs_schedulers(name: str, steps: int, warmup: int) -> None:
    recipe = Recipe(warmup=warmup, steps=steps, **SCHEDULES[name])
    shares = [lr_share(recipe, steps, step) for step in range(steps)]
    np.testing.assert_allclose(shares, shares_of(recipe, steps, lr=0.3), rtol=1e-9, atol=1e-12)


def test_a_share_of_each_run_may_change_in_place() -> None:
    run = make_run(lr=0.5)
    method = StackMethod([run], run.recipe, 10, torch.float32, torch.device("cpu"))
    share_R = method.lr_share_R = torch.ones(1)

    def update() -> float:
        leaf = Leaf(torch.zeros(1, 1), torch.ones(1, 1), torch.ones(1, 1), {"accumulator": torch.zeros(1, 1)})
        method.set_updates(3, [leaf])
        return leaf.update.item()

    assert update() == pytest.approx(0.5)
    share_R.fill_(0.25)
    assert update() == pytest.approx(0.125)


def test_shares_by_pencil() -> None:
    def shares(**fields: Any) -> list[float]:
        return [round(lr_share(Recipe(warmup=2, **fields), 6, step), 12) for step in range(6)]

    assert shares() == [0.5, 1, 1, 1, 1, 1]
    assert shares(schedule="linear") == [0.5, 1, 1, 0.75, 0.5, 0.25]
    assert shares(schedule="linear", final_factor=0.2) == [0.5, 1, 1, 0.8, 0.6, 0.4]
    assert shares(schedule="cosine") == [0.5, 1, 1, 0.853553390593, 0.5, 0.146446609407]
    assert shares(schedule="step", decay_steps=2) == [0.5, 1, 1, 1, 0.1, 0.1]
    assert shares(schedule="step", decay_factor=0.5) == [0.5, 1, 1, 1, 0.5, 0.5]  # thirds of 4 steps: 2, 2, 0


def test_words() -> None:
    assert words(Recipe(schedule="cosine"), 100) == "cosine to 0 after 20 steps of warm-up"
    assert words(Recipe(schedule="linear", final_factor=0.1, warmup=0), 100) == "linear to 0.1 after 0 steps of warm-up"
    assert words(Recipe(schedule="step"), 100) == "step, times 0.1 every 27 steps, after 20 steps of warm-up"


EXACT = dataclasses.replace(RECIPE, eps=0.0, precision="float64")


@pytest.mark.parametrize("model", ["small", "own_models.linear"])
@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("embeddings_lr", [None, 0.05])
def test_a_run_equals_torchs_adagrad_with_torchs_scheduler(model: str, name: str, embeddings_lr: float | None) -> None:
    recipe = dataclasses.replace(EXACT, embeddings_lr=embeddings_lr, **SCHEDULES[name])
    run = make_run(model=model, recipe=recipe)
    plain = Plain(run, LOG)
    groups = [
        {"params": plain.network.parameters()},
        {"params": plain.tables.parameters(), "peak": embeddings_lr or run.lr},
    ]
    adagrad = torch.optim.Adagrad(groups, lr=run.lr, initial_accumulator_value=recipe.initial_accumulator, eps=0.0)
    loss, heldout = plain_loop(run, LOG, plain=plain, optimizer=adagrad)
    trained = train([dataclasses.replace(run, lr=0.7, seed=1), run], LOG)
    np.testing.assert_allclose(trained.loss[1], loss, rtol=1e-5)
    errors = (heldout[:, 1] - LOG.labels[LOG.train_rows :, 1].astype(np.float64)) * LOG.tasks[1].scale
    assert trained.judged["rmse_watch"][1] == pytest.approx(np.sqrt(np.mean(errors**2)), rel=1e-6)


@pytest.mark.parametrize("method", ["none", "clippy", "rollback_lower_lr"])
@pytest.mark.parametrize("name", [name for name in SCHEDULES if name != "constant"])
def test_a_run_has_the_same_bits_alone_in_a_stack_and_resumed(method: str, name: str) -> None:
    recipe = dataclasses.replace(RECIPE, embeddings_lr=0.2, **SCHEDULES[name])
    run = make_run(method=method, recipe=recipe)
    others = ragged_stack(run)
    alone, together = train([run], LOG), train([*others[:9], run, *others[9:]], LOG)
    assert bits_of(together, 9) == bits_of(alone, 0)
    assert_resumes(run, 9)


@pytest.mark.parametrize("embeddings", ["adagrad", "method"])
def test_a_schedule_that_drops_nothing_is_the_constant_bit_for_bit(embeddings: str) -> None:
    recipe = dataclasses.replace(RECIPE, embeddings=embeddings)
    late = dataclasses.replace(recipe, schedule="step", decay_steps=1000)
    assert bits_of(train([make_run(recipe=late)], LOG), 0) == bits_of(train([make_run(recipe=recipe)], LOG), 0)


def test_an_embeddings_lr_that_is_the_runs_own_changes_no_bit() -> None:
    own = dataclasses.replace(RECIPE, embeddings_lr=0.3)
    assert bits_of(train([make_run(lr=0.3, recipe=own)], LOG), 0) == bits_of(train([make_run(lr=0.3)], LOG), 0)

"""A range test: torch's Adagrad whose lr grows, the same bits in any stack, and what a run that raises leaves."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from stacks import LOG, RECIPE, Plain, make_run, plain_loop

from study.config import Recipe, Run
from study.training.range_test import range_test
from study.training.stack import StackTraining
from study.training.trainer import train

STEPS = RECIPE.steps or 0
LOW, GROWTH = 1e-3, 1.5
LRS = [LOW * GROWTH**step for step in range(STEPS)]
EXACT = dataclasses.replace(RECIPE, eps=0.0, precision="float64")


def ramped(method: str = "none", seed: int = 5, recipe: Recipe = RECIPE, model: str = "small") -> Run:
    return make_run(method=method, lr=LRS[-1], seed=seed, recipe=recipe, model=model)


class Growing(torch.optim.Adagrad):
    """Adagrad whose lr is multiplied by `GROWTH` after each step, but for groups with an lr of their own."""

    rate = LOW

    def step(self, *more: Any) -> Any:
        for group in self.param_groups:
            group["lr"] = group.get("own", self.rate)
        self.rate *= GROWTH
        return super().step(*more)


@pytest.mark.parametrize("embeddings_lr", [None, 0.05])
def test_it_equals_torchs_adagrad_whose_lr_grows(embeddings_lr: float | None) -> None:
    recipe = dataclasses.replace(EXACT, embeddings_lr=embeddings_lr, schedule="cosine")  # which has no part in it
    run = ramped(recipe=recipe)
    plain = Plain(run, LOG)
    tables = {"params": plain.tables.parameters()} | ({"own": embeddings_lr} if embeddings_lr else {})
    adagrad = Growing(
        [{"params": plain.network.parameters()}, tables],
        initial_accumulator_value=recipe.initial_accumulator,
        eps=0.0,
    )
    expected, _ = plain_loop(run, LOG, plain=plain, optimizer=adagrad)
    found = range_test([dataclasses.replace(run, seed=1), run], LOG, LRS)
    np.testing.assert_allclose(found[1], expected, rtol=1e-5)


@pytest.mark.parametrize("method", ["none", "clippy", "lamb"])
@pytest.mark.parametrize("model", ["small", "own_models.linear"])
def test_a_run_has_the_same_bits_alone_and_in_a_stack(method: str, model: str) -> None:
    alone = range_test([ramped(method, model=model)], LOG, LRS)
    runs = [ramped(method, seed, model=model) for seed in (9, 5, 0, 7)]
    assert range_test(runs, LOG, LRS)[1].tobytes() == alone[0].tobytes()


def test_a_ramp_that_does_not_rise_is_a_run_without_warm_up() -> None:
    run = make_run(recipe=dataclasses.replace(RECIPE, warmup=0))
    assert range_test([run], LOG, [run.lr] * STEPS).tobytes() == train([run], LOG).loss.tobytes()


def test_a_run_whose_lr_is_not_the_last_of_the_ramp_is_refused() -> None:
    with pytest.raises(ValueError, match=r"need runs at the last lr of the ramp, 0\.65\S*, got lr=0\.3$"):
        range_test([ramped(), make_run(lr=0.3)], LOG, LRS)


def test_of_a_run_that_raises_the_losses_are_missing_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    runs, step = [ramped(seed=1), ramped(seed=5)], StackTraining.step
    expected = range_test(runs, LOG, LRS)

    def raises_for_seed_1(self: StackTraining, number: int, rows_GB: torch.Tensor) -> Any:
        if number == 4 and 1 in self.groups.seeds:
            self.tables.weight.fill_(float("nan"))
            raise RuntimeError("no number")
        return step(self, number, rows_GB)

    monkeypatch.setattr(StackTraining, "step", raises_for_seed_1)
    found = range_test(runs, LOG, LRS)
    assert np.isnan(found[0, 4:]).all()
    assert found[0, :4].tobytes() == expected[0, :4].tobytes()
    assert found[1].tobytes() == expected[1].tobytes()


def test_what_raises_while_all_is_finite_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def raises(*_: Any) -> Any:
        raise RuntimeError("the model's own fault")

    monkeypatch.setattr(StackTraining, "step", raises)
    with pytest.raises(RuntimeError, match="own fault"):
        range_test([ramped()], LOG, LRS)

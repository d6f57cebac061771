"""The options of a base in studies: runs equal torch's own optimizers, with the same bits in any stack."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from plans import make_study, planned_of
from stacks import LOG, RECIPE, Plain, bits_of, make_run, plain_loop

from study import methods
from study.config import Arm
from study.definition.overrides import apply
from study.training.trainer import train

CASES: dict[str, tuple[dict[str, Any], type[torch.optim.Optimizer], dict[str, Any]]] = {
    "sgd, nesterov": (
        {"base": "sgd", "momentum": 0.8, "nesterov": True},
        torch.optim.SGD,
        {"momentum": 0.8, "nesterov": True},
    ),
    "sgd, momentum": ({"base": "sgd", "momentum": 0.8}, torch.optim.SGD, {"momentum": 0.8}),
    "adam, betas": (
        {"base": "adamw", "beta1": 0.8, "beta2": 0.95, "eps": 1e-3},
        torch.optim.Adam,
        {"betas": (0.8, 0.95), "eps": 1e-3},
    ),
    "adam without momentum": (
        {"base": "adamw", "beta1": 0.0, "eps": 1e-8},
        torch.optim.Adam,
        {"betas": (0.0, 0.999), "eps": 1e-8},
    ),
    "adamw": (
        {"base": "adamw", "beta2": 0.9, "eps": 1e-8, "weight_decay": 0.1},
        torch.optim.AdamW,
        {"betas": (0.9, 0.9), "eps": 1e-8, "weight_decay": 0.1},
    ),
    "rmsprop": (
        {"base": "rmsprop", "alpha": 0.9, "eps": 1e-4, "momentum": 0.5},
        torch.optim.RMSprop,
        {"alpha": 0.9, "eps": 1e-4, "momentum": 0.5},
    ),
    # the eps is inside the root here, where it adds to the first accumulator
    "adagrad": ({"eps": 0.5}, torch.optim.Adagrad, {"initial_accumulator_value": 0.1 + 0.5, "eps": 0.0}),
}


class Both(torch.optim.Optimizer):
    """Two optimizers as one: of the network, and of the tables, which a recipe's Adagrad updates."""

    def __init__(self, *optimizers: torch.optim.Optimizer) -> None:
        self.optimizers = optimizers
        self.param_groups = [group for one in optimizers for group in one.param_groups]

    def zero_grad(self, set_to_none: bool = True) -> None:
        for one in self.optimizers:
            one.zero_grad(set_to_none)

    def step(self, closure: Any = None) -> None:
        for one in self.optimizers:
            one.step()


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("model", ["small_dcn", "own_models.linear"])
@pytest.mark.parametrize("name", CASES)
def test_a_run_equals_torchs_optimizer(name: str, model: str, schedule: str) -> None:
    options, optimizer, arguments = CASES[name]
    recipe = dataclasses.replace(RECIPE, eps=0.0, precision="float64", schedule=schedule)
    run = make_run(model=model, lr=0.02, options=methods.check("none", options), recipe=recipe)
    plain = Plain(run, LOG)
    of_tables = torch.optim.Adagrad(
        plain.tables.parameters(), lr=run.lr, initial_accumulator_value=recipe.initial_accumulator, eps=0.0
    )
    both = Both(optimizer(plain.network.parameters(), lr=run.lr, **arguments), of_tables)
    loss, heldout = plain_loop(run, LOG, plain=plain, optimizer=both)
    trained = train([dataclasses.replace(run, lr=0.05, seed=1), run], LOG)
    np.testing.assert_allclose(trained.loss[1], loss, rtol=1e-6)
    errors = (heldout[:, 1] - LOG.labels[LOG.train_rows :, 1].astype(np.float64)) * LOG.tasks[1].scale
    assert trained.judged["rmse_watch"][1] == pytest.approx(np.sqrt(np.mean(errors**2)), rel=1e-6)


@pytest.mark.parametrize("embeddings", ["adagrad", "method"])
@pytest.mark.parametrize("method", ["none", "clippy", "rollback"])
@pytest.mark.parametrize("name", CASES)
def test_a_run_has_the_same_bits_alone_and_in_a_stack(name: str, method: str, embeddings: str) -> None:
    options = methods.check(method, CASES[name][0])
    run = make_run(method=method, lr=0.02, options=options, recipe=dataclasses.replace(RECIPE, embeddings=embeddings))
    others = [dataclasses.replace(run, seed=(5, 1, 2)[i % 3], lr=0.01 * (i + 1)) for i in range(6)]
    assert bits_of(train([*others[:3], run, *others[3:]], LOG), 3) == bits_of(train([run], LOG), 0)


def test_defaults_that_are_written_out_change_no_bit() -> None:
    """Of the recipe's eps, an arm's own of the same value is a copy."""
    for options in ({"base": "adamw"}, {"base": "rmsprop", "momentum": 0.5}, {}):
        run = make_run(lr=0.02, options=options)
        same = dataclasses.replace(run, options=options | {"eps": RECIPE.eps})
        assert bits_of(train([same], LOG), 0) == bits_of(train([run], LOG), 0)


def test_arms_that_differ_in_an_option_of_the_base_train_in_stacks_of_their_own() -> None:
    """They share neither chain nor state, so a stack has one value; thresholds may still differ."""
    study = apply(
        make_study(arms=(Arm("none"),)), ["none.base=adamw", "none.beta2=0.9,0.99", "none.weight_decay=0,0.1"]
    )
    assert [arm.options["beta2"] for arm in study.arms] == [0.9, 0.9, 0.99, 0.99]
    stacks = planned_of(study, workers=1).stacks
    assert {len({run.options["beta2"] for run in stack.runs}) for stack in stacks} == {1}
    assert any(len({run.options.get("weight_decay", 0.0) for run in stack.runs}) == 2 for stack in stacks)

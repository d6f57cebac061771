"""No step, no judging and no checkpoint waits for a device: every method on every network, on one without numbers."""

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from device_settings import AXES, EMBEDDINGS, OPTIONS, Setting, all_pairs, every
from fake_device import DEVICE, arrays_like, computing_nothing, four_runs, trained, try_on_cpu
from stacks import LOG, with_lists, with_missing
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

from study.config import Run
from study.data._dataset import Log
from study.training import evaluation


def test_any_two_values_meet() -> None:
    for (i, one), (j, other) in itertools.combinations(enumerate(AXES), 2):
        assert {(row[i], row[j]) for row in all_pairs()} == set(itertools.product(one, other))


@pytest.mark.parametrize(
    "setting",
    [pytest.param(row, id="-".join(row), marks=[] if row in all_pairs() else pytest.mark.slow) for row in every()],
)
def test_no_method_on_any_network_waits(setting: Setting) -> None:
    runs = four_runs(*setting, options=setting.options)
    try_on_cpu(runs, LOG)
    train_and_judge(runs, LOG)


@pytest.mark.parametrize("log", [with_missing(LOG, 0.4, 0.97, 0.0), with_lists(LOG)], ids=["missing labels", "lists"])
@pytest.mark.parametrize(
    ("method", "model", "embeddings"),
    [("clippy", "small", "method"), ("rollback", "small_mmoe", "adagrad"), ("none", "own_models.dropout", "method")],
)
def test_missing_labels_and_lists_do_not_wait(method: str, model: str, embeddings: str, log: Log) -> None:
    runs = four_runs(method, model, embeddings, options=OPTIONS.get(method, {}))
    try_on_cpu(runs, log)
    train_and_judge(runs, log)


@pytest.mark.parametrize(
    "options",
    [
        {"base": "sgd"},
        {"base": "sgd", "momentum": 0.9, "nesterov": True},
        {"base": "rmsprop", "momentum": 0.5},
        {"base": "adamw", "weight_decay": 0.1},
        {"base": "adamw", "beta1": 0.0},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
@pytest.mark.parametrize("embeddings", EMBEDDINGS)
def test_no_base_waits(embeddings: str, options: dict[str, Any]) -> None:
    runs = four_runs("clippy", "small", embeddings, options=options)
    try_on_cpu(runs, LOG)
    train_and_judge(runs, LOG)


def train_and_judge(runs: Sequence[Run], log: Log) -> None:
    with computing_nothing():
        training = trained(runs, log)
        found = [*evaluation.measured(training).values(), evaluation.finite(training), evaluation.moved(training)]
        training.load_state(arrays_like(training.state()))
    assert all(x.shape == (4,) and x.device == DEVICE for x in found)


def test_the_device_detects_waits() -> None:
    with computing_nothing():
        x = torch.ones(4, device=DEVICE)
        with pytest.raises(DataDependentOutputException):
            int(x.sum())
        with pytest.raises(DataDependentOutputException):
            bool(torch.allclose(x, x))
        with pytest.raises(DynamicOutputShapeException):
            x.nonzero()
        with pytest.raises(DynamicOutputShapeException):
            torch.unique_consecutive(x)
        with pytest.raises(RuntimeError, match="same device"):
            x + torch.ones(4)

"""No step, no judging and no checkpoint waits for a device: every method on every network, on one without numbers."""

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from fake_device import DEVICE, arrays_like, computing_nothing, four_runs, trained, try_on_cpu
from stacks import LOG
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

from study import methods
from study.training import evaluation

MODELS = ("small", "large_dcn", "small_mmoe", "own_models.batch_norm", "own_models.dropout")
EMBEDDINGS, PRECISIONS = ("adagrad", "method"), ("float32", "float64")

OPTIONS: dict[str, dict[str, Any]] = {name: {"back": 2} for name in ("rollback", "rollback_lower_lr")}
"""A snapshot within three steps."""

EVERY = list(itertools.product(methods.names(), MODELS, EMBEDDINGS, PRECISIONS))


def all_pairs() -> list[tuple[str, ...]]:
    """Each method on each network, with settings such that any two values meet."""
    settings = list(itertools.product(EMBEDDINGS, PRECISIONS))
    return [
        (method, model, *settings[(m + n) % len(settings)])
        for m, method in enumerate(methods.names())
        for n, model in enumerate(MODELS)
    ]


def test_any_two_values_meet() -> None:
    axes = (methods.names(), MODELS, EMBEDDINGS, PRECISIONS)
    for (i, one), (j, other) in itertools.combinations(enumerate(axes), 2):
        assert {(row[i], row[j]) for row in all_pairs()} == set(itertools.product(one, other))


@pytest.mark.parametrize(
    "setting",
    [pytest.param(row, id="-".join(row), marks=[] if row in all_pairs() else pytest.mark.slow) for row in EVERY],
)
def test_no_method_on_any_network_waits(setting: Sequence[str]) -> None:
    method, model, embeddings, precision = setting
    runs = four_runs(method, model, embeddings, precision, options=OPTIONS.get(method, {}))
    try_on_cpu(runs, LOG)
    with computing_nothing():
        training = trained(runs)
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

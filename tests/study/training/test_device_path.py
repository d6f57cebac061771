"""The path of a GPU, computed on a CPU: the same runs as the CPU's own, but for rounding."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from stacks import EARLY, LOG, RECIPE, make_run

from study import methods
from study.config import Run
from study.data._dataset import Log
from study.training import devices, evaluation, fused_mlp
from study.training.leaves import PackedLeaves
from study.training.metrics import auc, auc_of_runs, rmse, rmse_of_runs
from study.training.stack import StackTraining, StepView
from study.training.table_method import WholeTableMethod
from study.training.trainer import Trained, train

rng = np.random.default_rng(3)
codes = rng.integers(0, 40, (len(LOG.labels), 3)).astype(np.int32)
codes[np.arange(3) >= rng.integers(0, 4, len(LOG.labels))[:, None]] = -1
codes[: 64 * 3] = -1  # the first batches may hold no id of a list
LISTS = dataclasses.replace(
    LOG, ids=np.concatenate([LOG.ids[:, :2], codes], 1), lengths=(1, 1, 3), pools=("sum", "sum", "mean")
)


@pytest.fixture
def as_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def switch() -> None:
        monkeypatch.setattr(devices, "wants_few_operations", lambda _device: True)
        monkeypatch.setattr(fused_mlp, "takes", lambda *_given: False)

    return switch


def four(method: str, model: str = "small_dcn", **more: Any) -> list[Run]:
    recipe = dataclasses.replace(RECIPE, steps=12, precision="float64", **more.pop("recipe", {}))
    run = make_run(method=method, model=model, recipe=recipe, **more)
    return [dataclasses.replace(run, seed=seed, lr=lr) for seed in (3, 5) for lr in (0.1, 0.6)]


def assert_same(found: Trained, expected: Trained, rtol: float = 1e-10) -> None:
    np.testing.assert_allclose(found.loss, expected.loss, rtol=max(rtol, 1e-6))  # losses are kept in float32
    np.testing.assert_allclose(found.moved, expected.moved, rtol=rtol)
    for name, values in expected.judged.items():
        np.testing.assert_allclose(found.judged[name], values, rtol=rtol, err_msg=name)
    for name, values in expected.counts.items():
        np.testing.assert_array_equal(found.counts[name], values)
    np.testing.assert_array_equal(found.finite, expected.finite)


@pytest.mark.parametrize(
    ("log", "embeddings"),
    [(LOG, "adagrad"), (LOG, "method"), (LISTS, "method")],
    ids=["adagrad", "method", "method of lists"],
)
@pytest.mark.parametrize("method", methods.names())
def test_every_method_trains_as_on_cpu(method: str, log: Log, embeddings: str, as_a_gpu: Callable[[], None]) -> None:
    runs = four(method, options=EARLY.get(method, {}), recipe={"embeddings": embeddings})
    expected = train(runs, log)
    as_a_gpu()
    training = StackTraining(runs, log, torch.device("cpu"))
    assert isinstance(training.leaves, PackedLeaves)
    assert isinstance(training.table_method, WholeTableMethod) == (embeddings == "method")
    assert_same(train(runs, log), expected)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("clippy", {"norm": "rms"}),
        ("clippy", {"delayed": True, "clip_accumulator": True, "acc_rel": 0.01}),
        ("clippy", {"base": "adamw", "weight_decay": 0.01}),
        ("clippy", {"base": "rmsprop", "momentum": 0.9}),
        ("clippy", {"base": "sgd", "momentum": 0.9, "nesterov": True}),
        ("agc", {"per": "unit"}),
        ("agc", {"after": True}),
        ("update_rms_clip", {"d": 0.01, "base": "sgd"}),
    ],
)
def test_options_act_as_on_cpu(method: str, options: dict[str, Any], as_a_gpu: Callable[[], None]) -> None:
    runs = four(method, "small_mmoe", options=options, recipe={"embeddings": "method"})
    expected = train(runs, LOG)
    as_a_gpu()
    assert_same(train(runs, LOG), expected, rtol=1e-9)


@pytest.mark.parametrize("model", ["own_models.batch_norm", "own_models.dropout", "own_models.linear"])
def test_own_models_train_as_on_cpu(model: str, as_a_gpu: Callable[[], None]) -> None:
    expected = train(four("clippy", model), LOG)
    as_a_gpu()
    assert_same(train(four("clippy", model), LOG), expected)


def test_a_run_that_is_not_finite_changes_no_other(as_a_gpu: Callable[[], None]) -> None:
    as_a_gpu()
    runs = four("clippy", options={"rel": math.inf}, recipe={"embeddings": "method"})
    wild = dataclasses.replace(runs[1], lr=1e4, options={"rel": math.inf, "weight_decay": 1e20})
    expected, found = train(runs, LISTS), train([runs[0], wild, *runs[2:]], LISTS)
    assert found.finite.tolist() == [True, False, True, True]
    keep = [0, 2, 3]
    np.testing.assert_allclose(found.loss[keep], expected.loss[keep], rtol=1e-6)


@pytest.mark.parametrize("embeddings", ["adagrad", "method"])
@pytest.mark.parametrize("method", ["adagc", "autoclip", "rollback"])
def test_a_checkpoint_continues_with_the_same_bits(method: str, embeddings: str, as_a_gpu: Callable[[], None]) -> None:
    as_a_gpu()
    runs = four(method, options=EARLY.get(method, {}), recipe={"embeddings": embeddings})
    whole, halved = (StackTraining(runs, LISTS, torch.device("cpu")) for _ in range(2))
    for step, rows_GB in enumerate(whole.batches()):
        whole.step(step, rows_GB)
        if step < 6:
            halved.step(step, rows_GB)
        elif step == 6:
            state = {name: array.copy() for name, array in halved.state_arrays()}
            halved = StackTraining(runs, LISTS, torch.device("cpu"))
            halved.load_state(state)
        if step >= 6:
            halved.step(step, rows_GB)
    for name, tensor in whole.state().items():
        assert torch.equal(tensor, halved.state()[name]), name


def test_a_step_can_be_watched(as_a_gpu: Callable[[], None]) -> None:
    runs = four("adagc", options={"warmup_steps": 4})

    def watched(into: list[dict[str, Any]], seen: StepView) -> None:
        into.append({name: [x.detach().clone() for x in (leaf.weight, leaf.update, leaf.factor, *leaf.state.values())]
                     for name, leaf in seen.leaves.items() if leaf.factor is not None})  # fmt: skip

    expected: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    train(runs, LOG, on_update=functools.partial(watched, expected))
    as_a_gpu()
    train(runs, LOG, on_update=functools.partial(watched, found))
    for one, other in zip(found, expected, strict=True):
        assert list(one) == list(other)
        for name, tensors in other.items():
            torch.testing.assert_close(one[name], tensors, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("ties", [1, 3, 100])
def test_auc_of_many_runs_has_the_bits_of_one(ties: int) -> None:
    draws = np.random.default_rng(ties)
    scores = np.round(draws.standard_normal((7, 501)) * ties) / ties
    labels = (draws.random(501) < 0.3).astype(np.float64)
    found = auc_of_runs(torch.from_numpy(scores), torch.from_numpy(labels))
    assert found.tolist() == [auc(one, labels) for one in scores]
    assert auc_of_runs(torch.from_numpy(scores), torch.ones(501)).isnan().all()


def test_auc_by_hand() -> None:
    scores, labels = torch.tensor([[0.1, 0.4, 0.35, 0.8], [1.0, 1.0, 1.0, 1.0]]), torch.tensor([0.0, 0.0, 1.0, 1.0])
    assert auc_of_runs(scores, labels).tolist() == [0.75, 0.5]


def test_rmse_of_many_runs_equals_that_of_one() -> None:
    draws = np.random.default_rng(0)
    scores, labels = draws.standard_normal((5, 300)), draws.standard_normal(300)
    found = rmse_of_runs(torch.from_numpy(scores), torch.from_numpy(labels))
    np.testing.assert_allclose(found.numpy(), [rmse(one, labels) for one in scores], rtol=1e-14)


def test_blocks_judge_as_a_whole(as_a_gpu: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    labels = LOG.labels.copy()
    labels[700::3] = math.nan
    labels[:, 2] = np.where(np.arange(len(labels)) < 700, labels[:, 2], math.nan)
    log = dataclasses.replace(LOG, labels=labels)
    expected = train(four("clippy"), log)
    as_a_gpu()
    monkeypatch.setattr(evaluation, "NUMBERS_AT_A_TIME", 300)
    found = train(four("clippy"), log)
    assert np.isnan(found.judged["auc_like"]).all()
    assert_same(found, expected)

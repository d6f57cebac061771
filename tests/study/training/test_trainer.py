"""Training: a run has the same bits in every stack; losses equal a plain loop's; batches, warm-up and outcomes."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from stacks import EARLY, LOG, RECIPE, VOCABULARY, bits_of, make_log, make_run, plain_loop, ragged_stack
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from models import Spec
from study import methods
from study.config import CONTROL_LRS, CONTROL_SEEDS, Recipe, Rule, Run
from study.data._dataset import Task
from study.outcomes.judge import judge
from study.outcomes.reference import control_reference
from study.streams import stream
from study.training import devices, fused_mlp, matmul, stack
from study.training.device_log import DeviceLog
from study.training.embeddings import EmbeddingTables
from study.training.inputs import WholeInputs
from study.training.metrics import auc
from study.training.model_check import stackable
from study.training.networks import spec_of
from study.training.rng import batches
from study.training.stack import StackTraining, StepView, steps_of
from study.training.stack_method import StackMethod
from study.training.touched_rows import TableBlocks, touched_by_groups, touched_or_none
from study.training.trainer import train

NO_FACTOR = ("none", "activation_clip", "rollback", "rollback_lower_lr")


# --- a run does not depend on its stack ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "embeddings", "every"),
    [("small_dcn", "adagrad", 1), ("small_mmoe", "adagrad", 2), ("small", "method", 2)],
)
@pytest.mark.parametrize("method", methods.names())
def test_a_run_has_the_same_bits_alone_and_in_every_stack(method: str, model: str, embeddings: str, every: int) -> None:
    recipe = dataclasses.replace(RECIPE, embeddings=embeddings, steps=12)  # the last step is of the second pass
    run = make_run(method=method, model=model, recipe=recipe, options=EARLY.get(method, {}))
    alone = train([run], LOG)
    expected = bits_of(alone, 0)

    others = ragged_stack(run)[::every]
    together = train([*others[:10], run, *others[10:]], LOG)
    assert not np.isfinite(together.loss[-3:]).all(axis=(1, 2)).any(), "the runs at high lrs must blow up"
    assert np.isfinite(alone.loss).all()
    assert bits_of(together, 10) == expected

    pair = train([run, dataclasses.replace(run, lr=0.01)], LOG)
    assert bits_of(pair, 0) == expected
    other_seed = train([dataclasses.replace(run, seed=1), run], LOG)
    assert bits_of(other_seed, 1) == expected
    assert bits_of(other_seed, 0) != expected


def test_the_place_in_a_stack_does_not_change_a_run() -> None:
    runs = [make_run(method="clippy", lr=0.1 * (1 + i % 4), seed=i % 3, options={"rel": 0.1 + i}) for i in range(7)]
    together = train(runs, LOG)
    backwards = train(runs[::-1], LOG)
    for i, run in enumerate(runs):
        alone = bits_of(train([run], LOG), 0)
        assert bits_of(together, i) == alone
        assert bits_of(backwards, len(runs) - 1 - i) == alone
    assert len({together.loss[i].tobytes() for i in range(7)}) == 7


@pytest.mark.parametrize(
    "changes",
    [
        *({"model": f"own_models.{name}"} for name in ("branching", "batch_norm", "dropout")),
        *({"method": "clippy", "lr": 0.02, "options": {"base": base}} for base in ("sgd", "rmsprop", "adamw")),
        {"model": "small_mmoe", "recipe": dataclasses.replace(RECIPE, precision="float64")},
    ],
    ids=["branching", "batch_norm", "dropout", "sgd", "rmsprop", "adamw", "float64"],
)
def test_users_models_other_bases_and_float64_have_the_same_bits_in_every_stack(changes: dict[str, Any]) -> None:
    run = make_run(**changes)
    others = [dataclasses.replace(run, seed=(5, 1, 2)[i % 3], lr=run.lr * (1 + i) / 6) for i in range(6)]
    alone, together = train([run], LOG), train([*others[:3], run, *others[3:]], LOG)
    assert bits_of(together, 3) == bits_of(alone, 0)
    assert alone.loss[0, -1].sum() < alone.loss[0, 0].sum()
    assert len({together.loss[i].tobytes() for i in range(7)}) == 7


def test_stackable_tells_which_models_can_be_stacked() -> None:
    spec = spec_of(LOG, RECIPE)
    assert [stackable(f"own_models.{name}", spec) for name in ("linear", "branching", "dropout")] == [
        True,
        False,
        False,
    ]
    one_task = dataclasses.replace(spec, head_bias=(0.0,))
    assert all(stackable(name, s) for name in ("small", "small_dcn", "small_mmoe") for s in (spec, one_task))


def test_stackable_compares_the_stack_with_a_plain_loop() -> None:
    """A hidden unit within rounding of zero changes a gradient a little, and says nothing about the stack."""
    spec = spec_of(LOG, RECIPE)
    assert stackable("own_models.near_zero", spec)
    assert not stackable("own_models.hidden_parameter", spec)
    assert not stackable("own_models.wrong_gradient", spec)
    assert not stackable("own_models.scaled_gradient", spec)


@pytest.mark.parametrize(
    "model",
    ["paper_small", *(pytest.param(name, marks=pytest.mark.slow) for name in ("paper_large", "paper_large_dcn"))],
)
def test_the_paper_s_networks_stack(model: str) -> None:
    assert stackable(model, Spec(features=30, embedding_dim=4, numbers=5, head_bias=(0.3, -2.0, 0.0, -3.0)))


def test_stackable_refuses_an_unknown_model() -> None:
    with pytest.raises(ValueError, match=r"unknown model 'own_models\.nowhere'"):
        stackable("own_models.nowhere", spec_of(LOG, RECIPE))


# --- against a plain loop -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["small", "small_dcn", "small_mmoe", "own_models.batch_norm"])
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-4), ("float64", 1e-7)])
def test_losses_equal_those_of_a_plain_loop(model: str, precision: str, tolerance: float) -> None:
    recipe = dataclasses.replace(RECIPE, steps=50, eps=0.0, precision=precision, warmup=20)
    run = make_run(model=model, lr=0.1, recipe=recipe)
    trained = train([dataclasses.replace(run, seed=1), run], LOG)
    loss, heldout = plain_loop(run, LOG)
    np.testing.assert_allclose(trained.loss[1], loss, rtol=tolerance)
    assert abs(trained.loss[1] - trained.loss[0]).max() > 0.01

    truth = LOG.labels[LOG.train_rows :].astype(np.float64)
    assert trained.judged["auc_click"][1] == pytest.approx(pairwise_auc(heldout[:, 0], truth[:, 0]), abs=1e-3)
    rmse = math.sqrt(np.mean((heldout[:, 1] - truth[:, 1]) ** 2)) * LOG.tasks[1].scale
    assert trained.judged["rmse_watch"][1] == pytest.approx(rmse, rel=1e-3)
    if precision == "float64":
        for t, name in ((0, "auc_click"), (2, "auc_like")):
            assert trained.judged[name][1] == pairwise_auc(heldout[:, t], truth[:, t])
        assert trained.judged["rmse_watch"][1] == pytest.approx(rmse, rel=1e-9)


@pytest.mark.parametrize("model", ["small_dcn", "small_mmoe", "own_models.batch_norm"])
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_clamped_hidden_units_equal_those_of_a_plain_loop(model: str, precision: str) -> None:
    """By hand, stacked and one by one. Each run has its own limit, in training and in scoring."""
    recipe = dataclasses.replace(RECIPE, steps=20, eps=0.0, precision=precision)
    run = make_run(model=model, method="activation_clip", lr=0.1, options={"limit": 0.4}, recipe=recipe)
    free = dataclasses.replace(run, options={"limit": math.inf})
    trained = train([free, dataclasses.replace(run, options={"limit": 0.1}), run], LOG)
    loss, heldout = plain_loop(run, LOG, 0.4)
    np.testing.assert_allclose(trained.loss[2], loss, rtol=1e-3 if precision == "float32" else 1e-7)
    truth = LOG.labels[LOG.train_rows :].astype(np.float64)
    assert trained.judged["auc_click"][2] == pytest.approx(pairwise_auc(heldout[:, 0], truth[:, 0]), abs=1e-3)
    untreated = train([dataclasses.replace(run, method="none", options={})], LOG)
    assert trained.loss[0].tobytes() == untreated.loss[0].tobytes()
    assert abs(trained.loss[1] - trained.loss[2]).max() > 1e-3


def test_the_constant_predictor_is_scored_on_the_same_batches() -> None:
    trained = train([make_run(), make_run(seed=6)], LOG)
    for i, seed in enumerate((5, 6)):
        order = batches(seed, rows=LOG.train_rows, batch=64, window=150, steps=17)
        for step, rows in enumerate(order):
            labels = LOG.labels[rows].astype(np.float64)
            for t in (0, 2):
                p = LOG.tasks[t].base
                expected = -np.mean(labels[:, t] * math.log(p) + (1 - labels[:, t]) * math.log(1 - p))
                assert trained.constant[i, step, t] == pytest.approx(expected, rel=1e-5)
            assert trained.constant[i, step, 1] == pytest.approx(np.mean(labels[:, 1] ** 2), rel=1e-5)


def test_a_log_without_ids_and_one_without_numbers_train() -> None:
    without_ids = make_log(ids=False)
    trained = train([make_run(lr=0.05), make_run(lr=0.1)], without_ids)
    assert np.isfinite(trained.loss).all()
    loss, _ = plain_loop(make_run(lr=0.1, recipe=dataclasses.replace(RECIPE, eps=0.0)), without_ids)
    np.testing.assert_allclose(trained.loss[1], loss, rtol=1e-3)

    without_numbers = dataclasses.replace(LOG, numbers=LOG.numbers[:, :0], number_names=())
    loss, _ = plain_loop(make_run(lr=0.1, recipe=dataclasses.replace(RECIPE, eps=0.0)), without_numbers)
    np.testing.assert_allclose(train([make_run(lr=0.1)], without_numbers).loss[0], loss, rtol=1e-3)


# --- embeddings ---------------------------------------------------------------------------------------------------


def make_tables(runs_of_group: int = 3) -> EmbeddingTables:
    return EmbeddingTables(
        VOCABULARY,
        ("user", "tab", "item"),
        (4, 8),
        runs_of_group,
        dim=4,
        std=0.05,
        initial_accumulator=0.1,
        dtype=torch.float64,
        device=torch.device("cpu"),
    )


@pytest.mark.parametrize("in_blocks", [False, True])
def test_gradients_of_touched_rows_equal_autograd(in_blocks: bool) -> None:
    tables = make_tables()
    generator = torch.Generator().manual_seed(0)
    ids_GBF = torch.stack([torch.randint(n, (2, 37), generator=generator).clamp(max=n - 2) for n in VOCABULARY], dim=2)
    positions = tables.positions(ids_GBF)
    embedded_GBFKE = torch.full((2, 37, 3, 3, 4), math.nan, dtype=torch.float64)
    tables.read(positions, embedded_GBFKE)
    gradient_GBFKE = torch.randn(embedded_GBFKE.shape, generator=generator, dtype=torch.float64)
    blocks = TableBlocks(tables.starts, tables.lengths, groups=2, batch=37, device=torch.device("cpu"))
    rows_U, gradient_U = tables.gradients(positions, gradient_GBFKE, blocks if in_blocks else None)
    before = tables.weight.clone()
    lr_GK = torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]], dtype=torch.float64)
    tables.adagrad(rows_U, gradient_U, lr_GK, 1e-7)

    distinct = torch.from_numpy(np.unique(positions.numpy()))
    assert torch.equal(rows_U[rows_U < tables.no_row], distinct)
    assert len(rows_U) == len(positions)
    assert (gradient_U[rows_U == tables.no_row] == 0).all()
    if in_blocks:
        tables_of_blocks = [(int(rows.min()) // tables.ids, int(rows.min()) % tables.ids) for rows in rows_U.split(37)]
        starts = [(group, first) for group in range(2) for first in tables.starts[:-1]]
        assert all(found >= start for found, start in zip(tables_of_blocks, starts, strict=True))
        assert all(found < start for found, start in zip(tables_of_blocks, starts[1:], strict=False))
    assert torch.equal(tables.weight[tables.no_row], before[tables.no_row])
    untouched = torch.ones(len(before), dtype=torch.bool)
    untouched[rows_U] = False
    assert untouched.any()
    assert torch.equal(tables.weight[untouched], before[untouched])
    starts = np.concatenate([[0], np.cumsum(VOCABULARY)])
    for group in range(2):
        for k in range(3):
            for f, codes in enumerate(VOCABULARY):
                rows = slice(group * tables.ids + starts[f], group * tables.ids + starts[f + 1])
                start = before[rows, 4 * k : 4 * k + 4]
                reference = nn.Embedding.from_pretrained(start, freeze=False)
                assert len(start) == codes
                embedded = reference(ids_GBF[group, :, f])
                assert torch.equal(embedded_GBFKE[group, :, f, k], embedded)
                embedded.backward(gradient_GBFKE[group, :, f, k])
                total = reference.weight.grad
                assert total is not None
                here = (rows_U >= rows.start) & (rows_U < rows.stop)
                torch.testing.assert_close(
                    gradient_U[here][:, 4 * k : 4 * k + 4], total[rows_U[here] - rows.start], rtol=1e-13, atol=1e-13
                )
                expected = start - lr_GK[group, k] * total / (0.1 + total**2 + 1e-7).sqrt()
                torch.testing.assert_close(tables.weight[rows, 4 * k : 4 * k + 4], expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(("size", "high"), [(1, 1), (2, 1), (500, 7), (500, 2**40), (70_000, 2**14)])
def test_touched_equals_numpy_unique(size: int, high: int) -> None:
    values = np.random.default_rng(1).integers(0, high, size)
    distinct, first, counts = np.unique(np.sort(values), return_index=True, return_counts=True)
    assert counts.sum() == size
    rows, order, offsets = touched_or_none(torch.from_numpy(values), high)
    assert rows.tolist()[len(distinct) :] == [high] * (size - len(distinct))
    assert offsets.tolist()[len(distinct) :] == [size] * (size - len(distinct))
    rows, offsets = rows[: len(distinct)], offsets[: len(distinct)]
    (found,) = touched_by_groups(torch.from_numpy(values), 1, high)
    for one in (rows, found.rows):
        np.testing.assert_array_equal(one.numpy(), distinct)
    for one in (offsets, found.offsets):
        np.testing.assert_array_equal(one.numpy(), first)
    for one in (order, found.order):
        np.testing.assert_array_equal(one.numpy(), np.argsort(values, kind="stable"))
    np.testing.assert_array_equal(distinct[found.places.numpy()], values)


def test_groups_have_separate_touched_rows() -> None:
    ids = torch.tensor([[4, 0, 4], [4, 0, 4], [1, 2, 0]])
    found = touched_by_groups((ids + torch.arange(3).unsqueeze(1) * 10).flatten(), 3, 10)
    assert [one.rows.tolist() for one in found] == [[0, 4], [10, 14], [20, 21, 22]]
    assert [one.places.tolist() for one in found] == [[1, 0, 1], [1, 0, 1], [1, 2, 0]]
    assert [one.order.tolist() for one in found] == [[1, 0, 2], [1, 0, 2], [2, 0, 1]]


def test_finite_is_false_for_a_run_with_a_nonfinite_row() -> None:
    tables = make_tables()
    assert tables.finite().tolist() == [True] * 6
    tables.weight[tables.ids + 3, 2 * 4 + 1] = math.inf  # group 1, its third run
    assert tables.finite().tolist() == [True] * 5 + [False]


def test_untouched_embeddings_do_not_change() -> None:
    """An id that only the held-out day has keeps its first embedding."""
    ids = LOG.ids.copy()
    ids[:, 2] = 3
    ids[LOG.train_rows :, 2] = 39
    log = dataclasses.replace(LOG, ids=ids)
    run = make_run(recipe=dataclasses.replace(RECIPE, steps=40, eps=0.0, precision="float64"), lr=0.1)
    _, heldout = plain_loop(run, log)
    truth = log.labels[log.train_rows :].astype(np.float64)
    assert train([run], log).judged["auc_click"][0] == pairwise_auc(heldout[:, 0], truth[:, 0])


# --- seeds and batches --------------------------------------------------------------------------------------------


def test_a_seed_has_the_same_start_and_batches_for_every_method_and_lr() -> None:
    reference = train([make_run(), make_run(seed=6)], LOG)
    for method in methods.names():
        trained = train([make_run(method=method, lr=0.7)], LOG)
        # The loss before the first update depends on weights and batch only.
        assert trained.loss[0, 0].tobytes() == reference.loss[0, 0].tobytes()
        assert trained.constant[0].tobytes() == reference.constant[0].tobytes()
    assert reference.loss[0, 0].tobytes() != reference.loss[1, 0].tobytes()
    assert reference.constant[0].tobytes() != reference.constant[1].tobytes()


def read(seed: int = 3, *, rows: int = 1000, batch: int = 96, window: int = 300, steps: int = 40) -> list[np.ndarray]:
    return list(batches(seed, rows=rows, batch=batch, window=window, steps=steps))


def test_each_pass_reads_each_row_once_within_its_window() -> None:
    flat = np.concatenate(read(steps=125))  # 12 passes
    passes = flat.reshape(-1, 1000)
    assert len(passes) == 12
    for one_pass in passes:
        np.testing.assert_array_equal(np.sort(one_pass), np.arange(1000))
        np.testing.assert_array_equal(one_pass // 300, np.arange(1000) // 300)
    assert len({one_pass.tobytes() for one_pass in passes}) == 12
    assert (passes[0] != np.arange(1000)).mean() > 0.9
    spanning = read(steps=4)[3]  # rows 288 to 383 of the pass
    assert sorted(set(spanning // 300)) == [0, 1]


def test_batches_depend_on_the_seed_and_not_on_their_number() -> None:
    assert [b.tobytes() for b in read(steps=5)] == [b.tobytes() for b in read(steps=40)[:5]]
    assert read(4)[0].tobytes() != read(3)[0].tobytes()
    whole = next(batches(1, rows=50, batch=50, window=10**9, steps=1))
    np.testing.assert_array_equal(np.sort(whole), np.arange(50))
    np.testing.assert_array_equal(next(batches(1, rows=50, batch=50, window=1, steps=1)), np.arange(50))


def test_streams_are_named_and_independent() -> None:
    streams = [stream(s, *name) for s in (0, 1, 12) for name in (("a",), ("b",), ("a", "b"), ())]
    assert len(set(streams)) == len(streams)
    assert all(0 <= value < 2**63 for value in streams)
    assert stream(1, "weights") == stream(1, "weights")


def test_golden_streams() -> None:
    """If this fails, weights or batches of every run changed: raise `study.config.runs.RESULTS_VERSION`."""
    assert stream(0, "weights") == 4194789700723333633
    assert stream(7, "embeddings", "user") == 7169640136291385058
    starts = [batch[:4].tolist() for batch in batches(3, rows=100, batch=32, window=40, steps=5)]
    assert starts == [[38, 16, 22, 31], [26, 21, 17, 10], [42, 46, 79, 72], [81, 95, 83, 98], [11, 16, 27, 36]]


def test_golden_run() -> None:
    """If this fails, the results of a run changed; another torch or processor may change only the last digits.

    If the change is intended, raise `study.config.runs.RESULTS_VERSION`, so that old records are not mixed with new
    runs, and write the new numbers here.
    """
    trained = train([make_run(method="clippy", model="small_mmoe", options={"rel": 0.2})], LOG)
    expected = [[0.520635, 0.733663, 0.469329], [0.646928, 0.607209, 0.383918], [0.506298, 0.418078, 0.507148]]
    np.testing.assert_allclose(trained.loss[0, [0, 8, 16]], expected, rtol=1e-3)
    assert trained.judged["auc_click"][0] == pytest.approx(0.744365, abs=2e-3)


def test_steps_are_one_pass_unless_given() -> None:
    assert steps_of(Recipe(batch=64), 700) == 10
    assert steps_of(Recipe(batch=64, steps=33), 700) == 33
    with pytest.raises(ValueError, match="63 training rows do not fill one batch of 64"):
        steps_of(Recipe(batch=64), 63)


# --- warm-up, scores, outcomes ------------------------------------------------------------------------------------


def test_warm_up_is_linear() -> None:
    def lrs(warmup: int) -> list[list[float]]:
        recipe = dataclasses.replace(RECIPE, warmup=warmup, precision="float64")
        runs = [make_run(lr=0.5, recipe=recipe), make_run(lr=1.0, recipe=recipe)]
        method = StackMethod(runs, recipe, 101, torch.float64, torch.device("cpu"))
        return [method.lr(step).tolist() for step in (0, 1, 3, 4, 100)]

    assert lrs(4) == [[0.125, 0.25], [0.25, 0.5], [0.5, 1.0], [0.5, 1.0], [0.5, 1.0]]
    assert lrs(0) == [[0.5, 1.0]] * 5


def pairwise_auc(scores: np.ndarray, labels: np.ndarray) -> float:
    positive, negative = scores[labels > 0.5], scores[labels < 0.5]
    wins = (positive[:, None] > negative).sum() + 0.5 * (positive[:, None] == negative).sum()
    return float(wins / (len(positive) * len(negative)))


def test_auc_counts_pairs_and_half_the_ties() -> None:
    rng = np.random.default_rng(0)
    for size, distinct in ((50, 4), (301, 300), (200, 1), (60, 10**6)):
        scores, labels = rng.integers(0, distinct, size) / 7, (rng.random(size) < 0.3).astype(float)
        assert auc(scores, labels) == pytest.approx(pairwise_auc(scores, labels), abs=1e-14)
        metrics = pytest.importorskip("sklearn.metrics")
        assert auc(scores, labels) == pytest.approx(metrics.roc_auc_score(labels, scores), abs=1e-14)
    assert auc(np.array([0.1, 0.2, 0.3]), np.array([0.0, 1.0, 1.0])) == 1.0
    assert math.isnan(auc(np.arange(3.0), np.ones(3)))
    assert math.isnan(auc(np.arange(3.0), np.zeros(3)))


@pytest.mark.parametrize("heldout_rows", [1, 63, 64, 65, 173])
def test_every_heldout_row_is_judged_once(heldout_rows: int) -> None:
    log = make_log(heldout_rows=173)
    log = dataclasses.replace(log, **{a: getattr(log, a)[: 700 + heldout_rows] for a in ("ids", "numbers", "labels")})
    run = make_run(recipe=dataclasses.replace(RECIPE, steps=3, eps=0.0, precision="float64"))
    _, heldout = plain_loop(run, log)
    errors = (heldout[:, 1] - log.labels[700:, 1].astype(np.float64)) * log.tasks[1].scale
    assert len(errors) == heldout_rows
    rmse = train([run], log).judged["rmse_watch"][0]
    assert rmse == pytest.approx(math.sqrt(np.mean(errors**2)), rel=1e-9)


def test_only_a_nonfinite_run_has_no_heldout_scores() -> None:
    trained = train([make_run(), make_run(lr=1e4, options={"weight_decay": 1e3})], LOG)
    assert trained.finite.tolist() == [True, False]
    for values in trained.judged.values():
        assert np.isfinite(values).tolist() == [True, False]


def test_small_lrs_are_undertrained_and_huge_ones_diverged() -> None:
    log = make_log(train_rows=64 * 150, noise=0.3)
    recipe = dataclasses.replace(RECIPE, steps=None, warmup=20, window=2000)
    control = [make_run(lr=lr, seed=seed, recipe=recipe) for seed in CONTROL_SEEDS[:2] for lr in CONTROL_LRS]
    constants = np.array([task.constant_loss for task in log.tasks])
    learned = train(control, log)
    lrs, seeds = np.array([r.lr for r in control]), np.array([r.seed for r in control])
    reference = control_reference(lrs, seeds, learned.loss, learned.constant, constants, Rule(), learned.moved)
    assert reference.gain > 0.3
    small = (1e-6, 1e-5, 1e-4, 3e-4)
    runs = [make_run(lr=lr, seed=s, recipe=recipe) for lr in (*small, reference.lr, 60.0) for s in (0, 1, 2)]
    trained = train(runs, log)
    outcomes = judge(trained.loss, trained.constant, constants, trained.finite, reference, Rule(), trained.moved)
    expected = ["undertrained"] * 3 * len(small) + ["completed"] * 3 + ["diverged"] * 3
    assert [o.outcome for o in outcomes] == expected


def test_moved_is_the_distance_from_the_first_weights() -> None:
    """One step of plain SGD without warm-up moves the weights by lr times the gradient."""
    recipe = dataclasses.replace(RECIPE, steps=1, warmup=0, precision="float64")
    one, two = (make_run(recipe=recipe, lr=lr, options={"base": "sgd"}) for lr in (1.0, 2.0))
    trained = train([one, two], LOG)
    assert trained.moved[0] > 0
    assert trained.moved[1] == pytest.approx(2 * trained.moved[0], rel=1e-12)
    assert train([two], LOG).moved[0] == trained.moved[1]


def test_gradient_descent_on_a_quadratic_diverges_beyond_two_over_curvature() -> None:
    """loss = mean (x w - y)^2 has curvature h, the largest eigenvalue of 2/B X'X; every batch holds the same rows."""
    rng = np.random.default_rng(2)
    block = rng.standard_normal((64, 2)).astype(np.float32) * np.array([1.5, 0.4], np.float32)
    target = (block @ np.array([0.7, -0.3]))[:, None]
    target = ((target - target.mean()) / target.std()).astype(np.float32)
    log = dataclasses.replace(
        LOG,
        ids=np.zeros((64 * 4, 0), np.int32),
        vocabulary=(),
        id_names=(),
        numbers=np.tile(block, (4, 1)),
        labels=np.tile(target, (4, 1)),
        train_rows=64 * 3,
        tasks=(Task(name="y", kind="regression", base=0.0, scale=1.0, constant_loss=1.0),),
    )
    x = block.astype(np.float64)
    edge = 2 / np.linalg.eigvalsh(2 / 64 * x.T @ x)[-1]
    recipe = Recipe(batch=64, window=64, steps=600, warmup=0, precision="float64")
    options = {"base": "sgd"}
    shares = (0.3, 0.99, 1.01, 1.5)
    runs = [
        make_run(model="own_models.linear", lr=edge * share, options=options, recipe=recipe, seed=0) for share in shares
    ]
    loss = train(runs, log).loss[:, :, 0]
    best = np.square(x @ np.linalg.lstsq(x, target, rcond=None)[0] - target).mean()
    np.testing.assert_allclose(loss[:2, -1], best, rtol=1e-3)
    assert (loss[2:, -1] > 1e3 * loss[2:, 0]).all()
    # the error grows by |1 - lr h| a step, the loss by its square
    assert loss[2, -1] / loss[2, -2] == pytest.approx((1 - 2 * 1.01) ** 2, rel=1e-4)


# --- no waits for the device --------------------------------------------------------------------------------------


class NoWait(TorchDispatchMode):
    """Fails where a value would be copied to the host."""

    reads = ("_local_scalar_dense", "nonzero", "equal", "masked_select", "is_nonzero", "item")

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        name = func.__name__.split(".")[0]
        assert name not in self.reads, f"{name} copies a value to the host"
        return func(*args, **(kwargs or {}))


def test_row_numbers_are_copied_to_a_card_from_pinned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    log = DeviceLog(LOG, torch.device("cpu"))
    calls: list[Any] = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda x: [calls.append("pin"), x][1])
    monkeypatch.setattr(Tensor, "to", lambda x, device, non_blocking: [calls.append((device.type, non_blocking)), x][1])
    for kind in ("cuda", "cpu"):
        log.device = torch.device(kind)
        next(log.batches((3, 5), RECIPE, 4))
    assert calls == ["pin", ("cuda", True), ("cpu", True)]


def test_no_wait_detects_a_read_value() -> None:
    with NoWait(), pytest.raises(AssertionError, match="copies a value to the host"):
        bool(torch.ones(2).sum() > 1)


class NoCopies(TorchDispatchMode):
    """Fails where numbers would be copied between host and device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor) and x.ndim]
        devices = {x.device for x in given} | {kwargs.get("device")} - {None}
        assert len(devices) < 2, f"{func} copies numbers between devices"
        return func(*args, **kwargs)


@pytest.mark.parametrize("model", ["small_dcn", "small_mmoe"])
@pytest.mark.parametrize("method", methods.names())
def test_a_step_copies_nothing_between_host_and_device(
    method: str, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tensors on the device "meta" have no values, so that reading one fails."""
    recipe = dataclasses.replace(RECIPE, steps=3, warmup=2)
    run = make_run(method=method, model=model, recipe=recipe, options=EARLY.get(method, {}))
    runs = [dataclasses.replace(run, seed=seed, lr=lr) for seed in (3, 5) for lr in (0.1, 3.0)]
    training = StackTraining(runs, LOG, torch.device("meta"))
    assert isinstance(training.inputs, WholeInputs)
    for name in ("tensor", "as_tensor"):  # a copy that no dispatch mode sees
        monkeypatch.setattr(torch, name, lambda *_a, **_k: pytest.fail("a tensor is made of numbers on the host"))
    for step, rows_GB in enumerate(training.batches()):
        with NoCopies():
            loss_RT, constant_GT = training.step(step, rows_GB)
        assert loss_RT.is_meta
        assert constant_GT.is_meta


def test_meta_tensors_and_no_copies_detect_waits() -> None:
    with pytest.raises(RuntimeError, match="cannot be called on meta tensors"):
        bool(torch.ones(2, device="meta").sum() > 1)
    for copy in (lambda: torch.ones(2).to("meta"), lambda: torch.ones(2, device="meta").copy_(torch.ones(2))):
        with NoCopies(), pytest.raises(AssertionError, match="between devices"):
            copy()


def four_by_seed_and_lr(method: str, model: str) -> list[Run]:
    run = make_run(method=method, model=model, options=EARLY.get(method, {}))
    return [dataclasses.replace(run, seed=seed, lr=lr) for seed in (3, 5) for lr in (0.1, 3.0)]


@pytest.fixture
def no_wait_in_a_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def switch() -> None:
        step = StackTraining.step
        monkeypatch.setattr(NoWait, "reads", (*NoWait.reads, "unique_consecutive"))

        def watched(*arguments: Any) -> Any:
            with NoWait():
                return step(*arguments)

        monkeypatch.setattr(StackTraining, "step", watched)

    return switch


@pytest.mark.parametrize("method", ["clippy", "layer_clip", "rollback_lower_lr"])
@pytest.mark.parametrize("model", ["small_dcn", "small_mmoe"])
def test_whole_batches_give_the_same_bits_without_reading_values(
    model: str, method: str, no_wait_in_a_step: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All layers of all runs at once, whole batches, and a fixed number of touched rows."""
    monkeypatch.setattr(fused_mlp, "takes", lambda *_given: False)
    runs = four_by_seed_and_lr(method, model)
    expected = train(runs, LOG)
    no_wait_in_a_step()
    monkeypatch.setattr(stack, "TouchedInputs", WholeInputs)
    found = train(runs, LOG)
    assert [bits_of(found, i) for i in range(4)] == [bits_of(expected, i) for i in range(4)]


@pytest.mark.parametrize("method", ["none", "clippy", "rollback_lower_lr"])
@pytest.mark.parametrize("model", ["small_dcn", "small_mmoe"])
def test_the_gpu_path_gives_the_same_bits_on_a_cpu_without_reading_values(
    model: str, method: str, no_wait_in_a_step: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same losses and AUCs of methods that sum no norm; parameters side by side sum norms in another order.

    With the same products: those of oneDNN, which some processors take on a CPU alone, round otherwise.
    """
    runs = four_by_seed_and_lr(method, model)
    monkeypatch.setattr(fused_mlp, "takes", lambda *_given: False)
    monkeypatch.setattr(matmul, "onednn_is_exact", lambda *_given: False)
    expected = train(runs, LOG)
    no_wait_in_a_step()
    monkeypatch.setattr(devices, "wants_few_operations", lambda _device: True)
    found = train(runs, LOG)
    np.testing.assert_array_equal(found.loss.view(np.int32), expected.loss.view(np.int32))
    for name, values in expected.judged.items():
        if name.startswith("auc"):
            np.testing.assert_array_equal(found.judged[name], values)
        else:
            np.testing.assert_allclose(found.judged[name], values, rtol=1e-12)
    np.testing.assert_allclose(found.moved, expected.moved, rtol=1e-12)
    np.testing.assert_array_equal(found.finite, expected.finite)


def test_on_step_is_called_after_each_step() -> None:
    seen: list[int] = []
    train([make_run()], LOG, on_step=seen.append)
    assert seen == list(range(17))


@pytest.mark.parametrize(("model", "embeddings"), [("small_dcn", "adagrad"), ("small", "method")])
@pytest.mark.parametrize("method", methods.names())
def test_on_update_changes_no_bit_and_gets_every_factor(method: str, model: str, embeddings: str) -> None:
    options = {"spike": math.inf} if method.startswith("rollback") else EARLY.get(method, {})
    recipe = dataclasses.replace(RECIPE, embeddings=embeddings)
    run = make_run(method=method, model=model, recipe=recipe, lr=0.8, options=options)
    runs = [dataclasses.replace(run, seed=9), run, dataclasses.replace(run, seed=9, lr=0.05)]
    before, factors = [], []

    def on_update(seen: StepView) -> None:
        assert [(r.seed, r.lr) for r in seen.runs] == [(5, 0.8), (9, 0.8), (9, 0.05)]
        assert seen.lr.tolist() == pytest.approx(
            [r.lr * min(1, (seen.step + 1) / RECIPE.warmup) for r in runs[1::-1] + runs[2:]]
        )
        before.append({name: leaf.weight.detach().clone() for name, leaf in seen.leaves.items()})
        factors.append(torch.stack([leaf.factor for leaf in seen.leaves.values() if leaf.factor is not None]))
        if seen.step:
            assert all((before[-1][name] != before[-2][name]).any() for name in before[-1])

    found = train(runs, LOG, on_update=on_update)
    expected = train(runs, LOG)
    assert [bits_of(found, i) for i in range(3)] == [bits_of(expected, i) for i in range(3)]
    assert len(before) == found.loss.shape[1]
    factors_SLR = torch.stack(factors)
    assert factors_SLR.shape[1:] == (len(before[0]), 3)
    assert (factors_SLR == 1).all() if method in NO_FACTOR else (factors_SLR < 1).any()


@pytest.mark.parametrize("interrupted", [False, True])
def test_training_uses_one_thread_and_restores_the_number(request: pytest.FixtureRequest, interrupted: bool) -> None:
    request.addfinalizer(lambda: torch.set_num_threads(1))
    torch.set_num_threads(2)

    def watch(step: int) -> None:
        assert torch.get_num_threads() == 1
        if interrupted:
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        train([make_run()], LOG, on_step=watch)
    assert torch.get_num_threads() == 2

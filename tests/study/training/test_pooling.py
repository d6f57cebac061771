"""Lists of ids: pooled as torch's EmbeddingBag does, with the same bits in every stack, and sparse updates."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from stacks import LENGTHS, LOG, POOLS, RECIPE, bits_of, make_run, ragged_stack, with_lists

from study.replay.held_rows import HeldRows, SharpnessSettings
from study.training import own_model
from study.training.embeddings import EmbeddingTables
from study.training.inputs import InputSizes
from study.training.pooling import Lists, PooledTouchedInputs, PooledWholeInputs
from study.training.stack import StepView
from study.training.touched_rows import TableBlocks
from study.training.trainer import train

LISTS = with_lists(LOG)


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "small_dcn", "method": "clippy"},
        {"model": "small_mmoe"},
        {"model": "own_models.branching"},
        {"model": "small", "recipe": dataclasses.replace(RECIPE, precision="float64")},
        {"model": "small", "method": "clippy", "recipe": dataclasses.replace(RECIPE, embeddings="method")},
    ],
    ids=["fused", "stacked", "separate", "float64", "method"],
)
def test_a_run_has_the_same_bits_alone_and_in_every_stack(changes: dict[str, Any]) -> None:
    run = make_run(**changes)
    alone = train([run], LISTS)
    others = ragged_stack(run)[::3]
    together = train([*others[:4], run, *others[4:]], LISTS)
    assert bits_of(together, 4) == bits_of(alone, 0)
    assert np.isfinite(alone.loss).all()
    assert bits_of(train([run], LOG), 0) != bits_of(alone, 0)


def inputs_of(kind: str, dtype: torch.dtype, in_blocks: bool = False) -> tuple[Any, EmbeddingTables]:
    sizes = InputSizes(
        groups=2, runs_of_group=3, batch=64, features=3, dim=4, numbers=2, dtype=dtype, device=torch.device("cpu")
    )
    lists = Lists(lengths=LENGTHS, pools=POOLS)
    tables = EmbeddingTables(
        LISTS.vocabulary,
        LISTS.id_names,
        [3, 4],
        3,
        dim=4,
        std=1.0,
        initial_accumulator=0.1,
        dtype=dtype,
        device=torch.device("cpu"),
        lengths=LENGTHS,
    )
    if kind == "touched":
        return PooledTouchedInputs(sizes, lists), tables
    blocks = TableBlocks(tables.starts, tables.lengths, groups=2, batch=64, device=sizes.device)
    return PooledWholeInputs(sizes, lists, blocks=blocks if in_blocks else None), tables


@pytest.mark.parametrize(("kind", "in_blocks"), [("touched", False), ("whole", False), ("whole", True)])
def test_inputs_and_gradients_equal_those_of_an_embedding_bag(kind: str, in_blocks: bool) -> None:
    inputs, tables = inputs_of(kind, torch.float64, in_blocks)
    ids_GBC = torch.from_numpy(LISTS.ids[:128]).long().view(2, 64, -1)
    numbers_GBD = torch.randn(2, 64, 2, dtype=torch.float64)
    inputs.read(tables, tables.positions(ids_GBC), numbers_GBD)
    rows_RBI = inputs.rows()
    gradient_RBI = torch.randn(rows_RBI.shape, dtype=torch.float64)
    inputs.take_gradient(gradient_RBI)
    rows_U, summed = inputs.gradients(tables)
    weights = [table.clone().requires_grad_() for table in tables.of_feature(tables.weight)]
    for group in range(2):
        for k in range(3):
            parts, at = [], 0
            for weight, length, pool in zip(weights, LENGTHS, POOLS, strict=True):
                ids = ids_GBC[group, :, at : at + length]
                at += length
                bags = [row[row >= 0] for row in ids]
                offsets = torch.tensor([0, *[len(bag) for bag in bags[:-1]]]).cumsum(0)
                table = weight[group, k]
                parts.append(torch.nn.functional.embedding_bag(torch.cat(bags), table, offsets, mode=pool))
            expected = torch.cat([*parts, numbers_GBD[group]], 1)
            torch.testing.assert_close(rows_RBI[group * 3 + k], expected.detach())
            (expected * gradient_RBI[group * 3 + k]).sum().backward()
    dense = torch.zeros_like(tables.weight)
    dense[rows_U] = summed
    for found, weight in zip(tables.of_feature(dense), weights, strict=True):
        torch.testing.assert_close(found, weight.grad)
    real = rows_U[rows_U < tables.no_row]
    assert len(real) == len(torch.unique(tables.positions(ids_GBC))) - 1, "only rows of ids that the batch holds"


def test_rows_of_other_ids_do_not_change() -> None:
    unseen = dataclasses.replace(LISTS, ids=np.where(LISTS.ids == 3, 2, LISTS.ids).astype(np.int32))
    weights: list[list[torch.Tensor]] = []
    for lr in (0.1, 0.9):
        train([make_run(lr=lr)], unseen, on_end=lambda _, tables, __: weights.append(tables.of_feature(tables.weight)))
    for one, other in zip(*weights, strict=True):
        assert torch.equal(one[0, 0, 3], other[0, 0, 3])
        assert not torch.equal(one[0, 0, 0], other[0, 0, 0])


def test_an_own_model_is_tried_on_lists() -> None:
    own_model.check("own_models.branching", RECIPE, LISTS)
    tried = own_model._first_rows(LISTS)
    assert ((tried.ids < 0) == (np.asarray(LISTS.ids[: len(tried.ids)]) < 0)).all()


def test_the_row_of_all_ends_of_lists_gets_no_gradient_of_a_run_that_is_not_finite() -> None:
    inputs, tables = inputs_of("whole", torch.float32)
    inputs.read(
        tables, tables.positions(torch.from_numpy(LISTS.ids[:128]).long().view(2, 64, -1)), torch.zeros(2, 64, 2)
    )
    inputs.take_gradient(torch.full(inputs.rows().shape, math.nan))
    rows_U, summed = inputs.gradients(tables)
    assert (summed[rows_U == tables.no_row] == 0).all()
    assert summed[rows_U != tables.no_row].isnan().all()


def test_lists_of_one_id_equal_plain_ids() -> None:
    """Up to rounding: a log without lists takes the faster path."""
    recipe = dataclasses.replace(RECIPE, precision="float64")
    lists = dataclasses.replace(
        LOG, ids=np.insert(LOG.ids, 1, -1, axis=1).astype(np.int32), lengths=(2, 1, 1), pools=("mean", "sum", "mean")
    )
    one, other = (train([make_run(recipe=recipe)], log) for log in (lists, LOG))
    np.testing.assert_allclose(one.loss, other.loss, rtol=1e-6)


def test_a_replay_sees_the_inputs_of_training() -> None:
    rows_B = np.arange(64)
    found: list[tuple[torch.Tensor, torch.Tensor]] = []

    def watch(view: StepView) -> None:
        held = HeldRows(LISTS, rows_B, view)
        inputs, tables = inputs_of("touched", torch.float64)
        tables.weight, tables.no_row = view.tables.weight, view.tables.no_row
        inputs.groups, inputs.runs_of_group, inputs.runs = 1, 1, 1
        ids_1BC = torch.from_numpy(LISTS.ids[:64]).long()[None]
        inputs.numbers_GBD = inputs.numbers_GBD[:1]
        inputs.read(tables, view.tables.positions(ids_1BC), torch.from_numpy(LISTS.numbers[:64]).double()[None])
        found.append((held._inputs(held._embedded(0)), inputs.rows()[0]))
        held.sharpness(0, SharpnessSettings(blocks=True, tolerance=0.5))

    recipe = dataclasses.replace(RECIPE, precision="float64", steps=1, embedding_dim=4)
    train([make_run(recipe=recipe)], LISTS, on_update=watch)
    torch.testing.assert_close(*found[0])

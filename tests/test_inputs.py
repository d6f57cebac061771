"""One layout becomes the other: an id's rows of all runs side by side, and a run's inputs of all ids."""

import itertools

import pytest
import torch
from torch import Tensor

from study.inputs import Inputs, copy_words, empty_rows, words

CPU = torch.device("cpu")
SHAPES = [(2, 3, 4, 5), (1, 1, 4, 0), (3, 2, 1, 1), (2, 2, 2, 3), (1, 4, 3, 2), (2, 1, 16, 0), (1, 2, 6, 4)]


def make_inputs(groups: int, runs: int, dim: int, numbers: int, features: int = 3, dtype: str = "float32") -> Inputs:
    inputs = Inputs(
        groups=groups,
        runs_of_group=runs,
        batch=7,
        features=features,
        dim=dim,
        numbers=numbers,
        dtype=getattr(torch, dtype),
        device=CPU,
    )
    generator = torch.Generator().manual_seed(1)
    for buffer in (inputs.embedded_GBFKE, inputs.gradient_GBFKE, inputs.numbers_GBD):
        buffer.normal_(generator=generator)
    return inputs


def expected_rows(inputs: Inputs) -> Tensor:
    """By the definition, value by value: embeddings first, feature by feature, then numbers."""
    rows = torch.empty(inputs.runs, inputs.batch, inputs.width, dtype=inputs.dtype)
    for group, k, b in itertools.product(range(inputs.groups), range(inputs.runs_of_group), range(inputs.batch)):
        of_ids = [inputs.embedded_GBFKE[group, b, f, k] for f in range(inputs.features)]
        rows[group * inputs.runs_of_group + k, b] = torch.cat([*of_ids, inputs.numbers_GBD[group, b]])
    return rows


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("groups", "runs", "dim", "numbers"), SHAPES)
def test_rows_are_embeddings_feature_by_feature_and_then_numbers(
    groups: int, runs: int, dim: int, numbers: int, dtype: str
) -> None:
    inputs = make_inputs(groups, runs, dim, numbers, dtype=dtype)
    expected = expected_rows(inputs)
    assert torch.equal(inputs.rows(), expected)
    alone = [rows_BP.clone() for rows_BP in inputs.rows_of_runs()]
    assert torch.equal(torch.stack(alone)[:, :, : inputs.width], expected)
    assert not any(rows_BP[:, inputs.width :].any() for rows_BP in alone), "the filling is zero"
    assert {rows_BP.shape[1] % 4 for rows_BP in alone} == {0}


def test_inputs_without_ids_or_without_numbers() -> None:
    without_ids = make_inputs(2, 3, 4, 5, features=0)
    assert torch.equal(without_ids.rows(), expected_rows(without_ids))
    assert torch.equal(
        torch.stack([rows.clone() for rows in without_ids.rows_of_runs()])[:, :, :5], expected_rows(without_ids)
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("groups", "runs", "dim", "numbers"), SHAPES)
def test_a_gradient_goes_back_to_where_the_embedding_came_from(
    groups: int, runs: int, dim: int, numbers: int, dtype: str
) -> None:
    inputs = make_inputs(groups, runs, dim, numbers, dtype=dtype)
    embedded = inputs.embedded_GBFKE.clone()
    inputs.take_gradient(inputs.rows())
    assert torch.equal(inputs.gradient_GBFKE, embedded)
    inputs.gradient_GBFKE.fill_(float("nan"))
    for run, rows_BP in enumerate(inputs.rows_of_runs()):
        inputs.take_gradient_of_run(run, rows_BP)
    assert torch.equal(inputs.gradient_GBFKE, embedded)


def test_words_are_as_wide_as_all_rows_allow() -> None:
    dense = torch.randn(3, 8)
    (whole,) = words(dense)
    assert whole.dtype == torch.complex128
    assert whole.shape == (3, 2)
    assert whole.data_ptr() == dense.data_ptr()
    assert [x.dtype for x in words(dense, torch.randn(3, 6))] == [torch.complex64] * 2
    assert words(torch.randn(3, 5))[0].dtype == torch.float32
    assert words(torch.randn(3, 12)[:, 1:9])[0].dtype == torch.float32, "rows begin at odd places"
    assert words(torch.randn(3, 10)[:, :8])[0].dtype == torch.complex64, "rows lie 10 floats apart"
    assert words(torch.randn(3, 3, dtype=torch.float64))[0].dtype == torch.float64


def test_copies_in_words_keep_every_bit_of_a_nan() -> None:
    source = torch.tensor([[0x7FC00001, 0x7F800000, 0, 1]], dtype=torch.int32).view(torch.float32)
    target = torch.zeros(1, 4)
    copy_words(source, target)
    assert torch.equal(target.view(torch.int32), source.view(torch.int32))


def test_empty_rows_begin_at_whole_words() -> None:
    rows = empty_rows(2, 3, 5, dtype=torch.float32, device=CPU)
    assert rows.shape == (2, 3, 5)
    assert rows.stride() == (24, 8, 1)

"""Inputs of a batch: rows of each run from tables that hold all runs, and gradients back to the tables."""

import pytest
import torch
from torch import Tensor, nn

from study.training.embeddings import EmbeddingTables
from study.training.inputs import Inputs, InputSizes, TouchedInputs, WholeInputs

CPU = torch.device("cpu")
VOCABULARY = (3, 5, 40)
SHAPES = [(2, 3, 4, 5), (1, 1, 4, 0), (3, 2, 1, 1), (2, 2, 2, 3), (1, 4, 3, 2), (2, 1, 16, 0), (1, 2, 6, 4)]
"""Groups, runs of a group, embedding dimension and numbers."""


def made(kind: type[Inputs], sizes: InputSizes) -> tuple[Inputs, EmbeddingTables, Tensor]:
    """Return a batch that was read, its tables, and its ids (G, B, F)."""
    generator = torch.Generator().manual_seed(1)
    tables = EmbeddingTables(
        VOCABULARY[: sizes.features],
        ("a", "b", "c")[: sizes.features],
        range(sizes.groups),
        sizes.runs_of_group,
        dim=sizes.dim,
        std=1.0,
        initial_accumulator=0.1,
        dtype=sizes.dtype,
        device=CPU,
    )
    tables.weight.normal_(generator=generator)  # runs of a group differ too
    shape = (sizes.groups, sizes.batch)
    ids = [torch.randint(codes, shape, generator=generator) for codes in VOCABULARY[: sizes.features]]
    ids_GBF = torch.stack([*ids, torch.zeros(shape, dtype=torch.int64)], 2)[:, :, : sizes.features]
    inputs = WholeInputs(sizes) if kind is WholeInputs else TouchedInputs(sizes)
    numbers_GBD = torch.randn(*shape, sizes.numbers, dtype=sizes.dtype, generator=generator)
    inputs.read(tables, tables.positions(ids_GBF), numbers_GBD)
    return inputs, tables, ids_GBF


def sizes_of(shape: tuple[int, int, int, int], dtype: str = "float32", features: int = 3) -> InputSizes:
    groups, runs, dim, numbers = shape
    return InputSizes(
        groups=groups,
        runs_of_group=runs,
        batch=7,
        features=features,
        dim=dim,
        numbers=numbers,
        dtype=getattr(torch, dtype),
        device=CPU,
    )


def expected_rows(inputs: Inputs, tables: EmbeddingTables, ids_GBF: Tensor) -> Tensor:
    """Return torch's look-up of each feature in turn, and then the numbers."""
    rows = []
    for run in range(inputs.runs):
        group, k = divmod(run, inputs.runs_of_group)
        of_features = enumerate(tables.of_feature(tables.weight))
        embedded = [nn.functional.embedding(ids_GBF[group, :, f], own[group, k]) for f, own in of_features]
        rows.append(torch.cat([*embedded[: inputs.features], inputs.numbers_GBD[group]], 1))
    return torch.stack(rows)


def touched(inputs: Inputs, tables: EmbeddingTables) -> tuple[torch.Tensor, torch.Tensor]:
    """The touched rows and their gradients, without the rows of `WholeInputs` that stand for none."""
    rows_U, summed = inputs.gradients(tables)
    real = rows_U < tables.no_row
    assert (summed[~real] == 0).all()
    return rows_U[real], summed[real]


@pytest.mark.parametrize("kind", [WholeInputs, TouchedInputs])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES)
def test_rows_are_the_embeddings_of_each_feature_and_then_numbers(
    shape: tuple[int, int, int, int], dtype: str, kind: type[Inputs]
) -> None:
    inputs, tables, ids_GBF = made(kind, sizes_of(shape, dtype))
    expected = expected_rows(inputs, tables, ids_GBF)
    assert torch.equal(inputs.rows(), expected)
    if isinstance(inputs, TouchedInputs):
        for few in range(1, inputs.runs + 1):
            for first in range(inputs.runs - few + 1):
                runs = range(first, first + few)
                rows_CBP = inputs.rows_of(runs)
                assert torch.equal(rows_CBP[:, :, : inputs.width], expected[first : first + few])
                assert rows_CBP.shape[2] - inputs.width == -sizes_of(shape).numbers % shape[2]
                assert not rows_CBP[:, :, inputs.width :].any()


@pytest.mark.parametrize("kind", [WholeInputs, TouchedInputs])
def test_inputs_without_ids(kind: type[Inputs]) -> None:
    inputs, tables, ids_GBF = made(kind, sizes_of((2, 3, 4, 5), features=0))
    expected = expected_rows(inputs, tables, ids_GBF)
    assert torch.equal(inputs.rows(), expected)
    if isinstance(inputs, TouchedInputs):
        assert torch.equal(inputs.rows_of(range(1, 5)), expected[1:5])


@pytest.mark.parametrize("kind", [WholeInputs, TouchedInputs])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_of_an_id_are_summed_over_the_batch(
    shape: tuple[int, int, int, int], dtype: str, kind: type[Inputs]
) -> None:
    inputs, tables, ids_GBF = made(kind, sizes_of(shape, dtype))
    generator = torch.Generator().manual_seed(2)
    gradient_RBI = torch.randn(inputs.runs, inputs.batch, inputs.width, dtype=inputs.dtype, generator=generator)
    inputs.take_gradient(gradient_RBI)
    rows_U, summed = touched(inputs, tables)

    positions = tables.positions(ids_GBF)
    assert torch.equal(rows_U, positions.unique())
    expected = torch.zeros(len(tables.weight), inputs.runs_of_group, inputs.dim, dtype=inputs.dtype)
    for run in range(inputs.runs):
        group, k = divmod(run, inputs.runs_of_group)
        rows = positions.view(inputs.groups, -1)[group]
        occurrences = gradient_RBI[run, :, : inputs.embedded_width].reshape(-1, inputs.dim)
        expected[:, k].index_add_(0, rows, occurrences)
    tolerance = 1e-5 if dtype == "float32" else 1e-13
    torch.testing.assert_close(summed, expected[rows_U].flatten(1), rtol=tolerance, atol=tolerance)
    assert not torch.equal(summed[:, : inputs.dim], expected[rows_U][:, 0] * 0), "there is something to sum"


@pytest.mark.parametrize("shape", SHAPES)
def test_whole_and_touched_inputs_have_the_same_bits(shape: tuple[int, int, int, int]) -> None:
    found = []
    for kind in (WholeInputs, TouchedInputs):
        inputs, tables, _ = made(kind, sizes_of(shape))
        rows_RBI = inputs.rows()
        inputs.take_gradient(rows_RBI)
        found.append((rows_RBI, *touched(inputs, tables)))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_gradients_of_parts_of_the_runs_equal_those_of_all() -> None:
    inputs, tables, _ = made(TouchedInputs, sizes_of((2, 3, 4, 5)))
    assert isinstance(inputs, TouchedInputs)
    gradient_RBI = inputs.rows() + 1
    inputs.take_gradient(gradient_RBI)
    expected = inputs.gradients(tables)[1].clone()
    inputs.gradients_of = [torch.full_like(x, float("nan")) for x in inputs.gradients_of]
    for runs in (range(2), range(2, 5), range(5, 6)):
        inputs.take_gradient_of(runs, gradient_RBI[runs.start : runs.stop, :, : inputs.embedded_width])
    assert torch.equal(inputs.gradients(tables)[1], expected)


def test_rows_are_those_of_the_tables_at_the_time_of_reading() -> None:
    inputs, tables, _ = made(TouchedInputs, sizes_of((2, 3, 4, 5)))
    rows_U, gradient = inputs.gradients(tables)[0], torch.ones_like(inputs.weight_U)  # type: ignore[arg-type]
    assert torch.equal(inputs.weight_U, tables.weight[rows_U])  # type: ignore[arg-type]
    lr_GK = torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])
    start = tables.weight.clone(), tables.accumulator.clone()
    tables.adagrad(rows_U, gradient, lr_GK, 1e-7, inputs.weight_U)
    at_hand = tables.weight.clone()
    tables.weight, tables.accumulator = start
    tables.adagrad(rows_U, gradient, lr_GK, 1e-7)
    assert torch.equal(tables.weight, at_hand)
    assert not torch.equal(at_hand, made(TouchedInputs, sizes_of((2, 3, 4, 5)))[1].weight)

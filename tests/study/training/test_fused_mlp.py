"""The fused forward and backward against the plain path, and both against double precision."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from models import Spec
from study import plugins
from study.data._dataset import Task
from study.training import fused_mlp, matmul
from study.training.embeddings import EmbeddingTables
from study.training.fused_mlp import FusedRankers
from study.training.inputs import InputSizes, TouchedInputs
from study.training.networks import StackedNetworks, build_network, network_of_seed
from study.training.stack import kind_of_networks


@pytest.fixture(autouse=True, params=["oneDNN", "MKL"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Products of this machine, and of one where oneDNN rounds."""
    if request.param == "MKL":
        monkeypatch.setattr(matmul, "onednn_is_exact", lambda: False)
    elif not matmul.onednn_is_exact():
        pytest.skip("on this machine, oneDNN rounds")


CPU = torch.device("cpu")
TASKS = (
    Task(name="click", kind="binary", base=0.4, scale=1.0, unit="", constant_loss=0.67),
    Task(name="like", kind="binary", base=0.1, scale=1.0, unit="", constant_loss=0.3),
    Task(name="watch", kind="regression", base=0.0, scale=2.0, unit="s", constant_loss=1.0),
    Task(name="share", kind="binary", base=0.3, scale=1.0, unit="", constant_loss=0.6),
)
MODELS = ("small", "small_dcn", "large", "large_dcn")


def spec(features: int = 5, dim: int = 4, numbers: int = 3) -> Spec:
    return Spec(features=features, embedding_dim=dim, numbers=numbers, head_bias=(-0.4, -2.2, 0.0, -0.8))


def batch_of(
    spec: Spec, groups: int, runs: int, dtype: torch.dtype = torch.float32, seed: int = 7
) -> tuple[TouchedInputs, EmbeddingTables]:
    """Return a batch that was read, and its tables."""
    sizes = InputSizes(
        groups=groups,
        runs_of_group=runs,
        batch=32,
        features=spec.features,
        dim=spec.embedding_dim,
        numbers=spec.numbers,
        dtype=dtype,
        device=CPU,
    )
    tables = EmbeddingTables(
        (12,) * spec.features,
        [f"id{f}" for f in range(spec.features)],
        range(groups),
        runs,
        dim=spec.embedding_dim,
        std=1.0,
        initial_accumulator=0.1,
        dtype=dtype,
        device=CPU,
    )
    generator = torch.Generator().manual_seed(seed)
    tables.weight.copy_(torch.randn(tables.weight.shape, generator=generator))
    inputs = TouchedInputs(sizes)
    numbers_GBD = torch.randn(inputs.numbers_GBD.shape, generator=generator)
    ids_GBF = torch.randint(12, (groups, 32, spec.features), generator=generator)
    inputs.read(tables, tables.positions(ids_GBF), numbers_GBD)
    return inputs, tables


def learned(
    kind: type[StackedNetworks],
    model: str,
    spec: Spec,
    groups: int,
    runs: int,
    dtype: torch.dtype = torch.float32,
    unit_limit: Tensor | None = None,
) -> tuple[StackedNetworks, dict[str, Tensor]]:
    """Return the networks, and the loss, logits and gradients of one batch by name."""
    networks = [network_of_seed(model, spec, seed) for seed in range(groups * runs)]
    stack = kind(networks, dtype, CPU, (), unit_limit)
    inputs, tables = batch_of(spec, groups, runs, dtype)
    generator = torch.Generator().manual_seed(8)
    labels_RTB = torch.randint(2, (groups, 4, 32), generator=generator).to(dtype).repeat_interleave(runs, 0)
    loss_RT, gradients = stack.learn(inputs, labels_RTB, TASKS)
    found = {"loss": loss_RT, "logits": stack.logits(inputs)}
    found |= {"inputs": inputs.gradients(tables)[1]} if spec.features else {}
    return stack, found | {name: g.clone() for name, g in zip(stack.parameters, gradients, strict=True)}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("groups", "runs", "shape"),
    [(2, 3, {}), (1, 1, {"dim": 16}), (3, 1, {"dim": 3}), (1, 2, {"numbers": 0}), (2, 1, {"dim": 2, "numbers": 8})],
)
def test_the_fused_path_is_as_accurate_as_the_plain_path(
    model: str, groups: int, runs: int, shape: dict[str, Any]
) -> None:
    _, by_hand = learned(FusedRankers, model, spec(**shape), groups, runs)
    _, plain = learned(StackedNetworks, model, spec(**shape), groups, runs)
    _, exact = learned(StackedNetworks, model, spec(**shape), groups, runs, torch.float64)
    assert by_hand.keys() == plain.keys() == exact.keys()
    for name, truth in exact.items():
        assert by_hand[name].shape == plain[name].shape == truth.shape
        assert truth.any(), name
        # Means of numbers of size 1 may cancel; their error is that of the summands.
        size = max(float(truth.abs().max()), 0.1)
        error, plain_error = (float((x[name].double() - truth).abs().max()) / size for x in (by_hand, plain))
        assert error < max(4 * plain_error, 2e-6), name


@pytest.mark.parametrize("model", ["small", "small_dcn"])
def test_clamped_units_equal_the_plain_path(model: str) -> None:
    limits = torch.tensor([0.3, 1.0, 5.0, float("inf")])
    _, by_hand = learned(FusedRankers, model, spec(), 2, 2, unit_limit=limits)
    _, plain = learned(StackedNetworks, model, spec(), 2, 2, unit_limit=limits)
    _, free = learned(FusedRankers, model, spec(), 2, 2)
    for name, expected in plain.items():
        torch.testing.assert_close(by_hand[name], expected, rtol=1e-4, atol=1e-6)
    for name in ("logits", "bottom.0.weight", "heads.weights.0"):
        same = [torch.equal(a, b) for a, b in zip(by_hand[name], free[name], strict=True)]
        assert same == [False, False, same[2], True], "a limit of infinity does not clamp"


def test_a_log_without_ids_equals_the_plain_path() -> None:
    _, by_hand = learned(FusedRankers, "small", spec(features=0, numbers=20), 2, 2)
    _, plain = learned(StackedNetworks, "small", spec(features=0, numbers=20), 2, 2)
    for name, expected in plain.items():
        torch.testing.assert_close(by_hand[name], expected, rtol=1e-4, atol=1e-6)


def test_gradients_use_the_changed_weights() -> None:
    """Copies that are kept between batches, such as padded weights, must be updated."""
    stacks = [
        kind([network_of_seed("small_dcn", spec(), 0)] * 2, torch.float32, CPU)
        for kind in (FusedRankers, StackedNetworks)
    ]
    inputs, _ = batch_of(spec(), 2, 1)
    labels_RTB = torch.ones(2, 4, 32)
    for _ in range(3):
        (loss, ours), (plain_loss, plain) = [stack.learn(inputs, labels_RTB, TASKS) for stack in stacks]
        torch.testing.assert_close(loss, plain_loss, rtol=1e-5, atol=1e-6)
        for a, b in zip(ours, plain, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
        with torch.no_grad():
            for stack, gradients in zip(stacks, (ours, plain), strict=True):
                for weight, gradient in zip(stack.parameters.values(), gradients, strict=True):
                    weight.sub_(gradient, alpha=0.01)


@pytest.mark.parametrize("name", ["bottom.0.weight", "bottom.2.bias", "heads.weights.1", "front.cross.weight"])
def test_a_nan_spreads_as_in_the_plain_path(name: str) -> None:
    def poisoned(kind: type[StackedNetworks]) -> Sequence[Tensor]:
        stack = kind([network_of_seed("small_dcn", spec(), seed) for seed in range(3)], torch.float32, CPU)
        with torch.no_grad():
            stack.parameters[name][1].view(-1)[0] = float("nan")
        inputs, tables = batch_of(spec(), 3, 1)
        loss, gradients = stack.learn(inputs, torch.ones(3, 4, 32), TASKS)
        # the touched rows of a run are those of its group
        rows_U, summed = inputs.gradients(tables)
        of_runs = torch.stack([summed[rows_U // tables.ids == run].sum(0) for run in range(3)])
        return [loss, stack.logits(inputs), of_runs, *(g.clone() for g in gradients)]

    by_hand, plain = poisoned(FusedRankers), poisoned(StackedNetworks)
    for ours, expected in zip(by_hand, plain, strict=True):
        assert torch.equal(ours.isnan(), expected.isnan())
        assert not ours[0].isnan().any()
        assert not ours[2].isnan().any()
    assert by_hand[0][1].isnan().any()


@pytest.mark.parametrize("model", ["small", "small_dcn"])
def test_a_run_has_the_same_bits_in_parts_of_any_size(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found, most = [], []
    for size in (1, 2**16, 2**30):
        monkeypatch.setattr(fused_mlp, "BYTES_AT_A_TIME", size)
        stack, of_size = learned(FusedRankers, model, spec(), 5, 1)
        assert isinstance(stack, FusedRankers)
        most.append(max(len(runs) for runs, _ in stack._parts(batch_of(spec(), 5, 1)[0])))
        found.append(of_size)
    assert most[0] == 1 < most[1] < most[2] == 5
    for name, expected in found[0].items():
        assert all(torch.equal(other[name], expected) for other in found[1:]), name


@pytest.mark.parametrize("model", [model for model in plugins.names("models") if not model.startswith("paper")])
def test_logits_on_every_path_equal_the_network(model: str) -> None:
    """Against the network itself, for every layer."""
    kind = kind_of_networks(model, spec(), build_network(model, spec()), torch.float32, CPU)
    stack, found = learned(kind, model, spec(), 1, 2)
    inputs, _ = batch_of(spec(), 1, 2)
    for run, rows_BI in enumerate(inputs.rows()):
        expected = network_of_seed(model, spec(), run)(rows_BI).mT
        torch.testing.assert_close(found["logits"][run], expected, rtol=1e-4, atol=1e-5)
    untouched = [name for name in stack.parameters if not found[name].any()]
    assert not untouched, "every parameter has a gradient"


def test_only_float32_shared_bottoms_on_a_cpu_are_fused() -> None:
    def taken(model: str, dtype: torch.dtype = torch.float32, device: str = "cpu") -> bool:
        return fused_mlp.takes(build_network(model, spec()), dtype, torch.device(device))

    assert [taken(model) for model in (*MODELS, "paper_small")] == [True] * 5
    assert not any(
        taken(model)
        for model in (
            "small_dcn_unnormed",
            "large_dcn_unnormed",
            "small_mmoe",
            "own_models.linear",
            "own_models.batch_norm",
        )
    )
    assert not taken("small", torch.float64)
    assert not taken("small", device="cuda")

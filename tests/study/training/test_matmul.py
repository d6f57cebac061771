"""Products of a stack by oneDNN: against torch's own in double precision, and independent of the stack."""

import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from study.training import matmul
from study.training.matmul import BatchedLinear

pytestmark = pytest.mark.skipif(not matmul.onednn_is_exact(), reason="this machine has no exact oneDNN")

SHAPES = [(64, 125, 64), (512, 125, 64), (32, 16, 16), (64, 64, 300)]
"""Rows, inputs and outputs."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, in_dims: tuple = (0, 0, 0)) -> Tensor:
    def one(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        with BatchedLinear():
            return functional.linear(x, weight, bias)

    return torch.vmap(one, in_dims=in_dims)(x, weight, bias)


def make(rows: int, inputs: int, outputs: int, runs: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows + inputs)
    return tuple(  # type: ignore[return-value]
        torch.randn(runs, *shape, generator=generator, requires_grad=True)
        for shape in ((rows, inputs), (outputs, inputs), (outputs,))
    )


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of the left factors of all products by oneDNN."""
    seen: list[tuple[int, ...]] = []
    product: Callable = matmul.by_onednn
    monkeypatch.setattr(
        matmul, "by_onednn", lambda left, *rest: (seen.append(tuple(left.shape)), product(left, *rest))[1]
    )
    return seen


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize(("rows", "inputs", "outputs"), SHAPES)
def test_values_and_gradients_equal_double_precision(
    rows: int, inputs: int, outputs: int, with_bias: bool, calls: list
) -> None:
    x, weight, bias = make(rows, inputs, outputs)
    watched = [x, weight, *([bias] if with_bias else [])]
    out = linear(x, weight, bias if with_bias else None, (0, 0, 0 if with_bias else None))
    gradient = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    found = torch.autograd.grad(out, watched, gradient)
    assert len(calls) == 3, "three products, each of all runs"

    double = [v.detach().double().requires_grad_() for v in watched]
    reference = torch.bmm(double[0], double[1].mT) + (double[2][:, None] if with_bias else 0)
    expected = torch.autograd.grad(reference, double, gradient.double())
    torch.testing.assert_close(out.double(), reference, rtol=1e-5, atol=1e-4)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=2e-4)


def test_a_run_has_the_same_bits_alone_and_in_a_stack() -> None:
    x, weight, bias = make(64, 125, 64, runs=5)
    together = linear(x, weight, bias)
    of_weight = torch.autograd.grad(together.square().sum(), weight)[0]
    for r in range(5):
        alone = linear(x[r : r + 1], weight[r : r + 1], bias[r : r + 1])
        assert torch.equal(alone[0], together[r])
        assert torch.equal(torch.autograd.grad(alone.square().sum(), weight)[0][r], of_weight[r])


@pytest.mark.parametrize("rows", [1, 2, 8, 16, 17, 40])
def test_a_tiny_product_has_the_same_bits_alone_and_in_a_stack(rows: int) -> None:
    """torch chooses a library by the total work of all runs."""
    x, weight, bias = (v.detach() for v in make(rows, 16, 16, runs=12))
    together = linear(x, weight, bias)
    for few in (1, 2, 5):
        assert torch.equal(linear(x[:few], weight[:few], bias[:few]), together[:few])


def test_strides_dimensions_and_shared_inputs_give_the_same_product() -> None:
    x, weight, bias = (v.detach() for v in make(48, 20, 32))
    expected = linear(x, weight, bias)
    apart = torch.full((3, 48, 23), float("nan"))
    apart[:, :, :20] = x
    assert torch.equal(linear(apart[:, :, :20], weight, bias), expected)
    assert torch.equal(linear(x.view(3, 8, 6, 20), weight, bias).view(3, 48, 32), expected)
    assert torch.equal(linear(x.movedim(0, 1), weight, bias, (1, 0, 0)), expected)
    shared = linear(x[0], weight, bias, (None, 0, 0))
    assert torch.equal(shared[0], expected[0])
    assert torch.equal(shared[2], linear(x[:1], weight[2:], bias[2:])[0])


def test_unsuitable_products_are_left_to_torch(calls: list) -> None:
    x, weight, bias = (v.detach() for v in make(48, 20, 32))
    for values in ((x.double(), weight.double(), bias.double()), (x, weight[:, :4], bias[:, :4])):
        torch.testing.assert_close(linear(*values), torch.bmm(values[0], values[1].mT) + values[2][:, None])
    assert not calls
    linear(x, weight, bias)
    assert calls


def test_a_nan_stays_in_its_run() -> None:
    x, weight, bias = (v.detach() for v in make(48, 20, 32))
    weight[1, 3, 0] = float("nan")
    out = linear(x, weight, bias)
    assert out[1, :, 3].isnan().all()
    assert out.isnan().sum() == 48
    assert linear(x, weight, bias).relu().isnan().sum() == 48


def test_second_derivatives_are_refused() -> None:
    x, weight, bias = make(48, 20, 32)
    first = torch.autograd.grad(linear(x, weight, bias).square().sum(), weight, create_graph=True)[0]
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


@pytest.mark.parametrize("precision", ["none", "ieee"])
def test_a_product_restores_torchs_precision_setting(precision: str) -> None:
    may, before = matmul.MAY_ROUND, matmul.MAY_ROUND.fp32_precision
    x, weight, _ = (v.detach() for v in make(48, 20, 32))
    try:
        may.fp32_precision = precision
        matmul.by_onednn(x, weight.mT)
        assert may.fp32_precision == precision
        with pytest.raises(RuntimeError):
            matmul.by_onednn(x, weight)
        assert may.fp32_precision == precision
    finally:
        may.fp32_precision = before


def test_products_of_two_threads_leave_torchs_precision_setting_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    inside, both_inside = [], threading.Event()

    def bmm(left: Tensor, right: Tensor) -> Tensor:
        inside.append(matmul.MAY_ROUND.fp32_precision)
        if len(inside) == 1:
            both_inside.wait(0.2)  # which a lock prevents
        else:
            both_inside.set()
            threads[0].join()
        return left @ right

    monkeypatch.setattr(torch, "bmm", bmm)
    x, weight, _ = (v.detach() for v in make(48, 20, 32))
    before = matmul.MAY_ROUND.fp32_precision
    threads = [threading.Thread(target=matmul.by_onednn, args=(x, weight.mT)) for _ in range(2)]
    for thread in threads:
        thread.start()
    threads[1].join()
    found, matmul.MAY_ROUND.fp32_precision = matmul.MAY_ROUND.fp32_precision, before
    assert inside == ["bf16", "bf16"]
    assert found == before


def rounded(left: Tensor, right: Tensor) -> Tensor:
    """As on a processor with bfloat16 units."""
    return torch.bmm(left.bfloat16().float(), right.bfloat16().float())


def by_stack(left: Tensor, right: Tensor) -> Tensor:
    """The bits of a run depend on the number of runs."""
    return torch.bmm(left, right) * (1 + len(left) * 2**-23)


@pytest.mark.parametrize(("product", "exact"), [(torch.bmm, True), (rounded, False), (by_stack, False)])
def test_inexact_onednn_is_detected(product: Callable, exact: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matmul, "by_onednn", product)
    assert matmul.onednn_is_exact.__wrapped__() is exact


def test_inexact_onednn_is_not_used(calls: list, monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, bias = (v.detach() for v in make(48, 20, 32))
    expected = linear(x, weight, bias)
    assert len(calls) == 1
    monkeypatch.setattr(matmul, "onednn_is_exact", lambda: False)
    torch.testing.assert_close(linear(x, weight, bias), expected)
    assert len(calls) == 1

"""Sharpness equals dense eigenvalues, for matrices of many spectra and for a small network."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from study import methods
from study.replay.sharpness import ALL, divisor, largest_eigenvalue, sharpness, threshold
from study.transforms import Leaf

SPECTRA = {
    "psd": lambda rng, n: rng.exponential(size=n),
    "indefinite": lambda rng, n: rng.standard_normal(n),
    "mostly negative": lambda rng, n: np.concatenate([[0.5], -rng.exponential(100, n - 1)]),
    "negative": lambda rng, n: -1 - rng.exponential(size=n),
    "clustered": lambda rng, n: np.concatenate([1 + 1e-6 * rng.random(n // 2), rng.random(n - n // 2) * 1e-3]),
    "close top": lambda rng, n: np.concatenate([[1.0, 0.9999], rng.random(n - 2) * 0.9]),
    "low rank": lambda rng, n: np.concatenate([[7.0, 3.0, -9.0], np.zeros(n - 3)]),
    "equal": lambda rng, n: np.full(n, 2.5),
    "wide": lambda rng, n: 10.0 ** rng.uniform(-8, 4, n),
}


def symmetric(kind: str, n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(rng.standard_normal((n, n)))
    matrix = (turn * SPECTRA[kind](rng, n)) @ turn.T
    return (matrix + matrix.T) / 2


@pytest.mark.parametrize("n", [5, 60, 300])
@pytest.mark.parametrize("kind", SPECTRA)
def test_sharpness_of_a_quadratic_is_its_largest_eigenvalue(kind: str, n: int) -> None:
    for seed in range(3):
        matrix = symmetric(kind, n, seed)
        scale_N = np.random.default_rng(seed).uniform(0.2, 3, n)
        expected = np.linalg.eigvalsh(matrix / np.sqrt(np.outer(scale_N, scale_N)))[-1]

        def loss(parameters: Sequence[Tensor], matrix: np.ndarray = matrix) -> Tensor:
            w = torch.cat([p.flatten() for p in parameters])
            return 0.5 * w @ torch.from_numpy(matrix) @ w

        weights = torch.randn(n, dtype=torch.float64).split([2, n - 2])
        found = sharpness(loss, weights, torch.from_numpy(scale_N).split([2, n - 2]), limit=n)
        assert found[ALL].value == pytest.approx(expected, rel=1e-4)
        assert abs(found[ALL].value - expected) <= found[ALL].error + 1e-9 * np.abs(matrix).sum()


def test_starting_from_an_earlier_eigenvector_saves_products() -> None:
    matrix = torch.from_numpy(symmetric("psd", 300, 1))
    first = largest_eigenvalue(lambda v: matrix @ v, torch.ones(300, dtype=torch.float64))
    again = largest_eigenvalue(lambda v: 1.01 * matrix @ v, first.vector)
    assert again.value == pytest.approx(1.01 * first.value, rel=1e-4)
    assert again.products < first.products / 2


def test_eigenvalue_is_nan_if_a_product_is_not_finite() -> None:
    found = largest_eigenvalue(lambda v: v / 0, torch.ones(4, dtype=torch.float64))
    assert math.isnan(found.value)


def small_network() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(3)
    network = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 1))
    return network.double(), torch.randn(40, 6, dtype=torch.float64), torch.rand(40, 1, dtype=torch.float64).round()


def test_sharpness_of_a_network_equals_its_dense_hessian_by_block() -> None:
    network, inputs, labels = small_network()
    names = [name for name, _ in network.named_parameters()]
    weights = [p.detach() for p in network.parameters()]

    def loss(parameters: Sequence[Tensor]) -> Tensor:
        logits = functional_call(network, dict(zip(names, parameters, strict=True)), (inputs,))
        return nn.functional.binary_cross_entropy_with_logits(logits, labels)

    divisors = [torch.rand_like(w) + 0.1 for w in weights]
    sizes = [w.numel() for w in weights]
    flat = torch.cat([w.flatten() for w in weights])

    def of_flat(flat: Tensor) -> Tensor:
        return loss([part.view_as(w) for part, w in zip(flat.split(sizes), weights, strict=True)])

    root = torch.cat([d.flatten() for d in divisors]).rsqrt()
    hessian = root[:, None] * torch.autograd.functional.hessian(of_flat, flat) * root
    starts = np.cumsum([0, *sizes])
    blocks = {ALL: range(len(names)), "first": [0, 1], "norm": [2, 3], "last": [6, 7]}
    found = sharpness(loss, weights, divisors, blocks)
    for name, places in blocks.items():
        rows = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in places])
        expected = np.linalg.eigvalsh(hessian.detach().numpy()[np.ix_(rows, rows)])[-1]
        assert found[name].value == pytest.approx(expected, rel=1e-4), name


@pytest.mark.parametrize(
    ("base", "options"),
    [
        ("adagrad", {}),
        ("sgd", {}),
        ("sgd", {"momentum": 0.5}),
        ("rmsprop", {}),
        ("rmsprop", {"alpha": 0.5}),
        ("adamw", {}),
        ("adamw", {"beta1": 0.5, "beta2": 0.9}),
    ],
)
def test_divisor_is_what_the_base_divides_by(base: str, options: dict) -> None:
    """With a constant gradient, every momentum is a multiple of it, so lr * g / u gives D."""
    eps = 1e-3
    chain = methods.build("none", 1.0, {"base": base, **options}, eps=eps)
    weight, gradient = (
        torch.zeros(2, 3, dtype=torch.float64),
        torch.tensor([[1.0, -2.0, 0.1], [3.0, 1e-3, 5.0]]).double(),
    )
    leaf = Leaf(weight=weight, gradient=gradient, update=gradient, state=chain.init(weight))
    for step in range(1, 4):
        chain.updates([leaf])
        times = sum(options.get("momentum", 0.0) ** i for i in range(step))
        assert torch.allclose(divisor(leaf.state, eps, weight), times * gradient / leaf.update)


@pytest.mark.parametrize(
    ("momentum", "kind"),
    [(0.0, ""), (0.5, ""), (0.9, ""), (0.9, "averaged"), (0.5, "averaged"), (0.5, "nesterov"), (0.9, "nesterov")],
)
def test_descent_on_a_parabola_grows_beyond_the_threshold(momentum: float, kind: str) -> None:
    lr = 0.1
    edge = threshold(lr, momentum=momentum, averaged=kind == "averaged", nesterov=kind == "nesterov")
    for curvature, grows in ((0.99 * edge, False), (1.01 * edge, True)):
        w, m = 1.0, 0.0
        for _ in range(3000):
            g = curvature * w
            m = momentum * m + (1 - momentum if kind == "averaged" else 1) * g
            w -= lr * (g + momentum * m if kind == "nesterov" else m)
        assert (abs(w) > 1) is grows
    assert threshold(0.0) == math.inf

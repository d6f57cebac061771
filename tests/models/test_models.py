"""Networks: sizes, first weights, and layers against formulas by hand."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

from models import Spec
from models._ranker import CrossNorm, Ranker, TaskHeads
from study import plugins
from study.training.networks import build_network

KUAIRAND = Spec(features=30, embedding_dim=4, numbers=5, head_bias=(-0.3, -0.8, -4.1, 0.0))
SPEC = Spec(features=3, embedding_dim=4, numbers=2, head_bias=(-0.3, 0.0, -4.1))


def make(name: str, spec: Spec = SPEC, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build_network(name, spec)


def size(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def on_meta(name: str, spec: Spec) -> nn.Module:
    with torch.device("meta"):
        return build_network(name, spec)


@pytest.mark.parametrize("name", plugins.names("models"))
def test_every_model_returns_one_logit_for_each_task(name: str) -> None:
    network = on_meta(name, KUAIRAND)
    logits = network(torch.empty(32, KUAIRAND.width, device="meta"))
    assert logits.shape == (32, 4)
    assert all(p.dtype == torch.float32 for p in network.parameters())


@pytest.mark.parametrize("name", plugins.names("models"))
def test_every_model_is_stackable_under_vmap(name: str) -> None:
    if name.startswith("paper_large"):
        networks, inputs = [on_meta(name, SPEC) for _ in range(2)], torch.empty(2, 8, SPEC.width, device="meta")
    else:
        networks, inputs = [make(name, seed=s) for s in (0, 1)], torch.randn(2, 8, SPEC.width)
    parameters, buffers = stack_module_state(networks)
    call = torch.vmap(lambda p, b, x: functional_call(networks[0], (p, b), (x,)), randomness="error")
    logits = call(parameters, buffers, inputs)
    assert logits.shape == (2, 8, 3)
    if not logits.is_meta:
        for one, network, x in zip(logits, networks, inputs, strict=True):
            torch.testing.assert_close(one, network(x), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(logits[0], logits[1])


def test_parameter_counts() -> None:
    assert KUAIRAND.width == 125
    # 125 x 64 + 64, 64 x 64 + 64, four heads of 64 + 1
    assert size(make("small", KUAIRAND)) == 8_064 + 4_160 + 4 * 65 == 12_484
    assert size(make("large", KUAIRAND)) == 32_256 + 3 * 65_792 + 4 * 257 == 230_660
    cross = 125 * 125 + 125 + 2 * 125
    assert size(make("small_dcn", KUAIRAND)) == 12_484 + cross
    assert size(make("large_dcn", KUAIRAND)) == 230_660 + cross
    gates = 4 * (125 * 4 + 4)
    assert size(make("small_mmoe", KUAIRAND)) == 4 * 12_224 + gates + 4 * 65
    assert size(make("large_mmoe", KUAIRAND)) == 4 * (32_256 + 3 * 65_792) + gates + 4 * 257


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("depth=100000000", r"at most 1,000 layers, and this one would have 100,000,000 \(inputs="),
        ("experts=100000000", "at most 1,000 layers, and this one would have 200,000,000 "),
        ("cross_layers=100000000", "at most 1,000 layers, and this one would have 100,000,002 "),
        ("width=100000000", "at most 250,000,000 weights, and this one would have 10,"),
        ("width=30000 experts=4", "at most 250,000,000 weights"),
    ],
)
def test_a_network_that_is_too_large_is_refused_before_it_is_built(options: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(f"ranker {options}", KUAIRAND)


def test_inputs_that_are_too_many_are_refused_before_the_network_is_built() -> None:
    spec = Spec(features=30, embedding_dim=10**8, numbers=5, head_bias=(0.0,))
    for name in ("small", "small_dcn"):
        with pytest.raises(ValueError, match=r"at most 250,000,000 weights.*inputs=3000000005, width=64"):
            make(name, spec)


def test_the_papers_network_with_four_experts_is_not_too_large() -> None:
    spec = Spec(features=30, embedding_dim=16, numbers=5, head_bias=(0.0,) * 4)
    assert size(on_meta("ranker width=4096 depth=4 experts=4", spec)) > 200_000_000


def test_the_papers_networks_have_its_widths() -> None:
    spec = Spec(features=30, embedding_dim=16, numbers=5, head_bias=(0.0,) * 4)
    assert size(make("paper_small", spec)) == (485 * 512 + 512) + (512 * 512 + 512) + 4 * 513
    large = (485 * 4096 + 4096) + 3 * (4096 * 4096 + 4096) + 4 * 4097
    assert size(on_meta("paper_large", spec)) == large
    assert size(on_meta("paper_large_dcn", spec)) == large + 485 * 485 + 485 + 2 * 485


def weights_of(network: nn.Module, part: str) -> list[tuple[str, Tensor]]:
    return [(name, p.detach()) for name, p in network.named_parameters() if part in name and p.dim() == 2]


def assert_normal(weight: Tensor, std: float) -> None:
    """Mean and standard deviation within five standard errors."""
    n = weight.numel()
    assert abs(weight.mean()) < 5 * std / math.sqrt(n)
    assert weight.std() == pytest.approx(std, rel=5 / math.sqrt(2 * n))


@pytest.mark.parametrize("name", ["small", "large", "large_dcn", "large_mmoe", "paper_small"])
def test_the_first_weights_are_normal_with_the_std_of_their_layer(name: str) -> None:
    network = make(name, KUAIRAND)
    hidden = weights_of(network, "bottom") + weights_of(network, "front")
    gates = weights_of(network, "gates")
    gate_names = {gate for gate, _ in gates}
    hidden = [(n, w) for n, w in hidden if n not in gate_names]
    assert len(hidden) >= 2
    for _, weight in hidden:
        assert_normal(weight, math.sqrt(2 / weight.shape[1]))
    for _, weight in gates:
        assert_normal(weight, math.sqrt(1 / weight.shape[1]))
    heads = weights_of(network, "heads")
    assert len(heads) == 4
    assert all(weight.shape[0] == 1 for _, weight in heads), "each task has its own head"
    assert_normal(torch.cat([weight for _, weight in heads]), math.sqrt(1 / heads[0][1].shape[1]))
    assert len(gates) == (4 if name.endswith("mmoe") else 0)


@pytest.mark.parametrize("name", [n for n in plugins.names("models") if not n.startswith("paper_large")])
def test_only_heads_have_biases_at_the_start(name: str) -> None:
    biases = {n: p for n, p in make(name).named_parameters() if p.dim() == 1 and not n.endswith("norm.weight")}
    heads = {n: p for n, p in biases.items() if n.startswith("heads")}
    assert [p.item() for p in heads.values()] == pytest.approx(SPEC.head_bias)
    assert all(p.eq(0).all() for n, p in biases.items() if n not in heads)
    assert len(biases) > len(heads)


@pytest.mark.parametrize("name", [n for n in plugins.names("models") if not n.startswith("paper_large")])
def test_a_network_starts_near_the_best_constant(name: str) -> None:
    network = make(name)
    constant = torch.tensor(SPEC.head_bias)
    torch.testing.assert_close(network(torch.zeros(5, SPEC.width)), constant.expand(5, -1))
    # also with the small embeddings of the start
    nearly = network(0.05 * torch.randn(256, SPEC.width, generator=torch.Generator().manual_seed(3)))
    if "dcn" not in name:  # LayerNorm scales small inputs to unit size
        assert (nearly - constant).std() < 0.2
    assert (nearly - constant).std() > 0


def test_the_cross_front_by_hand() -> None:
    torch.manual_seed(1)
    front = CrossNorm(6).double()
    with torch.no_grad():
        front.cross.bias.normal_()
        front.norm.weight.normal_()
        front.norm.bias.normal_()
    x = torch.randn(4, 6, dtype=torch.float64)
    for row, out in zip(x, front(x), strict=True):
        crossed = torch.stack(
            [
                row[i] * (sum(front.cross.weight[i, j] * row[j] for j in range(6)) + front.cross.bias[i]) + row[i]
                for i in range(6)
            ]
        )
        variance = ((crossed - crossed.mean()) ** 2).mean()
        normal = (crossed - crossed.mean()) / (variance + front.norm.eps).sqrt()
        torch.testing.assert_close(out, normal * front.norm.weight + front.norm.bias)


def test_the_bottom_by_hand() -> None:
    network = make("small").double()
    x = torch.randn(7, SPEC.width, dtype=torch.float64)
    named = dict(network.named_parameters())
    h = x
    for layer in (0, 2):
        h = (h @ named[f"bottom.{layer}.weight"].T + named[f"bottom.{layer}.bias"]).clamp(min=0)
    expected = torch.stack([(h @ named[f"heads.weights.{t}"][0]) + named[f"heads.biases.{t}"] for t in range(3)], dim=1)
    torch.testing.assert_close(network(x), expected)


def test_gates_mix_experts_as_a_loop_does() -> None:
    torch.manual_seed(4)
    network = Ranker(SPEC, hidden=(5, 6), experts=3).double()
    bottom, heads = network.get_submodule("bottom"), network.get_submodule("heads")
    assert isinstance(heads, TaskHeads)
    x = torch.randn(9, SPEC.width, dtype=torch.float64)
    logits = network(x)
    for b in range(9):
        experts = [bottom.get_submodule(f"experts.{e}")(x[b]) for e in range(3)]
        for t in range(3):
            scores = bottom.get_submodule(f"gates.{t}")(x[b]).exp()
            gate = scores / scores.sum()
            assert gate.sum().item() == pytest.approx(1, abs=1e-14)
            mixed = sum(gate[e] * experts[e] for e in range(3))
            expected = (heads.weights[t][0] * mixed).sum() + heads.biases[t][0]
            torch.testing.assert_close(logits[b, t], expected)
    # with all weight on the first expert
    with torch.no_grad():
        for t in range(3):
            bottom.get_parameter(f"gates.{t}.bias").copy_(torch.tensor([50.0, 0.0, 0.0]))
    only_first = torch.stack([(heads.weights[t] @ bottom.get_submodule("experts.0")(x).T)[0] for t in range(3)], dim=1)
    torch.testing.assert_close(network(x), only_first + torch.tensor(SPEC.head_bias, dtype=torch.float64))


@pytest.mark.parametrize("name", ["smal", "", "_ranker", "my_pkg.my_model", "models.nowhere", ".", "..small", "small."])
def test_an_unknown_model_is_refused_with_the_known_names(name: str) -> None:
    with pytest.raises(ValueError, match=r"unknown model .*small_dcn.*dotted"):
        build_network(name, SPEC)


def test_a_module_without_build_is_refused() -> None:
    with pytest.raises(ValueError, match=r"study\.config defines no `build`"):
        build_network("study.config", SPEC)


def test_a_users_model_is_loaded_by_its_dotted_name() -> None:
    assert build_network("own_models.linear", SPEC)(torch.ones(2, SPEC.width)).shape == (2, 3)


def test_names_lists_the_presets() -> None:
    assert {"small", "large", "small_dcn", "large_dcn", "small_mmoe", "large_mmoe", "paper_small"} <= set(
        plugins.names("models")
    )
    assert not [name for name in plugins.names("models") if name.startswith("_")]

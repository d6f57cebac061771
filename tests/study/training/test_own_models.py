"""Models of a user's own: all that a module may hold trains as in a plain loop, with the same bits in every stack."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from own_files import network, own_folder, write  # noqa: F401 - a fixture
from stacks import LOG, RECIPE, assert_resumes, bits_of, make_run, plain_loop
from torch import Tensor, nn

from study import plugins
from study.config import Run
from study.training import devices
from study.training.stack import StackTraining, StepView
from study.training.trainer import train

HIDDEN = "return self.b(self.c(self.a(x).relu()).relu())"
KEPT_MEAN = "return self.b((h - self.mean).relu())"

MIXTURE = network("self.e = nn.Linear(spec.width, 4 * tasks); self.g = nn.Linear(spec.width, 4)",
    "share = self.g(x).softmax(1); y = self.e(x).view(len(x), -1, 4); aux = WEIGHT * share.mean(0).square().sum()\n"
    "return (y * share[:, None]).sum(2) + 0 * self.b(self.a(x)), aux").replace("WEIGHT", "4.0")  # fmt: skip
"""Experts whose loads an auxiliary loss balances."""

MODELS = {
    "frozen layer": network("self.a.requires_grad_(False)"),
    "frozen bias": network("self.b.bias.requires_grad_(False)"),
    "all frozen": network("self.requires_grad_(False)"),
    "frozen front of embeddings": network(
        "self.e = nn.Embedding.from_pretrained(torch.randn(10, 4)); self.c = nn.Linear(spec.width + 4, 16)",
        "k = (x[:, -1] * 2 + 5).clamp(0, 9).long(); return self.b(self.c(torch.cat([x, self.e(k)], 1)).relu())",
    ),
    "sparse embeddings of its own": network(
        "self.e = nn.Embedding(10, 4, sparse=True); self.c = nn.Linear(spec.width + 4, 16)",
        "k = (x[:, -1] * 2 + 5).clamp(0, 9).long(); return self.b(self.c(torch.cat([x, self.e(k)], 1)).relu())",
    ),
    "unused layer": network("self.c = nn.Linear(4, 4)"),
    "layer used at times": network(
        forward="h = self.a(x)\nif x[0, 0] > 0:\n    h = h.detach()\nreturn self.b(h.relu())"
    ),
    "tied weights": network("self.c = nn.Linear(16, 16); self.d = nn.Linear(16, 16); self.d.weight = self.c.weight",
        "return self.b(self.d(self.c(self.a(x).relu()).relu()))"),
    "weight norm": network("self.c = weight_norm(nn.Linear(16, 16))", HIDDEN),
    "spectral norm": network("self.c = spectral_norm(nn.Linear(16, 16))", HIDDEN),
    "batch norm": network("self.c = nn.BatchNorm1d(16)", HIDDEN),
    "buffer changed in place": network("self.register_buffer('mean', torch.zeros(16))",
        f"h = self.a(x)\nif self.training:\n    self.mean.mul_(0.9).add_(0.1 * h.detach().mean(0))\n{KEPT_MEAN}"),
    "buffer that is assigned": network("self.register_buffer('mean', torch.zeros(16))",
        f"h = self.a(x)\nif self.training:\n    self.mean = 0.9 * self.mean + 0.1 * h.detach().mean(0)\n{KEPT_MEAN}"),
    "tensor that is no buffer": network("self.p = torch.randn(16, 16)", "return self.b((self.a(x) @ self.p).relu())"),
    "activation checkpoints": network(
        forward="return self.b(checkpoint(self.a, x, use_reentrant=False).relu())"
    ),
    "in place": network(forward="h = self.a(x); h[:, 0] = 0; return self.b(h.relu_())"),
    "attention": network("self.q = nn.Linear(1, 8); self.c = nn.Linear(8, 16)",
        "q = self.q(x[:, :8, None]); h = functional.scaled_dot_product_attention(q, q, q).mean(1)\n"
        "return self.b(self.c(h).relu())"),
    "gru": network("self.g = nn.GRU(1, 16, batch_first=True)", "return self.b(self.g(x[:, :8, None])[1][0])"),
    "convolution": network("self.c = nn.Conv1d(1, 2, 3); self.d = nn.Linear(2 * (spec.width - 2), 16)",
        "return self.b(self.d(self.c(x[:, None]).flatten(1)).relu())"),
    "one number": network("self.s = nn.Parameter(torch.tensor(1.5))", "return self.b(self.a(x).relu()) * self.s"),
    "auxiliary loss": MIXTURE,
    "auxiliary loss, one by one": network("self.c = nn.BatchNorm1d(16)",
        "h = self.c(self.a(x)).relu(); return self.b(h), 0.3 * h.mean(0).square().sum()"),
    "auxiliary loss at times": network(
        forward="h = self.a(x)\nif x[0, 0] > 0:\n    return self.b(h.relu())\n"
        "return self.b(h.relu()), h.square().mean()"),
    "auxiliary loss in training": network(
        forward="y = self.b(self.a(x).relu()); return (y, y.square().mean()) if self.training else y"),
    "auxiliary loss, a constant": network(forward="return self.b(self.a(x).relu()), torch.tensor(7.0)"),
    "ranker, frozen": network(build="network = ranker.build(spec, width=8); network.bottom[0].requires_grad_(False)"),
    "ranker with a hook": network(
        build="network = ranker.build(spec, width=8)\n"
        "network.bottom[1].register_forward_hook(lambda m, i, out: out * 0.5)"),
    "ranker with another activation": network(
        build="network = ranker.build(spec, width=8); network.bottom[1] = nn.GELU()"),
    "ranker with a norm": network(
        build="network = ranker.build(spec, width=8); network.bottom.insert(1, nn.LayerNorm(8))"),
    "ranker with another cross layer": network(
        build="network = ranker.build(spec, width=8, cross_layers=1); network.front.norm = nn.Identity()"),
    "ranker with weight norm": network(build="network = ranker.build(spec, width=8); weight_norm(network.bottom[0])"),
    "ranker, tied": network(
        build="network = ranker.build(spec, width=8); network.bottom[2].bias = network.bottom[0].bias"),
}  # fmt: skip

FROZEN_NORM = network("self.c = nn.BatchNorm1d(16).eval().requires_grad_(False)", HIDDEN)


@pytest.fixture(params=MODELS)
def run(request: pytest.FixtureRequest, own_folder: Path) -> Run:  # noqa: F811
    recipe = dataclasses.replace(RECIPE, eps=0.0)
    return make_run(model=write(own_folder, MODELS[request.param]), lr=0.1, recipe=recipe)


def test_losses_equal_those_of_a_plain_loop(run: Run) -> None:
    trained = train([dataclasses.replace(run, seed=1), run], LOG)
    loss, _ = plain_loop(run, LOG)
    np.testing.assert_allclose(trained.loss[1], loss, rtol=2e-4)
    assert abs(trained.loss[1] - trained.loss[0]).max() > 0.01


def test_a_run_has_the_same_bits_alone_in_a_stack_and_resumed(run: Run) -> None:
    others = [dataclasses.replace(run, seed=(5, 1, 2)[i % 3], lr=run.lr * (1 + i) / 6) for i in range(4)]
    alone, together = train([run], LOG), train([*others[:2], run, *others[2:]], LOG)
    assert bits_of(together, 2) == bits_of(alone, 0)
    assert together.moved[2] == alone.moved[0]
    assert_resumes(run, 4)


def test_an_auxiliary_loss_is_descended_and_not_recorded(own_folder: Path) -> None:  # noqa: F811
    """Two runs with the same weights have the same first loss, whatever the auxiliary one, and then part."""
    runs = [
        make_run(model=write(own_folder, MIXTURE.replace("4.0 * share", f"{weight} * share"))) for weight in (0.0, 50.0)
    ]
    without, balanced = (train([run], LOG) for run in runs)
    assert np.array_equal(without.loss[:, 0], balanced.loss[:, 0])
    assert np.array_equal(without.constant, balanced.constant)
    assert abs(without.loss[:, 1:] - balanced.loss[:, 1:]).max() > 0.01
    spread = []
    for run in runs:
        stack = StackTraining([run], LOG, torch.device("cpu"))
        for step, rows in enumerate(stack.batches()):
            stack.step(step, rows)
        with torch.no_grad():
            gate = nn.Linear(stack.inputs.width, 4)
            weights = stack.network.weights_of_run(0)
            gate.load_state_dict({name: weights[f"parameter/g.{name}"] for name in ("weight", "bias")})
            spread.append(float(gate(stack.inputs.rows()[0]).softmax(1).mean(0).square().sum()))
    assert spread[1] < spread[0]


@pytest.mark.parametrize(
    "model",
    [
        MODELS["frozen layer"],
        MODELS["ranker, frozen"],
        FROZEN_NORM,
        network("self.a.requires_grad_(False); self.c = nn.Dropout(0.1)", HIDDEN),
    ],
    ids=["stacked", "ranker", "norm", "one by one"],
)
def test_what_is_frozen_is_not_updated_decayed_or_part_of_a_norm(own_folder: Path, model: str) -> None:  # noqa: F811
    run = make_run(model=write(own_folder, model), method="global_clip", options={"weight_decay": 0.1, "base": "adamw"})
    stack = StackTraining([run, dataclasses.replace(run, seed=6)], LOG, torch.device("cpu"))
    leaves: list[str] = []

    def look(view: StepView) -> None:
        leaves[:] = view.leaves

    stack.on_update = look
    before = _copies(stack)
    for step, rows in enumerate(stack.batches()):
        stack.step(step, rows)
    frozen = {name for name, tensor in _copies(stack).items() if torch.equal(tensor, before[name])}
    module = stack.initial_networks([5])[5]
    assert frozen >= {f"buffer/{n}" for n, p in module.named_parameters() if not p.requires_grad} != set()
    assert leaves == [n for n, p in module.named_parameters() if p.requires_grad]


DECAYED = {"base": "adamw", "weight_decay": 0.1}


@pytest.mark.parametrize("embeddings", ["adagrad", "method"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("method", ["clippy", "zclip", "rollback"])
@pytest.mark.parametrize("norm", ["pass", "self.d = nn.BatchNorm1d(4)"], ids=["stacked", "one by one"])
def test_a_parameter_without_a_gradient_is_left_alone(
    own_folder: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    norm: str,
    method: str,
    packed: bool,
    embeddings: str,
) -> None:
    """torch's optimizers do not touch it. It was decayed."""
    monkeypatch.setattr(devices, "wants_few_operations", lambda _device: packed)
    model = write(own_folder, network(f"self.c = nn.Linear(4, 4); {norm}"))
    recipe = dataclasses.replace(RECIPE, embeddings=embeddings)
    run = make_run(model=model, method=method, options=DECAYED, recipe=recipe)
    stack = StackTraining([run, dataclasses.replace(run, seed=6)], LOG, torch.device("cpu"))
    updates: dict[str, float] = {}
    stack.on_update = lambda view: updates.update(
        {n: float(leaf.update.abs().max()) for n, leaf in view.leaves.items()}
    )
    before = _copies(stack)
    for step, rows in enumerate(stack.batches()):
        stack.step(step, rows)
    same = {name for name, tensor in _copies(stack).items() if torch.equal(tensor, before[name])}
    unused = [name for name in before if name.startswith(("parameter/c.", "parameter/d."))]
    assert unused
    assert {name for name in same if name.startswith("parameter/")} == {*unused}
    assert {f"parameter/{name}" for name, update in updates.items() if not update} == {*unused}


def test_a_run_whose_parameter_has_no_gradient_in_a_step_leaves_it_alone_then(own_folder: Path) -> None:  # noqa: F811
    """So do the moments of its gradient, as in torch's loop, and whatever the other runs do."""
    run = make_run(model=write(own_folder, MODELS["layer used at times"]), options=DECAYED)
    stack = StackTraining([run, dataclasses.replace(run, seed=6)], LOG, torch.device("cpu"))
    used = []
    for step, rows in enumerate(stack.batches()):
        stack.read(rows)
        used += (stack.inputs.rows()[:, 0, 0] <= 0).tolist()
        before = {name: tensor.clone() for name, tensor in stack.state().items() if "a.weight" in name}
        assert len(before) > 2
        stack.step(step, rows)
        for name, tensor in before.items():
            now = stack.state()[name]
            assert [not torch.equal(*pair) for pair in zip(now, tensor, strict=True)] == used[-2:], name
    assert {*used} == {True, False}
    assert any(one != other for one, other in zip(used[::2], used[1::2], strict=True))


def _copies(stack: StackTraining) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in stack.network.weights_of_run(0).items()}


def test_an_operation_that_vmap_computes_run_by_run_is_no_warning(own_folder: Path) -> None:  # noqa: F811
    """torch asks the user to file an issue, with a path of its own build."""
    model = write(own_folder, MODELS["weight norm"])
    code = (
        "from models import Spec; from study.training.model_check import stackable; "
        f"print(stackable({model!r}, Spec(features=1, embedding_dim=4, numbers=1, head_bias=(0.0,))))"
    )
    path = os.pathsep.join([str(plugins.ROOT), str(own_folder)])
    environment = os.environ | {"PYTHONPATH": path, "PYTHONWARNINGS": "always"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
    assert "performance drop" not in done.stderr


def test_a_part_in_evaluation_mode_stays_so(own_folder: Path) -> None:  # noqa: F811
    run = make_run(model=write(own_folder, FROZEN_NORM))
    network = StackTraining([run], LOG, torch.device("cpu")).network
    with network.judging():
        assert not network.modules[0].training
    assert network.modules[0].training
    assert not network.modules[0].get_submodule("c").training

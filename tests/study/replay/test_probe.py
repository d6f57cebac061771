"""What a probe observes equals the same quantities by plain autograd, by hand and by a dense Hessian."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from own_files import network, own_folder, write  # noqa: F401 - a fixture
from stacks import LOG, RECIPE, make_run
from torch.func import functional_call

from study import methods
from study.config import Run
from study.replay.activations import layer_of
from study.replay.probe import Probe
from study.training.embeddings import EmbeddingTables
from study.training.evaluation import auc
from study.training.networks import network_of_seed, spec_of
from study.training.rng import batches
from study.training.stack import StepView
from study.training.trainer import train
from study.transforms import Leaf


def observe(runs: list[Run], **changes):
    probe = Probe(LOG, **changes)
    trained = train(runs, LOG, on_update=probe)
    return probe.table(), trained


def loss_of(network, parameters, inputs_BI, labels_BT):
    logits_BT = functional_call(network, parameters, (inputs_BI,))
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    parts = [bce(logits_BT[:, t], labels_BT[:, t]) for t in (0, 2)]
    return parts[0] + parts[1] + (logits_BT[:, 1] - labels_BT[:, 1]).square().mean()


def start_of(run: Run, rows: np.ndarray):
    """The initial network of a run, its embedded rows and numbers, in double precision."""
    network = network_of_seed(run.model, spec_of(LOG, run.recipe), run.seed).double()
    tables = EmbeddingTables(
        LOG.vocabulary, LOG.id_names, [run.seed], 1, dim=run.recipe.embedding_dim, std=run.recipe.embedding_std,
        initial_accumulator=0.1, dtype=torch.float64, device=torch.device("cpu"),
    )  # fmt: skip
    positions = tables.positions(torch.from_numpy(LOG.ids[rows][None].astype(np.int64)))
    embedded = tables.weight[positions].view(len(rows), -1)
    return network, embedded, positions, tables, torch.from_numpy(LOG.numbers[rows]).double()


@pytest.mark.parametrize("method", ["none", "layer_clip", "agc", "lamb", "clippy"])
def test_first_step_of_each_run_equals_plain_autograd(method: str) -> None:
    runs = [make_run(method=method, seed=seed, lr=lr) for seed, lr in ((5, 0.9), (2, 0.3), (5, 0.2))]
    table, trained = observe(runs)
    assert np.array_equal(trained.loss, train(runs, LOG).loss)
    assert set(table["run_id"]) == {run.id for run in runs}
    for run in runs:
        recipe = run.recipe
        rows = next(iter(batches(run.seed, rows=700, batch=recipe.batch, window=recipe.window, steps=1)))
        network, embedded, _, _, numbers = start_of(run, rows)
        labels = torch.from_numpy(LOG.labels[rows]).double()
        parameters = dict(network.named_parameters())
        gradients = torch.autograd.grad(
            loss_of(network, parameters, torch.cat([embedded, numbers], 1), labels), list(parameters.values())
        )
        chain = methods.build(method, run.lr / recipe.warmup, {}, initial_accumulator=0.1, eps=recipe.eps)
        first = table[(table["run_id"] == run.id) & (table["step"] == 0)].set_index("layer")
        squares = 0.0
        for (name, weight), gradient in zip(parameters.items(), gradients, strict=True):
            w, g = weight.detach()[None], gradient[None]
            leaf = Leaf(weight=w, gradient=g, update=g, state=chain.init(w), factor=torch.ones(1).double())
            chain.updates([leaf])
            row, u = first.loc[name], leaf.update.abs()
            assert leaf.factor is not None
            expected = {
                "gradient_norm": g.norm(),
                "weight_norm": w.norm(),
                "update_norm": u.norm(),
                "largest_update": u.max(),
                "largest_share": torch.where(w == 0, 0.0, u / w.abs()).max(),
                "largest_over_bound": (u / (0.5 * w.abs() + 0.01)).max(),
                "factor": leaf.factor[0],
            }
            for measure, value in expected.items():
                assert row[measure] == pytest.approx(float(value), rel=2e-3, abs=1e-7), (name, measure)
            squares += float(g.norm()) ** 2
        assert first.loc["all", "gradient_norm"] == pytest.approx(math.sqrt(squares), rel=1e-3)
        assert first.loc["all", "factor"] == first["factor"].min()
        assert first.loc["all", "step_lr"] == pytest.approx(run.lr / recipe.warmup)


def test_held_rows_use_the_weights_before_the_update() -> None:
    run = make_run()
    table, _ = observe([run])
    rows = np.arange(700, 873)
    network, embedded, _, _, numbers = start_of(run, rows)
    with torch.no_grad():
        inputs = torch.cat([embedded, numbers], 1)
        loss = loss_of(network, dict(network.named_parameters()), inputs, torch.from_numpy(LOG.labels[rows]).double())
        hidden = network.get_submodule("bottom")(inputs)
    first = table[(table["step"] == 0)].set_index("layer")
    assert first.loc["all", "held_loss"] == pytest.approx(float(loss), rel=1e-5)
    assert first.loc["all", "activation_norm"] == pytest.approx(float(hidden.norm(dim=1).mean()), rel=1e-5)
    assert first.loc["bottom.2", "dead_share"] == pytest.approx(float((hidden == 0).all(0).double().mean()))
    with torch.no_grad():
        scores = network(inputs)[:, 0].numpy()
    assert first.loc["all", "held_auc"] == pytest.approx(auc(scores, LOG.labels[rows, 0]), abs=1e-3)


def test_dead_units_are_counted_by_layer() -> None:
    """At step 4, six of 64 units of the first layer die, and all of the second."""

    class Killer(Probe):
        def __call__(self, look: StepView) -> None:
            if look.step == 4:
                with torch.no_grad():
                    look.network.parameters["bottom.0.bias"][0, :6] = -1e6
                    look.network.parameters["bottom.2.bias"][0] = -1e6
            super().__call__(look)

    probe = Killer(LOG)
    train([make_run(lr=0.01)], LOG, on_update=probe)
    dead = probe.table().set_index(["step", "layer"])["dead_share"] * 64
    before, after = (dead[step, "bottom.0"] for step in (3, 4))
    assert 4 <= after - before <= 6, "some of the six may have been dead before"
    assert dead[3, "bottom.2"] < 10
    assert dead[4, "bottom.2"] == 64
    assert 2 * dead[4, "all"] == after + 64
    assert probe.table().set_index(["step", "layer"]).loc[(4, "all"), "activation_norm"] == 0


@pytest.mark.parametrize(
    ("method", "options", "embeddings_lr"),
    [
        ("none", {}, None),
        ("none", {}, 30.0),
        ("none", {"eps": 0.5}, None),
        ("clippy", {}, None),
        ("none", {"base": "sgd"}, None),
        ("none", {"base": "rmsprop", "alpha": 0.5, "eps": 0.01}, None),
        ("agc", {"base": "rmsprop"}, None),
    ],
)
def test_sharpness_equals_the_dense_hessian_with_embeddings(
    method: str, options: dict, embeddings_lr: float | None
) -> None:
    """At the first step of a linear model, whose dense Hessian is small. An lr 10 times as high is D / 10."""
    recipe = dataclasses.replace(RECIPE, embeddings_lr=embeddings_lr)
    run = make_run(model="own_models.linear", method=method, options=options, lr=3.0, recipe=recipe)
    found = {}

    def look(seen: StepView) -> None:
        if seen.step == 0:
            probe(seen)
            found.update({name: (leaf.state, leaf.factor) for name, leaf in seen.leaves.items()})
            found.update({name: ({k: v.clone() for k, v in s.items()}, f.clone()) for name, (s, f) in found.items()})

    probe = Probe(LOG, sharpness_at=lambda _step: True, tolerance=1e-6)
    train([dataclasses.replace(run, seed=1), run], LOG, on_update=lambda seen: look(seen))
    row = probe.table().query("run_id == @run.id").set_index("layer")

    rows = np.arange(700, 873)
    network, _, positions, tables, numbers = start_of(run, rows)
    touched, inverse = torch.unique(positions, return_inverse=True)
    names = [name for name, _ in network.named_parameters()]
    weights = [p.detach() for p in network.parameters()] + [tables.weight[touched]]
    labels = torch.from_numpy(LOG.labels[rows]).double()

    def loss(flat):
        parts = [part.view_as(w) for part, w in zip(flat.split([w.numel() for w in weights]), weights, strict=True)]
        inputs = torch.cat([parts[-1][inverse].view(len(rows), -1), numbers], 1)
        return loss_of(network, dict(zip(names, parts, strict=False)), inputs, labels)

    hessian = torch.autograd.functional.hessian(loss, torch.cat([w.flatten() for w in weights]))
    eps = options.get("eps", run.recipe.eps)
    divide = {
        "adagrad": lambda state: (state["accumulator"][1].double() + eps).sqrt(),
        "sgd": lambda _state: torch.ones(1),
        "rmsprop": lambda state: state["second_moment"][1].double().sqrt() + eps,
    }[options.get("base", "adagrad")]
    divisors = [divide(found[name][0]).expand_as(w) for name, w in zip(names, weights, strict=False)]
    divisors.append(torch.full_like(weights[-1], math.sqrt(0.1 + run.recipe.eps) / (10 if embeddings_lr else 1)))
    factors = [float(found[name][1][1]) for name in names] + [1.0]

    def largest(scales) -> float:
        root = torch.cat([s.flatten() for s in scales]).rsqrt()
        return float(np.linalg.eigvalsh((root[:, None] * hessian * root).numpy())[-1])

    step_lr = row.loc["all", "step_lr"]
    assert row.loc["all", "sharpness"] == pytest.approx(largest(divisors), rel=1e-3)
    treated = largest([d / f for d, f in zip(divisors, factors, strict=True)])
    assert row.loc["all", "treated_sharpness"] == pytest.approx(treated, rel=1e-3)
    assert row.loc["all", "sharpness_share"] == pytest.approx(row.loc["all", "sharpness"] * step_lr / 2)
    assert (treated < 0.99 * largest(divisors)) is (method == "clippy" or method == "agc")
    assert row.loc["layer", "sharpness"] <= row.loc["all", "sharpness"] * (1 + 1e-4)


@pytest.mark.parametrize(
    ("model", "embeddings"),
    [
        ("small_dcn", "adagrad"),
        ("small_dcn", "method"),
        ("small_mmoe", "adagrad"),
        ("own_models.branching", "adagrad"),
        ("own_models.batch_norm", "adagrad"),
        ("own_models.dropout", "adagrad"),
    ],
)
def test_probe_changes_no_bit_of_any_kind_of_network(model: str, embeddings: str) -> None:
    recipe = dataclasses.replace(make_run().recipe, embeddings=embeddings)
    runs = [make_run(model=model, method="clippy", seed=seed, recipe=recipe) for seed in (1, 2)]
    table, trained = observe(runs, sharpness_at=lambda step: step % 8 == 0)
    assert np.array_equal(trained.loss, train(runs, LOG).loss)
    whole = table[table["layer"] == "all"]
    assert len(whole) == 2 * trained.loss.shape[1]
    assert whole[["held_loss", "activation_norm", "gradient_norm"]].notna().all(axis=None)
    assert (whole.loc[whole["step"] % 8 == 0, "sharpness"] > 0).all()
    assert ("embeddings" in set(table["layer"])) is (embeddings == "adagrad")


def test_layer_of_a_parameter_is_its_module() -> None:
    network = network_of_seed("small_dcn", spec_of(LOG, make_run().recipe), 0)
    names = [name for name, _ in network.named_parameters()]
    assert list(dict.fromkeys(layer_of(network, name) for name in names)) == [
        "front.cross", "front.norm", "bottom.0", "bottom.2", "heads",
    ]  # fmt: skip


def test_activations_of_a_clamped_network_are_clamped() -> None:
    run = make_run(method="activation_clip", options={"limit": 0.01})
    table, trained = observe([run], sharpness_at=lambda step: step == 5)
    assert np.array_equal(trained.loss, train([run], LOG).loss)
    whole = table[table["layer"] == "all"]
    assert 0 < whole["activation_norm"].max() <= 0.01 * math.sqrt(64) * (1 + 1e-6)
    assert whole["sharpness"].notna().sum() == 1


def test_the_sharpness_of_a_base_that_is_not_known_is_blank(own_folder: Path) -> None:  # noqa: F811
    text = "from study.transforms import chain, scale, scale_by_rmsprop\n\n\ndef build(lr, *, base):\n    return {}\n"
    for links, blank in (("chain(scale_by_rmsprop(), scale(lr))", True), ("chain(base(), scale(lr))", False)):
        probe = Probe(LOG, sharpness_at=lambda step: step == 3, held_rows=32)
        train([make_run(method=write(own_folder, text.format(links)))], LOG, on_update=probe)
        row = probe.table().query("step == 3 and layer == 'all'").iloc[0]
        columns = ["sharpness", "sharpness_share", "treated_sharpness", "treated_share", "edge"]
        assert row[columns].isna().all() == blank
        assert row[columns].notna().all() == (not blank)


def test_the_sharpness_is_that_of_all_that_is_descended(own_folder: Path) -> None:  # noqa: F811
    """5 w^2 as an auxiliary loss adds 10 to each eigenvalue of the weights; held_loss stays without it."""
    text = network(
        "self.a.requires_grad_(False); self.b.bias.requires_grad_(False)", "y = self.b(self.a(x)); return {}"
    )
    rows = []
    for outputs in ("y", "y, 5 * self.b.weight.square().sum()"):
        run = make_run(model=write(own_folder, text.replace("return {}", f"return {outputs}")), options={"base": "sgd"})
        probe = Probe(LOG, sharpness_at=lambda step: step == 0, tolerance=1e-8)
        train([run], LOG, on_update=probe)
        rows.append(probe.table().query("step == 0").set_index("layer"))
    assert rows[1].loc["b", "sharpness"] == pytest.approx(rows[0].loc["b", "sharpness"] + 10, rel=1e-5)
    assert rows[1].loc["all", "held_loss"] == rows[0].loc["all", "held_loss"]

"""Every method keeps the rules for all methods, and its steps equal an independent calculation."""

import json
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from study import methods
from study.transforms import Chain, Leaf

VARIANTS = [
    *((name, {}) for name in methods.names()),
    *((name, {"after": True}) for name in ("layer_clip", "global_clip", "agc")),
    ("agc", {"per": "unit"}),
    ("agc", {"per": "unit", "after": True, "base": "sgd", "momentum": 0.5}),
    ("lamb", {"base": "adamw", "weight_decay": 0.1}),
    ("clippy", {"norm": "rms"}),
    ("clippy", {"delayed": True, "acc_rel": 0.01}),
    ("clippy", {"delayed": True, "clip_accumulator": True}),
    ("clippy", {"acc_rel": 1e-3, "weight_decay": 0.01}),
    *(("clippy", {"base": base}) for base in methods.BASES[1:]),
    *(("none", {"base": base}) for base in methods.BASES[1:]),
    ("update_rms_clip", {"base": "adamw", "d": 1.0}),
    ("zclip", {"warmup_steps": 2}),
    ("zclip", {"warmup_steps": 3, "decay": 0.5, "z_max": 0.5, "base": "sgd"}),
    ("adagc", {"warmup_steps": 2}),
    ("autoclip", {"history": 3, "percentile": 40.0}),
]
SHAPES = [(5, 3), (5,), (3, 5), (), (2, 3, 4), (0,)]


def idfn(value) -> str:
    return json.dumps(value).replace('"', "") if isinstance(value, dict) else str(value)


each_variant = pytest.mark.parametrize(("name", "options"), VARIANTS, ids=idfn)


def step(chain: Chain, weights, gradients, states, watched=False) -> list[Leaf]:
    leaves = [Leaf(weight=w, gradient=g, update=g, state=s) for w, g, s in zip(weights, gradients, states, strict=True)]
    for leaf in leaves if watched else []:
        leaf.factor = leaf.weight.new_ones(leaf.weight.shape[0])
    chain.updates(leaves)
    for leaf in leaves:
        leaf.weight.sub_(leaf.update)
    return leaves


def one_weight_step(name, lr, options, weight, gradient, **adagrad):
    """Return weights, accumulator and factor after one step of one tensor, in float64."""
    w, g = (torch.tensor([values], dtype=torch.float64) for values in (weight, gradient))
    chain = methods.build(name, lr, options, **adagrad)
    state = chain.init(w)
    (leaf,) = step(chain, [w], [g], [state], watched=True)
    assert leaf.factor is not None
    return w[0].tolist(), state["accumulator"][0].tolist(), leaf.factor.item()


# --- rules for all methods ---------------------------------------------------------------------------------------


def test_names_lists_the_files_of_the_folder():
    assert methods.names() == [
        "activation_clip",
        "adagc",
        "agc",
        "autoclip",
        "clippy",
        "global_clip",
        "lamb",
        "layer_clip",
        "none",
        "rollback",
        "rollback_lower_lr",
        "update_rms_clip",
        "zclip",
    ]


@each_variant
def test_solves_a_parabola(name, options):
    """At one of four lrs, since the scale of a step differs between methods."""
    weight = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64).repeat(4, 1)
    curvature = torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64)
    chain = methods.build(name, torch.tensor([0.05, 0.5, 5.0, 50.0]), options)
    state = chain.init(weight)
    for _ in range(500):
        step(chain, [weight], [curvature * weight], [state])
    loss = (curvature * weight**2).sum(1)
    assert loss[loss.isfinite()].min() < 0.01


def train(name, lr, options, runs: slice, bad_run: int | None = None) -> list[torch.Tensor]:
    """Return weights and state of `runs`, out of seven, after six steps; each run has its own gradients."""
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(7, *shape, generator=generator).mul_(0.1)[runs].clone() for shape in SHAPES]
    weights[1].zero_()
    chain = methods.build(name, lr, options)
    states = [chain.init(w) for w in weights]
    for t in range(6):
        gradients = [torch.randn(7, *shape, generator=generator) * 10.0 ** (t - 3) for shape in SHAPES]
        gradients[2][:, 0] = 0.0
        if bad_run is not None and t == 2:
            gradients[0][bad_run, 1, 1] = math.nan
        step(chain, weights, [g[runs].clone() for g in gradients], states)
    return weights + [value for state in states for value in state.values()]


@each_variant
def test_a_run_has_the_same_bits_alone_and_in_a_stack(name, options):
    lrs = [0.003 * 3.0**r for r in range(7)]
    signature = methods.signature(name)
    own = {**signature.thresholds, **options}
    own = [
        {
            key: own[key] * (0.7**r) if key in signature.thresholds else own[key]
            for key in (*signature.thresholds, *options)
        }
        for r in range(7)
    ]
    own = [methods.check(name, {key: value for key, value in o.items() if value != 0}) for o in own]
    together = train(name, torch.tensor(lrs, dtype=torch.float64), methods.stack_options(name, own), slice(0, 7))
    for r in (0, 3, 6):
        alone = train(name, lrs[r], own[r], slice(r, r + 1))
        for a, b in zip(alone, together, strict=True):
            assert torch.equal(a[0], b[r])


@each_variant
def test_training_twice_gives_the_same_bits(name, options):
    first, second = train(name, 0.1, options, slice(0, 2)), train(name, 0.1, options, slice(0, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], train(name, 1e-5, options, slice(0, 2))[0])


@each_variant
def test_a_nan_stays_in_its_run(name, options):
    clean, bad = train(name, 0.1, options, slice(0, 7)), train(name, 0.1, options, slice(0, 7), bad_run=4)
    assert not bad[0][4].isfinite().all()
    others = [0, 1, 2, 3, 5, 6]
    assert all(torch.equal(a[others], b[others]) for a, b in zip(clean, bad, strict=True))


@each_variant
def test_never_waits_for_the_device(name, options):
    """Tensors on the device "meta" have no values, so that reading one raises."""
    weights = [torch.zeros(4, *shape, device="meta") for shape in SHAPES if shape != (0,)]
    lr = torch.zeros(4, device="meta")
    own = set(methods.signature(name).thresholds) - set(methods.COMMON)
    if options.get("base", "adagrad") != "adagrad":
        own -= {"acc_rel"}
    chain = methods.build(name, lr, options | dict.fromkeys(own, torch.zeros(4, device="meta")))
    step(chain, weights, [torch.zeros_like(w) for w in weights], [chain.init(w) for w in weights], watched=True)
    with pytest.raises(RuntimeError):
        weights[0].sum().item()


OFF = [
    ("layer_clip", "max_norm", {}),
    ("layer_clip", "max_norm", {"after": True}),
    ("global_clip", "max_norm", {}),
    ("agc", "max_ratio", {}),
    ("agc", "max_ratio", {"per": "unit"}),
    ("agc", "floor", {"after": True}),
    ("clippy", "rel", {}),
    ("clippy", "abs", {}),
    ("clippy", "acc_rel", {}),
    ("clippy", "abs", {"norm": "rms"}),
    ("update_rms_clip", "d", {}),
    ("zclip", "z_max", {"warmup_steps": 1}),
    ("adagc", "rel", {"warmup_steps": 1, "abs": math.inf}),
    ("autoclip", "percentile", {}),
]
ALL_PASS = {"percentile": 100.0}
"""Values that never clip, if not infinity."""


@pytest.mark.parametrize(("name", "threshold", "options"), OFF, ids=idfn)
@settings(max_examples=25)
@given(
    gradients=st.lists(
        st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=3, max_size=3), min_size=1, max_size=3
    ),
    lr=st.floats(1e-3, 100),
    as_tensor=st.booleans(),
)
def test_a_threshold_that_never_clips_equals_none(name, threshold, options, gradients, lr, as_tensor):
    passes = ALL_PASS.get(threshold, math.inf)
    off = methods.check(name, options | {threshold: passes})
    if as_tensor:
        off[threshold] = torch.full((1,), passes)
    bits = []
    for chain in (methods.build(name, lr, off), methods.build("none", lr, {})):
        weights = [torch.tensor([[0.0, -1.5, 1e-3]]), torch.zeros(1, 3)]
        states = [chain.init(w) for w in weights]
        for row in gradients:
            step(chain, weights, [torch.tensor([row]), torch.tensor([row[::-1]])], states)
        bits.append([x.view(torch.int32) for x in (*weights, states[0]["accumulator"], states[1]["accumulator"])])
    assert all(torch.equal(a, b) for a, b in zip(*bits, strict=True))


# --- each method, by reference -----------------------------------------------------------------------------------

AUTHORS = {"rel": 0.1, "abs": 1e-7, "delayed": True}


def test_clippy_equals_single_steps_of_the_authors():
    w, G, sigma = one_weight_step("clippy", 0.1, AUTHORS, [1.0, 2.0], [0.1, 0.15], initial_accumulator=0.01)
    assert w == pytest.approx([0.9, 1.85], rel=1e-5)
    assert (G, sigma) == (pytest.approx([0.02, 0.0325]), pytest.approx(1.0, rel=1e-5))

    options = {"rel": 0.4, "acc_rel": 0.01, "abs": 0.1, "delayed": True}
    exact = {"initial_accumulator": 0.01, "eps": 0.0}
    w, G, sigma = one_weight_step("clippy", 0.2, options, [1.0, 2.0], [10.0, 10.0], **exact)
    assert (w, G, sigma) == (pytest.approx([0.4, 1.4]), pytest.approx([100.01, 100.01]), pytest.approx(0.03))
    w, G, _ = one_weight_step("clippy", 0.2, options | {"clip_accumulator": True}, [1.0, 2.0], [10.0, 10.0], **exact)
    assert (w, G) == (pytest.approx([0.4, 1.4]), pytest.approx([0.10, 0.10]))


@pytest.mark.parametrize("gradient", [[0.1, 0.15], [10.0, -3.0]])
def test_clippy_equals_the_standard_order_of_the_authors(gradient):
    w, _, _ = one_weight_step(
        "clippy", 0.1, {"rel": 0.1, "abs": 1e-7}, [1.0, 2.0], gradient, initial_accumulator=0.0, eps=0.0
    )
    assert w == pytest.approx([1 - math.copysign(0.1, gradient[0]), 2 - math.copysign(0.1, gradient[1])])


def test_clippys_factor_is_at_least_abs_over_lr_unless_delayed():
    """|g| / sqrt(G) < 1 gives sigma >= abs / lr. The delayed order has no such floor."""
    for order, least, most in (({}, 1.0, 1.0), ({"delayed": True}, 0.0, 1e-4)):
        _, _, sigma = one_weight_step("clippy", 0.01, order, [0.0, 0.0], [1e4, 1.0])
        assert least <= sigma <= most


def adagrad_by_loop(weights, gradients, lr, treat_gradient, treat_direction):
    """The reference, with scalars in double precision."""
    w = [float(x) for x in weights]
    G = [0.1] * len(w)
    for gradient in gradients:
        g = treat_gradient(w, [float(x) for x in gradient])
        for i in range(len(w)):
            G[i] += g[i] ** 2
        r = treat_direction(w, [g[i] / math.sqrt(G[i] + 1e-7) for i in range(len(w))])
        for i in range(len(w)):
            w[i] -= lr * r[i]
    return w


def length(x) -> float:
    return math.sqrt(sum(v * v for v in x))


def unchanged(_, x):
    return x


def by_factor(factor):
    return lambda w, x: [factor(w, x) * v for v in x]


def clippy_sigma(w, r, lr) -> float:
    return min([1.0, *((0.5 * abs(x) + 0.01) / abs(lr * y) for x, y in zip(w, r, strict=True) if y)])


LOOPS = {
    "none": ({}, unchanged, unchanged),
    "layer_clip": ({"max_norm": 0.5}, by_factor(lambda w, g: min(1.0, 0.5 / length(g))), unchanged),
    "global_clip": ({"max_norm": 0.5}, by_factor(lambda w, g: min(1.0, 0.5 / length(g))), unchanged),
    "agc": ({"max_ratio": 0.2}, by_factor(lambda w, g: min(1.0, 0.2 * max(length(w), 1e-3) / length(g))), unchanged),
    "lamb": (
        {"mu": 0.3},
        unchanged,
        by_factor(lambda w, r: 0.3 * (length(w) / length(r) if length(w) and length(r) else 1.0)),
    ),
    "clippy": ({}, unchanged, by_factor(lambda w, r: clippy_sigma(w, r, 0.3))),
}


@pytest.mark.parametrize("name", LOOPS)
@pytest.mark.parametrize("start", [[0.3, -0.2, 1.0, 0.05], [0.0, 0.0, 0.0, 0.0]], ids=["random", "zero"])
def test_25_steps_equal_a_loop_over_scalars(name, start):
    options, treat_gradient, treat_direction = LOOPS[name]
    gradients = np.random.default_rng(3).normal(size=(25, 4)) * np.repeat([0.1, 3.0, 0.0, 1.0, 0.01], 5)[:, None]
    if name in ("layer_clip", "global_clip", "agc"):
        gradients[10:15] = 1e-12  # the reference divides by the norm
    expected = adagrad_by_loop(start, gradients, 0.3, treat_gradient, treat_direction)
    weight = torch.tensor([start], dtype=torch.float64)
    chain = methods.build(name, 0.3, options)
    state = chain.init(weight)
    for gradient in gradients:
        step(chain, [weight], [torch.from_numpy(gradient).unsqueeze(0)], [state])
    assert weight[0].tolist() == pytest.approx(expected, rel=1e-10, abs=1e-14)


@pytest.mark.parametrize("name", ["layer_clip", "agc", "global_clip"])
def test_after_accumulates_the_raw_gradient(name):
    threshold = {"layer_clip": "max_norm", "agc": "max_ratio", "global_clip": "max_norm"}[name]
    # norm 5, limit 1: factor 0.2
    w, G, sigma = one_weight_step(name, 1.0, {threshold: 1.0, "after": True}, [0.6, 0.8], [3.0, 4.0])
    assert (G, sigma) == (pytest.approx([9.1, 16.1]), pytest.approx(0.2))
    assert w == pytest.approx([0.6 - 0.2 * 3 / math.sqrt(9.1 + 1e-7), 0.8 - 0.2 * 4 / math.sqrt(16.1 + 1e-7)])
    _, G, sigma = one_weight_step(name, 1.0, {threshold: 1.0}, [0.6, 0.8], [3.0, 4.0])
    assert (G, sigma) == (pytest.approx([0.1 + 0.36, 0.1 + 0.64]), pytest.approx(0.2))


def test_sgd_on_a_quadratic_diverges_exactly_beyond_two_over_curvature():
    curvature = 4.0
    lrs = torch.tensor([0.49, 0.5, 0.51], dtype=torch.float64)
    weight = torch.ones(3, 1, dtype=torch.float64)
    chain = methods.build("none", lrs, {"base": "sgd"})
    for _ in range(1000):
        step(chain, [weight], [curvature * weight], [{}])
    # |1 - lr h| is 0.96, 1 and 1.04
    assert weight[0].abs().item() == pytest.approx(0.96**1000, rel=1e-9)
    assert weight[1].abs().item() == 1.0
    assert weight[2].abs().item() == pytest.approx(1.04**1000, rel=1e-9)


def test_a_tensor_lr_may_change_between_steps():
    lr = torch.tensor([0.5, 0.25])
    chain = methods.build("none", lr, {"base": "sgd", "weight_decay": torch.tensor([0.0, 1.0])})
    weight = torch.tensor([[1.0], [1.0]])
    step(chain, [weight], [torch.ones(2, 1)], [{}])
    assert weight.flatten().tolist() == [0.5, 0.5]
    lr.mul_(2.0)
    step(chain, [weight], [torch.ones(2, 1)], [{}])
    assert weight.flatten().tolist() == [-0.5, -0.25]


# --- names and options -------------------------------------------------------------------------------------------


def test_signature_separates_thresholds_from_options():
    agc = methods.signature("agc")
    assert agc.thresholds == {"max_ratio": 0.01, "floor": 1e-3, "weight_decay": 0.0, "momentum": 0.0}
    assert agc.options == {"per": "tensor", "after": False, "base": "adagrad"}
    assert methods.signature("clippy").thresholds["rel"] == 0.5


def test_check_returns_only_what_differs_from_the_defaults():
    assert methods.check("clippy", {"rel": 0.5, "abs": 1, "norm": "max"}) == {"abs": 1.0}
    assert isinstance(methods.check("clippy", {"abs": 1})["abs"], float)
    assert type(methods.check("clippy", {"abs": np.float32(0.5)})["abs"]) is float
    assert list(methods.check("clippy", {"norm": "rms", "rel": 0.1})) == ["rel", "norm"]
    assert methods.check("none", {}) == {}


WRONG = [
    ("clipy", {}, "unknown method 'clipy'; there are activation_clip, adagc, agc"),
    ("", {}, "unknown method ''"),
    ("no_such.package", {}, "unknown method 'no_such.package'"),
    ("math.nothing", {}, "unknown method 'math.nothing'"),
    (".none", {}, "unknown method '.none'"),
    ("os.path", {}, "os.path defines no `build`"),
    ("clippy", {"max_norm": 1.0}, "clippy has no option max_norm; it has rel, abs"),
    ("layer_clip", {"max_norm": 0.0}, "need max_norm > 0, got max_norm=0"),
    ("layer_clip", {"max_norm": -1}, "need max_norm > 0"),
    ("layer_clip", {"max_norm": math.nan}, "max_norm is a number, got max_norm=nan"),
    ("layer_clip", {"max_norm": "0.1"}, "need a number as max_norm"),
    ("layer_clip", {"max_norm": True}, "need a number as max_norm"),
    ("layer_clip", {"after": 1}, "after is true or false"),
    ("global_clip", {"max_norm": 0}, "need max_norm > 0"),
    ("agc", {"floor": 0}, "need floor > 0"),
    ("agc", {"per": "row"}, "per is one of tensor, unit; got 'row'"),
    ("lamb", {"mu": math.inf}, "need a finite mu"),
    ("lamb", {"mu": 0}, "need mu > 0"),
    ("clippy", {"rel": 0, "abs": 0}, "need rel > 0 or abs > 0"),
    ("clippy", {"abs": -1}, "need abs >= 0"),
    ("clippy", {"norm": "l2"}, "norm is one of max, rms"),
    ("clippy", {"clip_accumulator": True}, "clip_accumulator needs delayed=true"),
    ("clippy", {"base": "sgd", "delayed": True}, "need base=adagrad"),
    ("activation_clip", {"limit": 0}, "need limit > 0, got limit=0"),
    ("rollback", {"spike": 0}, "need spike > 0"),
    ("rollback", {"back": 0}, "need back >= 5"),
    ("rollback", {"skip": 1.5}, "skip is a whole number"),
    ("rollback_lower_lr", {"lower": 2}, "need lower <= 1, got lower=2"),
    ("update_rms_clip", {"d": 0}, "need d > 0"),
    ("zclip", {"decay": 1}, "need 0 <= decay < 1, got decay=1"),
    ("zclip", {"warmup_steps": 0}, "need warmup_steps >= 1, got warmup_steps=0"),
    ("zclip", {"warmup_steps": 2.5}, "warmup_steps is a whole number"),
    ("adagc", {"abs": 0}, "need abs > 0"),
    ("autoclip", {"percentile": 101}, "need 0 <= percentile <= 100, got percentile=101"),
    ("none", {"base": "adam"}, "base is one of adagrad, sgd, rmsprop, adamw"),
    ("none", {"weight_decay": -0.1}, "need weight_decay >= 0"),
    ("none", {"weight_decay": math.inf}, "need a finite weight_decay"),
    ("none", {"momentum": 0.9}, "momentum needs base=sgd"),
    ("none", {"base": "sgd", "momentum": 1.0}, "need 0 <= momentum < 1"),
    ("none", {"nesterov": True}, "nesterov needs base=sgd, got base=adagrad"),
    ("none", {"base": "sgd", "nesterov": True}, "nesterov needs momentum > 0, got momentum=0"),
    ("none", {"base": "sgd", "nesterov": 1}, "nesterov is true or false"),
    ("none", {"base": "sgd", "eps": 0.1}, "eps needs base=adagrad or base=rmsprop or base=adamw, got base=sgd"),
    ("none", {"base": "rmsprop", "beta1": 0.8}, "beta1 needs base=adamw, got base=rmsprop"),
    ("clippy", {"beta2": 0.99}, "beta2 needs base=adamw, got base=adagrad"),
    ("none", {"base": "adamw", "beta2": 1}, "need 0 <= beta2 < 1, got beta2=1"),
    ("none", {"base": "adamw", "beta1": -0.1}, "need 0 <= beta1 < 1, got beta1=-0.1"),
    ("none", {"base": "adamw", "beta1": "high"}, "need a number as beta1"),
    ("none", {"base": "adamw", "alpha": 0.9}, "alpha needs base=rmsprop, got base=adamw"),
    ("none", {"eps": -1}, "need eps >= 0, got eps=-1"),
    ("none", {"eps": math.inf}, "need a finite eps"),
    ("none", {"eps": math.nan}, "eps is a number, got eps=nan"),
    ("none", {"betas": 0.9}, "none has no option betas; it has weight_decay, momentum, base, nesterov, beta1, beta2"),
]


@pytest.mark.parametrize(("name", "options", "message"), WRONG, ids=idfn)
def test_wrong_options_are_refused_in_one_line(name, options, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        methods.check(name, options)
    assert "\n" not in str(error.value)


def test_options_of_a_base_at_their_default_change_no_id():
    assert methods.check("none", {"beta1": 0.9, "beta2": 0.999, "alpha": 0.99, "nesterov": False}) == {}
    assert methods.check("clippy", {"base": "adamw", "beta2": 0.9, "eps": 1}) == {
        "base": "adamw",
        "beta2": 0.9,
        "eps": 1.0,
    }
    assert methods.check("none", {"eps": 1e-7}) == {"eps": 1e-7}, "the recipe may have another"
    assert methods.base_options("none", {"beta2": 0.9})["beta2"] == 0.9


def test_build_refuses_unknown_options():
    with pytest.raises(ValueError, match="none has no option rel"):
        methods.build("none", 0.1, {"rel": 0.5})


def test_thresholds_that_differ_become_a_tensor():
    stacked = methods.stack_options("clippy", [{"rel": 0.1, "norm": "rms"}, {"norm": "rms"}])
    assert stacked["norm"] == "rms"
    assert stacked["rel"].tolist() == [0.1, 0.5]
    assert "abs" not in stacked
    assert methods.stack_options("clippy", [{"rel": 0.1}, {"rel": 0.1}]) == {"rel": 0.1}
    with pytest.raises(ValueError, match="same norm, got max, rms"):
        methods.stack_options("clippy", [{"norm": "rms"}, {}])
    assert methods.stack_options("none", [{"base": "adamw", "beta1": 0.5}] * 2) == {"base": "adamw", "beta1": 0.5}
    with pytest.raises(ValueError, match=r"same beta1, got 0\.5, 0\.9"):
        methods.stack_options("none", [{"base": "adamw", "beta1": 0.5}, {"base": "adamw"}])


def test_a_method_in_a_users_package(tmp_path, monkeypatch):
    (tmp_path / "stability_of_mine").mkdir()
    (tmp_path / "stability_of_mine" / "__init__.py").write_text("")
    (tmp_path / "stability_of_mine" / "signs.py").write_text(
        "from study.transforms import LeafLink, chain, scale\n"
        "class Signs(LeafLink):\n"
        "    def apply_one(self, leaf):\n"
        "        leaf.update = leaf.update.sign()\n"
        "def build(lr, *, base, size=1.0):\n"
        "    return chain(Signs(), scale(lr), scale(size))\n"
    )
    (tmp_path / "stability_of_mine" / "broken.py").write_text("import a_module_that_is_not_there\n")
    (tmp_path / "stability_of_mine" / "clash.py").write_text("def build(lr, *, base, momentum=0.5): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    name = "stability_of_mine.signs"
    assert methods.check(name, {"size": 2}) == {"size": 2.0}
    weight = torch.tensor([[1.0, 1.0]])
    step(methods.build(name, 0.25, {"size": 2.0}), [weight], [torch.tensor([[7.0, -0.1]])], [{}])
    assert weight.tolist() == [[0.5, 1.5]]
    with pytest.raises(ValueError, match="'a_module_that_is_not_there'"):
        methods.load("stability_of_mine.broken")
    with pytest.raises(ValueError, match="momentum is an option of every method"):
        methods.signature("stability_of_mine.clash")

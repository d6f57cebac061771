"""A method around any optimizer equals the method on the same base, and behaves as the optimizer does."""

import copy
import pickle
import re
import warnings

import pytest
import torch
from optimizer_steps import F64, assert_same, parameters, steps
from paths import ROOT
from torch import nn

from study import methods
from study.optim import AGC, LAMB, Clippy, ClipUpdates, GlobalClip, LayerClip, UpdateRMSClip

SHAPES = ((4, 3), (3,), ())
RULES = {
    "clippy": (Clippy, {}, {}),
    "clippy, rms": (Clippy, {"rel": 0.1, "norm": "rms"}, {"relative_threshold": 0.1, "norm": "rms"}),
    "agc": (AGC, {"per": "unit"}, {"per": "unit"}),
    "agc, after": (AGC, {"after": True}, {"after": True}),
    "lamb": (LAMB, {}, {}),
    "update_rms_clip": (UpdateRMSClip, {}, {}),
    "layer_clip": (LayerClip, {}, {}),
    "global_clip": (GlobalClip, {}, {}),
}
BASES = {
    "adamw": (torch.optim.AdamW, {"betas": (0.8, 0.9)}, {"weight_decay": 0.0, "eps": 1e-7}),
    "sgd": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}, {}),
    "rmsprop": (torch.optim.RMSprop, {"momentum": 0.5}, {"eps": 1e-7}),
    "adagrad": (torch.optim.Adagrad, {"initial_accumulator_value": 0.1, "eps": 0.0}, {}),
}
each_rule = pytest.mark.parametrize("rule", RULES)


class Signs(torch.optim.Optimizer):
    """An optimizer of another library."""

    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr})

    def step(self, closure=None):
        with torch.no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    p.sub_(p.grad.sign(), alpha=group["lr"])


@each_rule
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("lr", [0.25, torch.tensor(0.25, dtype=F64)])
def test_it_equals_the_method_on_the_same_base(rule, base, lr):
    optimizer, options, words = RULES[rule]
    torchs, common, more = BASES[base]
    ours, theirs = parameters(*SHAPES), parameters(*SHAPES)
    lr_here = lr if base not in ("sgd", "adagrad") else 0.25
    us = optimizer(ours, lr, base=base, record_clip_factors=True, **words, **common)
    them = ClipUpdates(torchs(theirs, lr_here, **common, **more), rule.split(",")[0], **options)
    for t in range(12):
        steps(us, ours, 1, start=t)
        steps(them, theirs, 1, start=t)
        for p, q in zip(ours, theirs, strict=True):
            torch.testing.assert_close(us.clip_factors()[p], them.clip_factors()[q], rtol=1e-6, atol=0.0)
    assert_same([p.detach() for p in ours], [p.detach() for p in theirs], rtol=1e-6)


@each_rule
def test_touched_rows_of_sparse_gradients(rule):
    optimizer, options, words = RULES[rule]
    if options.get("per") == "unit":
        return
    ours, theirs = parameters((30, 3), (20,)), parameters((30, 3), (20,))
    us = optimizer(ours, 0.3, eps=0.0, **words)
    adagrad = torch.optim.Adagrad(theirs, 0.3, initial_accumulator_value=0.1, eps=0.0)
    them = ClipUpdates(adagrad, rule.split(",")[0], **options)
    assert_same(steps(us, ours, 8, sparse=True), steps(them, theirs, 8, sparse=True), rtol=1e-6)


def test_an_optimizer_of_another_library_and_a_factor_of_one():
    ours, theirs = parameters(*SHAPES, dtype=torch.bfloat16), parameters(*SHAPES, dtype=torch.bfloat16)
    them = ClipUpdates(Signs(theirs, 0.01), "clippy", rel=0.5, abs=1.0)
    assert all(
        torch.equal(p, q) for p, q in zip(steps(Signs(ours, 0.01), ours, 3), steps(them, theirs, 3), strict=True)
    )
    [p] = parameters((3,))
    before = p.detach().clone()
    limited = ClipUpdates(Signs([p], 1.0), "clippy", rel=0.0, abs=0.25)
    steps(limited, [p], 1)
    assert (p.detach() - before).abs().tolist() == pytest.approx([0.25] * 3)
    assert limited.clip_factors()[p].item() == 0.25


def test_state_dict_groups_schedulers_and_copies_are_those_of_the_optimizer():
    params, alone = parameters((3,), (2,)), parameters((3,), (2,))
    them = ClipUpdates(torch.optim.AdamW(params[:1], 0.1))
    them.add_param_group({"params": params[1:], "lr": 0.2})
    schedule = torch.optim.lr_scheduler.OneCycleLR(them, max_lr=[0.1, 0.2], total_steps=9)
    seen = []
    them.register_load_state_dict_pre_hook(lambda *_: seen.append(1))
    for t in range(3):
        steps(them, params, 1, start=t)
        schedule.step()
    assert them.param_groups[0]["lr"] != 0.1 / 25
    other = ClipUpdates(torch.optim.AdamW([{"params": alone[:1]}, {"params": alone[1:]}]))
    with torch.no_grad():
        for p, q in zip(params, alone, strict=True):
            q.copy_(p)
    other.load_state_dict(copy.deepcopy(them.state_dict()))
    them.load_state_dict(them.state_dict())
    assert seen == [1]
    again = pickle.loads(pickle.dumps(them))
    own = [p for group in again.param_groups for p in group["params"]]
    expected = steps(them, params, 2)
    for params in (steps(other, alone, 2), steps(again, own, 2)):
        assert all(torch.equal(a, b) for a, b in zip(params, expected, strict=True))


def test_closures_and_lbfgs():
    [p] = parameters((3,))
    before = p.detach().clone()
    them = ClipUpdates(torch.optim.LBFGS([p], 1.0), "clippy", rel=0.0, abs=0.01)

    def closure():
        them.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return loss

    assert them.step(closure).item() == pytest.approx(before.square().sum().item())
    assert (p.detach() - before).abs().max().item() == pytest.approx(0.01)
    assert p.square().sum() < before.square().sum()


@pytest.mark.parametrize("options", [{}, {"fused": True}])
def test_a_grad_scaler_skips_steps_and_unscales(options):
    (p,), (q,) = parameters((3,), dtype=torch.float32), parameters((3,), dtype=torch.float32)
    them = ClipUpdates(torch.optim.SGD([p], 0.1, **options), "layer_clip", max_norm=0.5)
    us = LayerClip([q], 0.1, max_norm=0.5, base="sgd")
    scaler = torch.amp.GradScaler("cpu", 2.0**10)
    for scale in (1.0, float("inf"), 3.0):
        p.grad = torch.ones(3) * scale * scaler.scale(torch.ones(()))
        scaler.step(them)
        scaler.update()
        if scale < 9:
            q.grad = torch.ones(3) * scale
            us.step()
    torch.testing.assert_close(p, q)


@pytest.mark.parametrize("rule", ["clippy", "agc", "global_clip"])
@pytest.mark.parametrize(
    ("make", "fullgraph"),
    [
        (lambda params: Signs(params, 0.1), True),
        (lambda params: torch.optim.SGD(params, 0.1, momentum=0.9), False),  # torch's own step breaks the graph
    ],
)
def test_a_step_compiles(rule, make, fullgraph):
    torch._dynamo.reset()
    shapes = SHAPES[:2]  # torch's own optimizers, so compiled, do not move a scalar
    ours, theirs = parameters(*shapes), parameters(*shapes)
    us, them = (ClipUpdates(make(params), rule) for params in (ours, theirs))
    us.step = torch.compile(us.step, fullgraph=fullgraph, backend="aot_eager")
    with warnings.catch_warnings(action="ignore"):  # it ignores the profiler's record
        for t in range(3):
            assert_same(steps(us, ours, 1, start=t), steps(them, theirs, 1, start=t))


def test_a_learning_rate_of_zero_changes_nothing():
    for lr in (0.0, torch.tensor(0.0)):
        [p] = parameters((3,))
        before = p.detach().clone()
        for rule in ("lamb", "update_rms_clip", "clippy"):
            steps(ClipUpdates(torch.optim.AdamW([p], lr), rule), [p], 1)
        assert torch.equal(p, before)


def test_the_example_of_the_page():
    page = (ROOT / "docs" / "methods.md").read_text()
    [code] = re.findall(r"```python\n(import torch\n\nfrom study.optim import ClipUpdates.*?)```", page, re.DOTALL)
    names = {"model": nn.Linear(3, 2)}
    exec(code, names)
    names["model"](torch.ones(1, 3)).sum().backward()
    names["optimizer"].step()
    assert len(names["optimizer"].clip_factors()) == 2


def test_each_option_of_the_page_works():
    page = (ROOT / "docs" / "methods.md").read_text()
    [around] = re.findall(r"It takes (.*?), with the options", page, re.DOTALL)
    rows = dict(re.findall(r"^\| `(\w+)` \|.* \|(.*)\|$", page.split("`study run methods`")[0], re.MULTILINE))
    assert rows.keys() == set(methods.names())
    for rule, cell in rows.items():
        options = {key: float(value) for key, value in re.findall(r"`(\w+) = ([\d.]+)`", cell)}
        assert options.items() <= methods.signature(rule).defaults.items(), rule
        assert options or rule == "none"
        if f"`{rule}`" in around:
            for key, value in options.items():
                ClipUpdates(torch.optim.SGD(parameters((2,)), 0.1), rule, **{key: 2 * value})


@pytest.mark.parametrize("rule", ["clippy", "agc", "update_rms_clip", "lamb", "layer_clip", "global_clip"])
def test_each_option_that_a_message_names_is_taken(rule):
    with pytest.raises(ValueError, match=rf"^{rule} has no option c; it has (.*)$") as raised:
        ClipUpdates(torch.optim.SGD(parameters((2,)), 0.1), rule, c=0.01)
    others = {float: 0.5, bool: True}
    for key in str(raised.value).partition("; it has ")[2].split(", "):
        default = methods.signature(rule).defaults[key]
        other = others.get(type(default), "rms" if key == "norm" else "unit")
        ClipUpdates(torch.optim.SGD(parameters((2,)), 0.1), rule, **{key: other})


@pytest.mark.parametrize(
    ("rule", "options", "message"),
    [
        ("zclip", {}, "need a rule without a state, got zclip"),
        ("clipy", {}, "unknown method 'clipy'"),
        ("activation_clip", {}, "is not available as an optimizer"),
        ("clippy", {"rel": -1.0}, "need rel >= 0"),
        ("clippy", {"delayed": True}, "need base=adagrad"),
        ("clippy", {"weight_decay": 0.1}, "weight_decay belongs to the optimizer"),
        ("clippy", {"beta1": 0.8}, "beta1 belongs to the optimizer"),
    ],
)
def test_wrong_rules_are_refused(rule, options, message):
    with pytest.raises(ValueError, match=message):
        ClipUpdates(torch.optim.SGD(parameters((2,)), 0.1), rule, **options)
    with pytest.raises(ValueError, match="need a torch optimizer, got list"):
        ClipUpdates([], rule)  # pyright: ignore[reportArgumentType]

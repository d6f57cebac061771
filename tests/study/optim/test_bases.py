"""The bases take what torch's own optimizers take, follow its schedulers, and load its states."""

import copy
import math
import warnings

import pytest
import torch
from optimizer_steps import F64, assert_same, parameters, steps
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR

from study.optim import Clippy, MethodOptimizer, ZClip

SHAPES = ((4, 3), (3,), ())
OPTIONS = [
    ("adamw", {"betas": (0.8, 0.95), "eps": 1e-4, "weight_decay": 0.3, "maximize": True}, torch.optim.AdamW),
    ("adamw", {"betas": [0.0, 0.5]}, torch.optim.AdamW),
    ("rmsprop", {"alpha": 0.7, "momentum": 0.8, "eps": 1e-5}, torch.optim.RMSprop),
    ("sgd", {"momentum": 0.9, "nesterov": True, "maximize": True}, torch.optim.SGD),
    ("adagrad", {"initial_accumulator_value": 0.3, "eps": 0.0}, torch.optim.Adagrad),
]
each_base = pytest.mark.parametrize(("base", "options", "torchs"), OPTIONS)


def unclipped(params, lr=0.01, **options):
    return Clippy(params, lr, relative_threshold=math.inf, **options)


def pair(base, options, torchs):
    ours, theirs = parameters(*SHAPES), parameters(*SHAPES)
    fill = {} if base == "sgd" or "eps" in options else {"eps": 1e-7}
    decay = {"weight_decay": 0.0} | fill if base == "adamw" else fill
    return ours, unclipped(ours, base=base, **options), theirs, torchs(theirs, 0.01, **(decay | options))


@each_base
def test_options_are_those_of_torch(base, options, torchs):
    ours, us, theirs, them = pair(base, options, torchs)
    assert_same(steps(us, ours, 20), steps(them, theirs, 20), rtol=1e-9)
    groups = parameters(*SHAPES)
    own = options if base == "adagrad" else {"base": base, **options}
    in_group = unclipped([{"params": groups, **own}])
    assert_same(steps(in_group, groups, 20), [p.detach() for p in ours])


@each_base
@pytest.mark.parametrize("schedule", [OneCycleLR, CyclicLR])
def test_schedulers_cycle_the_momentum(base, options, torchs, schedule):
    ours, us, theirs, them = pair(base, {k: v for k, v in options.items() if k != "betas"}, torchs)
    sizes = {"max_lr": 0.1, "total_steps": 25} if schedule is OneCycleLR else {"base_lr": 0.01, "max_lr": 0.1}
    if base == "adagrad":
        for optimizer in (us, them):
            with pytest.raises(ValueError, match="optimizer must support momentum or beta1"):
                schedule(optimizer, **sizes)
        return
    schedules = [schedule(optimizer, **sizes) for optimizer in (us, them)]
    before = copy.deepcopy(us.param_groups[0])
    for t in range(20):
        steps(us, ours, 1, start=t)
        steps(them, theirs, 1, start=t)
        for each in schedules:
            each.step()
        if t == 9:
            us.load_state_dict(copy.deepcopy(us.state_dict()))
    changed = "betas" if base == "adamw" else "momentum"
    assert us.param_groups[0][changed] != before[changed]
    assert_same([p.detach() for p in ours], [p.detach() for p in theirs], rtol=1e-9)


def test_a_momentum_may_begin_later():
    ours, theirs = parameters(*SHAPES), parameters(*SHAPES)
    us = MethodOptimizer(ours, 0.01, "none", {"base": "sgd", "momentum": 0.5})
    assert us.param_groups[0]["momentum"] == us.defaults["momentum"] == 0.5
    them = torch.optim.SGD(theirs, 0.01)
    for t in range(6):
        for optimizer in (us, them):
            optimizer.param_groups[0]["momentum"] = 0.9 if t >= 3 else 0.0
        steps(us, ours, 1, start=t)
        steps(them, theirs, 1, start=t)
    assert_same([p.detach() for p in ours], [p.detach() for p in theirs])


@each_base
@pytest.mark.parametrize("dtype", [torch.bfloat16, F64])
def test_a_state_of_torch_loads(tmp_path, base, options, torchs, dtype):
    _, _, theirs, them = pair(base, options, torchs)
    expected = steps(them, theirs, 5)
    torch.save(them.state_dict(), tmp_path / "state.pt")
    ours = [torch.nn.Parameter(p.to(dtype)) for p in expected]
    us = unclipped(ours, lr=7.0, base=base, **({"eps": 0.0} if base == "adagrad" else {}))
    us.load_state_dict(torch.load(tmp_path / "state.pt"))
    assert all(value.dtype == F64 for state in us.state.values() for value in state.values())
    if dtype == F64:
        assert_same(steps(us, ours, 5, start=5), steps(them, theirs, 5, start=5), rtol=1e-9)
        fresh = unclipped(parameters(*SHAPES), base=base)
        fresh.load_state_dict(us.state_dict())


def test_a_state_of_torch_that_has_no_equal_here_is_refused():
    params = parameters((3,))
    wrong = [
        ("adamw", torch.optim.Adagrad(params), "need a state of base adamw, got one of torch's adagrad"),
        ("adamw", torch.optim.AdamW(params, amsgrad=True), "amsgrad is not available here"),
        ("adamw", torch.optim.Adam(params, weight_decay=0.1), "need a state without weight_decay"),
        ("sgd", torch.optim.SGD(params, 0.1, weight_decay=0.1), "need a state without weight_decay"),
        ("sgd", torch.optim.SGD(params, 0.1, momentum=0.9, dampening=0.1), "dampening is not available here"),
        ("rmsprop", torch.optim.RMSprop(params, centered=True), "centered is not available here"),
        ("adagrad", torch.optim.Adagrad(params, lr_decay=0.1), "lr_decay is not available here"),
    ]
    for base, them, message in wrong:
        steps(them, params, 1)
        with pytest.raises(ValueError, match=message):
            Clippy(params, 0.1, base=base).load_state_dict(them.state_dict())


def test_an_older_state_without_steps_loads():
    params = parameters(*SHAPES)
    made = MethodOptimizer(params, 0.1, "none", {"base": "adamw"})
    steps(made, params, 300)
    old = copy.deepcopy(made.state_dict())
    for state in old["state"].values():
        assert state.pop("step") == 300
    for key in ("betas", "constant_betas", "foreach", "capturable"):
        del old["param_groups"][0][key]
    other = MethodOptimizer(params, 0.1, "none", {"base": "adamw"})
    other.load_state_dict(old)
    assert other.state[params[0]]["step"] == 300
    before = [p.detach().clone() for p in params]
    expected = steps(made, params, 1)
    with torch.no_grad():
        for p, value in zip(params, before, strict=True):
            p.copy_(value)
    assert all(torch.equal(a, b) for a, b in zip(steps(other, params, 1), expected, strict=True))


def test_words_of_studies_are_refused_as_options_of_the_method():
    params = parameters((3,))
    for key, word in (("beta1", "betas"), ("nesterov", "nesterov"), ("eps", "eps")):
        with pytest.raises(ValueError, match=f"^none has no option {key} here: the optimizer takes {word}$"):
            MethodOptimizer(params, 0.1, "none", {key: 0.5})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base": "adamw", "betas": (0.9, 1.0)}, "need two betas, 0 <= beta < 1"),
        ({"base": "adamw", "betas": 0.9}, "need two betas"),
        ({"betas": (0.9, 0.95)}, "betas needs base=adamw, got base=adagrad"),
        ({"base": "rmsprop", "alpha": -0.1}, "need 0 <= alpha < 1"),
        ({"base": "sgd", "nesterov": True}, "nesterov needs momentum > 0"),
        ({"base": "rmsprop", "nesterov": True, "momentum": 0.9}, "nesterov needs base=sgd"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Clippy(parameters((2,)), 0.1, **options)


@pytest.mark.parametrize(("optimizer", "base"), [(Clippy, "adamw"), (ZClip, "adagrad")])
def test_a_step_compiles_as_one_graph(optimizer, base):
    torch._dynamo.reset()
    ours, theirs = parameters(*SHAPES), parameters(*SHAPES)
    us, them = (optimizer(p, torch.tensor(0.1), base=base, foreach=False) for p in (ours, theirs))
    us.step = torch.compile(us.step, fullgraph=True, backend="aot_eager")
    with warnings.catch_warnings(action="ignore"):  # it ignores the profiler's record
        for t in range(3):
            assert_same(steps(us, ours, 1, start=t), steps(them, theirs, 1, start=t))
    assert us.state[ours[0]].keys() == them.state[theirs[0]].keys()

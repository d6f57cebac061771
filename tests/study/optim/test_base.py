"""The optimizers behave as `torch.optim` expects: state, groups, schedulers, closures, dtypes and wrong values."""

import copy
import math
import pickle
import re

import pytest
import torch
from optimizer_steps import F64, assert_same, each_optimizer, parameters, steps
from torch import nn

from study import methods
from study.optim import AGC, LAMB, Clippy, GlobalClip, LayerClip, MethodOptimizer


@each_optimizer
@pytest.mark.parametrize("base", methods.BASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_loaded_state_continues_with_the_same_bits(tmp_path, optimizer, base, dtype):
    options = {"base": base} | ({"momentum": 0.9} if base == "sgd" else {})
    shapes = ((4, 3), (3,), ())
    params = parameters(*shapes, dtype=dtype)
    through = optimizer(params, 0.1, **options)
    halfway = steps(through, params, 3)
    torch.save(through.state_dict(), tmp_path / "state.pt")
    expected = steps(through, params, 3, start=3)

    fresh = [nn.Parameter(p) for p in halfway]
    other = optimizer(fresh, 7.0, **options)
    loaded = torch.load(tmp_path / "state.pt", weights_only=True)
    other.load_state_dict(loaded)
    kept = copy.deepcopy(loaded["state"])
    for a, b in zip(expected, steps(other, fresh, 3, start=3), strict=True):
        assert torch.equal(a, b)
    assert str(kept) == str(loaded["state"]), "training must not change the loaded state"
    wide = torch.float64 if dtype == F64 else torch.float32
    assert all(value.dtype == wide for state in other.state.values() for value in state.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("make", [Clippy, lambda p, lr: torch.optim.Adagrad(p, lr, eps=0.0)])
def test_hooks_may_reorder_a_loaded_state_by_name(make, dtype):
    """torch documents this use of a pre-hook. A post-hook sees the loaded state, and what it changes stays."""
    names, params = ("a", "b"), parameters((3,), (3,), dtype=dtype)
    first = make(list(zip(names, params, strict=True)), 0.1)
    steps(first, params, 3)
    turned = [nn.Parameter(p.detach().clone()) for p in params[::-1]]
    second = make(list(zip(names[::-1], turned, strict=True)), 0.1)
    seen = {}

    def by_name(optimizer, state):
        [group], [loaded] = optimizer.state_dict()["param_groups"], state["param_groups"]
        number = dict(zip(loaded["param_names"], loaded["params"], strict=True))
        moved = {i: state["state"][number[name]] for i, name in enumerate(group["param_names"])}
        return {"state": moved, "param_groups": [loaded | {"param_names": group["param_names"]}]}

    def double(optimizer):
        for p, state in optimizer.state.items():
            key = "accumulator" if "accumulator" in state else "sum"
            seen[p] = state[key].clone()
            state[key] = state[key] * 2

    second.register_load_state_dict_pre_hook(by_name)
    second.register_load_state_dict_post_hook(double)
    second.load_state_dict(first.state_dict())
    key = "accumulator" if isinstance(first, Clippy) else "sum"
    for p, q in zip(params, turned[::-1], strict=True):
        assert torch.equal(seen[q], first.state[p][key])
        assert torch.equal(second.state[q][key], first.state[p][key] * 2)


def test_optimizers_can_be_copied_and_pickled():
    params = parameters((4, 3))
    optimizer = Clippy(params, 0.1, record_clip_factors=True)
    steps(optimizer, params, 1)
    for again in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        own = again.param_groups[0]["params"]
        steps(again, own, 1, start=1)
        assert again.clip_factors()[own[0]].item() < 1
    steps(optimizer, params, 1, start=1)
    assert torch.equal(own[0], params[0])


def test_the_state_of_another_method_is_refused():
    params = parameters((4, 3))
    with pytest.raises(ValueError, match="need a state of method global_clip, got one of layer_clip"):
        GlobalClip(params, 0.1).load_state_dict(LayerClip(params, 0.1).state_dict())
    with pytest.raises(ValueError, match="need a state of method clippy, got one of None"):
        Clippy(params, 0.1).load_state_dict(torch.optim.Adadelta(params, 0.1).state_dict())


def test_groups_have_their_own_lr_and_thresholds():
    params = parameters((3,), (3,), (3,))
    alone = parameters((3,), (3,), (3,))
    groups = [
        {"params": params[:1]},
        {"params": params[1:2], "lr": 0.7, "relative_threshold": 0.01},
        {"params": params[2:], "base": "sgd", "momentum": 0.5},
    ]
    together = steps(Clippy(groups, 0.2), params, 5)
    single = [
        Clippy(alone[:1], 0.2),
        Clippy(alone[1:2], 0.7, relative_threshold=0.01),
        Clippy(alone[2:], 0.2, base="sgd", momentum=0.5),
    ]
    for t in range(5):
        generator = torch.Generator().manual_seed(1000 + t)
        for p in alone:
            p.grad = torch.randn(3, generator=generator, dtype=F64) * 10.0 ** math.sin(t)
        for optimizer in single:
            optimizer.step()
    assert all(torch.equal(a, b.detach()) for a, b in zip(together, alone, strict=True))


def test_schedulers_set_the_lr():
    (p,) = parameters((2,))
    optimizer = MethodOptimizer([p], 1.0, "none", {"base": "sgd"})
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 0.5**t)
    before = p.detach().clone()
    for _ in range(3):
        p.grad = torch.ones_like(p)
        optimizer.step()
        schedule.step()
    torch.testing.assert_close(p.detach(), before - 1.75)
    (p,) = parameters((2,))


def test_lr_may_be_a_tensor():
    ours, theirs = parameters((3,)), parameters((3,))
    a, b = Clippy(ours, torch.tensor(0.3, dtype=F64)), Clippy(theirs, 0.3)
    assert torch.equal(steps(a, ours, 3)[0], steps(b, theirs, 3)[0])


def test_step_runs_the_closure_with_gradients_and_returns_its_loss():
    (p,) = parameters((2,))
    optimizer = LAMB([p], 0.1)

    def closure():
        optimizer.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return loss.item()

    before = closure()
    with torch.no_grad():
        loss = optimizer.step(closure)
    assert loss == before
    assert p.square().sum().item() < before


@each_optimizer
def test_maximize_is_the_negative_gradient(optimizer):
    up, down = parameters((3,), (2, 2)), parameters((3,), (2, 2))
    a, b = optimizer(up, 0.1, maximize=True), optimizer(down, 0.1)
    for p, q in zip(up, down, strict=True):
        p.grad, q.grad = torch.full_like(p, 3.0), torch.full_like(q, -3.0)
    a.step()
    b.step()
    assert all(torch.equal(p, q) for p, q in zip(up, down, strict=True))


@each_optimizer
def test_scalar_empty_frozen_and_unused_parameters(optimizer):
    without, scalar, empty, frozen = parameters((3,), (), (0, 2), (2,))
    frozen.requires_grad_(False)
    before = without.detach().clone(), scalar.detach().clone()
    optimizer = optimizer([without, scalar, empty, frozen], 0.1, record_clip_factors=True)
    scalar.grad, empty.grad = torch.ones_like(scalar), torch.ones_like(empty)
    optimizer.step()
    assert torch.equal(without.detach(), before[0])
    assert scalar.item() < before[1].item()
    assert set(optimizer.clip_factors()) == {scalar, empty}
    assert without not in optimizer.state


@each_optimizer
def test_bfloat16_parameters_are_computed_in_float32_and_rounded_once(optimizer):
    (narrow,) = parameters((50, 3), dtype=torch.bfloat16)
    a = optimizer([narrow], 0.1)
    wide = nn.Parameter(narrow.detach().float())
    b = optimizer([wide], 0.1)
    for t in range(4):
        steps(a, [narrow], 1, start=t)
        assert narrow.grad is not None
        wide.grad = narrow.grad.float()
        b.step()
        with torch.no_grad():
            wide.copy_(wide.bfloat16())
        assert torch.equal(narrow.detach().float(), wide.detach())
    assert a.state[narrow].keys() == b.state[wide].keys() != set()
    assert all(torch.equal(a.state[narrow][key], b.state[wide][key]) for key in a.state[narrow])


def test_a_parameter_that_is_not_contiguous_equals_a_contiguous_one():
    (p,) = parameters((4, 3))
    turned = nn.Parameter(p.detach().clone().t().contiguous().t())
    assert not turned.is_contiguous()
    a, b = (Clippy([q], 0.3, delayed_accumulator=True) for q in (p, turned))
    assert_same(steps(a, [p], 5), steps(b, [turned], 5))


@each_optimizer
def test_never_waits_for_the_device(optimizer):
    """Tensors on the device "meta" have no values, so that reading one raises."""
    params = [nn.Parameter(torch.zeros(shape, device="meta")) for shape in ((4, 3), (3,), ())]
    optimizer = optimizer(params, 0.1, record_clip_factors=True, weight_decay=0.1)
    for p in params:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    optimizer.step()
    assert optimizer.clip_factors()[params[0]].device.type == "meta"


def test_clip_factors_are_of_the_last_step():
    a, b = nn.Parameter(torch.tensor([3.0, 4.0])), nn.Parameter(torch.tensor([1.0]))
    optimizer = LayerClip([a, b], 0.1, max_norm=1.0, record_clip_factors=True)
    a.grad, b.grad = torch.tensor([6.0, 8.0]), torch.tensor([0.5])
    optimizer.step()
    factors = optimizer.clip_factors()
    assert [factors[a].item(), factors[b].item()] == [pytest.approx(0.1), 1.0]
    b.grad = None
    optimizer.step()
    assert set(optimizer.clip_factors()) == {a}


def test_clip_factors_that_are_not_recorded_are_an_error():
    """No factors would look like no clipping."""
    (p,) = parameters((3,))
    optimizer = Clippy([p], 0.1)
    steps(optimizer, [p], 1)
    for again in (optimizer, copy.deepcopy(optimizer)):
        with pytest.raises(RuntimeError, match=r"^clip factors are not recorded: need record_clip_factors=True$"):
            again.clip_factors()
    optimizer.record_clip_factors = True
    steps(optimizer, [p], 1)
    assert optimizer.clip_factors().keys() == {p}
    optimizer.load_state_dict(optimizer.state_dict())
    steps(optimizer, [p], 1)
    assert optimizer.clip_factors().keys() == {p}


def test_each_option_that_a_message_names_is_taken():
    with pytest.raises(ValueError, match=r"^agc has no option c; it has (.*)$") as raised:
        MethodOptimizer(parameters((2,)), 0.1, "agc", {"c": 0.01})
    for key in str(raised.value).partition("; it has ")[2].split(", "):
        MethodOptimizer(parameters((2,)), 0.1, "agc", {key: methods.signature("agc").defaults[key]})


@each_optimizer
def test_a_nan_gradient_reaches_the_parameter(optimizer):
    (p,) = parameters((3,))
    optimizer = optimizer([p], 0.1)
    p.grad = torch.tensor([1.0, math.nan, 1.0], dtype=F64)
    optimizer.step()
    assert p.isnan().any()


WRONG = [
    (lambda p: Clippy(p, -0.1), "need a finite lr >= 0, got lr=-0.1"),
    (lambda p: Clippy(p, math.nan), "need a finite lr >= 0"),
    (lambda p: Clippy(p, torch.ones(2)), r"need one lr, got a tensor of shape \(2,\)"),
    (lambda p: Clippy(p, 0.1, relative_threshold=-1.0), "need relative_threshold >= 0, got relative_threshold=-1"),
    (lambda p: Clippy(p, 0.1, 0.0, 0.0), "need relative_threshold > 0 or absolute_threshold > 0"),
    (lambda p: Clippy(p, 0.1, clip_accumulator=True), "clip_accumulator needs delayed_accumulator=true"),
    (lambda p: Clippy(p, 0.1, eps=-1.0), "need a finite eps >= 0"),
    (lambda p: Clippy(p, 0.1, initial_accumulator_value=math.nan), "need a finite initial_accumulator_value >= 0"),
    (lambda p: Clippy(p, 0.1, base="adam"), "base is one of adagrad, sgd, rmsprop, adamw; got 'adam'"),
    (lambda p: Clippy(p, 0.1, weight_decay=-1.0), "need weight_decay >= 0"),
    (lambda p: AGC(p, 0.1, momentum=0.5), "momentum needs base=sgd"),
    (lambda p: AGC(p, 0.1, per="row"), "per is one of tensor, unit"),
    (lambda p: LayerClip(p, 0.1, 0.0), "need max_norm > 0"),
    (lambda p: MethodOptimizer(p, 0.1, "clipy"), "unknown method 'clipy'; there are activation_clip"),
    (lambda p: MethodOptimizer(p, 0.1, "activation_clip"), "is not available as an optimizer"),
    (lambda p: Clippy([{"params": p, "absolute_threshold": -1.0}], 0.1), "need absolute_threshold >= 0"),
    (lambda p: Clippy([{"params": p, "lr": -1.0}], 0.1), "need a finite lr >= 0"),
    (lambda p: Clippy([nn.Parameter(torch.ones(2, dtype=torch.complex64))], 0.1), "need real parameters"),
    (lambda p: Clippy(p, 0.1, base="adamw", betas=(0.9, 1.0)), "need two betas, 0 <= beta < 1"),
    (lambda p: Clippy(p, 0.1, base="adamw", betas="0.9, 0.95"), "need two betas, 0 <= beta < 1"),
]


OF_BASE = {"momentum": "sgd", "alpha": "rmsprop"}


@pytest.mark.parametrize("in_group", [False, True])
@pytest.mark.parametrize(
    "name", ["lr", "eps", "initial_accumulator_value", "weight_decay", "relative_threshold", "momentum", "alpha"]
)
def test_a_number_that_is_text_is_called_text(name, in_group):
    """As PyYAML reads it. torch itself compares text with 0, and raises TypeError."""
    message = f"need a number as {name}, got {name}='1e-3'; YAML reads 1e-3 as text and 1.0e-3 as a number"
    given = {"base": OF_BASE.get(name, "adagrad")}
    params, options = parameters((2,)), {"lr": 0.1} | given
    groups = [{"params": params, name: "1e-3"}] if in_group else params
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Clippy(groups, **(options if in_group else options | {name: "1e-3"}))


def test_betas_that_are_text_are_called_text():
    with pytest.raises(ValueError, match=r"need a number as betas\[1\], got betas\[1\]='9e-1'; YAML"):
        Clippy(parameters((2,)), 0.1, base="adamw", betas=(0.9, "9e-1"))


@pytest.mark.parametrize(("make", "message"), WRONG)
def test_wrong_values_are_refused_in_one_line(make, message):
    with pytest.raises(ValueError, match=message) as error:
        make(parameters((2,)))
    assert "\n" not in str(error.value)

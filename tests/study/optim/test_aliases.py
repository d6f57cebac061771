"""Optimizers equal torch's own, references by hand, and their methods."""

import inspect
import math

import pytest
import torch
from optimizer_steps import assert_same, each_optimizer, parameters, steps
from torch import nn

from study import methods
from study.optim import LAMB, Clippy, GlobalClip, LayerClip, MethodOptimizer, _foreach_clippy
from study.transforms import Leaf


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("G0", [0.1, 0.003])
def test_adagrad_equals_torch(sparse, G0):
    ours, theirs = parameters((30, 3), (20,)), parameters((30, 3), (20,))
    us = MethodOptimizer(ours, 0.3, "none", initial_accumulator_value=G0, eps=0.0)
    them = torch.optim.Adagrad(theirs, 0.3, initial_accumulator_value=G0, eps=0.0)
    assert_same(steps(us, ours, 25, sparse=sparse), steps(them, theirs, 25, sparse=sparse))
    assert_same([us.state[p]["accumulator"] for p in ours], [them.state[p]["sum"] for p in theirs])


BASES = {
    "rmsprop": ({}, lambda p: torch.optim.RMSprop(p, 0.01, alpha=0.99, eps=1e-7)),
    "adamw": ({"weight_decay": 0.3}, lambda p: torch.optim.AdamW(p, 0.01, eps=1e-7, weight_decay=0.3)),
    "sgd": ({"momentum": 0.9}, lambda p: torch.optim.SGD(p, 0.01, momentum=0.9)),
    "plain sgd": ({"weight_decay": 0.5}, lambda p: torch.optim.SGD(p, 0.01, weight_decay=0.5)),
}


@pytest.mark.parametrize("base", BASES)
def test_other_bases_equal_torch(base):
    options, make = BASES[base]
    ours, theirs = parameters((4, 3), (3,)), parameters((4, 3), (3,))
    us = Clippy(ours, 0.01, relative_threshold=math.inf, base=base.split()[-1], **options)
    assert_same(steps(us, ours, 30), steps(make(theirs), theirs, 30), rtol=1e-9)


def test_layer_clip_equals_clipping_each_tensor_with_torch():
    ours, theirs = parameters((4, 3), (3,)), parameters((4, 3), (3,))
    steps(LayerClip(ours, 0.3, max_norm=2.0, eps=0.0), ours, 1)
    clipped_steps(theirs, 1, lambda: [nn.utils.clip_grad_norm_([p], 2.0) for p in theirs])
    assert_same(ours, theirs, rtol=1e-6)  # torch adds 1e-6 to the norm


def test_global_clip_equals_torch_over_all_groups():
    ours, theirs = parameters((4, 3), (3,)), parameters((4, 3), (3,))
    us = GlobalClip([{"params": ours[:1]}, {"params": ours[1:]}], 0.3, max_norm=2.0, eps=0.0)
    ours = steps(us, ours, 20)
    clipped_steps(theirs, 20, lambda: nn.utils.clip_grad_norm_(theirs, 2.0))
    assert_same(ours, theirs, rtol=1e-5)


def clipped_steps(params, count, clip):
    adagrad = torch.optim.Adagrad(params, 0.3, initial_accumulator_value=0.1, eps=0.0)
    adagrad.register_step_pre_hook(lambda *_: clip() and None)
    steps(adagrad, params, count)


@each_optimizer
def test_an_optimizer_has_the_bits_of_its_method_in_a_stack(optimizer, monkeypatch):
    monkeypatch.setattr(_foreach_clippy, "is_plain", lambda *_: False)
    params = parameters((4, 3), (3,), (), dtype=torch.float32)
    optimizer = optimizer(params, 0.3)
    name = optimizer.param_groups[0]["method"]
    chain = methods.build(name, torch.tensor([0.3, 0.3]), {})
    weights = [p.detach().clone().expand(2, *p.shape).clone() for p in params]
    states = [chain.init(w) for w in weights]
    for t in range(8):
        steps(optimizer, params, 1, start=t)
        gradients = [p.grad.expand(2, *p.shape).clone() for p in params if p.grad is not None]
        leaves = [Leaf(w, g, g, s) for w, g, s in zip(weights, gradients, states, strict=True)]
        chain.updates(leaves)
        for leaf in leaves:
            leaf.weight.sub_(leaf.update)
    for p, w in zip(params, weights, strict=True):
        assert torch.equal(p.detach(), w[1])


def test_lamb_equals_a_loop_over_scalars():
    (p,) = parameters((2, 3))
    w, G = p.flatten().tolist(), [0.1] * 6
    optimizer = LAMB([p], 0.5, mu=0.2)
    for t in range(25):
        steps(optimizer, [p], 1, start=t)
        assert p.grad is not None
        g = p.grad.flatten().tolist()
        r = []
        for i in range(6):
            G[i] += g[i] * g[i]
            r.append(g[i] / math.sqrt(G[i] + 1e-7))
        ratio = math.hypot(*w) / math.hypot(*r)
        for i in range(6):
            w[i] -= 0.5 * 0.2 * ratio * r[i]
    assert p.flatten().tolist() == pytest.approx(w, rel=1e-10)


@pytest.mark.parametrize("sparse", [False, True])
def test_clippy_equals_a_single_step_of_the_authors(sparse):
    for clip_accumulator, G in ((False, 100.01), (True, 0.10)):
        p = nn.Parameter(torch.tensor([[1.0], [7.0], [2.0]]) if sparse else torch.tensor([1.0, 2.0]))
        optimizer = Clippy(
            [p],
            0.2,
            relative_threshold=0.4,
            absolute_threshold=0.1,
            accumulator_relative_threshold=0.01,
            initial_accumulator_value=0.01,
            eps=0.0,
            delayed_accumulator=True,
            clip_accumulator=clip_accumulator,
            record_clip_factors=True,
        )
        gradient = torch.tensor([10.0, 10.0])
        if sparse:
            # row 0 has 4 + 6
            rows, values = torch.tensor([[0, 2, 0]]), torch.tensor([[4.0], [10.0], [6.0]])
            gradient = torch.sparse_coo_tensor(rows, values, (3, 1))
        p.grad = gradient
        optimizer.step()
        assert optimizer.clip_factors()[p].item() == pytest.approx(0.03)
        expected = ([0.4, 7.0, 1.4], [G, 0.01, G]) if sparse else ([0.4, 1.4], [G, G])
        assert p.flatten().tolist() == pytest.approx(expected[0])
        assert optimizer.state[p]["accumulator"].flatten().tolist() == pytest.approx(expected[1])


@each_optimizer
def test_defaults_are_those_of_the_method(optimizer):
    made = optimizer(parameters((2,)), 0.1)
    name = made.defaults["method"]
    for key, default in methods.signature(name).defaults.items():
        word = optimizer.words.get(key, key)
        assert made.defaults.get(word, 0.0) == default
        if key not in methods.COMMON:
            assert inspect.signature(optimizer).parameters[word].default == default

"""Clips that follow the history of norms, by hand and against loops that the papers describe."""

import copy
import math

import numpy as np
import pytest
import torch

from study import methods
from study.optim import AutoClip, ZClip
from study.transforms import Chain, Leaf, chain
from study.transforms._adaptive_clipping import (
    clip_by_percentile,
    clip_by_z_score,
    clip_to_average_norm,
    percentile_limit,
)

F64 = torch.float64
SHAPES = ((4, 3), (5,), ())


def norms_through(link, *norms: float) -> list[float]:
    """Return the clipped norm of each step, for a gradient with these norms."""
    chained, weight = chain(link), torch.ones(1, 2, dtype=F64)
    state, left = chained.init(weight), []
    for norm in norms:
        gradient = torch.tensor([[0.6 * norm, -0.8 * norm]], dtype=F64)
        leaf = Leaf(weight=weight, gradient=gradient, update=gradient, state=state)
        chained.updates([leaf])
        left.append(leaf.update.norm().item())
    return left


def test_z_score_by_hand():
    """The warm-up has norms 1 and 3: mean 2, variance 1. 5 has z = 3 > 2, and becomes 2 + 2^2 / 3 * 1.

    With decay 0.5, the mean is (2 + 10/3) / 2 = 8/3, the variance (1 + (10/3 - 8/3)^2) / 2 = 13/18. 3.9 has z = 1.45.
    """
    expected = [1.0, 3.0, 10 / 3, 3.9]
    assert norms_through(clip_by_z_score(2.0, 0.5, 2), 1.0, 3.0, 5.0, 3.9) == pytest.approx(expected, rel=1e-12)
    # 4.6 has z = 2.27: 8/3 + 4 * 13/18 / (4.6 - 8/3)
    left = norms_through(clip_by_z_score(2.0, 0.5, 2), 1.0, 3.0, 5.0, 4.6)
    assert left[-1] == pytest.approx(8 / 3 + 4 * (13 / 18) / (4.6 - 8 / 3), rel=1e-12)


def test_after_a_steady_norm_any_larger_norm_is_clipped_to_it():
    left = norms_through(clip_by_z_score(2.5, 0.97, 3), 2.0, 2.0, 2.0, 2.0, 2.5)
    assert left == pytest.approx([2.0] * 5), "the variance is 0"


def test_percentile_by_hand():
    """The 10th percentile of 4 and 2 is 2.2, which does not clip 2; that of 4, 2 and 10 is 2.4."""
    assert norms_through(clip_by_percentile(10.0), 4.0, 2.0, 10.0) == pytest.approx([4.0, 2.0, 2.4])
    # with a history of two, the percentile of 2 and 10 is 2.8
    assert norms_through(clip_by_percentile(10.0, 2), 4.0, 2.0, 10.0) == pytest.approx([4.0, 2.0, 2.8])


def test_percentiles_equal_numpy():
    rng = np.random.default_rng(0)
    history = np.full((6, 40), math.inf)
    counts = np.array([1, 2, 3, 17, 39, 40])
    for row, count in zip(history, counts, strict=True):
        row[rng.permutation(40)[:count]] = rng.lognormal(size=count)
    for percentile in (0.0, 10.0, 33.3, 50.0, 100.0):
        found = percentile_limit(torch.from_numpy(history), torch.from_numpy(counts.astype(float)), percentile)
        expected = [np.percentile(row[np.isfinite(row)], percentile) for row in history]
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-13)


def test_average_norm_by_hand():
    """In the warm-up, 8 is clipped to abs = 4; the smallest norm is 3. Then 9 is clipped to 1.5 * 3.

    The average is then (3 + 4.5) / 2 = 3.75, and 100 is clipped to 1.5 * 3.75.
    """
    left = norms_through(clip_to_average_norm(1.5, 4.0, 0.5, 2), 8.0, 3.0, 9.0, 100.0)
    assert left == pytest.approx([4.0, 3.0, 4.5, 5.625])


def test_a_zero_gradient_in_the_warm_up_does_not_freeze_its_tensor():
    assert norms_through(clip_to_average_norm(1.5, 4.0, 0.5, 2), 0.0, 3.0, 9.0) == pytest.approx([0.0, 3.0, 4.5])
    # without any other norm in the warm-up, the first one after it counts
    assert norms_through(clip_to_average_norm(1.5, 4.0, 0.5, 2), 0.0, 0.0, 5.0, 9.0) == pytest.approx([0, 0, 5, 7.5])


# --- 50 steps against loops ----------------------------------------------------------------------------------------


def gradients_of(step: int) -> list[np.ndarray]:
    rng = np.random.default_rng(step)
    size = 0.3 * (40.0 if step in (31, 32, 44) else 1.0) * (1 + 0.5 * math.sin(step))
    return [rng.normal(size=shape) * size for shape in SHAPES]


def length_of_all(tensors) -> float:
    return math.sqrt(sum(float((np.asarray(x) ** 2).sum()) for x in tensors))


class ZClipByLoop:
    def __init__(self):
        self.buffer, self.mean, self.var = [], 0.0, 0.0

    def __call__(self, gradients):
        norm = length_of_all(gradients)
        if len(self.buffer) < 25:
            self.buffer.append(norm)
            if len(self.buffer) == 25:
                self.mean, self.var = float(np.mean(self.buffer)), float(np.var(self.buffer))
            return gradients
        std = math.sqrt(self.var)
        z = (norm - self.mean) / std
        left = self.mean + 2.5**2 / z * std if z > 2.5 else norm
        self.mean = 0.97 * self.mean + 0.03 * left
        self.var = 0.97 * self.var + 0.03 * (left - self.mean) ** 2
        return [g * (left / norm) for g in gradients]


class AutoClipByLoop:
    def __init__(self):
        self.norms = []

    def __call__(self, gradients):
        self.norms.append(length_of_all(gradients))
        limit = np.percentile(self.norms, 10)
        return [g * min(1.0, limit / self.norms[-1]) for g in gradients]


class AdaGCByLoop:
    def __init__(self, warmup):
        self.warmup, self.step, self.usual = warmup, 0, [math.inf] * len(SHAPES)

    def __call__(self, gradients):
        total, out = length_of_all(gradients), []
        for i, g in enumerate(gradients):
            norm = length_of_all([g])
            h = min(1.0, 1.0 / total) if self.step < self.warmup else min(1.0, 1.05 * self.usual[i] / norm)
            left = h * norm
            smallest, average = min(self.usual[i], left), 0.98 * self.usual[i] + 0.02 * left
            self.usual[i] = smallest if self.step < self.warmup else average
            out.append(h * g)
        self.step += 1
        return out


class RmsClipByLoop:
    def __init__(self, limit):
        self.limit = limit

    def direction(self, r):
        return r / max(1.0, math.sqrt(float(np.mean(r**2))) / self.limit)

    def __call__(self, gradients):
        return gradients


LOOPS = {
    "zclip": ({}, ZClipByLoop),
    "autoclip": ({}, AutoClipByLoop),
    "adagc": ({"warmup_steps": 20}, lambda: AdaGCByLoop(20)),
    "update_rms_clip": ({"d": 0.3}, lambda: RmsClipByLoop(0.3)),
}


@pytest.mark.parametrize("name", LOOPS)
def test_50_steps_equal_a_loop_in_double_precision(name):
    options, make = LOOPS[name]
    treat = make()
    direction = getattr(treat, "direction", lambda r: r)
    start = [np.random.default_rng(99 + i).normal(size=shape) for i, shape in enumerate(SHAPES)]
    expected, accumulators = [w.copy() for w in start], [np.full(shape, 0.1) for shape in SHAPES]
    # the stack has another run, with gradients ten times as large
    weights = [torch.from_numpy(np.stack([w, w])) for w in start]
    chained = methods.build(name, 0.3, options)
    states = [chained.init(w) for w in weights]
    acted = 0
    for step in range(50):
        raw = gradients_of(step)
        treated = treat(raw)
        acted += any(not np.array_equal(a, b) for a, b in zip(raw, treated, strict=True))
        for w, G, g in zip(expected, accumulators, treated, strict=True):
            G += g**2
            w -= 0.3 * direction(g / np.sqrt(G + 1e-7))
        updates(chained, weights, [torch.from_numpy(np.stack([g * 10, g])) for g in raw], states)
    for w, found in zip(expected, weights, strict=True):
        np.testing.assert_allclose(found[1].numpy(), w, rtol=1e-9)
    assert acted > 2 or name == "update_rms_clip"


def updates(chained: Chain, weights, gradients, states) -> None:
    leaves = [Leaf(weight=w, gradient=g, update=g, state=s) for w, g, s in zip(weights, gradients, states, strict=True)]
    chained.updates(leaves)
    for leaf in leaves:
        leaf.weight.sub_(leaf.update)


# --- as optimizers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [ZClip, AutoClip])
def test_the_norm_over_all_parameter_groups_has_one_history(optimizer):
    together, apart = ([torch.nn.Parameter(torch.ones(3, dtype=F64) * (i + 1)) for i in range(2)] for _ in range(2))
    one, two = optimizer(together, 0.1), optimizer([{"params": [p]} for p in apart], 0.1)
    for step in range(30):
        for params in (together, apart):
            for p, g in zip(params, gradients_of(step)[0], strict=False):
                p.grad = torch.from_numpy(g[:3].copy())
        one.step()
        two.step()
    assert all(torch.equal(p, q) for p, q in zip(together, apart, strict=True))


def test_a_history_has_no_parameter_of_its_own():
    """An expert has a gradient at each 20th step only, and another layer is frozen at first."""
    expert, dense, head = (torch.nn.Parameter(torch.ones(4, dtype=F64)) for _ in range(3))
    optimizer = ZClip([expert, dense, head], 0.1, record_clip_factors=True)
    alone = ZClip([torch.nn.Parameter(dense.detach().clone())], 0.1, record_clip_factors=True)
    [other] = alone.param_groups[0]["params"]
    for step in range(301):
        gradient = torch.randn(4, generator=torch.Generator().manual_seed(step), dtype=F64)
        gradient *= (100 if step == 300 else 1) / gradient.norm() * (1 + 0.02 * math.sin(step))
        other.grad = gradient
        expert.grad = gradient * 0.6 if step % 20 == 0 else None
        head.grad = gradient * 0.64 if step >= 150 else None
        square = sum(0.0 if p.grad is None else float(p.grad.norm() / gradient.norm()) ** 2 for p in (expert, head))
        dense.grad = gradient * math.sqrt(1 - square)
        optimizer.step()
        alone.step()
    factor = optimizer.clip_factors()[expert].item()
    assert factor == pytest.approx(alone.clip_factors()[other].item(), rel=1e-3) == pytest.approx(0.0105, abs=5e-4)
    assert all("norm" not in key for state in optimizer.state.values() for key in state)


@pytest.mark.parametrize("optimizer", [ZClip, AutoClip])
def test_a_group_that_is_unfrozen_knows_the_norms_so_far(optimizer):
    frozen, dense = (torch.nn.Parameter(torch.ones(4, dtype=F64)) for _ in range(2))
    made = optimizer([{"params": [frozen]}, {"params": [dense]}], 0.1, record_clip_factors=True)
    for step in range(60):
        dense.grad = torch.full_like(dense, 1 + 0.1 * math.sin(step))
        made.step()
    frozen.grad, dense.grad = torch.full_like(frozen, 30.0), torch.ones_like(dense)
    made.step()
    factors = made.clip_factors()
    assert factors[frozen] == factors[dense] < 0.1


@pytest.mark.parametrize("optimizer", [ZClip, AutoClip])
def test_a_history_is_saved_and_the_state_of_an_older_version_loads(optimizer):
    a, b = (torch.nn.Parameter(torch.ones(4, dtype=F64)) for _ in range(2))
    made = optimizer([a, b], 0.1)
    for step in range(40):
        b.grad = torch.from_numpy(gradients_of(step)[0][0]).sum() * torch.ones_like(b)
        a.grad = b.grad.clone() if step % 7 == 0 else None
        made.step()
    new = made.state_dict()
    old = copy.deepcopy(new)
    [group] = old["param_groups"]
    history = group.pop("past_norms")
    # each parameter had the history of the group at the last step with a gradient of its own
    old["state"][0] |= {key: value * 0 for key, value in history.items()}
    old["state"][1] |= history
    ends = []
    for state in (new, old):
        params = [torch.nn.Parameter(p.detach().clone()) for p in (a, b)]
        other = optimizer(params, 0.1)
        other.load_state_dict(copy.deepcopy(state))
        assert other.state[params[0]].keys() == made.state[a].keys()
        for p in params:
            p.grad = torch.full_like(p, 7.0)
        other.step()
        other.step()
        ends.append([p.detach() for p in params])
    assert all(torch.equal(p, q) for p, q in zip(*ends, strict=True))

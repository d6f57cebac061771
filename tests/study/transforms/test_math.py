"""The mathematics of the links, by hand and by property."""

import math

import numpy as np
import pytest
import torch
from chain_steps import F64, t
from hypothesis import given, settings
from hypothesis import strategies as st

from study.transforms import global_norm
from study.transforms._math import adagrad_root, clip_factor, l2_norm, per_run, shrink_factor, trust_ratio, unit_norm


def test_shrink_factor_by_hand():
    # the bound is 0.1 * 4 + 0.02 = 0.42, and the update is 2
    assert shrink_factor(t([2.0]), t([4.0]), 0.1, 0.02).item() == pytest.approx(0.21)
    # the weight 0.1 may move by 0.02, which limits both
    assert shrink_factor(t([1.0, 1.0]), t([1.0, 0.1]), 0.1, 0.01).item() == pytest.approx(0.02)
    # signs do not matter
    assert shrink_factor(t([-1.0, 1.0]), t([1.0, -0.1]), 0.1, 0.01).item() == pytest.approx(0.02)
    # acc_rel / root is added to the bound: 0.1 * 4 + 0.02 + 0.3 / 2 = 0.57
    factor = shrink_factor(t([2.0]), t([4.0]), 0.1, 0.02, acc_rel=0.3, root=t([2.0]))
    assert factor.item() == pytest.approx(0.57 / 2)


def test_shrink_factor_by_rms_by_hand():
    # ratios |u| / bound are 3 / 1 and 4 / 1: RMS sqrt(12.5)
    factor = shrink_factor(t([3.0, 4.0]), t([1.0, 1.0]), 0.5, 0.5, norm="rms")
    assert factor.item() == pytest.approx(1 / math.sqrt(12.5))
    # 0.1 and 1.2 exceed the bound in one element, not in RMS
    assert shrink_factor(t([0.1, 1.2]), t([1.0, 1.0]), 0.5, 0.5, norm="rms").item() == 1.0
    assert shrink_factor(t([0.1, 1.2]), t([1.0, 1.0]), 0.5, 0.5).item() == pytest.approx(1 / 1.2)


@pytest.mark.parametrize("norm", ["max", "rms"])
def test_a_zero_update_does_not_limit_the_factor_and_a_zero_bound_makes_it_zero(norm):
    assert shrink_factor(t([0.0, 0.1]), t([0.0, 1.0]), 0.5, 0.0, norm=norm).item() == 1.0
    assert shrink_factor(t([0.1, 0.1]), t([0.0, 1.0]), 0.5, 0.0, norm=norm).item() == 0.0


def shrink_by_masks(update, weight, rel, abs_, norm):
    """Return the definition, with a mask for each undefined quotient."""
    size, bound = update.abs(), weight.abs() * rel + abs_
    if norm == "max":
        return torch.where(size <= bound, 1.0, bound / size).amin(1)
    ratio = torch.where((size == 0) & (bound == 0), 0.0, size / bound)
    rms = (ratio * ratio).mean(1).sqrt()
    return torch.where(rms <= 1, 1.0, rms.reciprocal())


@pytest.mark.parametrize("norm", ["max", "rms"])
@pytest.mark.parametrize("as_tensor", [False, True])
@pytest.mark.parametrize(("rel", "abs_"), [(0.5, 0.01), (0.5, 0.0), (0.0, 0.3)])
def test_shrink_factor_has_the_bits_of_the_definition(norm, as_tensor, rel, abs_):
    torch.manual_seed(3)
    update, weight = torch.randn(40, 33), torch.randn(40, 33)
    update *= 10.0 ** torch.linspace(-4, 2, 40)[:, None]
    updates = torch.tensor([0.0, -0.0, 1e-38, -3.0, math.inf, -math.inf, math.nan])
    weights = torch.tensor([0.0, -0.0, 1e-38, -3.0, math.nan])
    update[:35, 32], weight[:35, 32] = torch.cartesian_prod(updates, weights).unbind(1)
    thresholds = (torch.tensor([x]) for x in (rel, abs_)) if as_tensor else (rel, abs_)
    factor = shrink_factor(update, weight, *thresholds, norm=norm)
    expected = shrink_by_masks(update, weight, rel, abs_, norm)
    torch.testing.assert_close(factor, expected, rtol=0.0, atol=0.0, equal_nan=True)
    assert factor.isnan().any()
    assert (factor == 1).any()
    assert ((factor > 0) & (factor < 1)).any()


@pytest.mark.parametrize("norm", ["max", "rms"])
@pytest.mark.parametrize("as_tensor", [False, True])
@pytest.mark.parametrize("off", ["rel", "abs_", "acc_rel"])
def test_an_infinite_threshold_gives_exactly_one(norm, as_tensor, off):
    thresholds = {"rel": 1e-9, "abs_": 0.0, "acc_rel": 0.0} | {off: math.inf}
    if as_tensor:
        thresholds = {key: t(value).reshape(1) for key, value in thresholds.items()}
    update, weight = t([1e300, 0.0, 3.0, math.inf]), t([0.0, 0.0, 1.0, 2.0])
    assert shrink_factor(update, weight, **thresholds, root=t([1.0, 2.0, 3.0, 0.0]), norm=norm).item() == 1.0


NUMBERS = st.integers(-3000, 3000).map(lambda i: i / 1000)


@settings(max_examples=200)
@given(
    pairs=st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=6),
    rel=st.floats(0, 2),
    abs_=st.floats(1e-6, 1),
)
def test_the_bound_of_each_weight_holds_and_is_tight(pairs, rel, abs_):
    update, weight = (np.array(column) for column in zip(*pairs, strict=True))
    factor = shrink_factor(t(update.tolist()), t(weight.tolist()), rel, abs_).item()
    bound = rel * np.abs(weight) + abs_
    moved = factor * np.abs(update)
    assert 0 < factor <= 1
    assert (moved <= bound * (1 + 1e-12)).all()
    if factor < 1:
        assert (moved >= bound * (1 - 1e-12)).any()
    else:
        assert (np.abs(update) <= bound).all()


def test_clip_factor_by_hand():
    norms = t(0.0, 1.0, 4.0, math.inf, math.nan)
    assert clip_factor(norms, 2.0)[:4].tolist() == [1.0, 1.0, 0.5, 0.0]
    assert clip_factor(norms, math.inf)[:4].tolist() == [1.0, 1.0, 1.0, 1.0]
    assert clip_factor(norms, 2.0)[4].isnan()
    assert clip_factor(norms, math.inf)[4].isnan()


def test_norms_by_hand():
    x = t([[3.0, 0.0], [0.0, 4.0]], [[0.0, 0.0], [5.0, 12.0]])
    assert l2_norm(x).tolist() == [5.0, 13.0]
    assert unit_norm(x).tolist() == [[3.0, 4.0], [0.0, 13.0]]
    assert unit_norm(t([3.0, 4.0], [0.0, 1.0])).tolist() == [5.0, 1.0]
    assert l2_norm(t(3.0, -2.0)).tolist() == [3.0, 2.0]
    assert global_norm([t([3.0], [1.0]), t([0.0, 4.0], [2.0, 2.0])]).tolist() == pytest.approx([5.0, 3.0])
    assert l2_norm(torch.zeros(2, 0)).tolist() == [0.0, 0.0]


def test_trust_ratio_by_hand():
    ratio = trust_ratio(t(6.0, 0.0, 2.0, math.nan, 1.0), t(3.0, 2.0, 0.0, 1.0, math.nan))
    assert ratio[:3].tolist() == [2.0, 1.0, 1.0]
    assert ratio[3:].isnan().all()


def test_adagrad_root_by_hand():
    assert adagrad_root(t([3.75]), 0.25).item() == 2.0


def test_per_run_adopts_dtype_and_dims():
    like = torch.zeros(2, 3, 4)
    value = per_run(torch.tensor([1.0, 2.0], dtype=F64), like)
    assert isinstance(value, torch.Tensor)
    assert (value.shape, value.dtype) == ((2, 1, 1), torch.float32)
    assert per_run(0.5, like) == 0.5

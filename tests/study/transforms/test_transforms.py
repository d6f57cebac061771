"""The mathematics by pencil and by property; links keep their hands off what is not theirs."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from study.transforms import (
    Leaf,
    chain,
    clip_by_global_norm,
    clip_by_norm,
    clip_by_rms,
    clip_to_weights,
    decay_weights,
    global_norm,
    scale,
    scale_by_adagrad,
    scale_by_adam,
    scale_by_rmsprop,
    scale_by_sgd,
    scale_by_trust_ratio,
    shrink_to_weights,
)
from study.transforms._adaptive_clipping import clip_by_percentile, clip_by_z_score, clip_to_average_norm
from study.transforms._math import adagrad_root, clip_factor, l2_norm, per_run, shrink_factor, trust_ratio, unit_norm

F64 = torch.float64


def t(*rows) -> torch.Tensor:
    return torch.tensor(rows, dtype=F64)


def one_step(method, gradient, weight, *, watched=False) -> Leaf:
    leaf = Leaf(weight=weight, gradient=gradient, update=gradient, state=method.init(weight))
    if watched:
        leaf.factor = torch.ones(weight.shape[0], dtype=weight.dtype)
    method.updates([leaf])
    return leaf


def test_shrink_by_pencil():
    # reference 4, rel 0.1, abs 0.02: the weight may move by 0.1 * 4 + 0.02 = 0.42, and wants to move by 2
    assert shrink_factor(t([2.0]), t([4.0]), 0.1, 0.02).item() == pytest.approx(0.21)
    method = chain(scale_by_sgd(), shrink_to_weights(0.1, 0.02))
    assert one_step(method, t([2.0]), t([4.0])).update.item() == pytest.approx(0.42)
    # the weight 0.1 may move by 0.02, and takes the other along
    assert shrink_factor(t([1.0, 1.0]), t([1.0, 0.1]), 0.1, 0.01).item() == pytest.approx(0.02)
    # signs do not matter
    assert shrink_factor(t([-1.0, 1.0]), t([1.0, -0.1]), 0.1, 0.01).item() == pytest.approx(0.02)
    # acc_rel / root joins the bound: 0.1 * 4 + 0.02 + 0.3 / 2 = 0.57
    factor = shrink_factor(t([2.0]), t([4.0]), 0.1, 0.02, acc_rel=0.3, root=t([2.0]))
    assert factor.item() == pytest.approx(0.57 / 2)


def test_shrink_by_rms_by_pencil():
    # ratios |u| / bound are 3 / 1 and 4 / 1: RMS sqrt(12.5)
    factor = shrink_factor(t([3.0, 4.0]), t([1.0, 1.0]), 0.5, 0.5, norm="rms")
    assert factor.item() == pytest.approx(1 / math.sqrt(12.5))
    # 0.1 and 1.2 break the bound in one place, not in RMS
    assert shrink_factor(t([0.1, 1.2]), t([1.0, 1.0]), 0.5, 0.5, norm="rms").item() == 1.0
    assert shrink_factor(t([0.1, 1.2]), t([1.0, 1.0]), 0.5, 0.5).item() == pytest.approx(1 / 1.2)


@pytest.mark.parametrize("norm", ["max", "rms"])
def test_zero_update_asks_for_nothing_and_zero_bound_freezes(norm):
    assert shrink_factor(t([0.0, 0.1]), t([0.0, 1.0]), 0.5, 0.0, norm=norm).item() == 1.0
    assert shrink_factor(t([0.1, 0.1]), t([0.0, 1.0]), 0.5, 0.0, norm=norm).item() == 0.0


def shrink_by_masks(update, weight, rel, abs_, norm):
    """The definition, with a mask for each case that a division leaves open."""
    size, bound = update.abs(), weight.abs() * rel + abs_
    if norm == "max":
        return torch.where(size <= bound, 1.0, bound / size).amin(1)
    ratio = torch.where((size == 0) & (bound == 0), 0.0, size / bound)
    rms = (ratio * ratio).mean(1).sqrt()
    return torch.where(rms <= 1, 1.0, rms.reciprocal())


@pytest.mark.parametrize("norm", ["max", "rms"])
@pytest.mark.parametrize("as_tensor", [False, True])
@pytest.mark.parametrize(("rel", "abs_"), [(0.5, 0.01), (0.5, 0.0), (0.0, 0.3)])
def test_shrink_without_masks_has_the_bits_of_the_definition(norm, as_tensor, rel, abs_):
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
def test_infinite_threshold_gives_exactly_one(norm, as_tensor, off):
    thresholds = {"rel": 1e-9, "abs_": 0.0, "acc_rel": 0.0} | {off: math.inf}
    if as_tensor:
        thresholds = {key: t(value).reshape(1) for key, value in thresholds.items()}
    update, weight = t([1e300, 0.0, 3.0, math.inf]), t([0.0, 0.0, 1.0, 2.0])
    assert shrink_factor(update, weight, **thresholds, root=t([1.0, 2.0, 3.0, 0.0]), norm=norm).item() == 1.0


def test_clip_factor_by_pencil():
    norms = t(0.0, 1.0, 4.0, math.inf, math.nan)
    assert clip_factor(norms, 2.0)[:4].tolist() == [1.0, 1.0, 0.5, 0.0]
    assert clip_factor(norms, math.inf)[:4].tolist() == [1.0, 1.0, 1.0, 1.0]
    assert clip_factor(norms, 2.0)[4].isnan()
    assert clip_factor(norms, math.inf)[4].isnan()


def test_norms_by_pencil():
    x = t([[3.0, 0.0], [0.0, 4.0]], [[0.0, 0.0], [5.0, 12.0]])
    assert l2_norm(x).tolist() == [5.0, 13.0]
    assert unit_norm(x).tolist() == [[3.0, 4.0], [0.0, 13.0]]
    assert unit_norm(t([3.0, 4.0], [0.0, 1.0])).tolist() == [5.0, 1.0]
    assert l2_norm(t(3.0, -2.0)).tolist() == [3.0, 2.0]
    assert global_norm([t([3.0], [1.0]), t([0.0, 4.0], [2.0, 2.0])]).tolist() == pytest.approx([5.0, 3.0])
    assert l2_norm(torch.zeros(2, 0)).tolist() == [0.0, 0.0]


def test_rms_clip_by_pencil():
    # RMS of (3, 4, 0, 0) is 2.5, and 0.5 is allowed: a fifth of it is left
    leaf = one_step(chain(clip_by_rms(0.5)), t([[3.0, 4.0], [0.0, 0.0]]), t([[1.0, 1.0], [1.0, 1.0]]), watched=True)
    assert leaf.update.flatten().tolist() == pytest.approx([0.6, 0.8, 0.0, 0.0])
    assert leaf.factor is not None
    assert leaf.factor.tolist() == [pytest.approx(0.2)]
    assert one_step(chain(clip_by_rms(2.6)), t([3.0, 4.0, 0.0, 0.0]), t([1.0] * 4)).update[0, 1].item() == 4.0


def test_trust_ratio_by_pencil():
    ratio = trust_ratio(t(6.0, 0.0, 2.0, math.nan, 1.0), t(3.0, 2.0, 0.0, 1.0, math.nan))
    assert ratio[:3].tolist() == [2.0, 1.0, 1.0]
    assert ratio[3:].isnan().all()
    # mu is kept where the ratio is 1: a bias that starts at zero moves by mu * r
    leaf = one_step(chain(scale_by_sgd(), scale_by_trust_ratio(0.1)), t([3.0, 4.0]), t([0.0, 0.0]))
    assert leaf.update.flatten().tolist() == pytest.approx([0.3, 0.4])


def test_adagrad_by_pencil():
    # eps stands inside the root: 2 / sqrt(3.75 + 0.25) = 1
    assert adagrad_root(t([3.75]), 0.25).item() == 2.0
    leaf = one_step(chain(scale_by_adagrad(0.0, 5.0)), t([2.0]), t([1.0]))
    assert leaf.update.item() == pytest.approx(2 / 3)  # not 2 / (sqrt(4) + 5)
    leaf = one_step(chain(scale_by_adagrad(5.0, 0.0)), t([2.0]), t([1.0]))
    assert (leaf.update.item(), leaf.state["accumulator"].item()) == (pytest.approx(2 / 3), 9.0)
    leaf = one_step(chain(scale_by_adagrad(4.0, 0.0, delayed=True)), t([2.0]), t([1.0]))
    assert (leaf.update.item(), leaf.state["accumulator"].item()) == (1.0, 8.0)


def test_agc_by_pencil():
    weight, gradient = t([[3.0, 4.0], [0.0, 0.0]]), t([[30.0, 40.0], [0.0, 2.0]])
    # rows: limits 0.1 * 5 and 0.1 * 0.001 on norms 50 and 2
    unit = one_step(chain(clip_to_weights(0.1, per="unit")), gradient, weight, watched=True)
    assert unit.update.flatten().tolist() == pytest.approx([0.3, 0.4, 0.0, 1e-4])
    assert unit.factor is not None
    assert unit.factor.tolist() == pytest.approx([5e-5])
    tensor = one_step(chain(clip_to_weights(0.1)), gradient, weight)
    assert torch.allclose(tensor.update, gradient * 0.5 / math.sqrt(2504))


def test_clips_measured_on_the_raw_gradient():
    for clip in (clip_by_norm(1.0, measured_on="gradient"), clip_by_global_norm(1.0, measured_on="gradient")):
        leaf = one_step(chain(scale(10.0), clip), t([3.0, 4.0]), t([1.0, 1.0]))
        assert leaf.update.flatten().tolist() == pytest.approx([6.0, 8.0])


def test_global_clip_takes_all_tensors_of_a_run_together():
    method = chain(clip_by_global_norm(torch.tensor([1.0, math.inf])))
    gradients = [t([3.0], [3.0]), t([4.0, 0.0], [4.0, 0.0])]
    leaves = [Leaf(weight=g, gradient=g, update=g) for g in gradients]
    method.updates(leaves)
    assert leaves[0].update.flatten().tolist() == pytest.approx([0.6, 3.0])
    assert leaves[1].update.flatten().tolist() == pytest.approx([0.8, 0.0, 4.0, 0.0])


def test_decay_stays_outside_the_clip():
    method = chain(scale_by_sgd(), scale(0.5), shrink_to_weights(0.0, 0.1), decay_weights(0.2, 0.5))
    # the clipped update 0.1, and 0.5 * 0.2 * 10 on top
    assert one_step(method, t([7.0]), t([10.0])).update.item() == pytest.approx(1.1)


def test_factors_multiply_and_are_not_made_unless_watched():
    method = chain(clip_by_norm(1.0), shrink_to_weights(0.0, 0.25))
    watched = one_step(method, t([2.0]), t([10.0]), watched=True)
    assert watched.factor is not None
    assert watched.factor.tolist() == [0.125]
    assert one_step(method, t([2.0]), t([10.0])).factor is None


def test_per_run_takes_the_type_and_the_dims():
    like = torch.zeros(2, 3, 4)
    value = per_run(torch.tensor([1.0, 2.0], dtype=F64), like)
    assert isinstance(value, torch.Tensor)
    assert (value.shape, value.dtype) == ((2, 1, 1), torch.float32)
    assert per_run(0.5, like) == 0.5


EVERY_LINK = [
    scale_by_adagrad(),
    scale_by_adagrad(delayed=True, keep_accumulator=True, keep_root=True),
    scale_by_sgd(),
    scale_by_sgd(0.9),
    scale_by_rmsprop(),
    scale_by_adam(),
    scale(0.1),
    clip_by_norm(0.1),
    clip_by_global_norm(0.1),
    clip_to_weights(0.01),
    clip_to_weights(0.01, per="unit"),
    scale_by_trust_ratio(0.1),
    shrink_to_weights(0.01, 1e-3),
    shrink_to_weights(0.01, 1e-3, norm="rms"),
    decay_weights(0.1, 0.1),
    clip_by_rms(0.1),
    clip_by_z_score(0.1, 0.9, 1),
    clip_by_percentile(10.0, 5),
    clip_to_average_norm(0.5, 0.1, 0.9, 1),
]


@pytest.mark.parametrize("link", EVERY_LINK, ids=repr)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0,), (2, 0), (0, 2), (2, 3, 4)], ids=str)
def test_links_leave_weight_and_gradient_alone(link, shape):
    torch.manual_seed(0)
    weight, gradient = torch.randn(2, *shape), torch.randn(2, *shape)
    weight_before, gradient_before = weight.clone(), gradient.clone()
    state = link.init(weight)
    method = chain(link, scale(0.5))
    updates = []
    for _ in range(2):
        leaf = Leaf(weight=weight, gradient=gradient, update=gradient, state=state, factor=torch.ones(2))
        method.updates([leaf])
        leaf.update.mul_(0.0).add_(1.0)  # the update is the caller's: nothing that persists may share its memory
        updates.append(leaf.update)
        assert leaf.update.shape == weight.shape
        assert leaf.factor is not None
        assert leaf.factor.shape == (2,)
    assert torch.equal(weight, weight_before)
    assert torch.equal(gradient, gradient_before)
    for key, value in state.items():
        assert not torch.equal(value, torch.ones_like(value)) or value.numel() == 0, key
        assert value.shape in (weight.shape, (2,), (2, 5)), "of each element, of each run, or a row a run"


def test_two_links_with_one_state_are_refused():
    with pytest.raises(AssertionError, match="accumulator"):
        chain(scale_by_adagrad(), scale_by_adagrad()).init(torch.ones(1, 2))


NUMBERS = st.integers(-3000, 3000).map(lambda i: i / 1000)


@settings(deadline=None, max_examples=200)
@given(
    pairs=st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=6),
    rel=st.floats(0, 2),
    abs_=st.floats(1e-6, 1),
)
def test_the_bound_holds_and_is_tight(pairs, rel, abs_):
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


@settings(deadline=None, max_examples=100)
@given(values=st.lists(NUMBERS, min_size=2, max_size=6), max_norm=st.floats(1e-3, 10))
def test_a_clipped_norm_is_the_smaller_of_both(values, max_norm):
    clipped = one_step(chain(clip_by_norm(max_norm)), t(values), t(values)).update
    assert l2_norm(clipped).item() == pytest.approx(min(max_norm, math.hypot(*values)), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("link", EVERY_LINK, ids=repr)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_bad_gradient_shows_in_its_own_run_only(link, bad):
    torch.manual_seed(1)
    weight, gradient = torch.randn(3, 4), torch.randn(3, 4)
    clean = one_step(chain(link, scale(0.5)), gradient, weight).update
    gradient = gradient.clone()
    gradient[1, 2] = bad
    update = one_step(chain(link, scale(0.5)), gradient, weight).update
    assert not update[1].isfinite().all()
    assert torch.equal(update[[0, 2]], clean[[0, 2]])


CLIPS = [link for link in EVERY_LINK if link.__class__.__name__.startswith(("Clip", "Shrink", "ScaleByTrust"))]


@pytest.mark.parametrize("link", CLIPS, ids=repr)
def test_the_factor_of_a_nan_is_nan(link):
    gradient = t([[1.0, 2.0], [math.nan, 0.0]], [[1.0, 2.0], [0.1, 0.0]])
    factor = one_step(chain(link), gradient, torch.ones_like(gradient), watched=True).factor
    assert factor is not None
    assert factor.isnan().tolist() == [True, False]

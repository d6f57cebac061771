"""Links that clip against a fixed limit or against the weights, by hand and by property."""

import math

import pytest
import torch
from chain_steps import one_step, t
from hypothesis import given, settings
from hypothesis import strategies as st

from study.transforms import (
    Leaf,
    chain,
    clip_by_global_norm,
    clip_by_norm,
    clip_by_rms,
    clip_to_weights,
    scale,
    scale_by_sgd,
    shrink_to_weights,
)
from study.transforms._math import l2_norm

NUMBERS = st.integers(-3000, 3000).map(lambda i: i / 1000)


def test_shrink_to_weights_by_hand():
    # the weight may move by 0.1 * 4 + 0.02 = 0.42, and the update is 2
    method = chain(scale_by_sgd(), shrink_to_weights(0.1, 0.02))
    assert one_step(method, t([2.0]), t([4.0])).update.item() == pytest.approx(0.42)


def test_rms_clip_by_hand():
    # RMS of (3, 4, 0, 0) is 2.5, the limit 0.5
    leaf = one_step(chain(clip_by_rms(0.5)), t([[3.0, 4.0], [0.0, 0.0]]), t([[1.0, 1.0], [1.0, 1.0]]), watched=True)
    assert leaf.update.flatten().tolist() == pytest.approx([0.6, 0.8, 0.0, 0.0])
    assert leaf.factor is not None
    assert leaf.factor.tolist() == [pytest.approx(0.2)]
    assert one_step(chain(clip_by_rms(2.6)), t([3.0, 4.0, 0.0, 0.0]), t([1.0] * 4)).update[0, 1].item() == 4.0


def test_agc_by_hand():
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


def test_global_clip_uses_the_norm_of_all_tensors_of_a_run():
    method = chain(clip_by_global_norm(torch.tensor([1.0, math.inf])))
    gradients = [t([3.0], [3.0]), t([4.0, 0.0], [4.0, 0.0])]
    leaves = [Leaf(weight=g, gradient=g, update=g) for g in gradients]
    method.updates(leaves)
    assert leaves[0].update.flatten().tolist() == pytest.approx([0.6, 3.0])
    assert leaves[1].update.flatten().tolist() == pytest.approx([0.8, 0.0, 4.0, 0.0])


def test_factors_are_multiplied_and_only_recorded_if_watched():
    method = chain(clip_by_norm(1.0), shrink_to_weights(0.0, 0.25))
    watched = one_step(method, t([2.0]), t([10.0]), watched=True)
    assert watched.factor is not None
    assert watched.factor.tolist() == [0.125]
    assert one_step(method, t([2.0]), t([10.0])).factor is None


@settings(max_examples=100)
@given(values=st.lists(NUMBERS, min_size=2, max_size=6), max_norm=st.floats(1e-3, 10))
def test_a_clipped_norm_is_at_most_the_limit(values, max_norm):
    clipped = one_step(chain(clip_by_norm(max_norm)), t(values), t(values)).update
    assert l2_norm(clipped).item() == pytest.approx(min(max_norm, math.hypot(*values)), rel=1e-9, abs=1e-12)

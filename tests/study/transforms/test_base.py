"""Rules that every link and chain keeps."""

import math

import pytest
import torch
from chain_steps import one_step, t

from study.transforms import (
    Leaf,
    chain,
    clip_by_global_norm,
    clip_by_norm,
    clip_by_percentile,
    clip_by_rms,
    clip_by_z_score,
    clip_to_average_norm,
    clip_to_weights,
    decay_weights,
    scale,
    scale_by_adagrad,
    scale_by_adam,
    scale_by_rmsprop,
    scale_by_sgd,
    scale_by_trust_ratio,
    shrink_to_weights,
)

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
CLIPS = [link for link in EVERY_LINK if link.__class__.__name__.startswith(("Clip", "Shrink", "ScaleByTrust"))]


@pytest.mark.parametrize("link", EVERY_LINK, ids=repr)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0,), (2, 0), (0, 2), (2, 3, 4)], ids=str)
def test_links_change_neither_weight_nor_gradient(link, shape):
    torch.manual_seed(0)
    weight, gradient = torch.randn(2, *shape), torch.randn(2, *shape)
    weight_before, gradient_before = weight.clone(), gradient.clone()
    state = link.init(weight)
    method = chain(link, scale(0.5))
    updates = []
    for _ in range(2):
        leaf = Leaf(weight=weight, gradient=gradient, update=gradient, state=state, factor=torch.ones(2))
        method.updates([leaf])
        leaf.update.mul_(0.0).add_(1.0)  # the caller owns the update: no state may share its memory
        updates.append(leaf.update)
        assert leaf.update.shape == weight.shape
        assert leaf.factor is not None
        assert leaf.factor.shape == (2,)
    assert torch.equal(weight, weight_before)
    assert torch.equal(gradient, gradient_before)
    for key, value in state.items():
        assert not torch.equal(value, torch.ones_like(value)) or value.numel() == 0, key
        assert value.shape in (weight.shape, (2,), (2, 5)), "one value for each element or run, or one row for each run"


def test_two_links_with_the_same_state_are_refused():
    with pytest.raises(AssertionError, match="accumulator"):
        chain(scale_by_adagrad(), scale_by_adagrad()).init(torch.ones(1, 2))


@pytest.mark.parametrize("link", EVERY_LINK, ids=repr)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_nonfinite_gradient_stays_in_its_run(link, bad):
    torch.manual_seed(1)
    weight, gradient = torch.randn(3, 4), torch.randn(3, 4)
    clean = one_step(chain(link, scale(0.5)), gradient, weight).update
    gradient = gradient.clone()
    gradient[1, 2] = bad
    update = one_step(chain(link, scale(0.5)), gradient, weight).update
    assert not update[1].isfinite().all()
    assert torch.equal(update[[0, 2]], clean[[0, 2]])


@pytest.mark.parametrize("link", CLIPS, ids=repr)
def test_the_factor_of_a_nan_is_nan(link):
    gradient = t([[1.0, 2.0], [math.nan, 0.0]], [[1.0, 2.0], [0.1, 0.0]])
    factor = one_step(chain(link), gradient, torch.ones_like(gradient), watched=True).factor
    assert factor is not None
    assert factor.isnan().tolist() == [True, False]

"""Links that scale the update, by hand."""

import pytest
from chain_steps import one_step, t

from study.transforms import (
    chain,
    decay_weights,
    scale,
    scale_by_adagrad,
    scale_by_sgd,
    scale_by_trust_ratio,
    shrink_to_weights,
)


def test_adagrad_by_hand():
    # eps is added inside the root
    leaf = one_step(chain(scale_by_adagrad(0.0, 5.0)), t([2.0]), t([1.0]))
    assert leaf.update.item() == pytest.approx(2 / 3)  # not 2 / (sqrt(4) + 5)
    leaf = one_step(chain(scale_by_adagrad(5.0, 0.0)), t([2.0]), t([1.0]))
    assert (leaf.update.item(), leaf.state["accumulator"].item()) == (pytest.approx(2 / 3), 9.0)
    leaf = one_step(chain(scale_by_adagrad(4.0, 0.0, delayed=True)), t([2.0]), t([1.0]))
    assert (leaf.update.item(), leaf.state["accumulator"].item()) == (1.0, 8.0)


def test_the_trust_ratio_is_mu_for_zero_weights():
    leaf = one_step(chain(scale_by_sgd(), scale_by_trust_ratio(0.1)), t([3.0, 4.0]), t([0.0, 0.0]))
    assert leaf.update.flatten().tolist() == pytest.approx([0.3, 0.4])


def test_weight_decay_is_not_clipped():
    method = chain(scale_by_sgd(), scale(0.5), shrink_to_weights(0.0, 0.1), decay_weights(0.2, 0.5))
    # the clipped update 0.1 plus 0.5 * 0.2 * 10
    assert one_step(method, t([7.0]), t([10.0])).update.item() == pytest.approx(1.1)

"""The reference: the best safe learning rate of the control, and its gain."""

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from loss_curves import RULE, STEPS, rising

from study.config import CONTROL_LRS, CONTROL_SEEDS, Rule
from study.outcomes.reference import control_reference


def control(final: dict[float, Any], tasks: int = 1, noise: float = 0.01) -> dict[str, Any]:
    """Return a control with four seeds at each lr. Its runs rise to `final[lr]`, a gain or a curve of gains."""
    rng = np.random.default_rng(0)
    lrs, seeds, loss = [], [], []
    for lr, gain in final.items():
        for seed in CONTROL_SEEDS:
            curve = np.asarray(gain) * (rising() if np.ndim(gain) == 0 else 1.0)
            lrs.append(lr)
            seeds.append(seed)
            loss.append(np.repeat((1 - curve + rng.normal(0, noise))[:, None], tasks, axis=1))
    loss_RTK = np.array(loss)
    return {
        "lrs_R": lrs,
        "seeds_R": seeds,
        "loss_RTK": loss_RTK,
        "constant_RTK": np.ones_like(loss_RTK),
        "constant_loss_K": np.ones(tasks),
        "rule": RULE,
    }


def fallen(top: float, low: float, end: float, start: int = 90) -> np.ndarray:
    """Return gains that rise to `top`, fall to `low` for 40 steps, and end at `end`."""
    curve = top * rising()
    curve[start : start + 40] = low
    curve[start + 40 :] = end
    return curve


@pytest.mark.parametrize(("low", "lr", "gain"), [(0.2, 0.04, 0.25), (0.23, 0.08, 0.3)])
def test_the_reference_is_the_best_lr_whose_gain_falls_by_less_than_a_quarter(
    low: float, lr: float, gain: float
) -> None:
    gains_of = {0.005: 0.1, 0.01: 0.15, 0.02: 0.2, 0.04: 0.25, 0.08: fallen(0.3, low, 0.3), 0.16: 0.0}
    assert tuple(gains_of) == CONTROL_LRS
    found = control_reference(**control(gains_of, noise=0))
    assert found.lr == lr
    assert found.gain == pytest.approx(gain)
    assert found.task_gain == (pytest.approx(gain),)


@pytest.mark.parametrize(("steps", "loss"), [(np.s_[100:140], 1.0), (np.s_[100:101], math.inf)])
def test_one_bad_seed_makes_an_lr_unsafe(steps: slice, loss: float) -> None:
    runs = control({0.02: 0.2, 0.04: 0.25}, noise=0)
    runs["loss_RTK"][5, steps] = loss
    assert control_reference(**runs).lr == 0.02


def test_the_lower_of_equal_lrs_is_the_reference() -> None:
    assert control_reference(**control({0.04: 0.25, 0.02: 0.25}, noise=0)).lr == 0.02


@pytest.mark.parametrize(
    ("gains_of", "rises"),
    [
        ({0.08: 0.2, 0.16: 0.26}, True),
        ({0.08: 0.2, 0.16: 0.24}, False),
        ({0.04: 0.1, 0.08: 0.2, 0.16: fallen(0.3, 0.1, 0.3)}, False),
        ({0.08: -0.1, 0.16: 0.1}, True),
        ({0.04: 0.1, 0.16: 0.3}, False),
    ],
    ids=["rises", "by a fifth", "not safe at the top", "from below the constant's", "half of the top is no lr"],
)
def test_the_gain_still_rises_at_the_highest_lr(gains_of: dict[float, Any], rises: bool) -> None:
    assert control_reference(**control(gains_of, noise=0)).rises == rises


def test_the_reference_gain_is_the_median_over_seeds() -> None:
    runs = control({0.02: 0.0}, noise=0)
    runs["loss_RTK"][:] -= (np.array([0.2, 0.21, 0.23, 0.9])[:, None] * rising())[:, :, None]
    runs["rule"] = dataclasses.replace(RULE, learnable_errors=1.0, control_fall=9.0)
    assert control_reference(**runs).gain == pytest.approx(0.22)


def test_a_task_is_learnable_from_three_standard_errors() -> None:
    runs = control({0.02: 0.25}, tasks=4, noise=0)
    finals = np.array([0.02, 0.06, 0.10, 0.14])
    error = finals.std(ddof=1) / 2
    runs["loss_RTK"][:, :, 1] = 1 - finals[:, None] * rising()
    runs["loss_RTK"][:, :, 2] = 1 + 0.1 * rising()
    runs["loss_RTK"][:, :, 3] = 1
    assert 0.08 / error < 3.1
    # Tasks 2 and 3 are no better than a constant.
    assert control_reference(**runs).task_gain == (pytest.approx(0.25), pytest.approx(0.08), None, None)
    runs["rule"] = dataclasses.replace(RULE, learnable_errors=0.08 / error * 1.001)
    assert control_reference(**runs).task_gain == (pytest.approx(0.25), None, None, None)


def test_batch_noise_is_no_fall_of_the_control() -> None:
    """The gain is 0.015 and the batch noise 0.02, so each trailing median falls by more than a quarter of the gain."""
    rng = np.random.default_rng(0)
    steps, lrs, seeds = 120, np.repeat([0.01, 0.02], 4), np.tile(np.arange(4), 2)
    constant = np.ones((8, steps, 1), np.float32)
    loss = (constant - 0.015 - rng.normal(0, 0.02, (8, steps, 1))).astype(np.float32)
    assert control_reference(lrs, seeds, loss, constant, np.ones(1), RULE).gain == pytest.approx(0.015, abs=0.005)
    with pytest.raises(ValueError, match="is safe"):
        control_reference(lrs, seeds, loss, constant, np.ones(1), Rule(control_noise=1e-9))
    loss[4:, 60:90] += 0.2
    assert control_reference(lrs, seeds, loss, constant, np.ones(1), RULE).lr == 0.01, "0.02 falls by more than noise"


UNEQUAL_GAINS = [0.01, 0.02, 0.03, 1]


def first_five_runs(runs: dict[str, Any]) -> dict[str, Any]:
    return {key: value[:5] if key.endswith(("R", "RTK")) else value for key, value in runs.items()}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: control({0.01: -0.1, 0.02: 0.0}, noise=0), "not learnable here: at no lr"),
        (
            lambda: control({0.01: fallen(0.3, 0.1, 0.3), 0.16: fallen(0.3, 0.0, 0.2, start=60)}),
            "is safe: from 0.01 to 0.16, the gain falls by more than 0.25",
        ),
        (
            lambda: control({0.01: 0.2}) | {"loss_RTK": 1 - np.multiply.outer(UNEQUAL_GAINS, np.ones((STEPS, 1)))},
            "not learnable here: at lr=0.01 the control gains 0.025, less than 3 standard errors",
        ),
        (lambda: first_five_runs(control({0.01: 0.2, 0.02: 0.3})), "different seeds at lr=0.02, got [1000000000]"),
        (lambda: control({0.01: 0.2}) | {"seeds_R": [1, 1, 2, 3]}, "different seeds at lr=0.01, got [1, 1, 2, 3]"),
        (lambda: control({0.01: 0.2}) | {"seeds_R": [1]}, "each of 4 runs, got 4 and 1"),
        (lambda: control({0.01: 0.2}) | {"constant_loss_K": np.zeros(1)}, "positive constant_loss of each task"),
        (lambda: control({0.01: 0.2}) | {"constant_RTK": np.ones((4, STEPS, 2))}, "losses (runs, steps, tasks)"),
    ],
)  # fmt: skip
def test_a_control_without_a_reference_is_refused_in_one_line(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        control_reference(**make())
    assert "\n" not in str(error.value)
    if "learnable" in message:
        assert "; set more steps, or higher control_lrs where the network learns slowly" in str(error.value)


def test_the_noise_of_a_reference_is_the_standard_error_of_a_median_of_noisy_gains() -> None:
    runs = control({0.02: 0.1, 0.04: 0.25}, noise=0)
    runs["loss_RTK"] += np.random.default_rng(1).normal(0, 0.05, runs["loss_RTK"].shape)
    expected = 0.05 * math.sqrt(math.pi / (2 * RULE.median_steps))
    assert control_reference(**runs).noise == pytest.approx(expected, rel=0.1)

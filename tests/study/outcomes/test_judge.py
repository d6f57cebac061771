"""The definition of divergence, on loss curves made by hand: what a curve looks like, and what it is called."""

import dataclasses
import json
import math
import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from study.config import CONTROL_LRS, CONTROL_SEEDS, Rule
from study.monitor.divergence import Monitor
from study.outcomes.gains import gains, trailing_median
from study.outcomes.judge import Outcome, judge
from study.outcomes.recorded import judge_recorded, stack_losses
from study.outcomes.reference import Reference, control_reference

T = 200
G = 0.25
"""Reference gain. With a constant's loss of 1, a loss of 0.75 is kept = 1, of 1 kept = 0; all of it exact in binary."""

RULE = Rule()
ALONE = Reference(lr=0.1, gain=G, task_gain=(G,))


def rising(top: float = 1.0, steps: int = 50, total: int = T) -> np.ndarray:
    """h over time: from 0 up to `top` in `steps` steps, then level."""
    return top * np.minimum(np.arange(total) / steps, 1.0)


def losses_of(h: np.ndarray) -> np.ndarray:
    return (1.0 - G * np.asarray(h)).astype(np.float32)


def judge_one(loss: np.ndarray, rule: Rule = RULE, finite_weights: bool = True, against: Reference = ALONE) -> Outcome:
    """One run of one task, or of loss (T, K)."""
    loss_RTK = np.asarray(loss, np.float32).reshape(1, len(loss), -1)
    K = loss_RTK.shape[2]
    (outcome,) = judge(loss_RTK, np.ones_like(loss_RTK), np.ones(K), [finite_weights], against, rule)
    return outcome


def test_gain_by_pencil() -> None:
    loss = np.array([[[0.5, 3.0], [1.0, 2.0]]], np.float32)
    constant = np.array([[[1.0, 2.0], [0.5, 2.5]]], np.float32)
    # Sums: loss 3.5, 3; constant 3, 3; in units of 0.8 + 2 = 2.8.
    d = gains(loss, constant, np.array([0.8, 2.0]))
    assert d.dtype == np.float64
    np.testing.assert_allclose(d[0], [[-0.5 / 2.8, 0.625, -0.5], [0.0, -0.625, 0.25]])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_gains_minus_infinity(bad: float) -> None:
    d = gains(np.array([[[bad, 0.5]]]), np.ones((1, 1, 2)), np.ones(2))
    assert d[0, 0].tolist() == [-math.inf, -math.inf, 0.5]


def test_trailing_median_by_pencil() -> None:
    gain = np.array([4.0, 2.0, 9.0, 1.0, -math.inf, -math.inf, 5.0])
    expected = [4.0, 3.0, 4.0, 2.0, 1.0, -math.inf, -math.inf]
    assert trailing_median(gain, 3).tolist() == expected
    assert trailing_median(gain, 1).tolist() == gain.tolist()
    stacked = trailing_median(np.stack([gain, -gain[::-1]])[:, :, None], 3)
    assert stacked.shape == (2, 7, 1)
    assert stacked[0, :, 0].tolist() == expected


@given(st.integers(1, 60), st.integers(0, 12), st.integers(0, 2**32 - 1))
def test_trailing_median_is_the_median_of_each_window(steps: int, half: int, seed: int) -> None:
    gain = np.random.default_rng(seed).normal(size=(2, steps, 3))
    window = 2 * half + 1
    found = trailing_median(gain, window)
    for t in range(steps):
        np.testing.assert_allclose(found[:, t], np.median(gain[:, max(0, t + 1 - window) : t + 1], axis=1))


def test_a_long_run_is_cut_into_blocks_that_do_not_show() -> None:
    gain = np.random.default_rng(0).normal(size=400_000)
    found = trailing_median(gain, 25)
    for t in (159_999, 160_000, 160_023, 160_024, 160_025, 320_024, 399_999):
        assert found[t] == np.median(gain[t - 24 : t + 1])


def test_a_healthy_run_is_completed() -> None:
    outcome = judge_one(losses_of(rising()))
    assert outcome == Outcome(
        outcome="completed",
        reason=None,
        diverged_at_step=None,
        micro_episodes=0,
        episodes=(),
        spikes=0,
        final_loss=0.75,
        kept=1.0,
        task_kept=(1.0,),
        task_diverged=(False,),
    )


def test_a_run_that_is_not_a_number_from_step_3() -> None:
    loss = losses_of(rising())
    loss[3:] = math.nan
    outcome = judge_one(loss, finite_weights=False)
    assert (outcome.outcome, outcome.reason, outcome.diverged_at_step) == ("diverged", "nonfinite", 3)
    assert (outcome.kept, outcome.final_loss, outcome.task_kept, outcome.task_diverged) == (
        None,
        None,
        (None,),
        (True,),
    )


def test_a_run_that_is_not_a_number_from_the_start() -> None:
    outcome = judge_one(np.full(T, math.nan))
    assert (outcome.outcome, outcome.reason, outcome.diverged_at_step) == ("diverged", "nonfinite", 0)
    assert (outcome.kept, outcome.micro_episodes, outcome.spikes) == (None, 0, 0)


def test_an_infinite_loss_that_returns_is_a_divergence_all_the_same() -> None:
    loss = losses_of(rising())
    loss[90] = math.inf
    outcome = judge_one(loss)
    assert (outcome.reason, outcome.diverged_at_step) == ("nonfinite", 90)
    assert outcome.kept == 1.0
    assert outcome.spikes == 1
    assert outcome.final_loss == 0.75


def test_infinite_losses_for_longer_than_the_median_sees_are_an_episode_of_no_finite_depth() -> None:
    loss = losses_of(rising())
    loss[90:120] = math.inf
    outcome = judge_one(loss)
    # 13 of 25 steps: the median falls at step 102, and is back when 13 of 25 are finite again.
    assert outcome.episodes == ((102, None, 30),)
    assert outcome.spikes == 12
    json.dumps(dataclasses.asdict(outcome), allow_nan=False)
    loss[:30] = math.inf
    assert judge_one(loss).episodes == ((102, None, 30),), "before the first finite loss there is nothing to fall from"


def test_weights_that_are_not_finite_at_the_end_are_a_divergence_that_no_loss_has_seen() -> None:
    outcome = judge_one(losses_of(rising()), finite_weights=False)
    assert (outcome.outcome, outcome.reason, outcome.diverged_at_step) == ("diverged", "nonfinite", T - 1)
    assert (outcome.kept, outcome.final_loss, outcome.task_kept, outcome.task_diverged) == (
        None,
        None,
        (None,),
        (True,),
    )


def test_a_cliff_without_a_spike_is_a_collapse() -> None:
    h = rising()
    h[120:] = 0.1
    outcome = judge_one(losses_of(h))
    # The median of 25 follows 12 steps later: from step 132 on, 13 of 25 lie below.
    assert (outcome.outcome, outcome.reason, outcome.diverged_at_step) == ("diverged", "collapsed", 132)
    assert outcome.spikes == 0
    assert outcome.micro_episodes == 0, "an episode comes back"
    assert outcome.kept == pytest.approx(0.1, abs=1e-6)


def test_a_collapse_is_dated_by_the_last_fall() -> None:
    h = rising()
    h[70:100] = 0.0
    h[150:] = 0.0
    outcome = judge_one(losses_of(h))
    assert (outcome.reason, outcome.diverged_at_step) == ("collapsed", 162)
    assert outcome.episodes == ((82, 1.0, 30),)


def test_a_run_dead_from_the_start_never_learned() -> None:
    noise = np.random.default_rng(0).normal(0, 0.01, T)
    outcome = judge_one(losses_of(noise))
    assert (outcome.outcome, outcome.reason, outcome.diverged_at_step) == ("diverged", "never_learned", 0)
    assert outcome.kept == pytest.approx(0, abs=0.02)


def test_a_run_worse_than_a_constant_never_learned_though_it_rises() -> None:
    h = np.linspace(-8.0, 0.0, T)
    outcome = judge_one(losses_of(h))
    assert outcome.outcome == "undertrained", "its loss starts at 3 and only falls"
    h[0] = 0.0
    outcome = judge_one(losses_of(h))
    assert (outcome.outcome, outcome.reason) == ("diverged", "never_learned"), "the loss jumped to 3 times its first"


def test_a_run_that_had_a_little_and_lost_it_never_learned() -> None:
    h = rising(0.4)
    h[120:] = 0.0
    outcome = judge_one(losses_of(h))
    assert (outcome.reason, outcome.diverged_at_step) == ("never_learned", 132)


def test_a_tiny_lr_is_undertrained_not_diverged() -> None:
    outcome = judge_one(losses_of(rising(0.24, T)))
    assert (outcome.outcome, outcome.reason, outcome.diverged_at_step) == ("undertrained", None, None)
    assert outcome.task_diverged == (False,)
    assert outcome.kept == pytest.approx(0.24 * (T - 13) / T, abs=1e-6)


def test_slow_is_no_excuse_for_a_run_that_stands_still_or_fell() -> None:
    assert judge_one(losses_of(rising(0.24, 130))).reason == "never_learned", "level in the last quarter"
    fell = rising(0.2, T)
    fell[:80] += 0.5
    assert judge_one(losses_of(fell)).reason == "collapsed", "it rises again, and fell by more than 0.25 before"


def test_a_run_that_fades_is_completed_and_says_how_far() -> None:
    h = rising()
    h[100:] = np.linspace(1.0, 0.3, T - 100)
    outcome = judge_one(losses_of(h))
    assert outcome.outcome == "completed"
    assert outcome.kept == pytest.approx(0.3 + 12 * 0.7 / 99, abs=1e-6)
    assert outcome.micro_episodes == 0


def test_a_micro_divergence_heals() -> None:
    h = rising()
    h[100:130] = 0.4
    outcome = judge_one(losses_of(h))
    assert outcome.outcome == "completed"
    assert outcome.micro_episodes == 1
    ((start, depth, length),) = outcome.episodes
    assert (start, length) == (112, 30)
    assert depth == pytest.approx(0.6, abs=1e-6)
    assert outcome.kept == 1.0


def test_two_episodes_and_one_too_shallow() -> None:
    h = rising(total=400)
    h[100:130], h[180:210], h[260:300] = 0.25, 0.5, 0.625
    assert [(start, depth) for start, depth, _ in judge_one(losses_of(h)).episodes] == [(112, 0.75), (192, 0.5)]


def test_an_episode_ends_within_a_quarter_of_the_best_not_before() -> None:
    h = rising(total=300)
    h[100:150], h[150:200] = 0.25, 0.6875
    ((start, depth, length),) = judge_one(losses_of(h)).episodes
    assert (start, depth, length) == (112, 0.75, 100), "0.6875 is still more than 0.25 below"
    h[150:200] = 0.75
    assert judge_one(losses_of(h)).episodes == ((112, 0.75, 50),)


def test_a_spike_is_a_single_step_and_no_divergence() -> None:
    h = rising()
    h[120] = -0.5
    h[150] = 0.125
    outcome = judge_one(losses_of(h))
    assert (outcome.outcome, outcome.spikes, outcome.micro_episodes) == ("completed", 1, 0)
    h[150] = 0.0
    assert judge_one(losses_of(h)).spikes == 2, "exactly G below the median is a spike"


def test_a_task_that_dies_behind_an_intact_sum_is_seen() -> None:
    large, small = losses_of(rising()) * 8, losses_of(rising())
    small[120:] = 1.0
    loss = np.stack([large, small], axis=1)[None]
    against = Reference(lr=0.1, gain=G, task_gain=(G, G))
    constant = np.broadcast_to(np.array([8.0, 1.0]), loss.shape)
    (outcome,) = judge(loss, constant, np.array([8.0, 1.0]), [True], against, RULE)
    assert outcome.outcome == "completed"
    assert outcome.kept == pytest.approx(8 / 9)
    assert outcome.task_kept == (1.0, 0.0)
    assert outcome.task_diverged == (False, True)


def test_a_non_finite_task_makes_the_run_non_finite_and_no_other_task() -> None:
    loss = np.stack([losses_of(rising()), losses_of(rising())], axis=1)
    loss[90, 1] = math.inf
    outcome = judge_one(loss, against=Reference(lr=0.1, gain=G, task_gain=(G, G)))
    assert outcome.reason == "nonfinite"
    assert outcome.task_diverged == (False, True)


def test_a_task_that_is_not_learnable_is_not_judged() -> None:
    loss = np.stack([losses_of(rising()), np.ones(T)], axis=1)
    outcome = judge_one(loss, against=Reference(lr=0.1, gain=G / 2, task_gain=(G, None)))
    assert outcome.task_kept == (1.0, None)
    assert outcome.task_diverged == (False, None)
    assert (outcome.outcome, outcome.kept) == ("completed", 1.0)


def test_a_rare_task_is_not_called_unstable_because_a_batch_has_twice_its_positives() -> None:
    rng = np.random.default_rng(0)
    positives = rng.poisson(7, T)
    positives[0] = 3
    constant = 0.01 * positives
    loss = constant * (1 - 0.2 * G * (np.arange(T) / T) ** 2)
    against = Reference(lr=0.1, gain=G, task_gain=(G,))
    (outcome,) = judge(loss[None, :, None], constant[None, :, None], np.array([0.07]), [True], against, RULE)
    assert loss.max() > 2 * loss[0]
    assert outcome.outcome == "undertrained"


STEADY = np.full(T, 0.25)
ROSE_BY_THE_LEAST = np.concatenate([np.full(138, 0.0), np.full(T - 138, 1 / 16)])
FELL_BY_THE_MOST = np.concatenate([np.full(50, 0.25), np.full(88, 0.0), np.full(T - 138, 1 / 16)])
DOUBLED = np.concatenate([[0.0], np.full(20, -4.0), np.linspace(-4.0, 0.0, T - 21)])
BINARY = dataclasses.replace(RULE, slow_rise=1 / 16)


@pytest.mark.parametrize(
    ("h", "rule", "at", "beyond", "changed"),
    [
        (STEADY, RULE, "completed", "diverged", np.s_[:]),
        (ROSE_BY_THE_LEAST, BINARY, "undertrained", "diverged", np.s_[138:]),
        (FELL_BY_THE_MOST, BINARY, "undertrained", "diverged", np.s_[50:138]),
        (DOUBLED, dataclasses.replace(RULE, slow_fall=9.0), "undertrained", "diverged", np.s_[1:21]),
    ],
)
def test_exactly_at_a_threshold_is_on_its_good_side(
    h: np.ndarray, rule: Rule, at: str, beyond: str, changed: slice
) -> None:
    assert judge_one(losses_of(h), rule).outcome == at
    moved = h.copy()
    moved[changed] -= 1e-3
    assert judge_one(losses_of(moved), rule).outcome == beyond


def test_once_had_counts_from_exactly_there() -> None:
    h = rising(0.5, 20)
    h[100:] = 0.0
    assert judge_one(losses_of(h)).reason == "collapsed"
    assert judge_one(losses_of(h - 1e-3)).reason == "never_learned"


@pytest.mark.parametrize("steps", [1, 2, 3, 24, 25, 26])
def test_short_runs_are_judged(steps: int) -> None:
    assert judge_one(losses_of(np.ones(steps))).outcome == "completed"
    assert judge_one(losses_of(np.zeros(steps))).reason == "never_learned"
    bad = losses_of(np.ones(steps))
    bad[-1] = math.nan
    assert judge_one(bad).diverged_at_step == steps - 1
    if steps > 1:
        assert judge_one(losses_of(np.linspace(0, 0.24, steps)), dataclasses.replace(RULE, median_steps=1)).outcome == (
            "undertrained"
        )


def test_the_final_loss_is_the_mean_of_the_last_steps_summed_over_tasks() -> None:
    loss = np.stack([np.linspace(1, 0.5, T), np.full(T, 0.75)], axis=1)
    outcome = judge_one(loss, against=Reference(lr=0.1, gain=G, task_gain=(G, G)))
    assert outcome.final_loss == pytest.approx(np.linspace(1, 0.5, T)[-25:].mean() + 0.75, rel=1e-6)


def random_runs(seed: int, runs: int = 5, steps: int = 90, tasks: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Losses of every kind of fate, and the constant's."""
    rng = np.random.default_rng(seed)
    constant = rng.uniform(0.5, 1.5, (runs, steps, tasks))
    h = rng.choice([0.02, 0.3, 1.0], (runs, 1, tasks)) * np.minimum(np.arange(steps) / 40, 1)[None, :, None]
    for r in range(runs):
        start = rng.integers(0, steps)
        stop = rng.integers(start, steps + 1)
        h[r, start:stop] -= rng.choice([0.0, 0.6, 1.0, 9.0])
    loss = constant - G * h + rng.normal(0, 0.02, h.shape)
    if rng.random() < 0.5:
        loss[rng.integers(runs), rng.integers(steps) :, rng.integers(tasks)] = rng.choice([math.nan, math.inf])
    return loss.astype(np.float32), constant.astype(np.float32)


THREE = Reference(lr=0.1, gain=G, task_gain=(G, None, G))


def test_the_random_runs_meet_every_fate() -> None:
    met = set()
    for seed in range(30):
        loss, constant = random_runs(seed)
        for outcome in judge(loss, constant, np.ones(3), np.ones(5, bool), THREE, RULE):
            met |= {outcome.reason or outcome.outcome, "episode" if outcome.episodes else "", bool(outcome.spikes)}
    assert met >= {"completed", "undertrained", "nonfinite", "collapsed", "never_learned", "episode", True, False}


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_run_is_judged_the_same_alone_bit_for_bit(seed: int) -> None:
    loss, constant = random_runs(seed)
    finite = np.array([True, True, False, True, True])
    together = judge(loss, constant, np.ones(3), finite, THREE, RULE)
    for r in range(5):
        (alone,) = judge(loss[r : r + 1], constant[r : r + 1], np.ones(3), finite[r : r + 1], THREE, RULE)
        assert alone == together[r]
    order = [3, 0, 4, 2, 1]
    shuffled = judge(loss[order], constant[order], np.ones(3), finite[order], THREE, RULE)
    assert shuffled == [together[r] for r in order]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.01, 0.98), st.floats(0.0, 1.0))
def test_a_stricter_rule_never_heals_a_run(seed: int, kept: float, stricter: float) -> None:
    loss, constant = random_runs(seed)
    strict = kept + stricter * (0.99 - kept)
    loose_ones, strict_ones = (
        judge(loss, constant, np.ones(3), np.ones(5, bool), THREE, dataclasses.replace(RULE, kept=share))
        for share in (kept, strict)
    )
    for before, after in zip(loose_ones, strict_ones, strict=True):
        assert before.outcome != "diverged" or after.outcome == "diverged"
        assert before.outcome != "undertrained" or after.outcome == "undertrained"
        assert before.kept == after.kept
        for was, now in zip(before.task_diverged, after.task_diverged, strict=True):
            assert now or not was


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(-20, 20))
def test_the_unit_of_the_loss_does_not_matter(seed: int, power: int) -> None:
    # Powers of two: other factors would round at a threshold.
    loss, constant = random_runs(seed)
    unit = np.float32(2.0**power)
    plain = judge(loss, constant, np.ones(3), np.ones(5, bool), THREE, RULE)
    scaled = judge(loss * unit, constant * unit, np.full(3, unit), np.ones(5, bool), THREE, RULE)
    back = [
        o if o.final_loss is None else dataclasses.replace(o, final_loss=o.final_loss / float(unit)) for o in scaled
    ]
    assert back == plain


def test_a_mere_shift_of_both_losses_is_no_change_of_kept() -> None:
    loss = losses_of(rising())[None, :, None].astype(np.float64)
    noise = np.random.default_rng(0).integers(0, 64, loss.shape) / 64
    (plain,) = judge(loss, np.ones_like(loss), np.ones(1), [True], ALONE, RULE)
    (noisy,) = judge(loss + noise, np.ones_like(loss) + noise, np.ones(1), [True], ALONE, RULE)
    assert noisy.kept == plain.kept
    assert noisy.outcome == plain.outcome


def control(final: dict[float, Any], tasks: int = 1, steps: int = T, noise: float = 0.01) -> dict[str, Any]:
    """A control whose runs at each lr rise to `final[lr]` (a gain, or a curve of gains), with four seeds."""
    rng = np.random.default_rng(0)
    lrs, seeds, loss = [], [], []
    for lr, gain in final.items():
        for seed in CONTROL_SEEDS:
            curve = np.asarray(gain) * (rising(total=steps) if np.ndim(gain) == 0 else 1.0)
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


def fallen(top: float, low: float, end: float) -> np.ndarray:
    curve = top * rising()
    curve[90:130] = low
    curve[130:] = end
    return curve


def test_the_control_picks_the_best_lr_that_does_not_fall() -> None:
    gains_of = {0.005: 0.1, 0.01: 0.15, 0.02: 0.2, 0.04: 0.25, 0.08: fallen(0.3, 0.2, 0.3), 0.16: 0.0}
    assert tuple(gains_of) == CONTROL_LRS
    found = control_reference(**control(gains_of, noise=0))
    assert found.lr == 0.04, "0.08 learns more, and fell by a third on its way"
    assert found.gain == pytest.approx(0.25)
    assert found.task_gain == (pytest.approx(0.25),)
    gains_of[0.08] = fallen(0.3, 0.23, 0.3)
    assert control_reference(**control(gains_of, noise=0)).lr == 0.08, "a fall by less than a quarter is none"


def test_the_fall_of_one_seed_makes_an_lr_unsafe() -> None:
    runs = control({0.02: 0.2, 0.04: 0.25}, noise=0)
    runs["loss_RTK"][5, 100:140] = 1.0
    assert control_reference(**runs).lr == 0.02
    runs = control({0.02: 0.2, 0.04: 0.25}, noise=0)
    runs["loss_RTK"][5, 100] = math.inf
    assert control_reference(**runs).lr == 0.02, "and so does one loss that is not finite"


def test_of_equal_lrs_the_lower_is_the_reference() -> None:
    assert control_reference(**control({0.04: 0.25, 0.02: 0.25}, noise=0)).lr == 0.02


def test_the_reference_gain_is_the_median_over_seeds() -> None:
    runs = control({0.02: 0.0}, noise=0)
    runs["loss_RTK"][:] -= (np.array([0.2, 0.21, 0.23, 0.9])[:, None] * rising())[:, :, None]
    runs["rule"] = dataclasses.replace(RULE, learnable_errors=1.0, control_fall=9.0)
    assert control_reference(**runs).gain == pytest.approx(0.22)


def test_a_task_under_three_standard_errors_is_not_learnable() -> None:
    runs = control({0.02: 0.25}, tasks=4, noise=0)
    finals = np.array([0.02, 0.06, 0.10, 0.14])
    error = finals.std(ddof=1) / 2
    runs["loss_RTK"][:, :, 1] = 1 - finals[:, None] * rising()
    runs["loss_RTK"][:, :, 2] = 1 + 0.1 * rising()
    runs["loss_RTK"][:, :, 3] = 1
    found = control_reference(**runs)
    assert 0.08 / error < 3.1
    assert found.task_gain == (pytest.approx(0.25), pytest.approx(0.08), None, None), "no better than a constant is not"
    runs["rule"] = dataclasses.replace(RULE, learnable_errors=0.08 / error * 1.001)
    assert control_reference(**runs).task_gain == (pytest.approx(0.25), None, None, None)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: control({0.01: -0.1, 0.02: 0.0}, noise=0), "the training loss is not learnable here: at no lr does"),
        (
            lambda: control({0.01: fallen(0.3, 0.1, 0.3), 0.16: fallen(0.3, 0.0, 0.2)}),
            "no lr of the control's ladder is safe: from 0.01 to 0.16, the gain falls by more than 0.25",
        ),
        (
            lambda: control({0.01: 0.2}) | {"loss_RTK": 1 - np.multiply.outer([0.01, 0.02, 0.03, 1], np.ones((T, 1)))},
            "the training loss is not learnable here: at lr=0.01 the control gains 0.025, less than 3 standard errors",
        ),
        (
            lambda: {key: value[:5] if key.endswith(("R", "RTK")) else value for key, value in
                     control({0.01: 0.2, 0.02: 0.3}).items()},
            "the control needs two or more different seeds at lr=0.02, got [1000000000]",
        ),
        (lambda: control({0.01: 0.2}) | {"seeds_R": [1, 1, 2, 3]}, "the control needs two or more different seeds at"),
        (lambda: control({0.01: 0.2}) | {"seeds_R": [1]}, "need an lr and a seed for each of 4 runs, got 4 and 1"),
        (lambda: control({0.01: 0.2}) | {"constant_loss_K": np.zeros(1)}, "need a positive constant_loss of each task"),
        (lambda: control({0.01: 0.2}) | {"constant_RTK": np.ones((4, T, 2))}, "need losses (runs, steps, tasks)"),
    ],
)  # fmt: skip
def test_a_control_that_gives_no_reference_is_said_in_one_line(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}") as error:
        control_reference(**make())
    assert "\n" not in str(error.value)


def test_what_cannot_be_judged_is_said() -> None:
    loss = np.ones((1, T, 1))
    with pytest.raises(ValueError, match=r"^the reference has 2 tasks, the losses have 1$"):
        judge(loss, loss, np.ones(1), [True], Reference(lr=0.1, gain=G, task_gain=(G, G)), RULE)
    with pytest.raises(ValueError, match=r"^need finite_weights of 1 runs, got shape \(2,\)$"):
        judge(loss, loss, np.ones(1), [True, True], ALONE, RULE)
    with pytest.raises(ValueError, match=r"^need reference gains > 0"):
        judge(loss, loss, np.ones(1), [True], Reference(lr=0.1, gain=-G, task_gain=(G,)), RULE)
    with pytest.raises(ValueError, match=r"^need at least one step and one task, got 0 and 1$"):
        judge(loss[:, :0], loss[:, :0], np.ones(1), [True], ALONE, RULE)
    with pytest.raises(ValueError, match="constant predictor's loss is not finite"):
        judge(loss, loss * math.nan, np.ones(1), [True], ALONE, RULE)


def recorded(loss_RTK: np.ndarray, constant_RTK: np.ndarray, tasks: tuple[str, ...]) -> pd.DataFrame:
    """As `study.record.tables.read_losses` gives them: tasks in any order, the NaN tail of a stack not there."""
    rows = []
    for r, (loss, constant) in enumerate(zip(loss_RTK, constant_RTK, strict=True)):
        dead = np.isnan(loss).all(axis=1)
        steps = len(loss) if not dead.any() else int(dead.argmax()) + 1
        for k in reversed(range(len(tasks))):
            rows.append((f"run{r}", r, tasks[k], loss[:steps, k], constant[:, k]))
    return pd.DataFrame(rows, columns=["run_id", "seed", "task", "loss", "constant"])


def test_rescoring_the_record_is_judging_again() -> None:
    loss, constant = random_runs(7)
    loss[0], constant[0] = loss[1], constant[1]
    loss[3, 40:] = math.nan
    tasks = ("click", "like", "time")
    table = recorded(loss, constant, tasks)
    ids, loss_RTK, constant_RTK, steps_R = stack_losses(table, tasks)
    np.testing.assert_array_equal(loss_RTK[3, :, 0], loss[3, :, 0])
    assert steps_R.tolist() == [90, 90, 90, 41, 90]
    assert constant_RTK.shape == loss_RTK.shape
    rule = dataclasses.replace(RULE, kept=0.5, median_steps=5)
    found = judge_recorded(table, tasks, np.ones(3), {"run3"}, THREE, rule)
    finite = np.array([True, True, True, False, True])
    assert list(found) == ids == [f"run{r}" for r in range(5)]
    expected = judge(loss, constant, np.ones(3), finite, THREE, rule)
    assert [found[f"run{r}"] for r in (0, 1, 2, 4)] == [expected[r] for r in (0, 1, 2, 4)]
    assert found["run3"].diverged_at_step == expected[3].diverged_at_step == 40
    lost = judge_recorded(table, tasks, np.ones(3), {"run0", "run3"}, THREE, rule)["run0"]
    assert (lost.reason, lost.kept) == ("nonfinite", None)
    unseen = judge_recorded(recorded(loss[:1, :30], constant[:1], tasks), tasks, np.ones(3), {"run0"}, THREE, rule)[
        "run0"
    ]
    assert unseen.diverged_at_step == 29
    short = pd.concat([recorded(loss[:1, :30], constant[:1], tasks), table[table["run_id"] != "run0"]])
    assert judge_recorded(short, tasks, np.ones(3), {"run0"}, THREE, rule)["run0"] == unseen, "a longer run beside it"
    assert found["run0"] != judge(loss, constant, np.ones(3), finite, THREE, RULE)[0]
    with pytest.raises(ValueError, match=r"^the losses of run run0 lack share$"):
        stack_losses(table, ("click", "share"))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 7, 32, 4096]))
def test_the_monitor_says_what_the_judge_says(seed: int, block: int) -> None:
    loss, constant = random_runs(seed, tasks=1)
    judged = judge(loss, constant, np.full(1, 0.9), np.ones(5, bool), ALONE, RULE)
    for r, outcome in enumerate(judged):
        monitor = Monitor(0.9, G)
        monitor.BLOCK = block
        for step, (value, base) in enumerate(zip(loss[r, :, 0].tolist(), constant[r, :, 0].tolist(), strict=True)):
            monitor.watch(value, base)
            if step in (0, 30, 31):
                (so_far,) = judge(
                    loss[r : r + 1, : step + 1], constant[r : r + 1, : step + 1], np.full(1, 0.9), [True], ALONE, RULE
                )
                assert monitor.outcome() == dataclasses.replace(so_far, task_kept=(), task_diverged=())
        assert monitor.outcome() == dataclasses.replace(outcome, task_kept=(), task_diverged=())
        state = monitor.state()
        assert state.kept == outcome.kept
        assert state.diverged == (outcome.reason in ("nonfinite", "collapsed"))
        assert (state.steps, state.episodes, state.spikes) == (90, outcome.episodes, outcome.spikes)


class DeviceNumber:
    """Stands for a tensor on a device: whoever asks for its value waits for the device, and `waits` counts it."""

    waits = 0

    def __init__(self, value: float, detached: bool = False) -> None:
        self.value, self.detached = value, detached

    def detach(self) -> "DeviceNumber":
        return DeviceNumber(self.value, True)

    def clone(self) -> "DeviceNumber":
        return DeviceNumber(self.value, self.detached)

    def cpu(self) -> float:
        assert self.detached, "a graph would be kept alive"
        DeviceNumber.waits += 1
        return self.value

    def item(self) -> float:
        raise AssertionError("waits for the device")

    __float__ = __bool__ = __lt__ = __le__ = __gt__ = __ge__ = __array__ = item  # pyright: ignore[reportAssignmentType]


def test_watching_never_waits_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DeviceNumber, "waits", 0)
    monitor = Monitor(1.0, G)
    curve = losses_of(rising())
    for value in curve:
        monitor.watch(DeviceNumber(float(value)), DeviceNumber(1.0))
    assert DeviceNumber.waits == 0
    assert monitor.state().kept == 1.0
    assert DeviceNumber.waits == 2 * T
    assert monitor.outcome() == dataclasses.replace(judge_one(curve), task_kept=(), task_diverged=())
    assert DeviceNumber.waits == 2 * T, "what came back once is not asked for again"


def test_a_long_watch_holds_no_more_than_a_block_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    alive = 0
    most = 0

    class Counted(DeviceNumber):
        def clone(self) -> "DeviceNumber":
            nonlocal alive, most
            alive += 1
            most = max(most, alive)
            return Counted(self.value, True)

        def detach(self) -> "DeviceNumber":
            return self

        def cpu(self) -> float:
            nonlocal alive
            alive -= 1
            return self.value

    monkeypatch.setattr(Monitor, "BLOCK", 64)
    monitor = Monitor(1.0, G)
    for value in losses_of(rising(total=1000)):
        monitor.watch(Counted(float(value)))
    assert most == 64
    assert alive == 1000 % 64
    assert monitor.state().steps == 1000


def test_the_monitor_takes_tensors_and_keeps_what_they_were() -> None:
    import torch

    monitor = Monitor(1.0, G)
    weight = torch.ones((), requires_grad=True)
    buffer = torch.zeros(())
    for value in losses_of(rising()):
        buffer.copy_(torch.tensor(value))
        monitor.watch(buffer * weight if monitor.state().steps % 2 else buffer)
    assert monitor.outcome() == dataclasses.replace(judge_one(losses_of(rising())), task_kept=(), task_diverged=())


def test_a_monitor_can_be_asked_at_any_time() -> None:
    monitor = Monitor(1.0, G)
    before = monitor.state()
    assert (before.steps, before.gain, before.kept, before.diverged) == (0, None, None, False)
    with pytest.raises(ValueError, match=r"^no step was watched yet$"):
        monitor.outcome()
    for value in losses_of(rising())[:40]:
        monitor.watch(value)
    early = monitor.state()
    assert early.gain == pytest.approx(27 / 50 * G)
    assert early.kept == pytest.approx(27 / 50)
    assert not early.diverged
    for _ in range(13):
        monitor.watch(1.0)
    late = monitor.state()
    assert (late.diverged, late.reason, late.diverged_at_step) == (True, "collapsed", 52)
    for _ in range(30):
        monitor.watch(0.75)
    assert not monitor.state().diverged, "it came back"
    monitor.watch(math.nan)
    lost = monitor.state()
    assert (lost.diverged, lost.reason, lost.diverged_at_step) == (True, "nonfinite", 83)


def test_to_have_learned_nothing_yet_is_no_event_and_at_the_end_it_is() -> None:
    monitor = Monitor(1.0, G)
    for _ in range(100):
        monitor.watch(1.0)
    assert not monitor.state().diverged
    assert monitor.outcome().reason == "never_learned"


def test_without_a_reference_the_best_so_far_is_one() -> None:
    monitor = Monitor(1.0)
    for value in losses_of(rising(0.8)):
        monitor.watch(value)
    state = monitor.state()
    assert state.reference_gain == state.gain == pytest.approx(0.8 * G)
    assert state.kept == 1.0
    for _ in range(20):
        monitor.watch(1.0)
    assert monitor.state().reason == monitor.outcome().reason == "collapsed"


def test_without_a_reference_noise_is_none() -> None:
    monitor = Monitor(1.0)
    rng = np.random.default_rng(0)
    for step in range(200):
        monitor.watch(1.0 + rng.normal(0.01, 0.1))
        state = monitor.state() if step % 10 == 0 else None
        assert state is None or (state.reference_gain is None and state.kept is None and not state.diverged)
    outcome = monitor.outcome()
    assert (outcome.outcome, outcome.reason, outcome.kept) == ("diverged", "never_learned", None)
    monitor.watch(math.inf)
    assert monitor.outcome().reason == "nonfinite"


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_a_monitor_of_no_scale_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match=r"^need constant_loss > 0, got constant_loss="):
        Monitor(bad)
    with pytest.raises(ValueError, match=r"^need reference_gain > 0, got reference_gain="):
        Monitor(1.0, bad)


def test_where_little_is_learned_the_noise_of_batches_is_no_fall_of_the_control():
    """A gain of 0.015 under batch noise of 0.02: each run's trailing median falls by more than a quarter of the gain
    somewhere, though nothing is wrong with it. A real fall, larger than noise makes, still rules its lr out."""
    rng = np.random.default_rng(0)
    steps, lrs, seeds = 120, np.repeat([0.01, 0.02], 4), np.tile(np.arange(4), 2)
    constant = np.ones((8, steps, 1), np.float32)
    gain = 0.015 + rng.normal(0, 0.02, (8, steps, 1))
    loss = (constant - gain).astype(np.float32)
    rule = Rule()
    assert control_reference(lrs, seeds, loss, constant, np.ones(1), rule).gain == pytest.approx(0.015, abs=0.005)
    with pytest.raises(ValueError, match="no lr of the control's ladder is safe"):
        control_reference(lrs, seeds, loss, constant, np.ones(1), Rule(control_noise=1e-9))
    loss[4:, 60:90] += 0.2
    assert control_reference(lrs, seeds, loss, constant, np.ones(1), rule).lr == 0.01


def test_a_flat_run_that_has_hardly_moved_is_undertrained_and_one_that_has_come_far_is_dead():
    """The same flat losses, told apart by how far the network has come: half of the control's way is the border."""
    control = dataclasses.replace(Reference(lr=0.1, gain=0.2, task_gain=(0.2,)), moved=4.0)
    constant = np.ones((3, 60, 1), np.float32)
    flat = np.full((3, 60, 1), 1.001, np.float32)
    outcomes = judge(flat, constant, np.ones(1), np.ones(3, bool), control, Rule(), [1.9, 2.0, 40.0])
    assert [o.outcome for o in outcomes] == ["undertrained", "diverged", "diverged"]
    assert [o.task_diverged for o in outcomes] == [(False,), (True,), (True,)]
    unwatched = judge(flat, constant, np.ones(1), np.ones(3, bool), control, Rule())
    assert [o.outcome for o in unwatched] == ["diverged"] * 3
    went_back = judge(flat, constant, np.ones(1), np.ones(3, bool), control, Rule(), [math.nan, 1.9, math.nan])
    assert [o.outcome for o in went_back] == ["diverged", "undertrained", "diverged"]
    assert [o.reason for o in went_back] == ["never_learned", None, "never_learned"]
    gone = judge(flat * np.nan, constant, np.ones(1), np.zeros(3, bool), control, Rule(), [math.nan, 0.0, 1.0])
    assert [o.reason for o in gone] == ["nonfinite"] * 3


def test_a_spike_in_warm_up_is_a_spike_and_a_fall_that_outlasts_it_an_episode():
    """Three bad steps at the start move the median of two or three steps, and never one of 25: no micro divergence.
    Twenty bad steps later on are one."""
    constant = np.ones((2, 200, 1), np.float32)
    loss = np.full((2, 200, 1), 0.8, np.float32)
    loss[:, 1:4] = 30.0
    loss[1, 100:120] = 30.0
    outcomes = judge(
        loss, constant, np.ones(1), np.ones(2, bool), Reference(lr=0.1, gain=0.2, task_gain=(0.2,)), Rule()
    )
    assert [o.outcome for o in outcomes] == ["completed", "completed"]
    assert [o.micro_episodes for o in outcomes] == [0, 1]
    assert outcomes[0].spikes > 0
    assert outcomes[1].episodes[0][0] == 112  # the thirteenth bad step is the median's

"""The definition of divergence, on loss curves made by hand."""

import dataclasses
import json
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_curves import (
    GAIN,
    ONE_TASK,
    RULE,
    STEPS,
    THREE_TASKS,
    TWO_TASKS,
    judge_one,
    losses_of,
    random_runs,
    rising,
)

from study.config import Rule
from study.outcomes.judge import Outcome, judge
from study.outcomes.reference import Reference


def test_a_healthy_run_is_completed() -> None:
    assert judge_one(losses_of(rising())) == Outcome(
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


@pytest.mark.parametrize(
    ("first_nan", "finite_weights", "diverged_at"),
    [(0, True, 0), (3, False, 3), (STEPS, False, STEPS - 1)],
    ids=["from the start", "from step 3", "weights alone"],
)
def test_a_nonfinite_run_is_diverged_and_keeps_nothing(first_nan: int, finite_weights: bool, diverged_at: int) -> None:
    loss = losses_of(rising())
    loss[first_nan:] = math.nan
    outcome = judge_one(loss, finite_weights=finite_weights)
    assert (outcome.outcome, outcome.reason, outcome.diverged_at_step) == ("diverged", "nonfinite", diverged_at)
    assert (outcome.kept, outcome.final_loss) == (None, None)
    assert (outcome.task_kept, outcome.task_diverged) == ((None,), (True,))
    if first_nan == 0:
        assert (outcome.micro_episodes, outcome.spikes) == (0, 0)


def test_one_infinite_loss_makes_a_run_diverged() -> None:
    loss = losses_of(rising())
    loss[90] = math.inf
    outcome = judge_one(loss)
    assert (outcome.reason, outcome.diverged_at_step) == ("nonfinite", 90)
    assert (outcome.kept, outcome.spikes, outcome.final_loss) == (1.0, 1, 0.75)


def test_many_infinite_losses_are_an_episode_without_depth() -> None:
    loss = losses_of(rising())
    loss[90:120] = math.inf
    outcome = judge_one(loss)
    # 13 of 25 steps: the median falls at step 102, and recovers when 13 of 25 are finite again.
    assert outcome.episodes == ((102, None, 30),)
    assert outcome.spikes == 12
    json.dumps(dataclasses.asdict(outcome), allow_nan=False)
    loss[:30] = math.inf
    assert judge_one(loss).episodes == ((102, None, 30),), "before the first finite loss there is no episode"


def test_a_lasting_fall_is_a_collapse() -> None:
    h = rising()
    h[120:] = 0.1
    outcome = judge_one(losses_of(h))
    # The median of 25 follows 12 steps later: from step 132 on, 13 of 25 lie below.
    assert (outcome.outcome, outcome.reason, outcome.diverged_at_step) == ("diverged", "collapsed", 132)
    assert (outcome.spikes, outcome.micro_episodes) == (0, 0)
    assert outcome.kept == pytest.approx(0.1, abs=1e-6)


def test_a_collapse_is_dated_by_the_last_fall() -> None:
    h = rising()
    h[70:100] = 0.0
    h[150:] = 0.0
    outcome = judge_one(losses_of(h))
    assert (outcome.reason, outcome.diverged_at_step) == ("collapsed", 162)
    assert outcome.episodes == ((82, 1.0, 30),)


def test_a_run_without_any_gain_never_learned() -> None:
    noise = np.random.default_rng(0).normal(0, 0.01, STEPS)
    outcome = judge_one(losses_of(noise))
    assert (outcome.outcome, outcome.reason, outcome.diverged_at_step) == ("diverged", "never_learned", 0)
    assert outcome.kept == pytest.approx(0, abs=0.02)


def test_a_rising_run_whose_loss_tripled_never_learned() -> None:
    h = np.linspace(-8.0, 0.0, STEPS)
    assert judge_one(losses_of(h)).outcome == "undertrained", "its loss starts at 3 and only falls"
    h[0] = 0.0
    outcome = judge_one(losses_of(h))
    assert (outcome.outcome, outcome.reason) == ("diverged", "never_learned")


def test_a_run_that_lost_less_than_half_the_gain_never_learned() -> None:
    h = rising(0.4)
    h[120:] = 0.0
    outcome = judge_one(losses_of(h))
    assert (outcome.reason, outcome.diverged_at_step) == ("never_learned", 132)


def test_a_run_that_lost_exactly_half_the_gain_collapsed() -> None:
    h = rising(0.5, 20)
    h[100:] = 0.0
    assert judge_one(losses_of(h)).reason == "collapsed"
    assert judge_one(losses_of(h - 1e-3)).reason == "never_learned"


def test_a_run_that_still_rises_slowly_is_undertrained() -> None:
    outcome = judge_one(losses_of(rising(0.24, STEPS)))
    assert (outcome.outcome, outcome.reason, outcome.diverged_at_step) == ("undertrained", None, None)
    assert outcome.task_diverged == (False,)
    assert outcome.kept == pytest.approx(0.24 * (STEPS - 13) / STEPS, abs=1e-6)


def test_a_slow_run_that_stopped_rising_or_fell_is_diverged() -> None:
    assert judge_one(losses_of(rising(0.24, 130))).reason == "never_learned", "level in the last quarter"
    fell = rising(0.2, STEPS)
    fell[:80] += 0.5
    assert judge_one(losses_of(fell)).reason == "collapsed", "it rises again, but fell by more than 0.25 before"


def test_a_run_that_fades_is_completed_with_what_it_kept() -> None:
    h = rising()
    h[100:] = np.linspace(1.0, 0.3, STEPS - 100)
    outcome = judge_one(losses_of(h))
    assert (outcome.outcome, outcome.micro_episodes) == ("completed", 0)
    assert outcome.kept == pytest.approx(0.3 + 12 * 0.7 / 99, abs=1e-6)


def test_a_fall_that_heals_is_a_micro_divergence() -> None:
    h = rising()
    h[100:130] = 0.4
    outcome = judge_one(losses_of(h))
    assert (outcome.outcome, outcome.micro_episodes, outcome.kept) == ("completed", 1, 1.0)
    assert outcome.episodes == ((112, pytest.approx(0.6, abs=1e-6), 30),)


def test_a_shallow_fall_is_no_episode() -> None:
    h = rising(total=400)
    h[100:130], h[180:210], h[260:300] = 0.25, 0.5, 0.625
    assert [(start, depth) for start, depth, _ in judge_one(losses_of(h)).episodes] == [(112, 0.75), (192, 0.5)]


@pytest.mark.parametrize(("recovered", "length"), [(0.6875, 100), (0.75, 50)])
def test_an_episode_ends_within_a_quarter_of_the_best(recovered: float, length: int) -> None:
    h = rising(total=300)
    h[100:150], h[150:200] = 0.25, recovered
    assert judge_one(losses_of(h)).episodes == ((112, 0.75, length),)


@pytest.mark.parametrize(("second", "spikes"), [(0.125, 1), (0.0, 2)])
def test_a_single_step_at_least_a_reference_gain_below_the_median_is_a_spike(second: float, spikes: int) -> None:
    h = rising()
    h[120], h[150] = -0.5, second
    outcome = judge_one(losses_of(h))
    assert (outcome.outcome, outcome.spikes, outcome.micro_episodes) == ("completed", spikes, 0)


def test_bad_steps_in_warm_up_are_spikes_and_a_later_fall_an_episode() -> None:
    """Three bad steps at the start never move a median of 25 steps; twenty later ones do."""
    constant = np.ones((2, 200, 1), np.float32)
    loss = np.full((2, 200, 1), 0.8, np.float32)
    loss[:, 1:4] = 30.0
    loss[1, 100:120] = 30.0
    reference = Reference(lr=0.1, gain=0.2, task_gain=(0.2,))
    outcomes = judge(loss, constant, np.ones(1), np.ones(2, bool), reference, RULE)
    assert [o.outcome for o in outcomes] == ["completed", "completed"]
    assert [o.micro_episodes for o in outcomes] == [0, 1]
    assert outcomes[0].spikes > 0
    assert outcomes[1].episodes[0][0] == 112, "the median follows at the thirteenth bad step"


def test_flat_runs_are_undertrained_below_half_the_distance_of_the_control() -> None:
    """The same flat losses, told apart by how far the network has moved; the control has moved by 4."""
    reference = Reference(lr=0.1, gain=0.2, task_gain=(0.2,), moved=4.0)
    constant = np.ones((3, 60, 1), np.float32)
    flat = np.full((3, 60, 1), 1.001, np.float32)

    def outcomes(moved: list[float] | None) -> list[Outcome]:
        return judge(flat, constant, np.ones(1), np.ones(3, bool), reference, RULE, moved)

    moved = outcomes([1.9, 2.0, 40.0])
    assert [o.outcome for o in moved] == ["undertrained", "diverged", "diverged"]
    assert [o.task_diverged for o in moved] == [(False,), (True,), (True,)]
    assert [o.outcome for o in outcomes(None)] == ["diverged"] * 3
    unknown = outcomes([math.nan, 1.9, math.nan])
    assert [o.outcome for o in unknown] == ["diverged", "undertrained", "diverged"]
    assert [o.reason for o in unknown] == ["never_learned", None, "never_learned"]
    nonfinite = judge(flat * np.nan, constant, np.ones(1), np.zeros(3, bool), reference, RULE, [math.nan, 0.0, 1.0])
    assert [o.reason for o in nonfinite] == ["nonfinite"] * 3


# --- tasks -------------------------------------------------------------------------------------------------------


def test_a_small_task_that_diverges_behind_a_healthy_sum_is_reported() -> None:
    large, small = losses_of(rising()) * 8, losses_of(rising())
    small[120:] = 1.0
    loss = np.stack([large, small], axis=1)[None]
    constant = np.broadcast_to(np.array([8.0, 1.0]), loss.shape)
    (outcome,) = judge(loss, constant, np.array([8.0, 1.0]), [True], TWO_TASKS, RULE)
    assert outcome.outcome == "completed"
    assert outcome.kept == pytest.approx(8 / 9)
    assert outcome.task_kept == (1.0, 0.0)
    assert outcome.task_diverged == (False, True)


def test_a_nonfinite_task_makes_the_run_nonfinite_but_not_the_other_task() -> None:
    loss = np.stack([losses_of(rising()), losses_of(rising())], axis=1)
    loss[90, 1] = math.inf
    outcome = judge_one(loss, reference=TWO_TASKS)
    assert outcome.reason == "nonfinite"
    assert outcome.task_diverged == (False, True)


def test_a_task_that_is_not_learnable_is_not_judged() -> None:
    loss = np.stack([losses_of(rising()), np.ones(STEPS)], axis=1)
    outcome = judge_one(loss, reference=Reference(lr=0.1, gain=GAIN / 2, task_gain=(GAIN, None)))
    assert outcome.task_kept == (1.0, None)
    assert outcome.task_diverged == (False, None)
    assert (outcome.outcome, outcome.kept) == ("completed", 1.0)


def test_a_batch_with_twice_the_positives_of_a_rare_task_is_no_divergence() -> None:
    positives = np.random.default_rng(0).poisson(7, STEPS)
    positives[0] = 3
    constant = 0.01 * positives
    loss = constant * (1 - 0.2 * GAIN * (np.arange(STEPS) / STEPS) ** 2)
    (outcome,) = judge(loss[None, :, None], constant[None, :, None], np.array([0.07]), [True], ONE_TASK, RULE)
    assert loss.max() > 2 * loss[0]
    assert outcome.outcome == "undertrained"


def test_the_final_loss_is_the_mean_of_the_last_steps_summed_over_tasks() -> None:
    falling = np.linspace(1, 0.5, STEPS)
    outcome = judge_one(np.stack([falling, np.full(STEPS, 0.75)], axis=1), reference=TWO_TASKS)
    assert outcome.final_loss == pytest.approx(falling[-25:].mean() + 0.75, rel=1e-6)


# --- limits ------------------------------------------------------------------------------------------------------

STEADY = np.full(STEPS, 0.25)
ROSE_BY_THE_LEAST = np.concatenate([np.full(138, 0.0), np.full(STEPS - 138, 1 / 16)])
FELL_BY_THE_MOST = np.concatenate([np.full(50, 0.25), np.full(88, 0.0), np.full(STEPS - 138, 1 / 16)])
DOUBLED = np.concatenate([[0.0], np.full(20, -4.0), np.linspace(-4.0, 0.0, STEPS - 21)])
BINARY = dataclasses.replace(RULE, slow_rise=1 / 16)


@pytest.mark.parametrize(
    ("h", "rule", "at", "beyond", "changed"),
    [
        (STEADY, RULE, "completed", "diverged", np.s_[:]),
        (ROSE_BY_THE_LEAST, BINARY, "undertrained", "diverged", np.s_[138:]),
        (FELL_BY_THE_MOST, BINARY, "undertrained", "diverged", np.s_[50:138]),
        (DOUBLED, dataclasses.replace(RULE, slow_fall=9.0), "undertrained", "diverged", np.s_[1:21]),
    ],
    ids=["kept", "slow_rise", "slow_fall", "doubled"],
)
def test_a_run_exactly_at_a_threshold_is_not_diverged(
    h: np.ndarray, rule: Rule, at: str, beyond: str, changed: slice
) -> None:
    assert judge_one(losses_of(h), rule).outcome == at
    moved = h.copy()
    moved[changed] -= 1e-3
    assert judge_one(losses_of(moved), rule).outcome == beyond


@pytest.mark.parametrize("steps", [1, 2, 3, 24, 25, 26])
def test_short_runs_are_judged(steps: int) -> None:
    assert judge_one(losses_of(np.ones(steps))).outcome == "completed"
    assert judge_one(losses_of(np.zeros(steps))).reason == "never_learned"
    bad = losses_of(np.ones(steps))
    bad[-1] = math.nan
    assert judge_one(bad).diverged_at_step == steps - 1
    if steps > 1:
        slow = judge_one(losses_of(np.linspace(0, 0.24, steps)), dataclasses.replace(RULE, median_steps=1))
        assert slow.outcome == "undertrained"


# --- properties --------------------------------------------------------------------------------------------------


def judge_three_tasks(loss: np.ndarray, constant: np.ndarray, rule: Rule = RULE, unit: float = 1.0) -> list[Outcome]:
    return judge(loss, constant, np.full(3, unit), np.ones(len(loss), bool), THREE_TASKS, rule)


def test_random_runs_have_every_outcome() -> None:
    found = set()
    for seed in range(30):
        for outcome in judge_three_tasks(*random_runs(seed)):
            found |= {outcome.reason or outcome.outcome, "episode" if outcome.episodes else "", bool(outcome.spikes)}
    assert found >= {"completed", "undertrained", "nonfinite", "collapsed", "never_learned", "episode", True, False}


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1))
def test_a_run_is_judged_the_same_alone_and_in_any_order(seed: int) -> None:
    loss, constant = random_runs(seed)
    finite = np.array([True, True, False, True, True])
    together = judge(loss, constant, np.ones(3), finite, THREE_TASKS, RULE)
    for runs in ([0], [1], [2], [3], [4], [3, 0, 4, 2, 1]):
        found = judge(loss[runs], constant[runs], np.ones(3), finite[runs], THREE_TASKS, RULE)
        assert found == [together[r] for r in runs]


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.floats(0.01, 0.98), st.floats(0.0, 1.0))
def test_a_stricter_rule_only_adds_divergences(seed: int, kept: float, stricter: float) -> None:
    loss, constant = random_runs(seed)
    loose, strict = (
        judge_three_tasks(loss, constant, dataclasses.replace(RULE, kept=share))
        for share in (kept, kept + stricter * (0.99 - kept))
    )
    for before, after in zip(loose, strict, strict=True):
        assert before.outcome != "diverged" or after.outcome == "diverged"
        assert before.outcome != "undertrained" or after.outcome == "undertrained"
        assert before.kept == after.kept
        for was, now in zip(before.task_diverged, after.task_diverged, strict=True):
            assert now or not was


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(-20, 20))
def test_the_unit_of_the_loss_does_not_matter(seed: int, power: int) -> None:
    loss, constant = random_runs(seed)
    unit = 2.0**power  # other factors would round at a threshold
    scaled = judge_three_tasks(loss * np.float32(unit), constant * np.float32(unit), unit=unit)
    back = [o if o.final_loss is None else dataclasses.replace(o, final_loss=o.final_loss / unit) for o in scaled]
    assert back == judge_three_tasks(loss, constant)


def test_noise_in_both_losses_does_not_change_kept() -> None:
    loss = losses_of(rising())[None, :, None].astype(np.float64)
    noise = np.random.default_rng(0).integers(0, 64, loss.shape) / 64
    (plain,) = judge(loss, np.ones_like(loss), np.ones(1), [True], ONE_TASK, RULE)
    (noisy,) = judge(loss + noise, np.ones_like(loss) + noise, np.ones(1), [True], ONE_TASK, RULE)
    assert (noisy.kept, noisy.outcome) == (plain.kept, plain.outcome)


# --- wrong input -------------------------------------------------------------------------------------------------

ONES = np.ones((1, STEPS, 1))


@pytest.mark.parametrize(
    ("loss", "constant", "finite_weights", "reference", "message"),
    [
        (ONES, ONES, [True], TWO_TASKS, "2 tasks, the losses have 1"),
        (ONES, ONES, [True, True], ONE_TASK, "finite_weights of 1 runs, got shape (2,)"),
        (ONES, ONES, [True], Reference(lr=0.1, gain=-GAIN, task_gain=(GAIN,)), "reference gains > 0"),
        (ONES[:, :0], ONES[:, :0], [True], ONE_TASK, "one step and one task, got 0 and 1"),
        (ONES, ONES * math.nan, [True], ONE_TASK, "constant predictor's loss is not finite"),
    ],
)
def test_losses_that_cannot_be_judged_are_refused(
    loss: np.ndarray, constant: np.ndarray, finite_weights: list[bool], reference: Reference, message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        judge(loss, constant, np.ones(1), finite_weights, reference, RULE)


def test_without_a_distance_a_flat_run_up_to_the_safe_lr_is_slow() -> None:
    """Above it, and where its loss rises, the same losses are a divergence."""
    steps = np.arange(300)
    flat, rising_loss = np.full(300, 0.99), 0.99 + 1.5 * (steps > 200)
    loss = np.stack([flat, flat, rising_loss])[:, :, None]
    reference = Reference(lr=0.1, gain=0.5, task_gain=(0.5,))
    judged = judge(loss, np.ones_like(loss), np.ones(1), [True] * 3, reference, Rule(), lr_R=[0.1, 0.2, 0.1])
    assert [outcome.outcome for outcome in judged] == ["undertrained", "diverged", "diverged"]


@pytest.mark.parametrize("every", [1, 5, 10])
def test_a_run_that_explodes_has_diverged_whatever_it_kept(every: int) -> None:
    """The baseline is far too high, so the gain stays large while the loss is five times its first."""
    step_T = np.arange(0, 400, every)
    loss = np.where(step_T < 200, 1.0, 5.0)[None, :, None]
    reference = Reference(lr=0.1, gain=9.0, task_gain=(9.0,))
    (outcome,) = judge(loss, np.full_like(loss, 100.0), np.ones(1), [True], reference, Rule(), step_T=step_T)
    assert (outcome.outcome, outcome.reason) == ("diverged", "exploded")
    assert outcome.diverged_at_step is not None
    assert 200 <= outcome.diverged_at_step <= 200 + max(13, 2 * every)


@pytest.mark.parametrize("every", [2, 5, 12])
def test_logged_steps_are_judged_by_the_same_span_of_steps(every: int) -> None:
    """A smooth loss, logged now and then, has the outcome of all its steps, at nearly the same step."""
    steps = np.arange(600)
    loss = np.where(steps < 300, 1 - 0.5 * np.minimum(steps / 150, 1), 1.05)[None, :, None]
    reference = Reference(lr=0.1, gain=0.5, task_gain=(0.5,))
    (every_step,) = judge(loss, np.ones_like(loss), np.ones(1), [True], reference, Rule())
    some = loss[:, ::every]
    (logged,) = judge(some, np.ones_like(some), np.ones(1), [True], reference, Rule(), step_T=steps[::every])
    assert (logged.outcome, logged.reason) == (every_step.outcome, every_step.reason) == ("diverged", "collapsed")
    assert logged.diverged_at_step == pytest.approx(every_step.diverged_at_step, abs=2 * every)
    assert logged.final_loss == pytest.approx(every_step.final_loss)


def test_the_trainer_may_declare_that_a_run_diverged() -> None:
    loss = np.linspace(1, 0.5, 100)[None, :, None]
    reference = Reference(lr=0.1, gain=0.5, task_gain=(0.5,))
    (outcome,) = judge(loss, np.ones_like(loss), np.ones(1), [True], reference, Rule(), declared_R=[True])
    assert (outcome.outcome, outcome.reason, outcome.diverged_at_step) == ("diverged", "declared", 99)

"""Judging recorded losses gives the outcomes of judging the losses themselves."""

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
from loss_curves import RULE, THREE_TASKS, random_runs

from study.outcomes import recorded as recorded_outcomes
from study.outcomes.judge import judge
from study.outcomes.recorded import judge_recorded, stack_losses

TASKS = ("click", "like", "time")


def recorded(loss_RTK: np.ndarray, constant_RTK: np.ndarray) -> pd.DataFrame:
    """Return losses as `study.record.tables.read_losses` does: tasks in any order, a run cut after its first NaN."""
    rows = []
    for r, (loss, constant) in enumerate(zip(loss_RTK, constant_RTK, strict=True)):
        dead = np.isnan(loss).all(axis=1)
        steps = len(loss) if not dead.any() else int(dead.argmax()) + 1
        for k in reversed(range(len(TASKS))):
            rows.append((f"run{r}", r, TASKS[k], loss[:steps, k], constant[:, k]))
    return pd.DataFrame(rows, columns=["run_id", "seed", "task", "loss", "constant"])


def test_judging_recorded_losses_equals_judging_the_losses() -> None:
    loss, constant = random_runs(7)
    loss[0], constant[0] = loss[1], constant[1]
    loss[3, 40:] = math.nan
    table = recorded(loss, constant)
    ids, loss_RTK, constant_RTK, steps_R = stack_losses(table, TASKS)
    np.testing.assert_array_equal(loss_RTK[3, :, 0], loss[3, :, 0])
    assert steps_R.tolist() == [90, 90, 90, 41, 90]
    assert constant_RTK.shape == loss_RTK.shape

    rule = dataclasses.replace(RULE, kept=0.5, median_steps=5)
    found = judge_recorded(table, TASKS, np.ones(3), {"run3"}, THREE_TASKS, rule)
    finite = np.array([True, True, True, False, True])
    assert list(found) == ids == [f"run{r}" for r in range(5)]
    expected = judge(loss, constant, np.ones(3), finite, THREE_TASKS, rule)
    assert [found[f"run{r}"] for r in (0, 1, 2, 4)] == [expected[r] for r in (0, 1, 2, 4)]
    assert found["run3"].diverged_at_step == expected[3].diverged_at_step == 40
    assert found["run0"] != judge(loss, constant, np.ones(3), finite, THREE_TASKS, RULE)[0]


def test_a_recorded_run_with_nonfinite_weights_is_diverged() -> None:
    loss, constant = random_runs(7)
    loss[0], constant[0] = loss[1], constant[1]
    lost = judge_recorded(recorded(loss, constant), TASKS, np.ones(3), {"run0"}, THREE_TASKS, RULE)["run0"]
    assert (lost.reason, lost.kept) == ("nonfinite", None)
    short = recorded(loss[:1, :30], constant[:1])
    alone = judge_recorded(short, TASKS, np.ones(3), {"run0"}, THREE_TASKS, RULE)["run0"]
    assert alone.diverged_at_step == 29
    with_longer = pd.concat([short, recorded(loss, constant).query("run_id != 'run0'")])
    assert judge_recorded(with_longer, TASKS, np.ones(3), {"run0"}, THREE_TASKS, RULE)["run0"] == alone


def test_a_run_without_a_tasks_losses_is_refused() -> None:
    with pytest.raises(ValueError, match="run0 lack share"):
        stack_losses(recorded(*random_runs(7)), ("click", "share"))


def test_runs_judged_a_few_at_a_time_have_the_same_outcomes(monkeypatch: pytest.MonkeyPatch) -> None:
    table = recorded(*random_runs(7)).sample(frac=1, random_state=0)  # the tasks of a run lie apart
    whole = judge_recorded(table, TASKS, np.ones(3), (), THREE_TASKS, RULE)
    sizes = []
    monkeypatch.setattr(recorded_outcomes, "RUNS_AT_ONCE", 2)
    monkeypatch.setattr(
        recorded_outcomes, "judge", lambda loss, *a, **o: sizes.append(len(loss)) or judge(loss, *a, **o)
    )
    parts = judge_recorded(table, TASKS, np.ones(3), (), THREE_TASKS, RULE)
    assert list(parts.items()) == list(whole.items())
    assert max(sizes) <= 2
    assert judge_recorded(table.iloc[:0], TASKS, np.ones(3), (), THREE_TASKS, RULE) == {}

"""What foretells divergence, where that is known: a signal that does, one that does not, and one that is late."""

import re

import numpy as np
import pandas as pd
import pytest
import torch
from watched import TABLE, simulated

from analysis.figures.signals import figures
from analysis.stats import signals
from analysis.stats.signals import (
    START,
    alarm_rule,
    alarms,
    chosen_threshold,
    condensed,
    crossings,
    discrimination,
    judged,
    levels,
    onsets,
    rules,
    summary,
    tables,
)
from analysis.text.signals import sentences, skipped_text
from study.monitor import GradientAlarm


def test_auc_separates_predictive_signals_from_the_lr_and_from_noise() -> None:
    found = discrimination(TABLE, lags=(1, 2, 3), draws=200).set_index(["signal", "lag"])
    assert found.loc[("sharpness_share", 1), "auc"] == found.loc[("sharpness_share", 2), "same_lr"] == 1
    assert found.loc[("sharpness_share", 3), "same_lr"] == pytest.approx(0.5, abs=0.15)
    assert found.loc[("largest_over_bound", 1), "auc"] > 0.75
    assert found.loc[("largest_over_bound", 1), "same_lr"] == pytest.approx(0.5, abs=0.15)
    assert found.loc[("lr", 1), "auc"] > 0.8
    assert found.loc[("lr", 1), "same_lr"] == found.loc[("dead_share", 1), "auc"] == 0.5, "ties count half"
    assert (found.loc[("largest_share", 1), ["diverged", "seeds"]] == 20).all()


def test_auc_intervals_of_noise_contain_one_half() -> None:
    """Sixteen studies, three noisy signals each: 95% of 48 is 45.6."""
    signals_of_noise = ("largest_share", "activation_norm", "gradient_jump")
    held = 0
    for seed in range(16):
        found = discrimination(simulated(20, 32, seed), lags=(1,), signals=signals_of_noise, draws=200)
        held += ((found["low"] <= 0.5) & (found["high"] >= 0.5)).sum()
    assert held >= 40, held


def test_auc_by_hand() -> None:
    """Two runs diverge at step 12; of five healthy ones one is of another model, one begins to diverge soon."""

    def run(name, onset, value, lr=0.1, model="small", seed=0):
        return pd.DataFrame(
            {
                "run_id": name,
                "model": model,
                "method": "none",
                "lr": lr,
                "seed": seed,
                "step": [10, 11],
                "onset": onset,
                "dead_share": value,
            }
        )

    table = pd.concat(
        [
            run("a", 12.0, [0, 0.5], seed=1),
            run("b", 12.0, [0, 0.1], lr=0.2, seed=2),
            run("h1", np.nan, [0, 0.1], seed=3),
            run("h2", np.nan, [0, 0.7], lr=0.2, seed=4),
            run("h3", np.nan, [0, 0.0], seed=5),
            run("other", np.nan, [0, 0.0], model="large"),
            run("soon", 12.0, [0, np.nan], seed=6),
            run("later", 40.0, [0, 0.2], seed=7),
        ]
    )
    row = discrimination(table, lags=(1,), signals=("dead_share",), draws=10)
    row = row[row["model"] == "small"].iloc[0]
    assert row["auc"] == pytest.approx((3 / 4 + 1.5 / 4) / 2)
    assert row["same_lr"] == pytest.approx((3 / 3 + 0 / 1) / 2)
    assert row["diverged"] == 2


def two_methods() -> pd.DataFrame:
    """Under `agc` it is the update ratio that rises before the onset, and sharpness knows nothing; `lamb` has hardly a
    run that diverged."""
    swapped = {"sharpness_share": "largest_over_bound", "largest_over_bound": "sharpness_share"}
    agc = TABLE.rename(columns=swapped).assign(method="agc", curve="agc", run_id="agc-" + TABLE["run_id"])
    few = TABLE[TABLE["seed"] < 8].assign(method="lamb", curve="lamb")
    return pd.concat([TABLE, agc, few.assign(run_id="lamb-" + few["run_id"])], ignore_index=True)


def test_methods_are_judged_separately_and_small_groups_are_skipped() -> None:
    table, skipped = judged(two_methods())
    assert skipped == [{"model": "small", "method": "lamb", "diverged": 4, "healthy": 12}]
    assert {"lamb", "4", "12", "5"} <= set(re.findall(r"\w+", skipped_text(skipped[0])))
    found = discrimination(table, lags=(1,), draws=50).set_index(["model", "method", "signal"])
    assert set(found.index.get_level_values("method")) == {"none", "agc"}
    for method, knows, other in (
        ("none", "sharpness_share", "largest_over_bound"),
        ("agc", "largest_over_bound", "sharpness_share"),
    ):
        assert found.loc[("small", method, knows), "same_lr"] == 1
        assert found.loc[("small", method, other), "same_lr"] == pytest.approx(0.5, abs=0.15)
        assert found.loc[("small", method, knows), ["diverged", "healthy"]].tolist() == [20, 60]
    assert set(rules(table, draws=5)["method"]) == set(crossings(table)["method"]) == {"none", "agc"}


def test_condensed_signals_give_the_same_tables(tmp_path) -> None:
    table = judged(two_methods())[0]
    table["sharpness_share"] = table["sharpness_share"].where(table["step"] % 7 != 0)  # not at every step
    small = condensed(table)
    small.to_parquet(tmp_path / "signals.parquet")
    whole = tables(table)
    for name, made in tables(pd.read_parquet(tmp_path / "signals.parquet")).items():
        pd.testing.assert_frame_equal(made, whole[name], check_exact=True)
    assert len(small) < 0.7 * len(table)


def test_alarm_without_a_chosen_threshold_is_judged_on_all_runs() -> None:
    """The gradient jumps a hundredfold one step after the onset, and `gone` comes 8 steps after that."""
    (row,) = alarm_rule(TABLE, 16.0, draws=50).to_dict("records")
    assert (row["threshold"], row["diverged"], row["completed"]) == (16, 20, 60)
    assert (row["warned"], row["early"], row["gain"], row["false"]) == (0, 1, 7, 0)
    assert 0.8 < row["early_low"] < 0.85  # Wilson's, of 20 of 20
    (eager,) = alarm_rule(TABLE, 2.0, draws=50).to_dict("records")
    assert eager["false"] > 0.3
    assert eager["warned"] > 0.1


def test_sharpness_levels_and_onsets() -> None:
    table = TABLE.assign(sharpness_share=np.where(TABLE["step"] >= 40, 2.0, 9.0) * TABLE["lr"])
    found = levels(table).set_index("lr")
    assert found["n"].to_dict() == {0.3: 40, 0.6: 20}  # those of even seeds diverge at the higher
    assert found["middle"].to_dict() == pytest.approx({0.3: 0.6, 0.6: 1.2})  # only step 40 is looked at
    assert found["sharpness"].tolist() == pytest.approx([4.0, 4.0])
    pd.testing.assert_frame_equal(levels(condensed(table)), levels(table))
    later = TABLE.assign(onset=TABLE["onset"].mask((TABLE["seed"] == 0) & (TABLE["lr"] > 0.5), 20.0))
    (row,) = onsets(later).to_dict("records")
    assert (row["n"], row["first"], row["onset"], row["last"], row["after"]) == (20, 20, 30, 30, 8)
    pd.testing.assert_frame_equal(onsets(condensed(later)), onsets(later))


def test_rules_are_chosen_and_judged_on_different_seeds() -> None:
    ruled = rules(TABLE, false_alarms=0.1, draws=100).set_index("signal")
    sharp, jump, noise = ruled.loc["sharpness_share"], ruled.loc["gradient_jump"], ruled.loc["largest_share"]
    # seeds 0, 2, 4, ... diverge, and every other seed chooses: the judging half would have none
    assert np.isnan(sharp["warned"])
    shifted = TABLE.assign(seed=[(s // 2) if s % 2 else s // 2 + 100 for s in TABLE["seed"]])
    ruled = rules(shifted, false_alarms=0.1, draws=100).set_index("signal")
    sharp, jump, noise = ruled.loc["sharpness_share"], ruled.loc["gradient_jump"], ruled.loc["largest_share"]
    assert sharp["warned"] == sharp["early"] == 1
    assert sharp["lead"] == 2
    assert sharp["warned_low"] < 0.8, "ten of ten are no proof of all"
    assert jump["warned"] <= 0.1
    assert jump["early"] == 1
    assert (jump["lead"], jump["gain"]) == (-1, 7)
    assert noise["warned"] < 0.5
    assert ruled["false"].max() < 0.35


def test_thresholds_and_alarms_by_hand() -> None:
    table = TABLE[TABLE["run_id"].isin([f"0.3-{s}" for s in range(10)])]
    largest = table[table["step"] >= START].groupby("run_id")["largest_share"].max().sort_values()
    for share, place in ((0.0, -1), (0.1, -2), (0.19, -2), (0.3, -4)):
        threshold = chosen_threshold(table, "largest_share", share)
        assert threshold == largest.iloc[place]
        assert summary(alarms(table, "largest_share", threshold))["false"] == pytest.approx(-(place + 1) / 10)
    rung = alarms(TABLE, "sharpness_share", 20.0)
    assert set(rung.loc[rung["outcome"] == "diverged", "alarm"]) <= {28.0, 29.0}
    assert rung.loc[rung["outcome"] == "completed", "alarm"].isna().all()


def test_crossings_count_runs_before_their_onset() -> None:
    crossed = crossings(TABLE, levels=(20,)).set_index("outcome")
    assert crossed.loc["diverged", ["n", "k"]].tolist() == [20, 20]
    assert crossed.loc["diverged", "lead"] == 2
    assert crossed.loc["completed", ["n", "k"]].tolist() == [60, 0]


def test_text_and_figures_of_signals() -> None:
    table = simulated(12)
    found = discrimination(table, lags=(1, 3), draws=20)
    shifted = table.assign(seed=[(s // 2) if s % 2 else s // 2 + 100 for s in table["seed"]])
    said = "\n".join(sentences(table, found, rules(shifted, draws=20), crossings(table)))
    assert "24 runs watched, 12 seeds, 6 diverged" in said
    assert "sharpness × lr / 2 above 4 before the onset in 6 of 6 diverged runs" in said
    assert set(figures(table, found)) == {"before", "auc", "alarms"}
    healthy = table[table["outcome"] == "completed"]
    assert sentences(healthy, found, rules(healthy, draws=5), crossings(healthy))[1].startswith("none diverged")
    assert figures(healthy, found) == {}


def test_rule_without_judging_runs_has_no_share() -> None:
    said = "\n".join(sentences(TABLE, discrimination(TABLE, draws=5), rules(TABLE, draws=5), crossings(TABLE)))
    assert "before the onset in 0 of 0 diverged runs" in said  # only even seeds diverge, and these choose the threshold
    assert "nan" not in said


def test_folder_without_signals_raises(tmp_path) -> None:
    with pytest.raises(ValueError, match="has no signals: `study signals"):
        signals.watched(tmp_path)


@pytest.mark.parametrize("as_tensor", [False, True])
def test_gradient_alarm_equals_the_rule_on_recorded_signals(as_tensor: bool, monkeypatch) -> None:
    monkeypatch.setattr(GradientAlarm, "BLOCK", 7)
    rung = alarms(TABLE, "gradient_jump", 5.0)
    for run, own in TABLE.groupby("run_id"):
        alarm = GradientAlarm(times=5.0)
        buffer = torch.zeros(1, dtype=torch.float64)
        for norm in own["gradient_norm"]:
            buffer[0] = norm
            alarm.watch(buffer if as_tensor else norm)
        expected = rung.loc[run, "alarm"]
        assert alarm.rang_at() == (None if np.isnan(expected) else int(expected))

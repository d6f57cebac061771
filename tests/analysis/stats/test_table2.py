"""The paper's Table 2 with intervals, from a table of runs that is written by hand."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from simulated_record import simulated_definition

from analysis.stats.rates import divergence_rates
from analysis.stats.table2 import has_choices, table2
from analysis.text.table2 import as_text
from study.config import Arm, EdgeSearch, Study

DEFINITION = simulated_definition(models=("small",), lrs=(1.0, 2.0))
SEEDS = 8
KEPT = {("agc", 0.01, 1.0): 0.8, ("agc", 0.01, 2.0): 0.6, ("agc", 0.001, 1.0): 0.7, ("agc", 0.001, 2.0): 0.9}
"""By method, max_ratio and lr: the best of agc while it trains is 0.001 at lr 2."""

AUC = {("agc", 0.01, 1.0): 0.75, ("agc", 0.01, 2.0): 0.60, ("agc", 0.001, 1.0): 0.61, ("agc", 0.001, 2.0): 0.70}
"""On the held-out day 0.01 at lr 1 is better, which must not be looked at."""


def runs(diverged: set[tuple[float, int]] = frozenset()) -> pd.DataFrame:  # type: ignore[assignment]
    """diverged: lr and seed of runs of `none` that do."""
    rows = []
    for (method, ratio, lr), kept in KEPT.items():
        for seed in range(SEEDS):
            auc = AUC[method, ratio, lr] + seed / 1000
            rows.append({"method": method, "max_ratio": ratio, "lr": lr, "seed": seed, "kept": kept, "auc_click": auc})
    for lr in (1.0, 2.0):
        for seed in range(SEEDS):
            rows.append({"method": "none", "lr": lr, "seed": seed, "kept": 1 / lr, "auc_click": 0.65})
            if (lr, seed) in diverged:
                rows[-1] |= {"kept": 0.0, "outcome": "diverged", "reason": "collapsed"}
    table = pd.DataFrame(rows)
    plain = {"model": "small", "options": "{}", "role": "cell", "micro_episodes": 0, "steps": 100, "study": "t"}
    table = table.assign(**plain, data="5" * 64, run_id=[str(i) for i in range(len(table))])
    table["outcome"] = table["outcome"].fillna("completed") if "outcome" in table else "completed"
    table["reason"] = table.get("reason")
    return table.assign(kept_click=table["kept"], diverged_click=table["outcome"] == "diverged")


def row_of(found: pd.DataFrame, method: str) -> dict:
    (row,) = found.loc[found["method"] == method].to_dict("records")
    return row


def test_other_seeds_choose_and_each_seed_judges_on_held_out_rows() -> None:
    row = row_of(table2(runs(), DEFINITION), "agc")
    assert (row["curve"], row["lr"], row["agreed"], row["seeds"]) == ("agc max_ratio=0.001", 2.0, 1.0, SEEDS)
    assert row["auc_click"] == pytest.approx(0.7035)
    # Of 8 values the exact 95% interval of the median is from the first to the last: 2 * 2^-8 < 0.05 < 2 * 9 * 2^-8.
    assert (row["auc_click_low"], row["auc_click_high"]) == pytest.approx((0.70, 0.707))


def test_seed_does_not_take_part_in_the_choice_that_it_judges() -> None:
    """Seed 0 alone would choose agc 0.01 at lr 1, by far: it is judged where the others choose all the same."""
    lucky = runs()
    own = (lucky["seed"] == 0) & (lucky["max_ratio"] == 0.01) & (lucky["lr"] == 1.0)
    lucky.loc[own, ["kept", "kept_click"]] = 100.0
    lucky.loc[own, "auc_click"] = 0.99
    assert row_of(table2(lucky, DEFINITION), "agc")["auc_click_high"] == pytest.approx(0.707)


def test_diverged_run_counts_as_the_worst_result() -> None:
    row = row_of(table2(runs({(1.0, 3), (1.0, 4), (2.0, 0)}), DEFINITION), "none")
    assert (row["lr"], row["k"], row["n"]) == (1.0, 2, SEEDS)
    assert row["auc_click_low"] == 0.5


def test_text_has_the_columns_of_the_papers_table() -> None:
    table = runs({(2.0, seed) for seed in range(SEEDS)})
    head, rows = as_text(table2(table, DEFINITION), divergence_rates(table))
    assert head[:2] == ["model", "method"]
    assert head[-4:] == ["best at", "seeds that agree", "diverged at 1", "diverged at 2"]
    assert [row[1] for row in rows] == ["none", "agc"]
    assert rows[0][-4:] == ["lr 1", "8 of 8", "0/8 (0.00 to 0.32)", "8/8 (0.68 to 1.00)"]
    assert rows[1][-4] == "lr 2, max_ratio=0.001"
    assert "0.7035 (0.7000 to 0.7070)" in rows[1]


def test_methods_are_compared_with_clippy_paired_by_seed() -> None:
    table = runs()
    better, noise = np.linspace(0.001, 0.004, SEEDS), [0.01, -0.02, 0.0, 0.005, -0.004, 0.012, -0.01, 0.006]
    clippy = table.loc[table["method"] == "none"].assign(method="clippy")
    by_seed = {method: table.loc[table["method"] == method, "seed"].to_numpy() for method in ("none", "agc")}
    clippy["auc_click"] = 0.7 + clippy["seed"] / 1000
    table.loc[table["method"] == "agc", "auc_click"] = 0.7 + by_seed["agc"] / 1000 + better[by_seed["agc"]]
    table.loc[table["method"] == "none", "auc_click"] = 0.7 + by_seed["none"] / 1000 + np.array(noise)[by_seed["none"]]
    clippy["run_id"] = [f"c{i}" for i in range(len(clippy))]
    found = table2(pd.concat([table, clippy]), DEFINITION)
    agc, none = row_of(found, "agc"), row_of(found, "none")
    by_hand = stats.ttest_rel(0.7 + np.arange(SEEDS) / 1000 + better, 0.7 + np.arange(SEEDS) / 1000)
    of_noise = stats.ttest_1samp(noise, 0.0)
    assert agc["more"] == pytest.approx(better.mean())
    assert (agc["more_low"], agc["more_high"]) == pytest.approx(tuple(by_hand.confidence_interval(0.95)))
    assert agc["more_p_holm"] == pytest.approx(2 * by_hand.pvalue, rel=1e-6)
    assert none["more_p_holm"] == pytest.approx(of_noise.pvalue)
    assert math.isnan(row_of(found, "clippy")["more"])
    head, rows = as_text(found, divergence_rates(table))
    assert head[-2:] == ["AUC click more than clippy (95%)", "p (Holm)"]
    assert {row[1]: row[-2][:7] for row in rows} == {"none": "-0.0001", "agc": "+0.0025", "clippy": ""}


@pytest.mark.parametrize("metric", ["score_accuracy", "error_val_loss", None])
def test_a_loop_is_compared_by_its_metric_if_it_has_one(metric: str | None) -> None:
    data = {"tasks": [{"name": "loss", "kind": "loss", "constant_loss": 1.0}]} | ({"quality": metric} if metric else {})
    of_loop = runs().rename(columns={"auc_click": metric or "unused", "kept_click": "kept_loss"})
    of_loop = of_loop if metric else of_loop.drop(columns="unused")
    clippy = of_loop.loc[of_loop["method"] == "none"].assign(method="clippy")
    clippy["run_id"] = [f"c{i}" for i in range(len(clippy))]
    found = table2(pd.concat([of_loop, clippy]), replace(DEFINITION, data=data))
    agc = row_of(found, "agc")
    assert (agc["curve"], agc["lr"]) == ("agc max_ratio=0.001", 2.0)
    assert agc.get(metric) == (pytest.approx(0.7035) if metric else None)
    assert agc["more"] == pytest.approx(0.0535 if metric else math.nan, nan_ok=True)
    head, _ = as_text(found, divergence_rates(of_loop))
    assert head[2] == (f"{metric.partition('_')[2]} (95%)" if metric else "best at")


def test_few_seeds_have_no_interval_and_no_runs_have_no_row() -> None:
    table = runs()
    found = table2(table.loc[table["seed"] < 3], DEFINITION)
    assert math.isnan(row_of(found, "agc")["auc_click_low"])
    assert table2(table.iloc[:0], DEFINITION).empty


def test_table2_needs_several_arms_of_a_method() -> None:
    study = Study(name="s", models=("small",), arms=(Arm(method="none"), Arm(method="agc")), lrs=(1.0,))
    several = replace(study, arms=(*study.arms, Arm(method="agc", options={"max_ratio": 0.1})))
    assert has_choices(several)
    assert not has_choices(study)
    assert not has_choices(replace(several, search=EdgeSearch()))

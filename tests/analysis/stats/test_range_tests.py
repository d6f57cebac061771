"""What range tests say over seeds, and beside runs at fixed lrs, by pencil."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.stats.range_tests import beside_edges, over_seeds, quantile
from analysis.text.range_tests import sentence, with_words

CURVE = {"model": "small", "curve": "none"}
RAMP = {"lr_from": 1e-3, "lr_to": 10.0, "lr_steps": 100}


def readings(**rules: list[float]) -> pd.DataFrame:
    same: dict[str, Any] = {**CURVE, "method": "none", **RAMP}
    names = ("explosion", "lightning", "valley", "steep", "minimum")
    return pd.DataFrame(
        [same | {"seed": s} | {name: rules.get(name, [math.nan] * 4)[s] for name in names} for s in range(4)]
    )


def test_quantiles_are_on_the_scale_of_the_logarithm_and_inf_is_above_the_ramp() -> None:
    assert quantile(np.array([1.0, 100.0]), 0.5) == pytest.approx(10)
    assert quantile(np.array([1.0, 2.0, math.inf]), 0.5) == 2
    assert quantile(np.array([1.0, math.inf]), 0.5) == math.inf
    assert quantile(np.array([math.inf, math.inf]), 0.25) == math.inf
    assert math.isnan(quantile(np.array([]), 0.5))


def test_seeds_without_a_suggestion_are_left_out() -> None:
    rules = over_seeds(readings(explosion=[1, math.inf, math.inf, 2], lightning=[0.1, math.nan, 0.1, 0.1]))
    of = {row["rule"]: row for row in rules.to_dict("records")}
    assert (of["explosion"]["middle"], of["explosion"]["found"]) == (math.inf, 2)
    assert (of["lightning"]["middle"], of["lightning"]["found"], of["lightning"]["n"]) == (pytest.approx(0.1), 3, 4)
    assert math.isnan(of["valley"]["middle"])


def test_a_suggestion_stands_beside_the_nearest_trained_lr_and_only_a_near_one() -> None:
    rules = over_seeds(readings(explosion=[1.4] * 4, lightning=[0.0014] * 4, steep=[0.01] * 4))
    trained = {0.002: (0, 0.65), 0.05: (0, 0.7), 0.8: (9, 0.5)}
    rates = pd.DataFrame([CURVE | {"lr": lr, "n": 16, "k": k} for lr, (k, _) in trained.items()])
    scored = pd.DataFrame([CURVE | {"lr": lr, "auc_click": q, "binned": False} for lr, (_, q) in trained.items()])
    edges = pd.DataFrame([CURVE | {"edge": 0.7, "status": "reached"}])
    beside = with_words(beside_edges(rules, rates, scored, edges, "auc_click"), "auc_click")
    said = {row["rule"]: sentence(row) for row in beside.to_dict("records")}
    assert said["explosion"] == "The loss explodes at 2.0 times the edge of runs at a fixed lr."
    assert said["lightning"] == (
        "At Lightning's suggestion, lr 0.0014, 0 of 16 diverge, and AUC of click is 0.65 (at lr 0.002, the nearest "
        "trained); the best trained lr, 0.05, is 36 times as high."
    )
    assert "no lr within a factor of 2 was trained" in said["steep"]
    assert said["valley"] == ""


def test_each_curve_and_ramp_stands_beside_its_own_runs_in_the_order_of_the_rules() -> None:
    one = readings(explosion=[1.0] * 4)
    shorter, other = one.assign(lr_steps=50, explosion=2.0), one.assign(curve="clippy", explosion=4.0)
    rules = over_seeds(pd.concat([one, other, shorter], ignore_index=True))
    rates = pd.DataFrame([CURVE | {"lr": 1.0, "n": 16, "k": 3}, CURVE | {"curve": "clippy", "lr": 4.0, "n": 8, "k": 1}])
    scored = rates.assign(auc_click=[0.6, 0.7], binned=False)
    beside = beside_edges(rules, rates, scored, pd.DataFrame(columns=[*CURVE, "edge", "status"]), "auc_click")
    found = beside.loc[beside["rule"] == "explosion"]
    assert found[["curve", "lr_steps", "middle"]].to_numpy().tolist() == [
        ["none", 100, 1],
        ["clippy", 100, 4],
        ["none", 50, 2],
    ]
    assert found[["near_k", "near_quality", "best_lr"]].to_numpy().tolist() == [[3, 0.6, 1], [1, 0.7, 4], [3, 0.6, 1]]
    untrained = beside_edges(rules, rates.iloc[:1], scored.iloc[:1], pd.DataFrame(columns=["status"]), "auc_click")
    assert untrained.loc[untrained["curve"] == "clippy", ["near_lr", "best_lr"]].isna().all(axis=None)

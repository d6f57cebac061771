"""What range tests say over seeds, and beside runs at fixed lrs, by pencil."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.loading import records
from analysis.report import sections
from analysis.report.range_tests import RangeTests
from analysis.stats.range_rules import RULES
from analysis.stats.range_tests import beside_edges, over_seeds, quantile
from analysis.text.range_tests import sentences, with_words

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


def words(
    rules: pd.DataFrame, trained: dict[float, tuple[int, float]], edge: dict[str, Any], *, searched: bool = False
) -> str:
    """What is said of one curve. trained: lr -> diverged runs of 16, and AUC."""
    rates = pd.DataFrame([CURVE | {"lr": lr, "n": 16, "k": k} for lr, (k, _) in trained.items()])
    scored = pd.DataFrame([CURVE | {"lr": lr, "auc_click": q, "binned": False} for lr, (_, q) in trained.items()])
    beside = beside_edges(rules, rates, scored, pd.DataFrame([CURVE | edge]), "auc_click", searched=searched)
    return " ".join(sentences(records(with_words(beside, "auc_click"))))


REACHED = {"edge": 0.7, "low": 0.6, "high": 0.8, "status": "reached"}
TRAINED = {0.002: (0, 0.65), 0.05: (0, 0.7), 0.8: (9, 0.5)}


def test_the_two_default_suggestions_stand_beside_the_nearest_trained_lr() -> None:
    rules = over_seeds(readings(explosion=[1.4] * 4, lightning=[0.0014] * 4, valley=[0.05] * 4, steep=[0.01] * 4))
    assert words(rules, TRAINED, REACHED) == (
        "The loss explodes at lr 1.4, 2.0 times LR50, 0.70 (95% interval 0.60 to 0.80). "
        "At Lightning's suggestion, lr 0.0014, 0 of 16 diverge and AUC of click is 0.65 (trained at lr 0.002); "
        "the best lr, 0.05, is 36 times as high. "
        "At fastai's suggestion, lr 0.050, 0 of 16 diverge and AUC of click is 0.7 (trained at lr 0.05, the best lr)."
    )


def test_a_suggestion_that_lies_far_from_every_trained_lr_is_compared_with_the_best_alone() -> None:
    rules = over_seeds(readings(explosion=[math.inf] * 4, lightning=[5e-6] * 4, valley=[0.4] * 4))
    assert words(rules, TRAINED, REACHED | {"high": math.inf}) == (
        "The loss does not explode up to lr 10. LR50 is 0.70 (above 0.60 at 95% confidence). "
        "At Lightning's suggestion, lr 5.0e-06, no lr within a factor of 2 was trained; "
        "the best lr, 0.05, is 10,000 times as high. "
        "At fastai's suggestion, lr 0.40, 9 of 16 diverge and AUC of click is 0.5 (trained at lr 0.8); "
        "the best lr, 0.05, is 8.0 times lower."
    )


def test_seeds_that_explode_are_counted_where_half_do_not() -> None:
    rules = over_seeds(readings(explosion=[1.4, 1.5, math.inf, math.inf]))
    assert words(rules, TRAINED, REACHED) == (
        "The loss of 2 of 4 seeds explodes up to lr 10. LR50 is 0.70 (95% interval 0.60 to 0.80)."
    )


def test_a_search_has_no_best_lr() -> None:
    """It trains few runs at each lr."""
    rules = over_seeds(readings(lightning=[0.0014] * 4))
    assert words(rules, TRAINED, REACHED, searched=True).endswith(
        "At Lightning's suggestion, lr 0.0014, 0 of 16 diverge and AUC of click is 0.65 (trained at lr 0.002)."
    )


def test_nothing_is_said_where_nothing_was_trained() -> None:
    rules = over_seeds(readings(explosion=[1.4] * 4, lightning=[0.0014] * 4))
    rates = pd.DataFrame(columns=pd.Index([*CURVE, "lr", "n", "k"]))
    scored = pd.DataFrame(columns=pd.Index([*CURVE, "lr", "auc_click", "binned"]))
    beside = beside_edges(rules, rates, scored, pd.DataFrame(columns=pd.Index(["status"])), "auc_click", searched=False)
    assert sentences(records(with_words(beside, "auc_click"))) == []


def test_where_nothing_explodes_there_is_no_factor() -> None:
    rules = over_seeds(readings(explosion=[math.inf] * 4))
    none = pd.DataFrame(columns=pd.Index([*CURVE, "lr"]))
    beside = beside_edges(
        rules, none, none.assign(binned=False), pd.DataFrame([CURVE | REACHED]), "auc_click", searched=False
    )
    assert beside[["edge_over", "best_over"]].isna().to_numpy().all()
    assert beside[["edge", "edge_low", "edge_high"]].to_numpy().tolist() == [[0.7, 0.6, 0.8]] * len(RULES)


def test_a_report_names_a_curve_once() -> None:
    read = readings(explosion=[1.4] * 4, lightning=[0.0014] * 4, valley=[0.05] * 4)
    rules = over_seeds(read)
    none = pd.DataFrame(columns=pd.Index([*CURVE, "lr"]))
    beside = beside_edges(
        rules, none, none.assign(binned=False), pd.DataFrame([CURVE | REACHED]), "auc_click", searched=False
    )
    tested = RangeTests(tests=read, read=read, rules=rules, beside=with_words(beside, "auc_click"))
    (answer,) = sections.range_tests(tested)["answers"]
    assert answer[:2] == ("small", "none, lr 0.001 to 10 in 100 steps")
    assert answer[2] == "The loss explodes at lr 1.4, 2.0 times LR50, 0.70 (95% interval 0.60 to 0.80)."


def test_each_curve_and_ramp_stands_beside_its_own_runs_in_the_order_of_the_rules() -> None:
    one = readings(explosion=[1.0] * 4)
    shorter, other = one.assign(lr_steps=50, explosion=2.0), one.assign(curve="clippy", explosion=4.0)
    rules = over_seeds(pd.concat([one, other, shorter], ignore_index=True))
    rates = pd.DataFrame([CURVE | {"lr": 1.0, "n": 16, "k": 3}, CURVE | {"curve": "clippy", "lr": 4.0, "n": 8, "k": 1}])
    scored = rates.assign(auc_click=[0.6, 0.7], binned=False)
    beside = beside_edges(
        rules, rates, scored, pd.DataFrame(columns=[*CURVE, "edge", "status"]), "auc_click", searched=False
    )
    found = beside.loc[beside["rule"] == "explosion"]
    assert found[["curve", "lr_steps", "middle"]].to_numpy().tolist() == [
        ["none", 100, 1],
        ["clippy", 100, 4],
        ["none", 50, 2],
    ]
    assert found[["near_k", "near_quality", "best_lr"]].to_numpy().tolist() == [[3, 0.6, 1], [1, 0.7, 4], [3, 0.6, 1]]
    untrained = beside_edges(
        rules, rates.iloc[:1], scored.iloc[:1], pd.DataFrame(columns=["status"]), "auc_click", searched=False
    )
    assert untrained.loc[untrained["curve"] == "clippy", ["near_lr", "best_lr"]].isna().to_numpy().all()

"""Rates and quality: by pencil, and by what a simulated record was made from."""

import math
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from simulated_record import EDGES, LRS, simulated_definition, write_simulated_study

import analysis
from analysis.loading import threshold_columns, with_curves
from analysis.stats.contrasts import contrasts
from analysis.stats.edges import fitted_curves
from analysis.stats.frontier import contours, threshold_map
from analysis.stats.intervals import lower_bound, upper_bound, wilson
from analysis.stats.quality import _quantiles, lr_sensitivity
from analysis.stats.recommend import recommend
from analysis.stats.trajectories import diverged_by_step
from study import methods
from study.config import Arm
from study.record.schema import COLUMNS, OF_TABLES, PER_TASK, check_thresholds
from study.record.tables import read_runs


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    definition = write_simulated_study(folder)
    return definition, analysis.load(folder)


def row(model="m", method="none", lr=0.1, seed=0, outcome="completed", **values):
    base = {"model": model, "method": method, "options": "{}", "lr": lr, "seed": seed, "role": "cell", "steps": 200}
    scores = {"reason": None, "micro_episodes": 0, "kept": 1.0, "auc_click": 0.7, "rmse_play": 1.3}
    return base | {"outcome": outcome} | scores | values


def test_load_leaves_the_control_out_and_names_curves_by_their_method(study):
    _, runs = study
    assert len(runs) == 2 * 5 * len(LRS) * 8
    assert set(runs["role"]) == {"cell"}
    assert set(runs["curve"]) == set(EDGES)


def test_curves_are_named_by_what_differs_between_arms_of_their_method(tmp_path):
    arms = [
        Arm(method="none"),
        Arm(method="clippy", options={"rel": 0.5}),
        Arm(method="clippy", options={"rel": 0.1}),
        Arm(method="clippy", options={"rel": 0.1, "accumulator": "delayed"}),
    ]
    write_simulated_study(tmp_path, simulated_definition(arms=arms, lrs=(0.1,), seeds=(0,)), with_losses=False)
    runs = analysis.load(tmp_path)
    assert set(runs["curve"]) == {"none", "clippy rel=0.5", "clippy rel=0.1", "clippy accumulator=delayed rel=0.1"}
    assert len(analysis.divergence_rates(runs)) == 2 * 4


def test_columns_of_all_tables_are_reserved(study):
    """A threshold of the same name would be a second column."""
    definition, runs = study
    thresholds = set(threshold_columns(runs))
    found = [
        analysis.divergence_rates(runs),
        analysis.in_bins(runs),
        analysis.edges(runs),
        fitted_curves(runs),
        analysis.frontier(runs),
        contours(runs),
        threshold_map(runs),
        analysis.tradeoff(runs, definition),
        analysis.quality(runs, definition),
        lr_sensitivity(runs, definition),
        contrasts(runs, definition),
        recommend(runs, definition),
        diverged_by_step(runs),
    ]
    names = {name for table in found for name in table.columns}
    free = names - {*COLUMNS.names, *OF_TABLES} - thresholds
    assert not {name for name in free if not name.startswith(tuple(PER_TASK))}


def test_no_threshold_of_a_method_is_reserved():
    for name in methods.names():
        check_thresholds(methods.signature(name).thresholds, name)


def test_rates_by_hand():
    runs = pd.DataFrame(
        [
            row(seed=0, outcome="diverged", reason="collapsed"),
            row(seed=1, outcome="undertrained", kept=0.1),
            row(seed=2, micro_episodes=3),
            row(seed=3),
        ]
    )
    (cell,) = analysis.divergence_rates(runs).to_dict("records")
    assert (cell["n"], cell["k"], cell["rate"], cell["undertrained"], cell["collapsed"]) == (4, 1, 0.25, 1, 1)
    assert (cell["micro"], cell["micro_rate"]) == (1, 0.25)
    # Wilson, 1 of 4: (1 + 1.92) / 7.84 -+ 1.96 * sqrt(0.75 + 0.96) / 7.84
    assert cell["low"] == pytest.approx(0.0456, abs=1e-3)
    assert cell["high"] == pytest.approx(0.6994, abs=1e-3)


def test_rates_equal_the_simulated_counts(study):
    _, runs = study
    rates = analysis.divergence_rates(runs)
    assert rates["n"].eq(8).all()
    assert rates["k"].sum() == list(runs["outcome"]).count("diverged") > 0
    assert list(dict.fromkeys(rates["curve"])) == ["none", "layer_clip", "agc", "lamb", "clippy"]
    of_none = rates[rates["method"] == "none"]
    assert of_none.loc[of_none["lr"] <= 0.2, "k"].eq(0).all()
    assert of_none.loc[of_none["lr"] >= 0.8, "k"].eq(8).all()
    assert rates.loc[rates["method"] == "clippy", "k"].eq(0).all()


def test_undertrained_run_counts_in_n_and_not_in_k(study):
    _, runs = study
    rates = analysis.divergence_rates(runs)
    slow = rates[rates["undertrained"] > 0]
    assert len(slow)
    assert (slow["k"] == 0).all()


@given(st.integers(1, 60), st.data())
def test_wilson_interval_contains_the_rate_and_has_width(n, data):
    k = data.draw(st.integers(0, n))
    low, high = wilson(k, n)
    assert 0 <= low <= k / n <= high <= 1
    assert high - low > 0.05
    oracle = stats.binomtest(k, n).proportion_ci(0.95, method="wilson")
    assert (low, high) == (pytest.approx(oracle.low, abs=1e-9), pytest.approx(oracle.high, abs=1e-9))


def test_bounds_equal_one_sided_clopper_pearson():
    assert upper_bound(0, 8) == pytest.approx(1 - 0.05 ** (1 / 8))
    assert upper_bound(0, 59) < 0.05 < upper_bound(0, 58)
    assert upper_bound(8, 8) == 1
    assert lower_bound(0, 8) == 0
    assert lower_bound(8, 8) == pytest.approx(0.05 ** (1 / 8))
    oracle = stats.binomtest(3, 8, alternative="less").proportion_ci(0.95, method="exact")
    assert upper_bound(3, 8) == pytest.approx(oracle.high)


def test_quality_counts_a_diverged_run_as_the_worst_result():
    definition = simulated_definition()
    runs = pd.DataFrame(
        [
            row(seed=0, outcome="diverged", kept=-0.2, auc_click=0.9, rmse_play=0.1),
            row(seed=1, outcome="diverged", reason="nonfinite", kept=None, auc_click=None, rmse_play=None),
            row(seed=2, outcome="diverged", kept=0.1, auc_click=0.4, rmse_play=9.0),
            row(seed=3, kept=0.9),
        ]
    )
    (cell,) = analysis.quality(runs, definition).to_dict("records")
    assert (cell["auc_click"], cell["auc_click_q10"]) == (0.5, 0.5)
    assert cell["auc_click_q90"] == pytest.approx(0.5 + 0.7 * 0.2)
    assert cell["rmse_play"] == 1.43
    assert cell["kept_q10"] == -math.inf
    assert cell["kept"] == pytest.approx((-0.2 + 0.1) / 2)
    assert cell["n"] == 4


def test_an_auc_of_one_class_is_missing_and_not_a_half():
    """Held-out rows of one class leave every run without an AUC; that of a network that failed stays 0.5."""
    runs = [row(seed=seed, auc_click=None) for seed in (0, 1)] + [row(seed=2, outcome="diverged", auc_click=None)]
    (cell,) = analysis.quality(pd.DataFrame(runs), simulated_definition()).to_dict("records")
    assert math.isnan(cell["auc_click"])
    (cell,) = analysis.quality(pd.DataFrame(runs[2:]), simulated_definition()).to_dict("records")
    assert cell["auc_click"] == 0.5


def test_median_quality_of_half_nonfinite_runs_is_not_finite():
    runs = pd.DataFrame([row(seed=s, outcome="diverged", kept=None) for s in range(2)] + [row(seed=2), row(seed=3)])
    assert analysis.quality(runs, simulated_definition())["kept"].tolist() == [-math.inf]


def test_simulated_quality_rises_with_clippy_and_falls_without(study):
    definition, runs = study
    table = analysis.quality(runs, definition).set_index(["model", "curve", "lr"])
    assert table.loc[("small", "none", 1.6), ["auc_click", "rmse_play"]].tolist() == [0.5, 1.43]
    assert table.loc[("small", "clippy", 1.6), "auc_click"] > table.loc[("small", "clippy", 0.1), "auc_click"] > 0.65


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=9), st.integers(0, 3), st.floats(0, 1))
def test_quantiles_equal_numpy_and_allow_minus_infinity(values, lost, share):
    def quantile(of, share):
        return float(_quantiles(np.array(of), np.zeros(len(of), int), share)[0])

    assert quantile(values, share) == pytest.approx(float(np.quantile(values, share)), abs=1e-9)
    with_lost = quantile([*values, *[-math.inf] * lost], share)
    lower = quantile([*values, *[-1e300] * lost], share)
    assert with_lost == (-math.inf if lower < -1e12 else pytest.approx(lower, abs=1e-6))


def test_rates_table_fits_the_width_and_shows_k_of_n(study):
    _, runs = study
    text = analysis.rates_table(analysis.divergence_rates(runs))
    assert max(map(len, text.splitlines())) <= 120
    assert "8/8 .68-1" in text
    assert "0/8 0-.32" in text
    assert text.count("\n\n") == 1


def test_rates_table_explains_its_mark_of_undertrained_runs(study):
    rates = analysis.divergence_rates(study[1])
    of_large = rates["model"] == sorted(set(rates["model"]))[0]
    blocks = analysis.rates_table(rates.assign(undertrained=2 * of_large)).split("\n\n")
    marked = [block for block in blocks if " 2u" in block]
    assert len(marked) == 1
    assert ["undertrained" in block for block in blocks] == [" 2u" in block for block in blocks]


def test_no_runs_give_empty_tables_and_a_message(tmp_path):
    definition = write_simulated_study(tmp_path, simulated_definition(), leave_out=())
    runs = analysis.load(tmp_path).iloc[:0]
    rates = analysis.divergence_rates(runs)
    assert rates.empty
    assert {"n", "k", "rate", "low", "high"} <= set(rates.columns)
    assert analysis.quality(runs, definition).empty
    assert analysis.rates_table(rates) == "no runs recorded yet"


@pytest.mark.parametrize(
    ("column", "said"), [("study", "several studies (other, simulated)"), ("data", "one study on several data (")]
)
def test_runs_of_several_studies_raise(tmp_path, column, said):
    write_simulated_study(tmp_path, simulated_definition(models=("small",), seeds=(0, 1)), with_losses=False)
    runs = read_runs(tmp_path)
    mixed = pd.concat([runs, runs.assign(**{column: "other"})])
    for asked in (with_curves, analysis.divergence_rates, analysis.edges):
        with pytest.raises(ValueError, match=re.escape(said)):
            asked(mixed)

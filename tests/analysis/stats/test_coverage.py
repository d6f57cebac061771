"""The statistics keep their word, by simulation from known curves: the fast version of docs/statistics.md.

Limits leave room for the binomial error of so few simulations: each test would fail once in a thousand by chance, were
its seeds not fixed. The long versions are tests/helpers/simulation_edges.py and simulation_claims.py.
"""

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import special, stats
from shapes import draw, logistic
from simulated_edges import simulated_edges, tallies
from simulation import CURVES, LRS, runs_table

import analysis
from analysis.stats.edges import BELOW, NOT_REACHED
from analysis.stats.posterior_grid import FLOOR, FLOOR_PRIOR, LAPSE, LAPSE_PRIOR, PAD, SIGMA
from analysis.stats.psychometric import fit, fit_many

TARGET = 0.93
SEEDS = (3, 12, 64)
SHARES = (0.0, 0.5, 1.0)
QUANTILES = (0.025, 0.5, 0.975)


def least(share, n):
    """The lowest count of n that a true share of at least `share` gives, but once in a thousand."""
    return int(stats.binom.ppf(0.001, n, share))


# --- the simulator -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("share", SHARES)
def test_simulated_rates_equal_the_curve(name, share):
    curve, n = CURVES[name], 3000
    outcomes = draw([curve], LRS, 2, rng=np.random.default_rng(1), share=share, simulations=n)
    # The two seeds of a simulation are independent: 2n draws at each lr.
    rate = curve.rate(LRS)
    limit = 4 * np.sqrt(rate * (1 - rate) / (2 * n)) + 1e-3
    assert (np.abs(outcomes.mean((0, 1, 2)) - rate) < limit).all()


def test_simulated_seeds_keep_their_thresholds_across_lrs_and_methods():
    def agreement(share, curve=CURVES["shallow"]):
        y = draw([curve, curve], [0.1, 0.1], 4000, rng=np.random.default_rng(2), share=share)[0]
        return [np.corrcoef(y[0, :, 0], other)[0, 1] for other in (y[0, :, 1], y[1, :, 0])]

    assert agreement(0) == pytest.approx([0, 0], abs=0.06)
    # Two normal variables of correlation 1/2 have the same sign with probability 2/3: a correlation of 1/3.
    assert agreement(0.5) == pytest.approx([1 / 3, 1 / 3], abs=0.06)
    assert agreement(1) == pytest.approx([1, 1])
    fixed = draw([CURVES["steep"]], LRS, 500, rng=np.random.default_rng(3))[0, 0]
    assert (np.diff(fixed) >= 0).all()


def test_known_edges_of_known_curves():
    assert CURVES["shallow"].edge() == pytest.approx(0.1, rel=1e-3)
    assert CURVES["shallow"].edge(0.05) == pytest.approx(10 ** (-1 - np.log(19) / 6), rel=1e-3)
    # 0.7 S(20 x) is 0.35 at x = 0, and 0.5 at S = 5/7: x = log(2.5) / 20.
    assert CURVES["lapse 0.3"].edge() == pytest.approx(0.1, rel=1e-3)
    assert CURVES["lapse 0.3"].edge(0.35) == pytest.approx(10 ** (-1 - np.log(2.5) / 20), rel=1e-3)
    assert CURVES["never"].edge() == np.inf
    assert logistic(floor=0.1).edge(0.05) == 0


# --- coverage, bias, censoring ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[5, pytest.param(30, marks=pytest.mark.slow)])
def simulated(request):
    """Shape -> rows of `simulated_edges`: every number of seeds and share, 5 (or, slow, 30) simulations of each."""
    tables = {}
    for i, name in enumerate(("shallow", "steep", "lapse 0.3", "floor 0.02")):
        rng = np.random.default_rng([7, i])
        parts = [
            simulated_edges(CURVES[name], seeds, share, request.param, rng).assign(seeds_drawn=seeds)
            for seeds in SEEDS
            for share in SHARES
        ]
        tables[name] = pd.concat(parts, ignore_index=True)
    return tables


@pytest.mark.parametrize("level", [0.5, 0.05])
def test_intervals_of_edges_cover(simulated, level):
    every = pd.concat(simulated.values())
    every = every[every["level"] == level]
    covered = (every["low"] <= every["true"]) & (every["true"] <= every["high"])
    assert covered.sum() >= least(TARGET, len(covered))
    for seeds in SEEDS:
        of_seeds = covered[every["seeds_drawn"] == seeds]
        assert of_seeds.sum() >= least(TARGET, len(of_seeds)), f"{seeds} seeds"
    # Nor do they cover by being wide: with 64 seeds, less than this many decades. Two lrs are 0.18 apart.
    # Of "lapse 0.3" the mean is 0.129 in 171 simulations, and its standard error in the 15 of here is 0.011.
    widths = {"shallow": 0.17, "steep": 0.12, "lapse 0.3": 0.16, "floor 0.02": 0.12}
    for name, widest in widths.items() if level == 0.5 else ():
        table = simulated[name]
        assert tallies(table[(table["seeds_drawn"] == 64) & (table["level"] == level)])["width"] < widest


def test_edges_are_unbiased(simulated):
    rows = pd.concat(simulated.values())
    rows = rows[(rows["level"] == 0.5) & (rows["true"] > 0.03) & (rows["true"] < 0.3) & np.isfinite(rows["width"])]
    error = (rows["median"] - np.log10(rows["true"])) / rows["width"]
    # The mean of so many errors, each a quarter of its interval's width, is uncertain by 0.25 / sqrt(n).
    assert abs(error.mean()) < 0.1 + 3 * 0.25 / np.sqrt(len(rows))
    assert len(rows) > sum(map(len, simulated.values())) / 2 / 3  # a third of the simulations, at one of two levels


def test_edge_outside_the_tried_lrs_is_nan():
    never = simulated_edges(CURVES["never"], 8, 0.5, 40, np.random.default_rng(1))
    assert set(never["status"]) == {NOT_REACHED}
    assert np.isnan(never["edge"].to_numpy()).all()
    assert np.isinf(never["high"].to_numpy()).all()
    far = draw([logistic(lr50=3), logistic(lr50=0.001)], LRS, 8, rng=np.random.default_rng(2), simulations=20)
    for outcomes_MSK in far:
        table = analysis.edges(runs_table(outcomes_MSK, LRS)).set_index("method")
        assert table["status"].tolist() == [NOT_REACHED, BELOW]
        assert np.isnan(table["edge"].to_numpy()).all()
        assert np.isinf(table.loc["none", "high"])
        assert table.loc["layer_clip", "low"] == 0


@pytest.mark.parametrize("share", SHARES)
def test_falling_curve_is_flagged_and_its_bound_covers(share):
    falls = simulated_edges(CURVES["falls again"], 8, share, 25, np.random.default_rng(3))
    assert tallies(falls)["flagged"] > 0.95
    assert tallies(falls)["bound"] * len(falls) >= least(0.95, len(falls))
    few = simulated_edges(CURVES["falls again"], 3, share, 25, np.random.default_rng(4))
    # Not where the rise is at the lowest lrs, so that hardly a run stands above it.
    assert tallies(few)["flagged"] > 0.75


def test_monotone_curves_are_seldom_flagged(simulated):
    for name, table in simulated.items():
        flagged = tallies(table)["flagged"] * len(table) / 2
        assert flagged <= stats.binom.ppf(0.999, len(table) / 2, 0.03), name


def test_missing_runs_widen_intervals_and_keep_coverage():
    rng = np.random.default_rng(5)
    whole, holes = (
        tallies(table.loc[table["level"] == 0.5])
        for table in (simulated_edges(CURVES["shallow"], 8, 0.5, 40, rng, missing=m) for m in (0.0, 0.5))
    )
    assert holes["covered"] * holes["n"] >= least(TARGET, int(holes["n"]))
    assert holes["width"] > 1.2 * whole["width"]


@pytest.mark.parametrize("lrs", [(0.1,), (0.1, 0.2), LRS])
@pytest.mark.parametrize("seeds", [1, 2])
def test_smallest_records_have_edges_without_a_warning(lrs, seeds):
    for fill in (0.0, 1.0):
        outcomes = np.full((1, seeds, len(lrs)), fill)
        (row,) = analysis.edges(runs_table(outcomes, lrs)).to_dict("records")
        assert row["status"] == (BELOW if fill else NOT_REACHED)
        outcomes[0, 0, 0] = np.nan
        analysis.edges(runs_table(outcomes, lrs)) if outcomes.size > 1 else None
        assert np.isfinite(fit(lrs, outcomes[0]).weight).all()


# --- against others --------------------------------------------------------------------------------------------------


def test_fit_many_equals_fit_of_each():
    curves = [CURVES[name] for name in ("shallow", "lapse 0.3", "floor 0.02", "never")]
    outcomes = draw(curves, LRS, 9, rng=np.random.default_rng(6), share=0.5, missing=0.1)[0]
    for together, y in zip(fit_many(LRS, outcomes), outcomes, strict=True):
        alone = fit(LRS, y)
        assert together.edge(0.5, QUANTILES) == pytest.approx(alone.edge(0.5, QUANTILES), abs=1e-3)


@pytest.mark.parametrize("name", ["shallow", "steep"])
def test_edges_agree_with_logistic_regression(name):
    """statsmodels: independent runs, no floor, no lapse, not separated, many seeds."""
    import statsmodels.api as sm

    seeds, x = 200, np.log10(LRS)
    k = draw([CURVES[name]], LRS, seeds, rng=np.random.default_rng(8), share=0)[0, 0]
    one = fit(LRS, k)
    glm = sm.GLM(np.c_[k.sum(0), seeds - k.sum(0)], sm.add_constant(x), family=sm.families.Binomial()).fit()
    constant, slope = glm.params
    for level, close in ((0.5, 0.15), (0.05, 0.6)):
        offset = special.logit(level)
        at = (offset - constant) / slope
        gradient = np.array([-1 / slope, -(offset - constant) / slope**2])
        error = float(np.sqrt(gradient @ glm.cov_params() @ gradient))
        low, edge, high = one.edge(level, QUANTILES)
        # In standard errors. A floor and a lapse that may differ from 0 cost something, in the tail above all.
        assert abs(edge - at) < close * 2 * error
        assert 0.9 < (high - low) / (2 * 1.96 * error) < (1.2 if level == 0.5 else 2)


@pytest.mark.parametrize(("share", "seeds"), [(1.0, 4), (0.5, 6), (0.0, 5)])
def test_posterior_agrees_with_a_sum_over_prior_draws(share, seeds):
    """An oracle of its own: parameters drawn from the prior, each seed's threshold integrated by quadrature."""
    lrs = LRS[::2]
    y = draw([CURVES["shallow"]], lrs, seeds, rng=np.random.default_rng(9), share=share)[0, 0]
    rng, n = np.random.default_rng(10), 40_000
    x = np.log10(lrs)
    mu = rng.uniform(x[0] - PAD, x[-1] + PAD, n)
    sigma = 10 ** rng.uniform(np.log10(SIGMA[0]), np.log10(SIGMA[1]), n)
    floor = rng.choice(FLOOR, n, p=FLOOR_PRIOR)
    chance = rng.choice(LAPSE, n, p=LAPSE_PRIOR)
    of_seed = (rng.random(n) < 0.5) & (chance > LAPSE[0])
    lapse, immune = np.where(of_seed, LAPSE[0], chance), np.where(of_seed, chance, 0)
    tau = rng.choice([0.0, 0.5, 0.85, 1.0], n, p=[0.7, 0.15, 0.1, 0.05]) * sigma
    omega = np.sqrt(sigma**2 - tau**2)
    likelihood = np.zeros((seeds, n))
    nodes = 200
    for quantile in (np.arange(nodes) + 0.5) / nodes:
        t = mu + omega * special.logit(quantile)
        with np.errstate(divide="ignore", invalid="ignore"):
            above = np.where(tau > 0, special.expit((x[:, None] - t) / tau), x[:, None] >= t)
        p = floor + (1 - floor) * (1 - lapse) * above
        likelihood += np.array([np.prod(np.where(seed[:, None] == 1, p, 1 - p), axis=0) for seed in y]) / nodes
    by_floor = np.array([np.prod(np.where(seed[:, None] == 1, floor, 1 - floor), axis=0) for seed in y])
    weight = ((1 - immune) * likelihood + immune * by_floor).prod(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        need = (0.5 - floor) / ((1 - floor) * (1 - lapse) * (1 - immune))
        edge = np.where(need <= 0, -np.inf, np.where(need >= 1, np.inf, mu + sigma * special.logit(need)))
    order = np.argsort(edge)
    ends = np.cumsum(weight[order])
    wanted = edge[order][np.searchsorted(ends, np.array(QUANTILES) * ends[-1])]
    low, median, high = fit(lrs, y).edge(0.5, QUANTILES)
    assert np.array([low, median, high]) == pytest.approx(wanted, abs=0.1 * (wanted[2] - wanted[0]))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["shallow", "steep", "lapse 0.3", "floor 0.02"])
def test_edges_agree_with_psignifit(name):
    psignifit = pytest.importorskip("psignifit", reason="psignifit is no dependency: pip install psignifit")
    seeds = 40
    k = draw([CURVES[name]], LRS, seeds, rng=np.random.default_rng(4), share=0)[0, 0]
    data = np.c_[np.log10(LRS), k.sum(0), np.full(len(LRS), seeds)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # psignifit's own, about the choice of priors
        result = psignifit.psignifit(data, experiment_type="yes/no", sigmoid="logistic")
        at, intervals = result.threshold(0.5, unscaled=True)
    low, edge, high = fit(LRS, k).edge(0.5, QUANTILES)
    assert abs(edge - float(at)) < 0.3 * (high - low)
    assert 0.6 < (high - low) / float(np.ptp(intervals["0.95"])) < 1.6

"""Intervals of edges on curves that are not logistic: the fast version of `simulation_edges`, and its page."""

import math

import numpy as np
import pytest
import simulation_claims
import statistics_page
from shapes import GRIDS, NEAR, SHAPES
from simulation_edges import differences, intervals, tally

from analysis.stats import edge_posterior
from analysis.stats.edge_posterior import edge_ends, edge_interval
from analysis.stats.edges import edge_of
from analysis.stats.psychometric import fit


def steps_at(*ks, seeds=8):
    """Seeds that each switch once: k of the seeds have diverged at each lr."""
    return (np.arange(seeds)[:, None] < np.array(ks)).astype(float)


def test_pages_show_the_tables_of_the_simulations():
    pages = [page.read_text() for page in statistics_page.PAGES]
    assert list(map(statistics_page.with_new_tables, pages)) == pages, "make statistics writes them"
    assert all(any(f"<!-- table {name} " in page for page in pages) for name in statistics_page.TABLES)


def test_an_oracle_knows_the_slope(monkeypatch):
    drawn = SHAPES["logistic, scale 0.167"].at(0.1).draw(GRIDS["12 even"], 8, np.random.default_rng(5))
    monkeypatch.setattr(simulation_claims, "searches", lambda *_: fit(GRIDS["12 even"], drawn).sigma)
    for shape, scale in simulation_claims.SCALES.items():
        for rule in simulation_claims.ORACLES:
            assert simulation_claims.spending(shape, rule, 1) == pytest.approx(scale, rel=2e-3)


@pytest.mark.parametrize("name", SHAPES)
def test_simulated_rates_equal_the_shape(name):
    shape, rng = SHAPES[name], np.random.default_rng(1)
    lrs, n = GRIDS["12 even"], 4000
    rate = shape.rate(lrs)
    limit = 4 * np.sqrt(rate * (1 - rate) / n) + 2e-3
    assert (np.abs(shape.draw(lrs, n, rng).mean(0) - rate) < limit).all()
    edge = shape.edge(0.5)
    assert shape.rate([edge * 1.0001])[0] >= 0.499 if edge < math.inf else rate.max() < 0.5


@pytest.mark.parametrize(("seeds", "tail"), [(3, 0.015), (4, 0.02), (5, 0.025), (8, 0.025)])
def test_interval_of_few_seeds_leaves_out_less(seeds, tail, monkeypatch):
    lrs = GRIDS["12 even"]
    drawn = SHAPES["logistic, scale 0.167"].at(0.1).draw(lrs, seeds, np.random.default_rng(5))
    low, _, high = edge_interval(fit(lrs, drawn), 0.5)
    monkeypatch.setattr(edge_posterior, "FEW", 0.0)
    (lowest,), (highest,) = edge_ends(fit(lrs, drawn), 0.5, (tail,))[0], edge_ends(fit(lrs, drawn), 0.5, (1 - tail,))[1]
    assert (low, high) == (lowest, highest)


@pytest.mark.parametrize("seeds", [3, 8, 16, 64])
def test_interval_holds_the_whole_gap_in_which_all_seeds_switch(seeds):
    lrs = list(GRIDS["lr_curve"])
    row = edge_of(
        lrs, steps_at(*[0] * 6, *[seeds] * 4, seeds=seeds), fit(lrs, steps_at(*[0] * 6, *[seeds] * 4, seeds=seeds)), 0.5
    )
    assert row["low"] <= lrs[5]
    assert row["high"] >= lrs[6]


def test_interval_of_two_groups_of_seeds_holds_the_gap_of_the_larger():
    lrs = list(GRIDS["12 even"])
    outcomes = steps_at(0, 0, 0, 10, 10, 10, 10, 10, 16, 16, 16, 16, seeds=16)
    found = fit(lrs, outcomes)
    low, edge, high = edge_interval(found, 0.5)
    assert low <= math.log10(lrs[2])
    assert high >= math.log10(lrs[3])
    assert low <= edge <= high


def test_evidence_decides_where_the_logistic_fits():
    lrs = list(GRIDS["12 even"])
    outcomes = steps_at(0, 0, 1, 3, 8, 18, 32, 46, 56, 61, 63, 64, seeds=64)
    found = fit(lrs, outcomes)
    low, _, high = edge_interval(found, 0.5)
    alone = found.edge(0.5, (0.025, 0.975))
    assert high - low < 1.1 * (alone[1] - alone[0])
    lowest, highest = edge_ends(found, 0.5, (0.025, 0.5, 0.975))
    assert (np.array(lowest) <= np.array(highest)).all()


@pytest.mark.parametrize("name", ["cliff", NEAR, "two groups, 35% and 65%, 0.6 decades apart"])
def test_intervals_cover_curves_that_are_not_logistic(name):
    table = intervals(name, "quick", 8, 30)
    for level in (0.5, 0.05):
        said = tally(table[table["level"] == level])
        # Binomial(30, 0.93) lies below 23 with probability 0.1%.
        assert said["covered"] >= 23 / 30


def test_two_curves_with_one_lr50_are_seldom_said_to_differ():
    shares = differences("logistic, scale 0.02", "quick", 16, 40)
    # Binomial(40, 0.05) lies above 7 with probability 0.1%.
    assert all(share <= 7 / 40 for share in shares.values())
    assert len(shares) == 2
    assert math.isnan(differences("cliff", "quick", 16, 40)["differs from cliff"])


@pytest.mark.parametrize("seeds", [16, 64])
def test_one_rate_between_0_and_1_does_not_place_the_edge_within_the_next_gap(seeds):
    """A third of the seeds at one lr and all at the next: two groups of seeds give this, and so does a smooth curve."""
    lrs = list(GRIDS["5 even"])
    outcomes = steps_at(0, seeds // 3, seeds, seeds, seeds, seeds=seeds)
    row = edge_of(lrs, outcomes, fit(lrs, outcomes), 0.5)
    assert row["low"] <= lrs[1]
    assert row["high"] >= lrs[2]

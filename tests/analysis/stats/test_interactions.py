"""Methods within and across members of a family: ratios of ratios, their intervals, and what Holm counts."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import special, stats
from shapes import GRIDS, SHAPES
from simulated_record import simulated_definition, write_simulated_study

from analysis.loading import FamilyMember
from analysis.report.family import text, write
from analysis.stats.contrasts import NORMAL, Points, contrasts, holm, points, ratio_interval
from analysis.stats.forest import fitted_members, forest_of
from analysis.stats.interactions import gains, interaction_interval, interactions
from analysis.stats.psychometric import fit_many
from analysis.text.forest import interaction_text
from study.config import Arm

LRS = GRIDS["12 even"]


def near(lr: float, spread: float = 0.02) -> Points:
    """An edge that is known to a normal distribution about an lr."""
    edge_N = math.log10(lr) + spread * NORMAL
    return Points(lowest_N=edge_N, highest_N=edge_N, x_min=-3, x_max=1)


# --- the interval ---------------------------------------------------------------------------------------------------


def test_it_is_the_interval_of_four_independent_normal_edges():
    """By pencil: (0.4 / 0.1) / (0.2 / 0.1) = 2; log10 of it has a standard deviation of 2 times 0.02."""
    low, high, p = interaction_interval(near(0.4), near(0.1), near(0.2), near(0.1))
    assert (low, high) == pytest.approx((2 * 10 ** (-1.96 * 0.04), 2 * 10 ** (1.96 * 0.04)), rel=0.02)
    assert p < 1e-4
    low, high, p = interaction_interval(near(0.4), near(0.1), near(0.4), near(0.1))
    assert low < 1 < high
    assert p == 1


def test_p_is_that_of_the_normal_difference():
    """log10 of the ratio is 0.08, two standard deviations of 0.04."""
    *_, p = interaction_interval(near(10**-0.92), near(0.1), near(0.1), near(0.1))
    assert p == pytest.approx(2 * special.ndtr(-2), rel=0.05)


def test_swapping_members_inverts_it_and_an_exact_one_leaves_the_ratio_of_the_other():
    a, b, c, d = near(0.4), near(0.1, 0.1), near(0.2), near(0.1)
    low, high, p = interaction_interval(a, b, c, d)
    low_, high_, p_ = interaction_interval(c, d, a, b)
    assert (low, high, p) == pytest.approx((1 / high_, 1 / low_, p_), rel=0.01)
    exact = near(0.3, 1e-9)
    assert interaction_interval(a, b, exact, exact)[:2] == pytest.approx(ratio_interval(a, b)[:2], rel=0.02)


def test_an_edge_that_may_lie_outside_the_tried_lrs_makes_it_one_sided():
    beyond = near(0.4)
    beyond = replace(beyond, highest_N=np.where(special.ndtr(NORMAL) > 0.9, 1.5, beyond.highest_N))
    rest = near(0.1), near(0.2), near(0.1)
    assert interaction_interval(beyond, *rest)[1] == math.inf
    assert interaction_interval(beyond, *rest)[0] == pytest.approx(interaction_interval(near(0.4), *rest)[0])
    assert interaction_interval(near(0.4), near(0.1), beyond, near(0.1))[0] == 0


WITHOUT_A_MODEL = (
    "cliff",
    "two groups, 35% and 65%, 0.6 decades apart",
    "Cauchy, scale 0.05",
    "half steep, half shallow",
    "shoulder of 35% before a cliff",
    "threshold redrawn at each run",
)
"""Curves that the model of the edge does not assume."""


@pytest.mark.parametrize("simulations", [10, pytest.param(80, marks=pytest.mark.slow)])
def test_intervals_cover_on_curves_that_the_model_does_not_assume(simulations):
    """The limits leave room for the binomial error. A gain of 2.5 becomes one of 1.33; and one that stays is 2.5."""
    rng = np.random.default_rng(8)
    held = claimed = n = 0
    for name in WITHOUT_A_MODEL:
        for lr50s in ((0.2, 0.15, 0.25, 0.1), (0.25, 0.1, 0.2, 0.08)):
            shift = 10 ** rng.uniform(-0.1, 0.1, (simulations, 1))
            of_study = [[SHAPES[name].at(lr * s).draw(LRS, 8, rng) for lr in lr50s] for (s,) in shift]
            fits = fit_many(LRS, np.concatenate(of_study))
            true = lr50s[0] / lr50s[1] / (lr50s[2] / lr50s[3])
            for i in range(simulations):
                low, high, p = interaction_interval(*(points(fit) for fit in fits[4 * i : 4 * i + 4]))
                held += low <= true <= high
                claimed += p <= 0.05 and true == pytest.approx(1)
                n += 1
    assert held >= stats.binom.ppf(0.001, n, 0.95), held / n
    assert claimed <= stats.binom.ppf(0.999, n / 2, 0.05), claimed / n * 2


# --- a family -------------------------------------------------------------------------------------------------------

ARMS = (Arm("none"), Arm("agc"), Arm("clippy"))


@pytest.fixture(scope="module")
def family(tmp_path_factory) -> list[FamilyMember]:
    """In `cold` the edge of `none` is at a quarter, and that of `clippy` where it was: it gains four times as much."""
    folder = tmp_path_factory.mktemp("family")
    edges = {
        "warm": {"none": 0.4, "agc": 0.8, "clippy": 0.8},
        "cold": {"none": 0.1, "agc": 0.2, "clippy": 0.8},
    }
    for label, of_methods in edges.items():
        definition = simulated_definition(models=("small",), arms=ARMS, seeds=range(16), name=label)
        write_simulated_study(folder / label, definition, edges=of_methods, with_losses=False)
    return [
        FamilyMember(label=label, words=f"about {label}", against="warm", folder=folder / label, contrasts=2)
        for label in ("warm", "cold", "later")
    ]


def test_gains_are_the_contrasts_of_each_member_and_holm_counts_those_of_all(family: list[FamilyMember]):
    fitted = fitted_members(family)
    table = gains(fitted)
    assert list(zip(table["label"], table["curve"], table["against"], strict=True)) == [
        ("warm", "agc", "none"),
        ("warm", "clippy", "none"),
        ("cold", "agc", "none"),
        ("cold", "clippy", "none"),
    ]
    alone = contrasts(fitted[0].runs, fitted[0].definition)
    assert table["p"].iloc[:2].tolist() == alone.loc[alone["planned"], "p"].tolist()
    not_begun = [math.nan] * 2  # of `later`
    assert table["p_holm"].tolist() == pytest.approx(holm([*table["p"], *not_begun])[:4].tolist())


def test_interactions_say_whose_gain_depends_on_the_member(family: list[FamilyMember]):
    fitted = fitted_members(family)
    table = interactions(fitted, gains(fitted))
    rows = {row["curve"]: row for row in table.to_dict("records")}
    assert list(rows) == ["agc", "clippy"]
    assert {(row["label"], row["label_against"]) for row in rows.values()} == {("cold", "warm")}
    assert rows["clippy"]["low"] < 4 < rows["clippy"]["high"]
    assert rows["clippy"]["low"] > 1.5
    assert rows["clippy"]["p_holm"] < 0.05
    assert rows["agc"]["low"] < 1 < rows["agc"]["high"]
    assert rows["agc"]["p_holm"] > 0.05
    p = [row["p"] for row in rows.values()]
    assert [row["p_holm"] for row in rows.values()] == pytest.approx(holm([*p, math.nan, math.nan])[:2].tolist())


def test_the_page_of_a_family_says_both(family: list[FamilyMember], tmp_path: Path):
    fitted = fitted_members(family)
    forest, of_methods = forest_of(fitted), gains(fitted)
    between = interactions(fitted, of_methods)
    page = write(tmp_path, "warm-up", family, forest, None, of_methods, between).read_text()
    assert "Each method within each study" in page
    assert "Does what a method gains depend on the study?" in page
    assert "about cold, small, clippy against none: its gain is " in page
    said = text(forest, of_methods, between)
    assert "about cold, small, agc against none: no significant difference to its gain with about warm (ratio" in said
    assert len(pd.read_csv(tmp_path / "tables" / "interactions.csv")) == 2
    assert len(pd.read_csv(tmp_path / "tables" / "gains.csv")) == 4


def test_a_family_of_one_method_has_no_such_sections(tmp_path: Path):
    for label in ("a", "b"):
        definition = simulated_definition(models=("small",), arms=ARMS[:1], name=label)
        write_simulated_study(tmp_path / label, definition, with_losses=False)
    members = [FamilyMember(label=label, words=label, against="a", folder=tmp_path / label) for label in ("a", "b")]
    fitted = fitted_members(members)
    of_methods = gains(fitted)
    between = interactions(fitted, of_methods)
    assert of_methods.empty
    assert between.empty
    page = write(tmp_path, "one", members, forest_of(fitted), None, of_methods, between).read_text()
    assert "Each method within" not in page
    assert "Does what" not in page


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, "its gain is 2.0 times that with warm (95% interval 1.2 to 3.3; p 0.010)."),
        ({"p_holm": 0.2}, "no significant difference to its gain with warm (ratio 1.2 to 3.3; p 0.20)."),
        (
            {"ratio": math.nan, "high": math.inf, "status": "at least"},
            "its gain is more than 1.2 times that with warm (95% confidence; p 0.010).",
        ),
        (
            {"ratio": math.nan, "low": 0.0, "high": math.inf, "status": "undecided", "p_holm": 1.0},
            "the lrs tried do not determine how its gain differs from that with warm (p 1.0).",
        ),
    ],
)
def test_a_sentence_has_one_verdict(change: dict, words: str):
    row = {"words": "cold", "model": "small", "curve": "agc", "against": "none", "words_against": "warm"}
    row |= {"ratio": 2.0, "low": 1.2, "high": 3.3, "status": "known", "monotone": True, "p_holm": 0.01}
    assert interaction_text(row | change) == f"cold, small, agc against none: {words}"

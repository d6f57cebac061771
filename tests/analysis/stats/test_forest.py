"""The ratio of an edge in one study to that in another."""

import math
from dataclasses import replace

import pandas as pd
import pytest
from simulated_record import simulated_definition, write_simulated_study

from analysis.loading import FamilyMember
from analysis.stats.edges import REACHED, edges, fits
from analysis.stats.forest import FittedMember, fitted_members, forest_of
from study.config import Arm

ARMS = (Arm("none"),)


@pytest.fixture(scope="module")
def members(tmp_path_factory) -> list[FittedMember]:
    folder = tmp_path_factory.mktemp("family")
    for label, lr in (("warm", 0.4), ("cold", 0.1)):
        definition = simulated_definition(models=("small",), arms=ARMS, seeds=range(16), name=label)
        write_simulated_study(folder / label, definition, edges={"none": lr}, with_losses=False)
    return fitted_members(
        [FamilyMember(label=x, words=x, against="warm", folder=folder / x, contrasts=0) for x in ("warm", "cold")]
    )


def falling_again(one: FittedMember) -> FittedMember:
    """The runs of the highest lrs live."""
    assert one.runs is not None
    runs = one.runs.assign(outcome=one.runs["outcome"].where(one.runs["lr"] < 0.8, "completed"))
    return fitted(one, runs)


def fitted(one: FittedMember, runs: pd.DataFrame) -> FittedMember:
    return replace(one, runs=runs, fitted=fits(runs))


def test_a_ratio_is_that_of_a_contrast(members):
    table = forest_of(members).set_index("label")
    assert math.isnan(table.loc["warm", "ratio"])
    assert table.loc["cold", "against"] == "warm"
    assert 0.15 < table.loc["cold", "ratio_low"] < table.loc["cold", "ratio"] < table.loc["cold", "ratio_high"] < 0.5
    assert table.loc["cold", "p"] < 0.05


def test_the_ratio_of_a_curve_that_falls_again_has_bounds_and_no_p(members):
    """It had the interval and the p of a curve that rises."""
    warm, cold = members
    for family in ([falling_again(warm), cold], [warm, falling_again(cold)]):
        row = forest_of(family).set_index("label").loc["cold"]
        edge = [edges(one.runs, 0.5, one.fitted).iloc[0] for one in family]
        assert [bool(e["monotone"]) for e in edge].count(False) == 1
        assert math.isnan(row["p"])
        assert row["ratio_low"] == pytest.approx(edge[1]["bound_low"] / edge[0]["bound_high"])
        assert row["ratio_low"] < 0.25 < row["ratio_high"]


def test_an_edge_that_was_not_reached_has_no_number(members):
    warm, cold = members
    alive = fitted(cold, cold.runs.assign(outcome="completed"))
    row = forest_of([warm, alive]).set_index("label").loc["cold"]
    assert math.isnan(row["ratio"])
    assert row["ratio_high"] == math.inf
    assert edges(warm.runs, 0.5, warm.fitted)["status"].tolist() == [REACHED]

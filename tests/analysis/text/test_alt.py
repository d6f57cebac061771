"""What figures say in words, with their numbers."""

import pandas as pd
from simulated_record import simulated_definition
from threshold_runs import runs_of, star

from analysis.figures.panels import threshold_lines
from analysis.stats.edges import edges
from analysis.stats.frontier import frontier, threshold_map, tradeoff
from analysis.stats.onsets import LOST_AT
from analysis.stats.rates import divergence_rates
from analysis.text import alt
from analysis.text.edges import edge_span, edge_text

RUNS = runs_of(("none", {}, 0.4), ("clippy", {}, 90), seeds=range(8))


def test_edges_and_bounds_are_told() -> None:
    none, clippy = edges(RUNS).to_dict("records")
    said = alt.divergence(edges(RUNS))
    assert f"none: crosses 50% at lr {edge_text(none)} ({edge_span(none)})" in said
    assert f"clippy: stays below 50% up to lr {clippy['lr_max']:g}, at most 0 of 8." in said


def test_many_curves_are_told_in_part() -> None:
    many = pd.concat([edges(RUNS).assign(curve=f"c{i}") for i in range(10)])
    assert alt.divergence(many).endswith("And 8 more.")
    assert alt.divergence(many.iloc[:0]) == "P(divergence) against the learning rate."


def test_thresholds_and_the_front_are_told() -> None:
    runs = star()
    lines = [line for _, line in threshold_lines(frontier(runs))]
    assert "LR50 " in alt.frontier(lines)
    assert "with all" in alt.threshold_map(threshold_map(runs))
    table = tradeoff(runs, simulated_definition())
    assert alt.tradeoff(table).count(" diverged") == table["pareto"].sum()


def test_the_course_of_runs_is_told() -> None:
    rows = [("a", 0, 0.0), ("a", 20, 0.25), ("a", 40, 0.5), ("a", 200, 0.5)]
    table = pd.DataFrame(rows, columns=pd.Index(["curve", "step", "share"])).assign(model="m", runs=8, known=True)
    assert alt.horizon(table) == (
        "Share of diverged runs over steps. a: 50% of 8 runs by step 200, half of these by step 20."
    )
    broken = {"model": "m", "curve": "a", "lr": 0.8, "seed": 3, "reason": "never_learned", LOST_AT: 25.0}
    said = alt.gallery([(broken, {"lr": 0.4})], LOST_AT)
    assert said.endswith("a: lr 0.8, seed 3, never learned, lost at step 25; healthy: lr 0.4.")
    assert "none: none" in alt.micro(divergence_rates(RUNS))

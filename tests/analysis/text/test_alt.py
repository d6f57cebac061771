"""What figures say in words, with their numbers."""

import math
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from PIL import Image
from scale_record import points
from simulated_record import simulated_definition
from threshold_runs import runs_of, star

from analysis.figures.panels import threshold_lines
from analysis.report.figures import said
from analysis.report.html import image
from analysis.stats.edges import edges
from analysis.stats.frontier import frontier, threshold_map, tradeoff
from analysis.stats.onsets import LOST_AT
from analysis.stats.rates import divergence_rates
from analysis.stats.scale import scale_tables
from analysis.text import alt
from analysis.text.edges import edge_span, edge_text
from analysis.text.format import span_text, two_digits

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


def test_lines_that_differ_in_what_is_held_have_names_of_their_own() -> None:
    grid = [(rel, own) for rel in (0.05, 0.5) for own in (0.01, 0.1)]
    runs = runs_of(*(("clippy", {"rel": rel, "abs": own}, 0.8 if own > 0.01 else math.inf) for rel, own in grid))
    of_map, of_edges = (
        alt.threshold_map(threshold_map(runs)),
        alt.frontier([x for _, x in threshold_lines(frontier(runs))]),
    )
    for told in (of_map, of_edges):
        for held in ("rel (abs=0.01)", "rel (abs=0.1)", "abs (rel=0.05)", "abs (rel=0.5)"):
            assert f"clippy {held}: " in told
    assert "clippy rel (abs=0.01): of 10 cells, 10 without divergence, 0 in between, 0 with all" in of_map


def test_edges_against_a_size_are_told() -> None:
    edges_at = points((1, 2, 3, 4), [0.9, 0.6, 0.5, 0.45], 0.02)
    found = scale_tables("depth", edges_at, (8,))
    told, row = alt.scale(found), found.predictions.iloc[0]
    assert told.startswith("LR50 against depth, with 95% intervals. ")
    for point in edges_at.to_dict("records"):
        assert f"{edge_text(point)} ({edge_span(point)}) at {point['size']:g}" in told
    assert f"predicted at 8: {two_digits(row['edge'])} ({span_text(row['low'], row['high'])})" in told


def test_a_png_of_a_page_carries_what_it_shows(tmp_path: Path) -> None:
    image(said(Figure(), "clippy: crosses 50%"), tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").text["Description"] == "clippy: crosses 50%"

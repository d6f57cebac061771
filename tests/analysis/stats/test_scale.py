"""Edges against a size: the posterior, predictions, and what is not predicted."""

import math

import numpy as np
import pandas as pd
import pytest
from scale_record import points
from simulated_scale import DEEPER, DEPTHS, WIDER, WIDTHS, coverage, extrapolations, simulated_predictions

from analysis.loading import records
from analysis.stats.power_law import measurement_error
from analysis.stats.scale import CANNOT_SAY, PREDICTED, bands, exponents, predictions
from analysis.text.scale import warnings

SIZES = (1, 2, 3, 4, 6)


def law(sizes, exponent=-0.5, edge=0.9, bend=0.0):
    return [edge * size**exponent * math.exp(bend * math.log(size) ** 2) for size in sizes]


def only(table: pd.DataFrame) -> dict:
    (row,) = records(table)
    return row


def test_error_is_the_longer_half_of_the_interval():
    assert measurement_error(1.0, math.exp(-0.196), math.exp(0.098)) == pytest.approx(0.1, rel=1e-3)
    assert measurement_error(1.0, math.exp(-0.196), math.inf) == pytest.approx(0.2, rel=1e-3)
    assert measurement_error(1.0, 0.0, math.inf) == math.inf


@pytest.mark.parametrize("exponent", [-1.0, -0.5, 0.0, 0.4])
def test_exponent_of_a_power_law_is_recovered(exponent):
    row = only(exponents(points(SIZES, law(SIZES, exponent), 0.02)))
    assert row["exponent"] == pytest.approx(exponent, abs=0.03)
    assert row["exponent_low"] < exponent < row["exponent_high"]
    assert row["bend_low"] < 0 < row["bend_high"]
    assert row["left_out"] == pytest.approx(1, abs=0.1)
    assert row["left_out_inside"]
    assert (row["sizes"], row["reached"], row["smallest"], row["largest"], row["why"]) == (5, 5, 1, 6, "")


def test_exponent_agrees_with_weighted_least_squares_where_errors_are_small():
    sizes = np.geomspace(1, 1000, 9)
    rng = np.random.default_rng(0)
    edges = np.exp(np.log(law(sizes, -0.4, bend=-0.02)) + 0.03 * rng.normal(size=9))
    row = only(exponents(points(sizes, edges, 0.03)))
    u = np.log(sizes) - np.log(sizes).mean()
    c, b, _ = np.polyfit(u, np.log(edges), 2)
    assert row["exponent"] == pytest.approx(b, abs=0.01)
    assert row["bend"] == pytest.approx(2 * math.log(10) * c, abs=0.02)


def test_prediction_widens_with_distance_and_contains_a_line():
    table = predictions(points(SIZES, law(SIZES), 0.02), (8, 12, 24))
    assert table["size"].tolist() == [8, 12, 24]
    assert set(table["status"]) == {PREDICTED}
    assert np.allclose(table["edge"], law((8, 12, 24)), rtol=0.1)
    widths = np.log(table["high"] / table["low"])
    assert (np.diff(widths) > 0).all()
    assert (table["low"].to_numpy() < law((8, 12, 24))).all()
    assert (table["high"].to_numpy() > law((8, 12, 24))).all()
    assert table["measured_status"].tolist() == [""] * 3


def test_trained_sizes_from_the_smallest_predicted_one_upward_are_left_out_of_the_fit():
    all_sizes = (*SIZES, 8, 12)
    lower = [*law(all_sizes)[:-1], 0.02]
    table = predictions(points(all_sizes, lower, 0.02), (8, 24))
    assert table["size"].tolist() == [8, 12, 24]
    assert set(table["fitted"]) == {5}
    assert table["inside"].tolist() == [True, False, None]
    alone = predictions(points(SIZES, law(SIZES), 0.02), (8, 24))
    for size in (8, 24):
        for end in ("low", "edge", "high"):
            assert table.set_index("size").loc[size, end] == alone.set_index("size").loc[size, end]


def test_censored_edges_enter_as_bounds():
    """A line of which the small sizes lie above the range is steeper than its reached edges alone would allow."""
    sizes = (1, 2, 4, 8, 16, 32)
    edges = law(sizes, -0.5, edge=4)
    censored = points(sizes, edges, 0.1, lr_max=2.5)
    assert censored["status"].tolist() == ["not reached"] * 2 + ["reached"] * 4
    row, without = only(exponents(censored)), only(exponents(censored.iloc[2:]))
    assert row["reached"] == 4
    assert row["exponent_low"] < -0.5 < row["exponent_high"]
    flat = points(sizes, [9, 9, 1, 1, 1, 1], 0.3, lr_max=2.5)
    assert only(exponents(flat))["exponent"] < only(exponents(flat.iloc[2:]))["exponent"] - 0.05
    assert without["reached"] == 4


@pytest.mark.parametrize(
    ("sizes", "edges", "target", "changes", "words"),
    [
        (SIZES, law(SIZES), 48, {}, "too far"),
        (SIZES, [5.0] * 5, 12, {"lr_max": 2.0}, "0 of 5 edges were reached; the others lie above"),
        (SIZES, [0.001] * 5, 12, {"lr_min": 0.01}, "lie below"),
        (SIZES, [5.0, 5.0, 5.0, 1.0, 0.9], 12, {"lr_max": 2.0}, "2 of 5 edges"),
        (SIZES, [*law(SIZES)[:4], 0.05], 12, {}, "outside its prediction"),
        ((1, 2, 4, 8, 16, 32, 64), [1, 4, 0.5, 3, 0.4, 5, 1], 128, {}, "scatter"),
        (SIZES, law(SIZES), 30, {"error": 0.6}, "spans a factor"),
    ],
)
def test_cannot_say_with_a_reason(sizes, edges, target, changes, words):
    row = only(predictions(points(sizes, edges, **{"error": 0.03} | changes), (target,)))
    assert row["status"] == CANNOT_SAY
    assert words in row["why"]
    assert all(math.isnan(row[name]) for name in ("low", "edge", "high"))
    assert row["inside"] is None


def test_censored_edges_that_contradict_the_others_determine_no_curve():
    row = only(exponents(points((1, 2, 4, 8, 16, 32), [9, 9, 1, 1, 1, 1], 0.03, lr_max=2.5)))
    assert math.isnan(row["exponent"])
    assert "no curve fits" in row["why"]
    assert row["left_out_inside"] is None


def test_a_line_with_too_few_smaller_sizes_is_not_predicted():
    lines = pd.concat([points(SIZES, law(SIZES)), points((1, 2, 6), law((1, 2, 6)), curve="agc")])
    rows = records(predictions(lines, (6,)))
    assert [row["status"] for row in rows] == [PREDICTED, CANNOT_SAY]
    assert "a fit needs 3 sizes below 6, and it has 2" in rows[1]["why"]
    assert rows[1]["measured"] == law((6,))[0]


def test_distance_that_was_tested_is_stated():
    row = only(exponents(points((16, 32, 64, 128, 256), law((16, 32, 64, 128, 256), -0.1), 0.02)))
    assert row["tested"] == 4  # 16 to 64 predict 256


def test_difference_of_exponents_tells_a_level_from_an_exponent():
    same = pd.concat([points(SIZES, law(SIZES), 0.02), points(SIZES, law(SIZES, edge=3), 0.02, curve="agc")])
    first, second = records(exponents(same))
    assert math.isnan(first["difference"])
    assert second["difference_low"] < 0 < second["difference_high"]
    other = pd.concat([points(SIZES, law(SIZES), 0.02), points(SIZES, law(SIZES, 0.2), 0.02, curve="agc")])
    assert records(exponents(other))[1]["difference_low"] > 0.3


def test_a_size_below_what_was_trained_or_too_few_below_it_are_refused():
    line = points(SIZES, law(SIZES), 0.02)
    with pytest.raises(ValueError, match="above the smallest"):
        predictions(line, (0.5,))
    with pytest.raises(ValueError, match="needs 3 sizes below 3"):
        predictions(line, (3,))


def test_band_of_a_figure_is_the_prediction():
    line = points(SIZES, law(SIZES), 0.02)
    band = bands(line, 12, 5)
    assert band["size"].iloc[-1] == pytest.approx(12)
    predicted = only(predictions(line, (12,)))
    for end in ("low", "edge", "high"):
        assert band[end].iloc[-1] == pytest.approx(predicted[end])
    assert bands(points(SIZES, [5.0] * 5, lr_max=2.0), 12).empty


def test_results_do_not_depend_on_the_order_of_sizes():
    line = points(SIZES, law(SIZES), 0.02)
    pd.testing.assert_frame_equal(predictions(line, (12,)), predictions(line.iloc[::-1], (12,)))


def test_edges_without_an_interval_are_not_reached_for_a_fit():
    line = points(SIZES, law(SIZES), 0.02)
    line.loc[[0, 1, 2], "low"], line.loc[[0, 1, 2], "high"] = 0.0, math.inf
    row = only(exponents(line))
    assert row["reached"] == 2
    assert row["why"] == "2 of 5 edges were reached; the others have no interval"
    assert set(predictions(line, (8,))["status"]) == {CANNOT_SAY}


def test_a_curve_whose_next_size_lay_outside_is_named():
    edges = law(SIZES)
    line = points(SIZES, [*edges[:3], edges[3] / 4, edges[4] / 4], 0.02)
    row = only(exponents(line))
    assert row["tested"] == 1
    assert any("the next size lay outside its prediction" in said for said in warnings(exponents(line)))


def test_only_sizes_that_would_be_predicted_count_as_tested():
    sizes = (1, 1.1, 1.2, 12, 13, 14)
    row = only(exponents(points(sizes, law(sizes), 0.02)))
    assert row["tested"] == pytest.approx(14 / 12), "12 lies too far from 1 to 1.2"


@pytest.mark.parametrize(("sizes", "drawn", "records"), [("five", "edges", 40), ("five", "runs", 5)])
def test_small_version_of_the_table_of_predictions(sizes, drawn, records):
    rows = extrapolations("levels off", sizes, drawn, records)
    assert [row["times"] for row in rows] == [2, 4]
    assert min(row["covered"] for row in rows) >= 0.8, (
        "less by chance once in a thousand of 40 records, and once in fifty of 5"
    )
    assert rows[0]["width"] < rows[1]["width"]


@pytest.mark.slow
@pytest.mark.parametrize("law_name", ["exponent -0.5", "bend down", "bend up", "broken"])
@pytest.mark.parametrize(("trained", "targets"), [(DEPTHS, DEEPER), (WIDTHS, WIDER)])
def test_prediction_intervals_hold_the_true_edge(law_name, trained, targets):
    table = simulated_predictions(
        law_name,
        trained,
        targets,
        seeds=16,
        share=1.0,
        simulations=60,
        scatter=0.05,
        rng=np.random.default_rng(7),
    )
    found = coverage(table)
    assert found["predicted"] > 0.6
    assert found["covered"] >= 0.93

"""Line styles and axes: methods stay distinguishable, ticks readable."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from analysis.figures.axes import lr_axis
from analysis.figures.palette import KNOWN, OTHERS, curve_styles, heat, method_styles


def test_each_method_has_its_own_colour_marker_and_dash():
    every = [*KNOWN.values(), *OTHERS]
    assert len({style.colour for style in every}) == len({style.marker for style in every}) == len(every)
    assert len({style.dash for style in every}) == len(every)
    assert method_styles(["zzz", "none"])["none"] == method_styles(["none"])["none"]


def test_arms_of_a_loop_keep_their_order_and_the_first_is_black():
    styles = method_styles(["plain", "qk_norm", "clippy"])
    assert list(styles) == ["plain", "qk_norm", "clippy"]
    assert styles["plain"].colour == "#000000"
    assert styles["clippy"] == KNOWN["clippy"]
    assert len(set(method_styles(f"arm{i}" for i in range(len(KNOWN) + len(OTHERS))).values())) == len(KNOWN) + len(
        OTHERS
    )


def test_heat_only_gets_darker():
    light = [0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b, _ in heat()(np.linspace(0, 1, 50))]
    assert (np.diff(light) < 0).all()
    assert light[0] - light[-1] > 0.6


@pytest.mark.parametrize(("low", "high"), [(0.01, 1.6), (0.3, 0.4), (0.1, 0.1), (1e-4, 100), (0.02, 3)])
def test_lr_axis_has_few_round_ticks(low, high):
    ax = Figure().add_subplot()
    lr_axis(ax, [low, high])
    ticks = [float(t) for t in ax.get_xticks()]
    labels = [ax.xaxis.get_major_formatter()(t) for t in ticks]
    assert 1 <= len(ticks) <= 9
    assert len(set(labels)) == len(labels)
    assert all("e" not in label or float(label) < 1e-3 for label in labels)


def luminance(colour: str) -> float:
    """How light a colour is in grey, from 0 to 1."""
    r, g, b = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return 0.299 * r + 0.587 * g + 0.114 * b


@pytest.mark.parametrize("method", KNOWN)
@pytest.mark.parametrize("count", [2, 4])
def test_curves_of_a_method_can_be_told_apart_in_grey(method: str, count: int) -> None:
    curves = [f"{method} c={i}" for i in range(count)]
    styles = curve_styles(pd.DataFrame({"method": method, "curve": curves}))
    assert styles[curves[0]].marker == KNOWN[method].marker
    assert len({style.marker for style in styles.values()}) == len({style.colour for style in styles.values()}) == count
    assert len({style.dash for style in styles.values()}) == count
    grey = [luminance(styles[curve].colour) for curve in curves]
    assert grey[-1] - grey[0] > 0.3
    alone = curve_styles(pd.DataFrame({"method": [method], "curve": [method]}))
    assert alone == {method: KNOWN[method]}


def test_no_curve_has_the_marker_of_another_method() -> None:
    methods = ["none", "agc", "agc", "clippy", "clippy"]
    styles = curve_styles(
        pd.DataFrame({"method": methods, "curve": ["none", "agc 1", "agc 2", "clippy 1", "clippy 2"]})
    )
    assert len({style.marker for style in styles.values()}) == 5

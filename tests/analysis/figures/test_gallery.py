"""The figure of diverged runs beside healthy ones."""

import numpy as np
import pandas as pd
import pytest
from drawing import drawn

from analysis.figures.axes import REPORT, figure_style, paper
from analysis.figures.gallery import gallery
from analysis.stats.onsets import LOST_AT


@pytest.mark.parametrize("page", [REPORT, paper(3.3)])
def test_the_legend_lies_between_title_and_curves(page):
    steps = np.arange(100)
    runs = {"a": np.where(steps < 50, 0.1, 0.0), "b": np.full(100, 0.1)}
    gains = pd.concat([pd.DataFrame({"run_id": i, "step": steps, "gain": g, "smooth": g}) for i, g in runs.items()])
    shared = {"method": "none", "model": "small", "curve": "none", "lr": 0.4, "seed": 0}
    pair = (shared | {"run_id": "a", "reason": "never_learned", LOST_AT: 50}, shared | {"run_id": "b", "reason": ""})
    with figure_style(page):
        figure = drawn(gallery([pair, pair, pair], gains, page))
        for ax in figure.axes:
            legend = ax.get_legend().get_window_extent()
            title = next(child for child in ax.get_children() if getattr(child, "get_text", str)() == "small, none")
            assert ax.bbox.y1 <= legend.y0 < legend.y1 <= title.get_window_extent().y0

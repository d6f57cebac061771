"""Which curves share a panel."""

import pandas as pd
from drawing import drawn
from threshold_runs import runs_of

import analysis
from analysis.figures import curves
from analysis.figures import frontier as frontier_figures
from analysis.figures.panels import draw_panels, panels
from analysis.stats.frontier import frontier


def test_many_curves_get_a_panel_a_threshold_beside_none(crossed):
    runs, fitted = crossed
    table = frontier(runs, fitted=fitted)
    many = pd.concat([runs, runs_of(*(("lamb", {"mu": mu}, 0.8) for mu in (0.1, 0.2, 0.4, 0.8)))], ignore_index=True)
    rates = analysis.divergence_rates(many)
    (one,) = panels(analysis.divergence_rates(runs), ["small"], table)
    assert (one.title, len(one.styles), one.names) == ("small", 9, None)
    lambs = frontier(many[many["method"] == "lamb"])
    lines = pd.concat([table, lambs], ignore_index=True)
    parts = panels(rates, ["small"], lines)
    assert [p.title for p in parts] == [*(ax.get_title(loc="left") for ax in frontier_figures.frontier(lines).axes)]
    for part in parts:
        assert next(iter(part.styles)) == "none"
        assert len(part.names or ()) == len(part.styles) == len({look.colour for look in part.styles.values()})
    assert set().union(*(part.styles for part in parts)) == set(rates["curve"])
    loose = lines.assign(threshold=lines["threshold"].where(lines["method"] != "lamb", ""))
    apart = panels(rates, ["small"], loose)
    assert set(apart[0].styles) == {"none", *(f"lamb mu={mu}" for mu in (0.1, 0.2, 0.4, 0.8))}
    drawn(draw_panels(parts, lambda ax, p: curves.draw_micro(ax, rates, p.styles)))

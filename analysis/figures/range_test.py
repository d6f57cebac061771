"""The loss of range tests against the lr: one thin line a seed, and what each rule would suggest."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.figures.axes import REPORT, Page, label_y, lr_axis, panel_figure, sizes
from analysis.figures.panels import MOST_PANELS, evenly_spaced
from analysis.loading import CURVE, records
from analysis.stats.range_tests import RAMP, grouped
from analysis.text.range_tests import NAMES, lr_words

COLOURS = {
    "explosion": "#000000",
    "lightning": "#D55E00",
    "valley": "#0072B2",
    "steep": "#009E73",
    "minimum": "#CC79A7",
}
"""Colours of Okabe and Ito, one a rule."""

SHOWN = 2.0
"""How many times the first loss is at the top of a panel: what explodes leaves it."""

MARKS = {"explosion": "x", "lightning": "o", "valley": "v", "steep": "^", "minimum": "s"}


def range_tests(tests: pd.DataFrame, rules: pd.DataFrame, page: Page = REPORT) -> Figure:
    """Return a figure with a panel for each curve and ramp.

    Args:
        tests: `read_range_tests` with the column `curve`.
        rules: `analysis.stats.range_tests.over_seeds`.
        page: Sizes of the panels.
    """
    tests_of, rules_of = (grouped(table, [*CURVE, *RAMP]) for table in (tests, rules))
    keys = evenly_spaced(list(rules_of), MOST_PANELS)
    figure, every = panel_figure(len(keys), page)
    for ax, key in zip(every, keys, strict=True):
        size, of_panel = sizes(ax), tests_of[key]
        model, curve, low, high, steps = key
        first = [float(loss[0]) for loss in of_panel["loss"] if len(loss) and np.isfinite(loss[0])]
        top = SHOWN * max(first, default=1.0)
        lowest = [float(np.nanmin(loss)) for loss in of_panel["loss"] if np.isfinite(loss).any()]
        bottom = min([*lowest, *first, 0.0 if not lowest else np.inf])
        for test in records(of_panel):
            shown = np.where(np.isfinite(test["loss"]), np.clip(test["loss"], None, 2 * top), np.nan)
            ax.plot(test["step_lr"], shown, color="#888888", lw=0.45 * size.line, alpha=0.6)
        reach = top - bottom
        for place, row in enumerate(records(rules_of[key])):
            y = bottom - reach * (0.07 + 0.055 * place)
            ends = [min(row[name], high) for name in ("lower", "upper")]
            colour, name = COLOURS[row["rule"]], NAMES[row["rule"]]
            if np.isfinite(row["middle"]):
                ax.plot(ends, [y, y], color=colour, lw=0.9 * size.line)
                ax.plot(row["middle"], y, MARKS[row["rule"]], color=colour, ms=4, mew=1.2, label=name, ls="")
            else:
                name += f": {lr_words(row['middle'], high)}"
                ax.plot([], [], MARKS[row["rule"]], color=colour, ms=4, mew=1.2, label=name, ls="")
        ax.set_ylim(bottom - 0.36 * reach, top)
        ax.set_yticks([tick for tick in ax.get_yticks() if bottom - 0.01 * reach <= tick <= top])
        suggested = rules_of[key][["middle", "lower"]].to_numpy(dtype=float)
        lr_axis(ax, [low, high, *suggested[np.isfinite(suggested)]])  # a tenth of an lr may lie below the ramp
        label_y(ax, "training loss of the step")
        ax.set_title(f"{model}, {curve}: {steps} steps")
        ax.legend(loc="upper left", fontsize=size.text, borderaxespad=0.2, handlelength=1.2)
    return figure

"""Each method at its best, over all of its learning rates and thresholds: the paper's Table 2, with intervals.

Tang et al., *Improving Training Stability for Multitask Ranking Models in Recommender Systems*, KDD 2023 (arXiv
2302.09178), Table 2: AUC and RMSE of each method on each network, at the better of two learning rates and the best of
each clip's thresholds, and whether training diverged; three copies, without intervals.

Here the learning rate and thresholds for a seed are chosen by the other seeds, on the training days
(`analysis.stats.quality.chosen_by_others`), and the seed judges on the held-out day: nothing is chosen by what judges
it. A diverged run is the worst result, never a missing one.
"""

import math
import sys
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from analysis.loading import method_order, tasks_of, with_curves
from analysis.stats.contrasts import holm
from analysis.stats.intervals import mean_interval, median_interval, wilson
from analysis.stats.quality import chosen_by_others, worst_filled
from study.config import EdgeSearch, QualitySearch, Study
from study.record.definition import Definition


def has_choices(study: Study) -> bool:
    """Return whether the study plans fixed runs with several arms of a method."""
    methods = [arm.method for arm in study.arms]
    return not isinstance(study.search, EdgeSearch | QualitySearch) and len(methods) > len(set(methods))


def table2(runs: pd.DataFrame, definition: Definition) -> pd.DataFrame:
    """Return the quality of each model and method at its best lr and threshold.

    Args:
        runs: One row a run (`analysis.load`).

    Returns:
        One row a model and method that has runs; columns model, method; curve, lr (the choice of most seeds); n, k,
        rate, low, high (the runs that judge and diverged, with the 95% Wilson interval); for each held-out quality
        (`auc_<task>`, `rmse_<task>`, or a loop's metric) the median over seeds with its exact 95% interval, <name>_low
        and <name>_high (NaN below 6 seeds); more, more_low, more_high, more_p_holm (the mean difference to `clippy` of
        the first quality, paired by seed, with Student's 95% interval and p, by Holm over all methods and models; NaN
        without Clippy or quality, with one common seed, or if all differences are equal); seeds (that judge), agreed
        (the share of seeds with the choice of curve and lr).
    """
    runs = with_curves(runs)
    filled = worst_filled(runs, definition)
    of_tasks = [f"{kind}_{t['name']}" for t in tasks_of(definition.data) for kind in ("auc", "rmse")]
    scores = [name for name in (str(definition.data.get("quality")), *of_tasks) if name in filled]
    diverged = (runs["outcome"] == "diverged").to_numpy(dtype=bool)
    first = str(tasks_of(definition.data)[0]["name"])
    rows = []
    choices_of = chosen_by_others(runs, definition, first, ["model", "method"])
    for (model, method), chosen in choices_of.items():
        if chosen.empty:
            continue
        choices = list(zip(chosen["curve"], chosen["lr"], strict=True))
        curve, lr = max(sorted(set(choices)), key=choices.count)
        row: dict[str, Any] = {"model": model, "method": method, "seeds": len(chosen), "curve": curve, "lr": lr}
        row["agreed"] = choices.count((curve, lr)) / len(choices)
        at = chosen["row"].to_numpy()
        for name in scores:
            low, middle, high = median_interval(filled[name][at])
            row |= {name: middle, f"{name}_low": low, f"{name}_high": high}
        k, n = int(diverged[at].sum()), len(at)
        low, high = (float(end) for end in wilson(k, n))
        against = None if method == AGAINST else choices_of.get((model, AGAINST))
        more = NO_MORE if against is None or not scores else _more(chosen, against, filled[scores[0]])
        rows.append(row | {"k": k, "n": n, "rate": k / n, "low": low, "high": high} | more)
    ends = [f"{name}{end}" for name in scores for end in ("", "_low", "_high")]
    columns = ["model", "method", "curve", "lr", "n", "k", "rate", "low", "high", *ends, *NO_MORE, "seeds", "agreed"]
    rank = {method: i for i, method in enumerate(method_order(row["method"] for row in rows))}
    place = {model: i for i, model in enumerate(definition.study.models)}
    rows.sort(key=lambda row: (place.get(row["model"], len(place)), rank[row["method"]]))
    table = pd.DataFrame(rows, columns=pd.Index(columns))
    others = table["method"] != AGAINST
    table.loc[others, "more_p_holm"] = holm(table.loc[others, "more_p_holm"].to_numpy(dtype=float))
    return table


AGAINST = "clippy"
"""The method that the paper proposes and compares with the others."""

NO_MORE = {"more": math.nan, "more_low": math.nan, "more_high": math.nan, "more_p_holm": math.nan}


def _more(chosen: pd.DataFrame, against: pd.DataFrame, quality: np.ndarray) -> dict[str, float]:
    """`more` of a method, with the p of Student's paired t-test."""
    seeds = chosen.index.intersection(against.index)
    more = quality[chosen.loc[seeds, "row"]] - quality[against.loc[seeds, "row"]]
    if len(more) < 2 or not more.std() > 0:
        return NO_MORE
    low, high = mean_interval(more)
    t = more.mean() / (more.std(ddof=1) / math.sqrt(len(more)))
    p = max(sys.float_info.min, 2 * float(special.stdtr(len(more) - 1, -abs(t))))  # never 0, by underflow
    return {"more": float(more.mean()), "more_low": low, "more_high": high, "more_p_holm": p}

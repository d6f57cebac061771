"""What the columns of the CSV files of reports mean: the one home of their descriptions.

`<name>_low` and `<name>_high` are the ends of the 95% interval of `<name>`, and `low` and `high` those of the answer of
a table: a rate, an edge or a ratio. `<name>_q10` and `<name>_q90` are quantiles over seeds, not an interval.
"""

from collections.abc import Iterable, Mapping
from typing import Any

Column = tuple[str, str]
"""The unit, and what the column is."""

LR, SHARE, RUNS, SEEDS, STEPS, FACTOR = "learning rate", "probability", "runs", "seeds", "steps", "factor"
END = "of the 95% interval"

OF_ALL: dict[str, Column] = {
    "model": ("", "the model"),
    "curve": ("", "the method, and the options in which its arms differ"),
    "method": ("", "the method"),
    "options": ("JSON", "options of the method that are no numbers"),
    "level": (SHARE, "P(divergence) at the edge"),
    "edge": (LR, "the lr at which P(divergence) crosses the level; empty unless status is reached"),
    "lrs": ("lrs", "how many lrs were trained"),
    "lr_min": (LR, "the lowest lr that was trained"),
    "lr_max": (LR, "the highest lr that was trained"),
    "seeds": (SEEDS, "distinct seeds"),
    "steps": (STEPS, "the horizon: steps after which a run is judged"),
    "n_min": (RUNS, "runs of the smallest cell"),
    "n_max": (RUNS, "runs of the largest cell"),
    "quality": ("", "the name of the quality that is meant"),
    "p": (SHARE, "two-sided p of equal edges, not corrected; at least 0.000014, its resolution; empty if not tested"),
    "p_holm": (SHARE, "p, corrected by Holm's method over all planned contrasts; empty if not planned"),
    "monotone": ("", "False if the rate falls again at a higher lr: the interval is then free of a model"),
    "against": ("", "the curve of the comparison"),
    "planned": ("", "whether the study planned the contrast; others are descriptive"),
    "pairs": (SEEDS, "seeds that both curves have"),
}

RATE: dict[str, Column] = {
    "n": (RUNS, "recorded runs"),
    "k": (RUNS, "diverged runs of the n"),
    "rate": (SHARE, "k / n"),
    "low": (SHARE, f"lower end {END} of the rate (Wilson)"),
    "high": (SHARE, f"upper end {END} of the rate (Wilson)"),
}

EDGE: dict[str, Column] = {
    "low": (LR, f"lower end {END} of the edge; 0 if it lies below the lrs that were trained"),
    "high": (LR, f"upper end {END} of the edge; empty if it lies above the lrs that were trained"),
    "status": ("", "reached; not reached: above the lrs that were trained; below the range"),
}

RATIO: dict[str, Column] = {
    "ratio": (FACTOR, "LR50 over that of the curve `against`; empty unless both were reached"),
    "low": (FACTOR, f"lower end {END} of the ratio; 0 if it has none"),
    "high": (FACTOR, f"upper end {END} of the ratio; empty if it has none"),
    "status": ("", "known; at least: only low is known; at most: only high is known; undecided"),
}

MEMBER: dict[str, Column] = {
    "label": ("", "the member of the family: the name of its folder"),
    "words": ("", "what the member changes"),
}

FIT: dict[str, Column] = {
    "axis": ("", "the name of the size"),
    "size": ("that of axis", "the size"),
    "tested": (
        FACTOR,
        "how far beyond the fitted sizes every size lay inside its prediction; 1: not even the nearest",
    ),
    "why": ("", "why nothing can be predicted"),
}


def _ends(name: str, unit: str, what: str) -> dict[str, Column]:
    """A column and the ends of its 95% interval."""
    ends = {
        f"{name}_{end}": (unit, f"{side} end {END} of {name}") for end, side in (("low", "lower"), ("high", "upper"))
    }
    return {name: (unit, what)} | ends


def _quartiles(name: str, what: str) -> dict[str, Column]:
    """A column that is a median of steps, and its quartiles."""
    ends = {f"{name}_q{share}": (STEPS, f"{share}% quantile of {name}, no interval") for share in (25, 75)}
    return {name: (STEPS, f"median of the {what}")} | ends


TABLES: dict[str, tuple[str, dict[str, Column]]] = {
    "edges": (
        "The edge of each curve at each level.",
        EDGE
        | {
            "bound_low": (LR, "without a model: P is below the level at every lr up to here (95%); 0 if at none"),
            "bound_high": (LR, "without a model: P is above the level here (95%); empty if at no lr"),
            "safe_lr": (LR, "the highest lr below the edge up to which no run diverged, else the lowest lr"),
            "safe_k": (RUNS, "diverged runs at safe_lr"),
            "safe_n": (RUNS, "runs at safe_lr"),
            "safe_bound": (SHARE, "one-sided 95% bound of the risk at safe_lr (Clopper-Pearson)"),
            "most_k": (RUNS, "diverged runs of the cell with the highest rate"),
            "most_n": (RUNS, "runs of the cell with the highest rate"),
            "most_lr": (LR, "lr of the cell with the highest rate"),
        },
    ),
    "cells": (
        "The rate of divergence and the quality of each cell: the runs that differ in seed alone.",
        RATE
        | {
            "lr": (LR, "the learning rate; where binned is True, the middle of a quarter octave, for all curves"),
            "binned": ("", "whether lr is the middle of a quarter octave whose lrs are read together, as of a search"),
            "lr_min": (LR, "the lowest lr of the cell that was trained; a binned lr may lie below it"),
            "lr_max": (LR, "the highest lr of the cell that was trained; a binned lr may lie above it"),
            "undertrained": (RUNS, "runs that are slow, not unstable; in n, not in k"),
            "nonfinite": (RUNS, "diverged runs whose loss or weights were not finite"),
            "collapsed": (RUNS, "diverged runs that had learned and lost it"),
            "never_learned": (RUNS, "diverged runs that never learned"),
            "micro": (RUNS, "runs with a micro divergence: a fall of the gain that healed"),
            **_ends("micro_rate", SHARE, "micro / n"),
            "micro_low": (SHARE, f"lower end {END} of micro_rate (Wilson)"),
            "micro_high": (SHARE, f"upper end {END} of micro_rate (Wilson)"),
        },
    ),
    "across_models": (
        "How a method moves the edge over all models of the study.",
        {
            "models": ("models", "models that have both curves"),
            "seeds": (SEEDS, "of the model with the fewest"),
            **_ends("moves", SHARE, "that the edge of a seed is higher with the method; the mean over models"),
            "ratio": (FACTOR, "of the edges: the mean over models of the log ratio; empty unless it is known"),
            "low": (FACTOR, f"lower end {END} of the ratio; 0 if it has none"),
            "high": (FACTOR, f"upper end {END} of the ratio; empty if it has none"),
            "status": ("", "known; at least: only low is known; at most: only high is known; undecided"),
        },
    ),
    "best": (
        "The best quality of each arm within the risk: tuned, then judged on fresh seeds and the held-out day.",
        RATE
        | {
            "lr": (LR, "the lr that was tuned; empty if no cell is within the risk"),
            "n": (RUNS, "runs on fresh seeds that judge"),
            "bound": (SHARE, "one-sided 95% bound of the risk (Clopper-Pearson)"),
            "cells": ("cells", "cells that were tuned"),
            "runs": (RUNS, "runs that were tuned"),
            "n_tuned": (RUNS, "runs of the best cell in tuning"),
            "k_tuned": (RUNS, "diverged runs of the best cell in tuning"),
            "gain": ("share of the constant's loss", "the mean gain of the best cell in tuning"),
            "at_end": ("", "the tuned values that lie at an end of their range"),
        },
    ),
    "recommendation": (
        "The largest lr of each curve at which the risk can be claimed, and what to confirm next.",
        {
            "status": ("", "claimed; cannot say; too risky: the lowest lr has a higher risk"),
            "lr": (LR, "the largest lr with a claim; empty without one"),
            "n": (SEEDS, "seeds that support the claim"),
            "k": (SEEDS, "diverged ones of the n"),
            "bound": (SHARE, "one-sided bound of the risk at lr, at the confidence tested_at"),
            "basis": ("", "what supports the claim: the study's runs of fixed seeds, or a confirmation"),
            "risk": (SHARE, "the P(divergence) that is to be claimed"),
            "confidence": (SHARE, "of the claim"),
            "tested_at": (SHARE, "the confidence of the test, higher after one that failed"),
            "nominated": (LR, "an lr above the claim that fresh seeds would probably claim"),
            "nominated_k": (RUNS, "diverged runs there"),
            "nominated_n": (RUNS, "runs there, with those of confirmations"),
            "nominated_bound": (SHARE, "one-sided bound of the risk there, at the confidence"),
            "chance": (SHARE, "that fresh seeds claim it, by the fitted curve"),
            "more_if_clean": (SEEDS, "fresh seeds that a claim needs if none of them diverges"),
            "more_at_rate": (SEEDS, "fresh seeds that a claim needs if as many diverge as in that cell"),
            "pending": (RUNS, "runs that confirmations still miss"),
            "failed": ("confirmations", "confirmations that failed"),
            "failed_lr": (LR, "the lr of the last confirmation that failed"),
            "failed_k": (RUNS, "diverged runs of that confirmation"),
            "failed_n": (SEEDS, "seeds of that confirmation"),
            "failed_allowed": (RUNS, "diverged runs that it allowed"),
            "quality_median": ("that of the quality", "median over seeds at lr, or else at nominated"),
            "quality_median_low": ("that of the quality", f"lower end {END} of the median (exact)"),
            "quality_median_high": ("that of the quality", f"upper end {END} of the median (exact)"),
            "quality_n": (SEEDS, "seeds of the median"),
            "best_lr": (LR, "the lr of the best median quality"),
            **_ends("headroom", FACTOR, "LR05 over best_lr; empty unless LR05 was reached"),
            "edge_status": ("", "status of LR05, as in edges.csv"),
            "searched": ("", "how lrs were chosen: edges, quality, imported, planned import; empty if they were fixed"),
            "lowest_k": (RUNS, "diverged runs at the lowest lr"),
            "lowest_n": (RUNS, "runs at the lowest lr"),
            "lowest_bound": (SHARE, "one-sided bound of the risk at the lowest lr, at the confidence"),
            "missing": (RUNS, "runs of the study that failed"),
            "missing_from": (LR, "the lowest lr of runs that failed: nothing is claimed from there on"),
        },
    ),
    "contrasts": (
        "The ratio of the LR50 of each curve to that of another.",
        RATIO
        | {
            "against": ("", "the other curve"),
            "seeds": (SEEDS, "distinct seeds of the curve"),
            "seeds_against": (SEEDS, "distinct seeds of the other curve"),
            "lr": (LR, "that of a confirmation, or else the lr at which the two differ most"),
            "lr_named": ("", "whether a confirmation named the lr before its runs were trained"),
            "lr_pairs": (SEEDS, "seeds with both runs at lr"),
            "lr_only": (SEEDS, "seeds with which only this curve diverged at lr"),
            "lr_only_against": (SEEDS, "seeds with which only the other curve diverged at lr"),
            "lr_p": (SHARE, "McNemar's mid-p at lr, not corrected; empty unless named and planned"),
            "lr_p_holm": (SHARE, "lr_p, corrected by Holm's method together with p"),
            **_ends("difference", "that of the quality", "mean difference over paired seeds, each at its own best lr"),
            "difference_pairs": (SEEDS, "seeds of the difference"),
            "best_lr": (LR, "the best lr of the curve, as most seeds choose it"),
            "best_lr_against": (LR, "the best lr of the other curve, as most seeds choose it"),
        },
    ),
    "lr_sensitivity": (
        "What a wrong lr costs (Wortsman et al., arXiv 2309.14322).",
        {
            **_ends("sensitivity", "that of the loss", "the mean final loss over log lr, less the best one"),
            "sensitivity_lr_min": (LR, "the lowest lr of the mean"),
            "sensitivity_lr_max": (LR, "the highest lr of the mean"),
        },
    ),
    "table2": (
        "Each method at its best lr and threshold, which the other seeds choose for each seed.",
        RATE
        | {
            "lr": (LR, "the choice of most seeds"),
            "curve": ("", "the choice of most seeds"),
            "n": (RUNS, "runs that judge"),
            **_ends("more", "that of the first quality", "mean difference to clippy over paired seeds (Student)"),
            "more_p_holm": (SHARE, "p of this difference, corrected by Holm's method"),
            "seeds": (SEEDS, "seeds that judge"),
            "agreed": (SHARE, "share of the seeds with that choice"),
        },
    ),
    "scale": (
        "How edges depend on a size: a power law with a bend for each curve and level.",
        FIT
        | {
            **_ends("exponent", "", "the exponent of the size, in the middle of the sizes"),
            **_ends("bend", "", "change of the exponent as the size grows by a factor of 10"),
            **_ends("difference", "", "the exponent less that of the first curve of the model"),
            **_ends("left_out", FACTOR, "the prediction of the largest size over its measured edge"),
            "left_out_low": (
                LR,
                "lower end of the 95% prediction interval of what is measured there, its error included",
            ),
            "left_out_high": (LR, "upper end of the same interval"),
            "left_out_inside": ("", "whether that edge lies inside its prediction interval; empty if not known"),
            "sizes": ("sizes", "how many sizes there are"),
            "reached": ("sizes", "how many of them have an edge"),
            "smallest": ("that of axis", "the smallest size"),
            "largest": ("that of axis", "the largest size"),
            "scatter": ("decades", "scatter of edges around the power law, median"),
        },
    ),
    "scale_predictions": (
        "Edges at sizes that were left out of the fit, or not trained.",
        FIT
        | {
            "edge": (LR, "median of the prediction; empty if nothing can be said"),
            "low": (LR, "lower end of the 95% prediction interval"),
            "high": (LR, "upper end of the 95% prediction interval"),
            "status": ("", "predicted; cannot say"),
            "fitted": ("sizes", "how many sizes were fitted"),
            "largest": ("that of axis", "the largest size that was fitted"),
            **_ends("measured", LR, "the edge that was trained there; empty if there is none"),
            "measured_status": ("", "status of the measured edge, as in edges.csv"),
            "inside": ("", "whether the measured edge lies inside the prediction interval; empty if not known"),
        },
    ),
    "edges_over_steps": (
        "How edges moved over the last doubling of the steps, in the same runs.",
        {
            "axis": ("", "steps"),
            "steps_half": (STEPS, "half of the horizon"),
            "runs": (RUNS, "runs that were judged at both horizons"),
            "late": (RUNS, "runs that diverged only at the full horizon"),
            "recovered": (RUNS, "runs that diverged only at half of it"),
            "p": (SHARE, "two-sided p of as many late as recovered ones, by seeds"),
            "edge_half": (LR, "the edge at half of the steps"),
            "edge": (LR, "the edge at all steps"),
            "ratio": (FACTOR, "edge over edge_half; empty unless both were reached"),
            "low": (FACTOR, f"lower end {END} of the ratio; empty if not known"),
            "high": (FACTOR, f"upper end {END} of the ratio; empty if not known"),
            "status": ("", "settled; still falling; still rising; not known"),
        },
    ),
    "forest": (
        "LR50 of each curve of each member of a family, and its ratio to that of another member.",
        MEMBER
        | {"n": RATE["n"], "k": RATE["k"]}
        | EDGE
        | {
            "against": ("", "the member of the comparison; empty if there is none"),
            **_ends("ratio", FACTOR, "LR50 over that of the same curve there; empty unless both were reached"),
            "p_holm": (SHARE, "p, corrected by Holm's method over the family"),
        },
    ),
    "gains": ("Planned contrasts within each member of a family.", MEMBER | RATIO),
    "interactions": (
        "How the gain of a method differs between members of a family.",
        MEMBER
        | RATIO
        | {
            "ratio": (FACTOR, "the gain in this member over that in the other; empty unless all edges were reached"),
            "label_against": ("", "the other member"),
            "words_against": ("", "what the other member changes"),
        },
    ),
}
RAMP_OF_TESTS: dict[str, Column] = {
    "lr_from": (LR, "lr of the first step of the range test"),
    "lr_to": (LR, "lr of the last step of the range test"),
    "lr_steps": (STEPS, "steps of the range test"),
}
TABLES["range_tests"] = (
    "What each range test of a study says, one row a seed (`study range-test`).",
    RAMP_OF_TESTS
    | {
        "seed": ("", "seed of the range test"),
        "explosion": (LR, "where the smoothed loss passes 4 times its best, or is not finite; inf if it never does"),
        "lightning": (LR, "suggestion of Lightning's lr_find; empty where it suggests nothing"),
        "valley": (LR, "suggestion `valley` of fastai's lr_find; empty where it raises"),
        "steep": (LR, "suggestion `steep` of fastai's lr_find; empty where it raises"),
        "minimum": (
            LR,
            "suggestion `minimum` of fastai's lr_find, a tenth of the lr of the lowest loss; empty likewise",
        ),
    },
)
TABLES["range_tests_rules"] = (
    "What range tests say over seeds, beside runs at fixed lrs.",
    RAMP_OF_TESTS
    | {
        "rule": ("", "a column of range_tests.csv"),
        "n": (SEEDS, "range tests"),
        "found": (SEEDS, "range tests with a finite lr"),
        "middle": (LR, "median; inf if half of the losses never explode"),
        "lower": (LR, "lower quartile"),
        "upper": (LR, "upper quartile"),
        "edge": (LR, "LR50 of runs at fixed lrs; empty unless it was reached"),
        "edge_low": (LR, f"lower end {END} of edge"),
        "edge_high": (LR, f"upper end {END} of edge"),
        "edge_over": (FACTOR, "edge over middle; empty where that is inf"),
        "near_lr": (LR, "the trained lr that is nearest to middle; empty if none lies within a factor of 2"),
        "near_k": (RUNS, "diverged runs there"),
        "near_n": (RUNS, "runs there"),
        "near_quality": ("", "median held-out quality there, of the first task"),
        "best_lr": (LR, "the trained lr of the best median quality; empty of a search"),
        "best_quality": ("", "median quality there"),
        "best_over": (FACTOR, "best_lr over middle; empty where that is inf"),
    },
)
TABLES["scale_points"] = ("The edges that the fit of a size takes.", TABLES["edges"][1] | FIT)
TABLES["edges_over_steps_points"] = ("The edges at each horizon.", TABLES["scale_points"][1])
TABLES["edges_over_steps_predictions"] = TABLES["scale_predictions"]

SIGNAL: dict[str, Column] = {
    "signal": ("", "what is watched at each step; lr and loss_share are what others have to beat"),
    "diverged": (RUNS, "diverged runs with an onset"),
    "completed": (RUNS, "completed runs"),
    "healthy": (RUNS, "runs without an onset"),
}
TABLES["auc"] = (
    "How well each signal tells runs that are about to diverge from others: the ROC AUC, some steps before the onset.",
    SIGNAL
    | {
        "lag": (STEPS, "steps before the onset"),
        "auc": ("AUC", "of the signal"),
        "low": ("AUC", f"lower end {END} of auc"),
        "high": ("AUC", f"upper end {END} of auc"),
        **_ends("same_lr", "AUC", "of the signal among runs with the same lr"),
    },
)
TABLES["rules"] = (
    "What alarms do: a signal above a threshold that every other seed chose, on the seeds between.",
    SIGNAL
    | {
        "threshold": ("that of the signal", "above it the alarm rings"),
        "chosen_early": (SHARE, "early, on the seeds that chose the threshold"),
        "chosen_gain": (STEPS, "gain, on the seeds that chose the threshold"),
        **_ends("warned", SHARE, "diverged runs with an alarm before the onset"),
        **_ends("early", SHARE, "diverged runs with an alarm before the run was gone"),
        **_ends("false", SHARE, "completed runs with an alarm"),
        **_quartiles("lead", "steps from the alarm to the onset, of the early ones"),
        **_quartiles("gain", "steps from the alarm until the run was gone, of the early ones"),
    },
)
TABLES["crossings"] = (
    "How often sharpness times lr / 2 exceeded a level, before the onset where there is one.",
    {
        "outcome": ("", "of the runs"),
        "level": (FACTOR, "of sharpness times lr / 2; above 1 a step overshoots on a quadratic"),
        "n": (RUNS, "runs"),
        "k": (RUNS, "runs of the n that exceeded the level"),
        "share": (SHARE, "k / n"),
        **_quartiles("lead", "steps from the first crossing to the onset"),
    },
)

SCORES = {
    "kept": ("share of the reference gain", "share of the learnable gain{} that runs keep"),
    "auc": ("AUC", "held-out AUC{}; a diverged run counts as 0.5"),
    "rmse": ("", "held-out RMSE{}; a diverged run counts as the constant predictor's"),
    "score": ("", "the metric{}; a diverged run counts as the worst value of all runs"),
    "error": ("", "the metric{}, where less is better; a diverged run counts as the worst value of all runs"),
}
ENDS = {
    "_mean_low": f"lower end {END} of the mean over seeds (Student)",
    "_mean_high": f"upper end {END} of the mean over seeds (Student)",
    "_mean": "mean over seeds",
    "_low": f"lower end {END} of the median over seeds (exact)",
    "_high": f"upper end {END} of the median over seeds (exact)",
    "_q10": "10% quantile over seeds, no interval",
    "_q90": "90% quantile over seeds, no interval",
    "": "median over seeds",
}
THRESHOLD: Column = ("that of the method", "an option of methods; empty where a method has none of this name")


def described(table: str, columns: Iterable[str], units: Mapping[str, str]) -> dict[str, Any]:
    """Return what a CSV file holds: {"what": ..., "columns": {name: {"what": ..., "unit": ...}}}.

    Args:
        table: The name of the file, without its ending.
        columns: Its columns. One that no table of ours has is an option of a method.
        units: Task -> unit of its RMSE.
    """
    what, own = TABLES[table]
    known = OF_ALL | own
    found = {name: known.get(name) or _score(name, units) or THRESHOLD for name in columns}
    return {"what": what, "columns": {name: {"what": text, "unit": unit} for name, (unit, text) in found.items()}}


def _score(name: str, units: Mapping[str, str]) -> Column | None:
    """A column of a held-out quality or of `kept`; None of another column."""
    kind, _, rest = name.partition("_")
    if kind not in SCORES:
        return None
    end = next(end for end in ENDS if f"_{rest}".endswith(end))
    task = f"_{rest}".removesuffix(end).removeprefix("_")
    unit, what = SCORES[kind]
    unit = units.get(task, "that of the task") if kind == "rmse" else unit or "that of the metric"
    return unit, f"{what.format(f' of {task}' if task else '')}: {ENDS[end]}"

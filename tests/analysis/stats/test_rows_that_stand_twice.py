"""Runs that stand twice in a table count once, in every function of a table of runs."""

from pathlib import Path

import pandas as pd
import pytest
from simulated_record import simulated_definition, write_simulated_study

import analysis
from analysis.stats.contrasts import contrasts
from analysis.stats.edge_posterior import edge_interval
from analysis.stats.edges import fits, fitted_curves
from analysis.stats.forest import curves
from analysis.stats.quality import judged_at_own_best, lr_sensitivity
from analysis.stats.recommend import recommend
from analysis.stats.table2 import table2
from analysis.stats.trajectories import diverged_by_step, example_pairs
from study.record.definition import Definition

FUNCTIONS = {
    "rates": lambda runs, _: analysis.divergence_rates(runs),
    "bins": lambda runs, _: analysis.in_bins(runs),
    "edges": lambda runs, _: analysis.edges(runs),
    "fits": lambda runs, _: pd.DataFrame([edge_interval(fit, 0.5) for fit in fits(runs).values()]),
    "fitted curves": lambda runs, _: fitted_curves(runs),
    "quality": analysis.quality,
    "frontier": lambda runs, _: analysis.frontier(runs),
    "tradeoff": analysis.tradeoff,
    "contrasts": contrasts,
    "recommend": recommend,
    "sensitivity": lr_sensitivity,
    "table 2": table2,
    "forest": curves,
    "by step": lambda runs, _: diverged_by_step(runs),
    "examples": lambda runs, _: pd.DataFrame([run for pair in example_pairs(runs) for run in pair]),
    "own best": lambda runs, definition: pd.concat(judged_at_own_best(runs, definition, "auc_click")),
}


@pytest.fixture(scope="module")
def record(tmp_path_factory) -> tuple[pd.DataFrame, Definition]:
    folder: Path = tmp_path_factory.mktemp("record")
    definition = simulated_definition(models=("small",), lrs=(0.1, 0.4, 0.6, 1.2), seeds=range(4))
    write_simulated_study(folder, definition, with_losses=False)
    return analysis.load(folder), definition


@pytest.mark.parametrize("name", FUNCTIONS)
def test_it_counts_once(record, name: str) -> None:
    runs, definition = record
    once = FUNCTIONS[name](runs, definition)
    for twice in (pd.concat([runs, runs.iloc[3:9]]), pd.concat([runs, runs], ignore_index=True)):
        pd.testing.assert_frame_equal(FUNCTIONS[name](twice, definition), once)

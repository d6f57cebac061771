"""Bins of learning rates, for studies with few runs at many of them."""

import numpy as np
import pandas as pd
from threshold_runs import adaptive, runs_of

import analysis
from analysis.stats.rates import in_bins


def test_many_lrs_are_grouped_into_quarter_octaves():
    runs = adaptive()
    assert len(set(runs["lr"])) > 30
    shown = in_bins(runs)
    assert len(shown) == len(runs)
    assert list(shown["outcome"]) == list(runs["outcome"])
    off = np.log2(shown["lr"] / runs["lr"]).abs()
    assert off.max() < 0.125 + 0.07  # half a bin, and two digits
    assert 8 < len(set(shown["lr"])) < 25
    rates = analysis.divergence_rates(shown)
    assert rates["n"].sum() == len(runs)
    assert rates["k"].sum() == (runs["outcome"] == "diverged").sum()
    assert len(analysis.rates_table(rates).splitlines()) < 30


def test_lrs_on_a_grid_are_not_binned():
    fine = [round(0.1 * 1.1**i, 4) for i in range(30)]
    on_grid = runs_of(("none", {}, 0.4), lrs=fine, seeds=range(3))
    few = runs_of(("none", {}, 0.4), lrs=fine[:16], seeds=range(1))
    for runs in (on_grid, few, on_grid.iloc[:0]):
        assert list(in_bins(runs)["lr"]) == list(runs["lr"])
    assert len(set(in_bins(on_grid[on_grid["seed"] == 0])["lr"])) < 20


def test_a_search_with_many_runs_at_a_few_lrs_keeps_its_bins():
    lrs = [round(0.1 * 1.05**i, 4) for i in range(60)]
    search = runs_of(("none", {}, 0.4), lrs=lrs, seeds=range(1))
    again = runs_of(("none", {}, 0.4), lrs=lrs[:6], seeds=range(1, 40))
    runs = pd.concat([search, again], ignore_index=True)
    assert len(runs) > 3 * len(lrs)
    assert len(set(in_bins(runs)["lr"])) < 25


def test_a_run_that_is_missing_leaves_a_grid_of_three_seeds_as_it_is():
    runs = runs_of(("none", {}, 0.4), lrs=[round(0.1 * 1.1**i, 4) for i in range(30)], seeds=range(3)).iloc[:-1]
    assert list(in_bins(runs)["lr"]) == list(runs["lr"])


def test_lr_alone_in_its_bin_keeps_its_value():
    lrs = [0.013, 0.3, 0.31, 0.32, *(float(f"{1.3 * 2**i:.3g}") for i in range(15))]
    shown = in_bins(runs_of(("none", {}, 0.4), lrs=lrs, seeds=range(1)))
    assert {0.013, 1.3, 2.6} < set(shown["lr"])
    assert not {0.3, 0.31, 0.32} & set(shown["lr"]) - {0.3}
    assert (shown["lr"] == 0.3).sum() == 3


def test_a_bin_is_marked_and_has_the_lrs_that_were_trained():
    lrs = [0.013, 0.3, 0.31, 0.32, *(float(f"{1.3 * 2**i:.3g}") for i in range(15))]
    runs = runs_of(("none", {}, 0.4), lrs=lrs, seeds=range(1))
    binned = analysis.divergence_rates(in_bins(runs)).set_index("lr")
    assert binned.loc[0.3, ["binned", "lr_min", "lr_max"]].tolist() == [True, 0.3, 0.32]
    assert binned.loc[1.3, ["binned", "lr_min", "lr_max"]].tolist() == [False, 1.3, 1.3]
    assert binned["binned"].sum() == 1
    assert not analysis.divergence_rates(runs)["binned"].any()
    first, *lines = analysis.rates_table(binned.reset_index()).splitlines()
    assert first.endswith("(~: a bin of trained lrs)")
    assert [line.split()[0] for line in lines][:4] == ["lr", "0.013", "~0.3", "1.3"]
    assert "lr_trained" not in set(analysis.edges(in_bins(runs)).columns), "no threshold of the method"

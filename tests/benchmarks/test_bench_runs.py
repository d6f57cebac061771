"""Both sides of the benchmark run, and what it counts is counted right."""

import math
import os
import sys
from argparse import Namespace
from pathlib import Path

import bench
import numpy as np
import plain_torch
import pytest

from study import data
from study.config import Recipe
from study.record import tables

OPTIONS = {"rows": 20_000}


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


def test_products_of_a_run_by_pencil(cache):
    log = data.load("synthetic", OPTIONS, cache)
    width = len(log.vocabulary) * 4 + log.numbers.shape[1]
    by_hand = 6e-9 * (width * 64 + 64 * 64 + 64 * 4) * 512 * 10
    assert bench.gigaflops_of_run("small", log, Recipe(steps=10)) == pytest.approx(by_hand, rel=1e-12)


def test_parts_of_a_study_run_are_told_by_its_lines():
    lines = [
        (4.0, "lr_curve: 2 runs in 2 cells, 0 recorded; 26 to train (control included) as 3 stacks, 2 at a time"),
        (4.0, "record: /somewhere"),
        (6.0, "12/26 runs · 250/min · 0:02 left · diverged: control first"),
        (7.0, "24/26 runs · 250/min · 0:02 left · diverged: control first"),
        (8.0, "25/26 runs · 250/min · 0:02 left · diverged: none 0/1"),
        (9.0, "26/26 runs · 250/min · 0:00 left · diverged: none 1/2"),
        (11.5, "report: /somewhere/report.html"),
        (12.5, "MLflow: 1 curve, 2 cells in sqlite:///somewhere"),
        (12.5, "Next:"),
    ]
    parts = bench.split(lines, 13.0)
    assert parts == dict(zip(bench.PARTS, (4.0, 3.0, 2.0, 2.5, 1.0, 0.5), strict=True))
    assert sum(parts.values()) == 13.0


def test_a_plain_rate_for_more_runs_starts_up_once():
    plain = bench.Timed(runs=10, seconds=15.0, split={"start-up": 5.0})
    assert plain.per_minute == 40.0
    assert plain.per_minute_of(10) == pytest.approx(40.0)
    assert plain.per_minute_of(100) == pytest.approx(60 * 100 / 105)


def test_the_plain_loop_learns_and_diverges(cache):
    shared = plain_torch.shared_of(data.load("synthetic", OPTIONS, cache), (64, 64), steps=60)
    start = plain_torch.train({"lr": 1e-6, "seed": 0}, shared)
    learned = plain_torch.train({"lr": 0.05, "seed": 0}, shared)
    thrown = plain_torch.train({"lr": 1e4, "seed": 0}, shared)
    assert learned["loss"] < start["loss"]
    assert learned["auc_click"] > 0.6
    assert not thrown["loss"] < 2 * start["loss"]  # NaN is as good as large


def test_auc_by_pencil():
    assert plain_torch.auc(np.array([0.1, 0.2, 0.3, 0.3]), np.array([False, True, False, True])) == 3.5 / 4 - 0.25
    assert plain_torch.auc(np.array([0.1, math.nan]), np.array([False, True])) == 0.5


def test_machine_rate_is_of_this_world(cache):
    log = data.load("synthetic", OPTIONS, cache)
    for by in bench.LIMITS:
        assert 0.1 < bench._products(bench.products_of("small", log, Recipe()), 512, by, 0.0, 0.1) < 10_000


@pytest.mark.slow
def test_both_sides_run(cache, tmp_path):
    data.load("synthetic", OPTIONS, cache)
    asked = Namespace(
        runs=4, plain_runs=2, model="small", methods="none", data="synthetic", rows=OPTIONS["rows"], steps=60
    )
    ours = bench.run_ours(asked, OPTIONS, cache, tmp_path / "ours")
    recorded = tables.read_runs(tmp_path / "ours")
    assert ours.runs == (recorded["role"] == "cell").sum() == 4
    assert tuple(ours.split) == bench.PARTS
    assert sum(ours.split.values()) == pytest.approx(ours.seconds)

    plain = bench.run_plain(asked, OPTIONS, cache, tmp_path / "plain")
    assert plain.runs == 2
    assert 0 < plain.split["start-up"] < plain.seconds
    assert (tmp_path / "plain" / "mlflow.db").stat().st_size > 0
    assert os.listdir(tmp_path / "plain" / "plain")


@pytest.mark.slow
def test_a_command_that_fails_says_so(cache):
    with pytest.raises(RuntimeError, match="exit code 2"):
        bench.run_child([sys.executable, "-m", "study", "run", "nowhere"], cache)

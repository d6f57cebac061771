"""The phenomenon itself, by training: untreated networks diverge at learning rates where Clippy still trains."""

import os

import numpy as np
import pytest
from paths import KUAIRAND

from study import data
from study.config import CONTROL_LRS, CONTROL_SEEDS, Rule, Run
from study.data._dataset import Log
from study.outcomes.judge import judge
from study.outcomes.reference import Reference, control_reference
from study.training.trainer import Trained, train

pytestmark = pytest.mark.slow

SEEDS = (0, 1, 2, 3)


@pytest.fixture(scope="module", params=["synthetic", "kuairand"])
def log(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Log:
    if request.param == "kuairand" and not KUAIRAND.is_dir():
        pytest.skip(f"no KuaiRand slice at {os.path.relpath(KUAIRAND)}")
    options = {"dir": str(KUAIRAND)} if request.param == "kuairand" else {}
    return data.load(request.param, options, tmp_path_factory.mktemp("cache"))


def constants(log: Log) -> np.ndarray:
    return np.array([task.constant_loss for task in log.tasks])


@pytest.fixture(scope="module")
def reference(log: Log) -> Reference:
    runs = [
        Run(data=log.content, model="small_dcn", method="none", lr=lr, seed=seed)
        for seed in CONTROL_SEEDS[:2]
        for lr in CONTROL_LRS
    ]
    trained = train(runs, log)
    lrs, seeds = np.array([run.lr for run in runs]), np.array([run.seed for run in runs])
    return control_reference(lrs, seeds, trained.loss, trained.constant, constants(log), Rule(), trained.moved)


def outcomes(log: Log, reference: Reference, method: str, *lrs: float) -> tuple[dict[float, int], Trained]:
    """Diverged runs of four, by lr."""
    runs = [Run(data=log.content, model="small_dcn", method=method, lr=lr, seed=s) for s in SEEDS for lr in lrs]
    trained = train(runs, log)
    judged = judge(trained.loss, trained.constant, constants(log), trained.finite, reference, Rule(), trained.moved)
    diverged = dict.fromkeys(lrs, 0)
    for run, outcome in zip(runs, judged, strict=True):
        diverged[run.lr] += outcome.outcome == "diverged"
    return diverged, trained


def test_the_order_of_methods_by_edge_is_that_of_real_data(log: Log, reference: Reference) -> None:
    """Untreated training diverges within a decade of lr; LAMB and clipping hold longer, AGC longer still, and Clippy
    trains at the top of the grid, where its ranking is better than the untreated network's at its best."""
    untreated, at_best = outcomes(log, reference, "none", 0.1, 0.2, 0.9, 1.7)
    assert (untreated[0.1], untreated[0.2]) == (0, 0)
    assert untreated[0.9] >= 2
    assert untreated[1.7] >= 3
    for method in ("lamb", "layer_clip"):
        # At 1.7, 45 of 48 runs of layer_clip diverge on KuaiRand; at 2.4 all do.
        held, _ = outcomes(log, reference, method, 0.6, 2.4)
        assert held == {0.6: 0, 2.4: len(SEEDS)}, method
    held, _ = outcomes(log, reference, "agc", 1.2, 5.0)
    assert held == {1.2: 0, 5.0: len(SEEDS)}
    held, clippy = outcomes(log, reference, "clippy", 3.2)
    assert held == {3.2: 0}
    best = np.max([np.nanmedian(at_best.judged["auc_click"][i::4]) for i in range(2)])
    assert np.median(clippy.judged["auc_click"]) > best

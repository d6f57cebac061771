"""Loops of users through plan, Ray Tune, record, resume and report."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import analysis

pytestmark = pytest.mark.slow

QUADRATIC = """
import random

from study import Arm, EdgeSearch, Loop, Study


def train(run, watch, *, curvature=4.0):
    w = 1 + 0.01 * random.random()
    for _ in range(60):
        watch(w * w)
        w -= run.lr * curvature * w


study = Study(
    name="quadratic",
    trainer=Loop(train, baseline=1.0),
    arms=(Arm("steep"), Arm("flat", curvature=2.0)),
    lrs=(0.2, 0.4, 0.48, 0.52, 0.6, 0.96, 1.04),
    seeds=range(4),
    {search}
)
"""


def command(folder: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"STUDY_CACHE": str(folder / "cache"), "HOME": str(folder)} | more
    return subprocess.run(
        [sys.executable, "-m", "study", *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )


def ran(folder: Path, *words: str) -> str:
    done = command(folder, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rates(folder: Path, method: str) -> dict[float, float]:
    runs = analysis.load(folder)
    of_method = runs[runs["method"] == method]
    return (of_method["outcome"] == "diverged").groupby(of_method["lr"]).mean().to_dict()


def test_a_quadratic_diverges_at_two_over_its_curvature(tmp_path: Path) -> None:
    (tmp_path / "quadratic.py").write_text(QUADRATIC.format(search=""))
    assert "56, of which 0 are recorded" in ran(tmp_path, "plan", "quadratic")
    ran(tmp_path, "run", "quadratic", "--out", "out", "--workers", "2")
    for method, edge in (("steep", 2 / 4), ("flat", 2 / 2)):
        assert rates(tmp_path / "out", method) == {
            lr: float(lr > edge) for lr in (0.2, 0.4, 0.48, 0.52, 0.6, 0.96, 1.04)
        }
    more = ran(tmp_path, "run", "quadratic", "--out", "out", "--workers", "2", "--seeds", "0-5")
    assert "56 recorded" in more
    assert len(analysis.load(tmp_path / "out")) == 84
    assert "steep" in ran(tmp_path, "recommend", "out")
    assert json.loads(ran(tmp_path, "status", "out", "--json"))["total"]["done"] == 84
    assert "0 of" in ran(tmp_path, "rescore", "out", "--rule", "kept=0.3")
    refused = command(tmp_path, "run", "quadratic", "--out", "out", "--set", "steep.curvatur=3")
    assert refused.returncode == 2
    assert "curvatur" in refused.stderr
    assert "curvature" in refused.stderr


def test_the_adaptive_search_finds_the_edge(tmp_path: Path) -> None:
    search = "search=EdgeSearch(precision=1.1, budget=40),"
    (tmp_path / "quadratic.py").write_text(QUADRATIC.format(search=search))
    ran(tmp_path, "run", "quadratic", "--out", "out", "--workers", "2")
    found = analysis.edges(analysis.load(tmp_path / "out")).set_index("method")
    for method, edge in (("steep", 0.5), ("flat", 1.0)):
        assert found.loc[method, "edge"] == pytest.approx(edge, rel=0.1)
        assert found.loc[method, "low"] <= edge <= found.loc[method, "high"]


ENDS = """
import math
import os
import threading

from study import Arm, Loop, Study


def train(run, watch, *, end="nothing"):
    print("a loop may print")
    os.chdir("/")
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    for step in range(80):
        high = run.lr > 0.5
        watch(100.0 if high and step > 40 else 1 / (1 + step / 20))
        if high and step == 70:
            if end == "os._exit":
                os._exit(3)
            if end == "raise":
                raise AssertionError("the loss is too high")
            if end == "fork" and os.fork() == 0:
                return None
    return None


study = Study(
    name="ends",
    trainer=Loop(train),
    arms=(Arm("plain"), Arm("exit", end="os._exit"), Arm("raise", end="raise"), Arm("fork", end="fork")),
    lrs=(0.1, 1.0),
    seeds=range(2),
)
"""


def test_loops_that_end_themselves_take_down_their_trial_and_no_more(tmp_path: Path) -> None:
    (tmp_path / "ends.py").write_text(ENDS)
    ran(tmp_path, "run", "ends", "--out", "out", "--workers", "2")
    runs = analysis.load(tmp_path / "out")
    assert len(runs) == 16, "no run is missing"
    for method in ("plain", "exit", "raise", "fork"):
        assert rates(tmp_path / "out", method) == {0.1: 0, 1.0: 1}
    assert not list((tmp_path / "out" / "failures").glob("*"))


def test_a_study_that_is_killed_is_resumed(tmp_path: Path) -> None:
    slow = QUADRATIC.replace("        watch(w * w)\n", "        watch(w * w)\n        time.sleep(0.005)\n")
    (tmp_path / "quadratic.py").write_text("import time\n" + slow.format(search=""))
    environment = os.environ | {"STUDY_CACHE": str(tmp_path / "cache"), "HOME": str(tmp_path)}
    words = [sys.executable, "-m", "study", "run", "quadratic", "--out", "out", "--workers", "2"]
    with subprocess.Popen(
        words, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as driver:
        end = time.monotonic() + 300
        while len(list((tmp_path / "out" / "runs").glob("*.parquet"))) < 30 and time.monotonic() < end:
            time.sleep(0.05)
        driver.send_signal(signal.SIGKILL)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out" / "runs").glob("*.parquet")}
    assert 30 <= len(before) < 80
    ran(tmp_path, "resume", "out", "--workers", "2")
    after = {path.name: path.read_bytes() for path in (tmp_path / "out" / "runs").glob("*.parquet")}
    assert len(after) == 80
    assert before.items() <= after.items(), "what was recorded is not trained again"
    runs = analysis.load(tmp_path / "out")
    assert not runs["run_id"].duplicated().any()
    np.testing.assert_array_equal(sorted(runs["seed"].unique()), range(4))

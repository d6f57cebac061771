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
from study.record.failures import read_failed_runs

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


HOSTILE = """
import contextlib
import io
import json
import os
import shutil
import signal
import sys
import threading
import time

import torch

from study import Arm, Loop, Study


def state():
    return {
        "folder": os.getcwd(),
        "environment": {name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        "streams": [stream.closed for stream in (sys.stdout, sys.stderr)],
        "signals": [str(signal.getsignal(number)).partition(" at ")[0] for number in (signal.SIGTERM, signal.SIGUSR1)],
        "torch": [str(torch.get_default_dtype()), torch.get_num_threads(), torch.is_grad_enabled()],
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "random": torch.rand(()).item() if os.path.exists("states") else None,
    }


def train(run, watch, *, does="nothing"):
    now = json.dumps(state(), sort_keys=True)
    with open(f"states/{does}-{run.seed}-{run.lr:g}.json", "w") as file:
        file.write(now)
    for step in range(60):
        watch(1 / (1 + step / 20))
        if step == 30:
            act(run, watch, does)


def act(run, watch, does):
    first_try = not (run.folder / "tried").exists()
    if does in ("exits", "aborts", "is killed"):
        (run.folder / "tried").touch()
    if does == "prints":
        for _ in range(50_000):
            print("x" * 100)
            print("y" * 100, file=sys.stderr)
    elif does == "forks":
        if os.fork() == 0:
            watch(1e9)
        if os.fork() == 0:
            time.sleep(5)
    elif does == "changes":
        os.chdir("/")
        os.environ.clear()
        sys.stdout = sys.stderr = io.StringIO()
        sys.stdout.close()
        torch.set_default_dtype(torch.float64)
        torch.set_num_threads(3)
        torch.set_grad_enabled(False)
        torch.use_deterministic_algorithms(True)
        with contextlib.suppress(ValueError):  # a trial is no main thread
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
    elif does == "leaves threads":
        for daemon in (True, False):
            threading.Thread(target=threading.Event().wait, daemon=daemon).start()
    elif does == "deletes its folder":
        shutil.rmtree(run.folder)
    elif does == "exits" and first_try:
        os._exit(0)
    elif does == "aborts" and first_try:
        os.abort()
    elif does == "is killed" and first_try:
        os.kill(os.getpid(), signal.SIGKILL)


DOES = ("prints", "forks", "changes", "leaves threads", "deletes its folder", "exits", "aborts", "is killed")
study = Study(
    name="hostile",
    trainer=Loop(train),
    arms=(Arm("plain"), *(Arm(does.replace(" ", "_"), does=does) for does in DOES)),
    lrs=(0.1,),
    seeds=range(2),
)
"""


def test_hostile_loops_change_no_other_run(tmp_path: Path) -> None:
    """One worker trains all runs, so each run would see what the one before it changed."""
    (tmp_path / "hostile.py").write_text(HOSTILE)
    (tmp_path / "states").mkdir()
    done = command(tmp_path, "run", "hostile", "--out", "out", "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout + done.stderr) < 20_000, "what loops print does not reach the user"
    runs = analysis.load(tmp_path / "out")
    assert len(runs) == 18, "no run is missing"
    assert set(runs["outcome"]) == {"completed"}
    assert set(runs["steps"]) == {60}
    assert not list((tmp_path / "out" / "failures").glob("*"))
    states = [json.loads(path.read_text()) for path in (tmp_path / "states").iterdir()]
    assert len(states) == 24 + 18
    for seed in runs["seed"].unique():
        own = [json.loads(path.read_text())["random"] for path in (tmp_path / "states").glob(f"*-{seed}-*")]
        assert len(set(own)) == 1, "random numbers follow from the seed"
    for name in states[0].keys() - {"random"}:
        assert len({json.dumps(state[name]) for state in states}) == 1, name


FAULTS = """
import os
import sys

from study import Arm, Loop, Study

study = Study(
    name="faults",
    trainer=Loop(
        command=f"{sys.executable} write.py {{lr}} {{fault}} {{folder}}/losses.csv", losses="{folder}/losses.csv"
    ),
    arms=(
        Arm("plain", fault="none"),
        *(Arm(name, fault=name) for name in ("none_came", "text", "nan", "back", "column")),
    ),
    lrs=(0.1,),
    seeds=range(1),
)
"""

WRITE = """
import sys

fault, path = sys.argv[2:]
lines = ["step,loss", *(f"{step},{1 / (1 + step / 20)}" for step in range(60))]
if fault == "text":
    lines = ["no table", "at all"]
if fault == "nan":
    lines[30] = "nan,0.5"
if fault == "back":
    lines[30] = "3,0.5"
if fault == "column":
    lines[0] = "step,los"
if fault != "none_came":
    open(path, "w").write("\\n".join(lines))
"""


def test_faults_of_a_losses_file_are_the_reasons_of_missing_runs(tmp_path: Path) -> None:
    (tmp_path / "faults.py").write_text(FAULTS)
    (tmp_path / "write.py").write_text(WRITE)
    ran(tmp_path, "run", "faults", "--out", "out", "--workers", "2")
    assert list(analysis.load(tmp_path / "out")["method"]) == ["plain"]
    found = {run.about["method"]: run.reason for run in read_failed_runs(tmp_path / "out")}
    for method, words in {
        "none_came": "wrote no losses to",
        "text": "not a table",
        "nan": "step is 'nan'",
        "back": "step 3 comes after step 28",
        "column": "no column 'loss'",
    }.items():
        assert words in found[method]
        assert "losses.csv" in found[method]
        assert "\n" not in found[method]


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


FAILS = """
from study import Arm, Loop, Study


def train(run, watch):
    if run.seed < 2:
        raise RuntimeError("no such file: tokens.bin")
    for step in range(60):
        watch(1 / (1 + step))


study = Study(name="fails", trainer=Loop(train), arms=(Arm("plain"),), lrs=(0.1,), seeds=range(2))
"""


def test_a_command_of_which_every_run_failed_ends_with_1_and_the_reason(tmp_path: Path) -> None:
    (tmp_path / "fails.py").write_text(FAILS)
    for words in (("run", "fails", "--out", "out"), ("resume", "out")):
        done = command(tmp_path, *words, "--workers", "1")
        assert done.returncode == 1
        assert "no run was trained: 2 of 2 failed" in done.stderr
        assert "no such file: tokens.bin" in done.stderr
        assert "Traceback" not in done.stderr
        assert "worker died" not in done.stdout + done.stderr, "Ray says nothing of an exception in a loop"


def test_a_loop_that_gives_nothing_to_judge_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "fails.py").write_text(
        FAILS.replace("if run.seed < 2:", "if True:").replace("raise RuntimeError", "return  # ")
    )
    done = command(tmp_path, "run", "fails", "--out", "out", "--workers", "1")
    assert done.returncode == 2
    assert (
        done.stderr.splitlines()[-1] == "study: the control of fails failed: fails:train ended without a call of watch"
    )
    assert "worker died" not in done.stdout + done.stderr

"""A crash is not divergence: trials that die, hang, run out of memory or fail, through real Ray; stops that save."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from processes import SECONDS, tree
from studies import CONTROL, FIXED, Studies, kill_child, losses, recorded, shown, table
from waiting_for import LONG, wait_until

from study.execution import checkpoint, heartbeat
from study.record import tables
from study.record.failures import read_failures
from study.tracking.client import DATABASE
from study.tune import runner
from study.tune.cluster import ClusterError

FAULTY = [
    *("run", "quick", *FIXED, "--set", "data.rows=5000", "--set", "batch=64", "--set", "window=500"),
    *("--set", "models=own_models.faulty", "--set", "methods=none", "--set", "lr=0.05,0.4", "--workers", "2"),
]


def faults(folder: Path, studies: Studies, **kinds: tuple[str, int]) -> Studies:
    """kinds: s7=("kill", 2) lets seed 7 be killed twice."""
    folder.mkdir()
    for name, (kind, times) in kinds.items():
        (folder / f"{name[1:]}.json").write_text(json.dumps({"kind": kind, "times": times}))
    own = Studies(studies.folder)
    own.environment |= {"FAULTS": str(folder)}
    return own


def failed(folder: Path) -> list[int]:
    """The processes that failed."""
    return [int(path.read_text()) for path in folder.iterdir() if path.suffix[1:].isdecimal()]


@pytest.mark.slow
def test_a_study_with_failing_trials_has_the_table_of_an_undisturbed_one(studies: Studies, tmp_path: Path) -> None:
    kinds = ["kill", "hang", "memory", "device", "error", "hang in C", "exit", "crash"]
    happens = {f"s{seed}": (kind, 1) for seed, kind in enumerate(kinds, start=2)}
    own = faults(tmp_path / "faults", studies, **happens)
    words = [*FAULTY, "--seeds", "2-10", "--stack", "2"]
    studies(*words, "--out", tmp_path / "whole")
    printed = own(*words, "--out", tmp_path / "out", "--trial-minutes", "0.15")
    assert len(failed(tmp_path / "faults")) == len(kinds)
    pd.testing.assert_frame_equal(table(tmp_path / "out"), table(tmp_path / "whole"), check_exact=True)
    assert losses(tmp_path / "out") == losses(tmp_path / "whole")
    assert shown(tmp_path / "out" / DATABASE) == shown(tmp_path / "whole" / DATABASE)
    ids = recorded(tmp_path / "out")
    assert len(ids) == len(set(ids)) == CONTROL + 18
    assert not read_failures(tmp_path / "out")
    assert "failed" not in printed
    assert not heartbeat.each(tmp_path / "out")
    assert not checkpoint.checkpointed_stacks(tmp_path / "out")
    for pid in failed(tmp_path / "faults"):
        assert not Path(f"/proc/{pid}").exists(), "a process in which a stack failed is not used again"


@pytest.mark.slow
def test_runs_that_always_fail_are_missing_and_not_diverged(studies: Studies, tmp_path: Path) -> None:
    own = faults(tmp_path / "faults", studies, s3=("error", 99), s4=("hang", 99))
    words = [*FAULTY, "--seeds", "2-5", "--stack", "2", "--trial-minutes", "0.1"]
    printed = own(*words, "--out", tmp_path / "out")
    assert "failed, 2 runs of none: RuntimeError: an odd shape" in printed
    assert "failed, 2 runs of none: no step within 6 s, and its process was ended" in printed
    assert "4 runs are missing" in printed
    assert "  2: RuntimeError: an odd shape" in printed
    assert "0/2" in printed, "two of four seeds"
    assert "0/4" not in printed.partition("diverged runs of n")[2]
    cells = tables.read_runs(tmp_path / "out").query("role == 'cell'")
    assert sorted(cells["seed"]) == [2, 2, 5, 5]
    assert sorted(read_failures(tmp_path / "out").values()) == [
        *["RuntimeError: an odd shape"] * 2,
        *["no step within 6 s, and its process was ended"] * 2,
    ]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "4 of 8 planned runs are not recorded" in page
    assert "an odd shape" in page
    status = own("status", tmp_path / "out")
    assert "4 of 8 runs recorded, 4 failed" in status
    assert "0/2 2f" in status or "2/4 2f" in status
    # Without the fault, they are trained.
    printed = studies("resume", tmp_path / "out")
    assert "4 recorded; 4 to train" in printed
    assert len(recorded(tmp_path / "out")) == CONTROL + 8
    assert "missing" not in printed


@pytest.mark.slow
def test_runs_that_raise_as_they_explode_have_diverged_and_take_no_others_along(
    studies: Studies, tmp_path: Path
) -> None:
    small = ["data.rows=5000", "batch=64", "window=500", "models=own_models.guarded", "methods=none"]
    settings = [*small, "none.weight_decay=1000", "lr=0.0001,10000"]
    words = [word for setting in settings for word in ("--set", setting)]
    printed = studies("run", "quick", *FIXED, *words, "--seeds", "0-3", "--out", tmp_path / "out")
    assert "failed" not in printed
    assert "worker died" not in printed, "the process of a run that raised is used on"
    cells = tables.read_runs(tmp_path / "out").query("role == 'cell'").set_index("lr")
    assert cells["reason"].loc[1e4].tolist() == ["nonfinite"] * 4
    assert set(cells["raised"].loc[1e4]) == {"FloatingPointError: activations are not finite"}
    assert (cells["reason"].loc[1e-4] != "nonfinite").all()


@pytest.mark.slow
def test_three_stacks_that_fail_the_same_way_stop_the_study(studies: Studies, tmp_path: Path) -> None:
    own = faults(tmp_path / "faults", studies, **{f"s{seed}": ("error", 99) for seed in range(2, 10)})
    child = own.start(*FAULTY, "--seeds", "2-9", "--stack", "2", "--out", tmp_path / "out")
    try:
        printed, _ = child.communicate(timeout=SECONDS)
    finally:
        kill_child(child)
    assert child.returncode == 2
    assert printed.rstrip().endswith("study: 3 stacks failed the same way: RuntimeError: an odd shape")
    assert len(recorded(tmp_path / "out")) == CONTROL, "what was recorded stays"


def test_an_error_of_ray_is_one_line_and_that_of_a_task_stays() -> None:
    """Tune raises its own error while it handles Ray's."""
    from ray import exceptions
    from ray.tune.error import TuneError

    def ends_with(error: Exception) -> None:
        with runner._as_cluster_error("study resume out"):
            try:
                raise error
            except Exception:
                raise TuneError("pages")  # noqa: B904 - as there

    with pytest.raises(ClusterError, match=r"\(no space left\).*`study resume out`"):
        ends_with(exceptions.RuntimeEnvSetupError("cannot copy the code\nno space left"))
    for error in (exceptions.RayTaskError("f", "traceback", ValueError("ours")), ValueError("ours")):
        with pytest.raises(TuneError, match="pages"):
            ends_with(error)


@pytest.mark.long  # whatever else takes memory on the machine counts too
def test_a_worker_that_ray_kills_for_memory_halves_its_stack(studies: Studies, tmp_path: Path) -> None:
    """Tune itself ends with Ray's error, and is started again."""
    own = faults(tmp_path / "faults", studies, s3=("eat", 1))
    free = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    total, available = (int(free[key].split()[0]) * 1024 for key in ("MemTotal", "MemAvailable"))
    if available < 6 * 2**30:
        pytest.skip("needs 6 GB of free memory")
    own.environment |= {
        "RAY_memory_usage_threshold": f"{1 - (available - 4 * 2**30) / total:.4f}",
        "RAY_memory_monitor_refresh_ms": "100",
    }
    printed = own(*FAULTY, "--seeds", "2-4", "--stack", "2", "--out", tmp_path / "out")
    assert len(failed(tmp_path / "faults")) == 1
    ids = recorded(tmp_path / "out")
    assert len(ids) == len(set(ids)) == CONTROL + 6, printed
    assert "failed" not in printed
    seeds = [list(pd.read_parquet(path, columns=["seed"])["seed"]) for path in runs_of(tmp_path / "out")]
    assert [3] in seeds, "the stack was halved"


def runs_of(folder: Path) -> list[Path]:
    return sorted((folder / "runs").glob("*.parquet"))


# --- devices and machines that come and go ------------------------------------------------------------------------

DECLARED = """
import json, os, sys
from pathlib import Path
import ray
from study import data
from study.execution import preflight
from study.record import definition
from study.config import CONTROL_SEEDS, Recipe, Rule, Run, Study, Arm
from study.execution.planner import Stack
from study.execution.work_queue import Job
from study.execution.work_source import Planned
from study.outcomes.reference import Reference
from study.trainers.protocol import open_trainer
from study.tune import coordinator, runner
from study.tune.cluster import Cluster

class Declared(Cluster):
    device = "cpu"

folder = Path(sys.argv[1])
log = data.load("synthetic", {"rows": 5000}, Path(os.environ["STUDY_CACHE"]))
recipe = Recipe(batch=64, window=500, steps=40)
same = dict(data=log.content, model="own_models.faulty", method="none", lr=0.1, recipe=recipe)
runs = [Run(seed=seed, **same) for seed in range(2, 10)]
study = Study(name="quick", data="synthetic", data_options={"rows": 5000}, models=("own_models.faulty",),
              arms=(Arm(method="none", options={}),), lrs=(0.1,), seeds=tuple(range(2, 10)), recipe=recipe)
definition.open_study(folder, definition.Definition(study=study, data=data.describe("synthetic", log), versions={}))
job = Job(study="quick", folder=folder, rule=Rule(), control=(), source=Planned(Stack(runs=(run,)) for run in runs),
          references={"own_models.faulty": Reference(lr=0.02, gain=0.1, task_gain=tuple(None for _ in log.tasks))},
          reference=lambda model: None,
          on_trial_end=lambda stack, result: print(json.dumps([stack.runs[0].seed, result])))
coordinator.Coordinator.__init__.__defaults__ = ((2.0, 8.0),)
ray.init(address="local", num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False)
with preflight.needs(folder, study, open_trainer(study, Path(os.environ["STUDY_CACHE"]))) as needs:
    runner.run(job, needs, Declared(workers=2, cpus=0.0, gpu=1.0))
"""


@pytest.mark.slow
def test_a_gpu_that_fails_costs_no_run(studies: Studies, tmp_path: Path) -> None:
    """Two declared devices, of which one fails whatever meets it: the process is replaced and the device left alone."""
    own = faults(tmp_path / "faults", studies)
    (tmp_path / "faults" / "gpu").write_text("0")
    words = [sys.executable, "-c", DECLARED, str(tmp_path)]
    child = subprocess.run(words, env=own.environment, cwd=tmp_path, capture_output=True, text=True, timeout=SECONDS)
    assert child.returncode == 0, child.stdout + child.stderr
    told = [json.loads(line) for line in child.stdout.splitlines() if line.startswith("[")]
    assert sorted(seed for seed, _ in told) == list(range(2, 10))
    assert all(isinstance(result, dict) for _, result in told), told
    assert len(recorded(tmp_path)) == 8
    broke = [int(pid) for path in (tmp_path / "faults").glob("broke.*") for pid in path.read_text().split()]
    assert len(broke) == len(set(broke)) >= 1, "each process was used once"


# --- stops --------------------------------------------------------------------------------------------------------


def trains_cells(folder: Path) -> bool:
    """Two stacks of the cells are under way."""
    return len(recorded(folder)) == CONTROL and len(heartbeat.each(folder)) == 2


@pytest.fixture(scope="module")
def undisturbed(studies: Studies, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "out"
    studies(*LONG, "--out", folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda how: how.name)
def test_a_stopped_study_keeps_checkpoints_and_resumes_from_them(
    studies: Studies, undisturbed: Path, tmp_path: Path, how: signal.Signals
) -> None:
    folder = tmp_path / "out"
    every = "0.02" if how == signal.SIGKILL else "10"
    child = studies.start(*LONG, "--out", folder, "--checkpoint-minutes", every)
    try:
        wait_until(
            child,
            lambda: (
                trains_cells(folder) and (how != signal.SIGKILL or len(checkpoint.checkpointed_stacks(folder)) == 2)
            ),
        )
        processes = tree(child.pid)
        if how == signal.SIGKILL:
            kill_child(child)
        else:
            started = time.monotonic()
            # Ctrl-C in a terminal reaches every process of the command, SIGTERM the command alone.
            os.killpg(child.pid, how) if how == signal.SIGINT else child.send_signal(how)
            printed, _ = child.communicate(timeout=60)
            assert time.monotonic() - started < 30
            assert child.returncode == 130, printed
            last = printed.rstrip().splitlines()[-1]
            shown = min(os.path.relpath(folder, studies.folder), str(folder), key=len)
            assert "2 of the stacks that trained kept a checkpoint" in last
            assert f"`python -m study resume {shown}`" in last
            give_up = time.monotonic() + 20
            while alive := [pid for pid in processes if running(pid)]:
                assert time.monotonic() < give_up, f"still there: {alive}"
                time.sleep(0.1)
    finally:
        if child.poll() is None:
            kill_child(child)
    begun = checkpoint.checkpointed_stacks(folder)
    assert len(begun) == 2
    assert len(recorded(folder)) == CONTROL
    # Another number of workers cuts stacks anew, and still goes on where these were.
    printed = studies("resume", folder, "--workers", "1", "--stack", "4")
    assert "2 stacks continue from their checkpoints" in printed
    assert not checkpoint.checkpointed_stacks(folder)
    assert {path.stem for path in runs_of(folder)} >= set(begun)
    pd.testing.assert_frame_equal(table(folder), table(undisturbed), check_exact=True)
    assert losses(folder) == losses(undisturbed)
    assert not (folder / "set_aside").exists()


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


# --- one process ---------------------------------------------------------------------------------------------------

HANGS = """
import ctypes, sys, time
from pathlib import Path
from study.execution.heartbeat import Heartbeat
with Heartbeat(Path(sys.argv[1]), "t", {}, limit_seconds=float(sys.argv[3])) as heartbeat:
    for step in range(4):
        time.sleep(0.3)
        heartbeat.watch(step)
    (ctypes.PyDLL if sys.argv[2] == "c" else ctypes.CDLL)(None).sleep(1000)
"""


@pytest.mark.parametrize(("where", "seconds"), [("python", 0.6), ("c", 0.6)])
def test_a_process_that_hangs_is_killed_and_leaves_its_reason(
    tmp_path: Path, where: str, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = time.monotonic()
    code = HANGS if where == "python" else f"import study.execution.heartbeat as h; h.GRACE_SECONDS = 1.0\n{HANGS}"
    words = [sys.executable, "-c", code, str(tmp_path), where, str(seconds)]
    child = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert time.monotonic() - started < 30
    assert child.returncode == (-signal.SIGKILL if where == "python" else 1)
    assert "line 10" in child.stderr, "where it hung"
    found = heartbeat.last(tmp_path, "t")
    assert found["pid"] > 0
    if where == "python":
        assert found["step"] == 4
    monkeypatch.setattr(time, "time", lambda: 0.0)  # the time of day plays no part
    assert heartbeat.why_it_ended(found, time.monotonic()) == "no step within 0.6 s, and its process was ended"


def test_a_process_that_makes_steps_is_not_killed(tmp_path: Path) -> None:
    code = HANGS.replace("sleep(1000)", "sleep(0)").replace("range(4)", "range(10)")
    words = [sys.executable, "-c", code, str(tmp_path), "c", "0.6"]
    child = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert (child.returncode, child.stderr) == (0, "")
    assert not heartbeat.each(tmp_path)


def test_malformed_heartbeats_are_ignored(tmp_path: Path) -> None:
    folder = tmp_path / "training"
    folder.mkdir()
    for name, text in {"a": "", "b": "[]", "c": '{"pid": "x"}', "d": '{"pid"'}.items():
        (folder / f"{name}.json").write_text(text)
    assert heartbeat.each(tmp_path) == {}
    assert heartbeat.each(tmp_path / "nowhere") == {}
    heartbeat.forget(tmp_path, "a")
    assert not (folder / "a.json").exists()
    heartbeat.tidy(tmp_path)
    assert not list(folder.iterdir())
    assert heartbeat.why_it_ended({}) is None


def test_only_the_clock_of_its_machine_tells_that_a_process_hung(tmp_path: Path) -> None:
    """The time of day may have been set forward by a year between a beat and an end for lack of memory."""
    with heartbeat.Heartbeat(tmp_path, "t", {}, limit_seconds=60.0):
        found = heartbeat.last(tmp_path, "t")
    found["beat"] -= 365 * 24 * 3600
    clock, _ = heartbeat.state_of_machine()
    assert heartbeat.why_it_ended(found, clock) is None
    assert heartbeat.why_it_ended(found, found["clock"] + 61) == heartbeat.hung(60.0)
    assert heartbeat.why_it_ended(found | {"limit": 0}, found["clock"] + 61) is None
    assert heartbeat.why_it_ended(found) is None, "its machine does not answer"


def test_a_process_that_was_overtaken_leaves_the_heartbeat_of_the_next(tmp_path: Path) -> None:
    with heartbeat.Heartbeat(tmp_path, "t", {}):
        of_another = heartbeat.last(tmp_path, "t") | {"process": ["other", 1, "2"]}
        (tmp_path / "training" / "t.json").write_text(json.dumps(of_another))
    assert heartbeat.last(tmp_path, "t") == of_another


def test_a_kill_for_memory_is_counted_by_the_kernel() -> None:
    if not Path("/proc/vmstat").exists():
        pytest.skip("no /proc/vmstat")
    assert heartbeat.killed_for_memory() >= 0

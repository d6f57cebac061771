"""A command as a loop: its placeholders, the file that it writes, its end."""

import contextlib
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from processes import wait_until

from study.loops import command, loss_file
from study.loops.run import LoopRun
from study.loops.watch import RunEnded, Watch


def run_script(
    folder: Path, script: str, *, name: str = "losses.csv", tasks: tuple[str, ...] = ("loss",), check_stop=None
) -> tuple[Watch, dict]:
    (folder / "train.py").write_text(script)
    own = folder / "own"
    own.mkdir(exist_ok=True)
    run = LoopRun(lr=0.1, seed=3, arm="plain", options={"warm": True}, folder=own)
    watch = Watch(own, tasks, lambda step: None, check_stop or (lambda done: None))
    line = f"{sys.executable} {folder}/train.py {{lr}} {{seed}} {{warm}} {{folder}}/{name}"
    return watch, command.train(line, f"{{folder}}/{name}", None, run, watch)


def has_ended(pid: Path) -> bool:
    """Whether the process whose id is in a file has ended; a zombie has."""
    status = Path(f"/proc/{pid.read_text().strip()}/status")
    return not status.exists() or "\nState:\tZ" in status.read_text()


SCRIPT = """
import sys
lr, seed, warm, path = sys.argv[1:]
assert (float(lr), int(seed), warm) == (0.1, 3, "true")
with open(path, "w") as file:
"""


@pytest.mark.parametrize(
    ("name", "body"),
    [
        (
            "losses.csv",
            "    file.write('loss,step\\n')\n    for i in range(0, 50, 10): file.write(f'{i / 2},{i}\\n')\n",
        ),
        ("losses.jsonl", '    for i in range(0, 50, 10): file.write(\'{"step": %d, "loss": %g}\\n\' % (i, i / 2))\n'),
        ("no_end.csv", "    file.write('step,loss\\n0,0\\n10,5\\n20,10\\n30,15\\n40,20')\n"),
    ],
)
def test_losses_of_every_tenth_step(tmp_path: Path, name: str, body: str) -> None:
    watch, metrics = run_script(tmp_path, SCRIPT + body, name=name)
    found = watch.file.read()
    np.testing.assert_array_equal(found.step, [0, 10, 20, 30, 40])
    np.testing.assert_array_equal(found.loss[:, 0], [0, 5, 10, 15, 20])
    assert metrics == {}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("    pass", "wrote no losses"),
        ("    file.write('hello\\nworld\\n')", "no table|not a table"),
        ("    file.write('step,other\\n0,1\\n')", "no column 'loss'"),
        ("    file.write('step,loss\\nnan,1\\n')", "the step is 'nan'"),
        ("    file.write('step,loss\\n1.5,1\\n')", "the step is '1.5'"),
        ("    file.write('step,loss\\n5,1\\n4,1\\n')", "step 4 comes after step 5"),
        ("    file.write('step,loss\\n5,1\\n5,1\\n')", "step 5 comes after step 5"),
        ("    file.write('step,loss\\n1,x\\n')", "loss is 'x'"),
        ("    file.write('step,loss\\n1,2,3\\n')", "3 values in 2 columns"),
        ("    file.write('{\"step\": 1')", "not a line of JSON"),
        ('    file.write(\'{"step": true, "loss": 1}\')', "the step is True|step is True, not a number"),
        ("    file.write('{\"step\": 1, \"loss\": 1' + 400 * '0' + '}')", "line 1: loss is 10"),
        ("    file.write('step,loss\\n' + 20 * '9' + ',1\\n')", "the step is '9+', not a whole number"),
        ("    file.write(9999 * '[')", "not a table"),
        ("    file.write(9999 * '{\"a\":')", "not a line of JSON"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path: Path, body: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as refused:
        run_script(tmp_path, SCRIPT + body)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "lines", "steps", "losses"),
    [
        (
            "a.csv",
            ["step,loss", "0,1", "1,", "2,"],
            [0, 1],
            [1, math.nan],
        ),  # the first NaN ends it
        ("b.jsonl", ['{"step": 0, "loss": 1}', '{"step": 1, "loss": null}'], [0, 1], [1, math.nan]),
        ("never.csv", ["step,loss", "0,", "1,"], [0], [math.nan]),
        ("c.csv", ["step,accuracy,loss", "0,,1", "1,0.5,", "2,,0.8"], [0, 2], [1, 0.8]),
        ("d.csv", ["\ufeffstep,loss\r", "0,1\r", "1,0.5\r"], [0, 1], [1, 0.5]),
        ("e.csv", ["step,note,loss", "0,a\x0cb\u2028c,1"], [0], [1]),
    ],
)
def test_fields_without_a_loss_and_files_of_other_systems(
    tmp_path: Path, name: str, lines: list[str], steps: list[int], losses: list[float]
) -> None:
    body = f"    pass\nopen(path, 'wb').write({chr(10).join([*lines, '']).encode()!r})"
    with contextlib.suppress(RunEnded):
        run_script(tmp_path, SCRIPT + body, name=name)
    found = loss_file.read(tmp_path / "own" / loss_file.NAME, ["loss"])
    np.testing.assert_array_equal(found.step, steps)
    np.testing.assert_array_equal(found.loss[:, 0], np.float32(losses))


def test_half_a_line_of_a_killed_command_is_no_loss(tmp_path: Path) -> None:
    body = "    file.write('step,loss\\n0,1\\n1,3'); file.flush()\n    import os; os.kill(os.getpid(), 9)\n"
    with pytest.raises(RuntimeError, match="ended with status"):
        run_script(tmp_path, SCRIPT + body)
    assert [*loss_file.read(tmp_path / "own" / loss_file.NAME, ["loss"]).step] == [0]


def test_a_file_that_is_written_anew_is_refused(tmp_path: Path) -> None:
    body = (
        "    file.write('step,loss\\n0,1\\n1,1\\n2,1\\n')\n"
        "import pathlib, time\nseen = pathlib.Path(path).with_name('seen')\n"
        "while not seen.exists(): time.sleep(0.01)\n"
        "open(path, 'w').write('step,loss\\n3,1\\n')\n"
    )

    def stop(done: int) -> None:
        if done >= 3:
            (tmp_path / "own" / "seen").touch()

    with pytest.raises(ValueError, match="became shorter"):
        run_script(tmp_path, SCRIPT + body, check_stop=stop)


def test_a_command_that_fails_says_its_last_line(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="status 1: ZeroDivisionError"):
        run_script(tmp_path, "1 / 0")


def test_a_loss_that_is_not_finite_ends_the_command(tmp_path: Path) -> None:
    body = "    file.write('step,loss\\n0,1\\n1,nan\\n'); file.flush()\n    import time; time.sleep(100)\n"
    started = time.monotonic()
    with pytest.raises(RunEnded):
        run_script(tmp_path, SCRIPT + body)
    assert time.monotonic() - started < 60
    assert len(loss_file.read(tmp_path / "own" / loss_file.NAME, ["loss"]).step) == 2


def test_processes_of_a_command_end_with_it(tmp_path: Path) -> None:
    """Also those that it started, where the trial stops."""
    pids = tmp_path / "pids"
    script = (
        "import os, subprocess, sys, time\n"
        f"child = subprocess.Popen(['sleep', '1000'])\nopen({str(pids)!r}, 'w').write(f'{{child.pid}}\\n')\n"
        "time.sleep(1000)\n"
    )

    def stop(done: int) -> None:
        if pids.exists() and pids.read_text().endswith("\n"):
            raise InterruptedError

    with pytest.raises(RunEnded):
        run_script(tmp_path, script, check_stop=stop)
    wait_until(lambda: has_ended(pids), "its end")


KILLED = """
import sys
from pathlib import Path
from test_command import run_script
run_script(Path(sys.argv[1]), '''{script}''')
"""

STUBBORN = """
import os, pathlib, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path(__file__).with_name("pid").write_text(str(os.getpid()))
time.sleep(600)
"""


def test_a_command_ends_when_the_process_group_of_its_trial_is_killed(tmp_path: Path) -> None:
    """Ray kills the group of a worker that died, so what ends the command must not be in it."""
    trial = subprocess.Popen(
        [sys.executable, "-c", KILLED.format(script=STUBBORN), str(tmp_path)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(["tests/study/loops", *filter(None, sys.path)])},
        start_new_session=True,
    )
    pid = tmp_path / "pid"
    wait_until(lambda: pid.exists() and pid.read_text(), "its process id")
    os.killpg(trial.pid, signal.SIGKILL)
    trial.wait()
    wait_until(lambda: has_ended(pid), "its end")


@pytest.mark.parametrize(
    ("line", "options", "words"),
    [
        ("no_such_program_here {lr}", {"a": []}, "'no_such_program_here' does not exist"),
        ("python x.py {lrr}", {"a": []}, "placeholder {lrr}.*arm a"),
        ("python x.py {qk}", {"a": ["qk"], "b": []}, "placeholder {qk}.*arm b"),
        ("python x.py {lr}", {"a": ["qk"]}, "option qk of the arm a"),
        ("python x.py {0}", {"a": []}, "placeholder without a name"),
        ("python x.py {lr", {"a": []}, "brace"),
        ("python 'x.py", {"a": []}, "cannot be split"),
        ("", {"a": []}, "empty"),
    ],
)
def test_a_wrong_command_is_refused_before_training(line: str, options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        command.check(line, ["{folder}/losses.csv"], options)


def test_values_with_spaces_stay_one_word(tmp_path: Path) -> None:
    run = LoopRun(lr=1e-05, seed=0, arm="a b", options={"x": "two words"}, folder=tmp_path)
    words = [command.fill(word, run) for word in command.arguments("run --arm {arm} --x={x} {lr} '{{}}'")]
    assert words == ["run", "--arm", "a b", "--x=two words", "1e-05", "{}"]

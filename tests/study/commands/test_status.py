"""`study status`: what is done, training, diverged, failed and missing, and who trains it, from the folder alone."""

import errno
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from study.cli.main import main
from study.commands import status
from study.config import Arm, Recipe, Run, Study, control_of, runs_of
from study.execution import heartbeat
from study.record import tables
from study.record.definition import Definition, open_study
from study.record.failures import write_failure
from study.storage import holder, lock

CONTENT = "c" * 64
STUDY = Study(
    name="quick",
    data="synthetic",
    data_options={},
    models=("small",),
    arms=(Arm(method="none", options={}), *(Arm(method="clippy", options={"abs": a}) for a in (0.01, 0.001))),
    lrs=(0.1, 0.4),
    seeds=(0, 1, 2, 3),
    recipe=Recipe(),
)
ELSEWHERE = ["another boot", 1, "2"]
"""What identifies a process of another machine."""

CLICK = {"name": "click", "kind": "binary", "base": 0.38, "scale": 1.0, "constant_loss": 0.664, "constant_rmse": None}
TASKS = [CLICK]


def write(folder: Path, trial: str, runs: list[Run], outcome: str | None) -> None:
    rows = [
        {
            "run_id": run.id,
            "study": "quick",
            "data": run.data,
            "model": run.model,
            "method": run.method,
            "options": "{}",
            "thresholds": "{}",
            "lr": run.lr,
            "seed": run.seed,
            "role": run.role,
            "outcome": outcome,
            "steps": 3,
            "seconds": 1.0,
        }
        for run in runs
    ]
    constant = np.zeros(3, np.float32)
    losses = [{"run_id": id_, "seed": r.seed, "task": "click", "loss": constant} for r in runs for id_ in (None, r.id)]
    tables.write_trial(folder, trial, rows, losses)


def beats(folder: Path, trial: str, runs: list[Run], **more: Any) -> None:
    found = holder.this_process() | {"beat": time.time() - 1, "clock": 0.0, "seconds": 29, "limit": 600}
    found |= {"step": 120, "steps": 405, "model": "small", "method": runs[0].method, "runs": [run.id for run in runs]}
    (folder / "training").mkdir(exist_ok=True)
    (folder / "training" / f"{trial}.json").write_text(json.dumps(found | more))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The control and three of four stacks of `none` are recorded; one trains, one failed, and one process is gone."""
    described = {"content": CONTENT, "tasks": TASKS, "source": "synthetic", "facts": {}}
    open_study(tmp_path, Definition(study=STUDY, data=described, versions={}))
    write(tmp_path, "control", control_of(STUDY, CONTENT), None)
    runs = [run for run in runs_of(STUDY, CONTENT) if run.method == "none"]
    low, high = ([run for run in runs if run.lr == lr] for lr in (0.1, 0.4))
    write(tmp_path, "low", low, "completed")
    write(tmp_path, "high", high[:1], "undertrained")
    write(tmp_path, "higher", high[1:3], "diverged")
    clippy = [run for run in runs_of(STUDY, CONTENT) if run.method == "clippy" and run.options["abs"] == 0.01]
    beats(tmp_path, "alive", clippy[:3])
    beats(tmp_path, "silent", clippy[4:6], beat=time.time() - 3600, process=ELSEWHERE)
    write_failure(tmp_path, "failed", [high[3].id, clippy[7].id], "RuntimeError: an odd shape")
    return tmp_path


def test_every_run_is_in_one_place(folder: Path) -> None:
    found = status.read_status(folder)
    assert found.total == {
        "planned": 24,
        "done": 7,
        "training": 3,
        "diverged": 2,
        "undertrained": 1,
        "failed": 2,
        "missing": 12,
    }
    assert found.control == {"planned": 24, "done": 24, "training": 0, "failed": 0}
    for cell in found.cells:
        assert cell.planned == 4 == cell.done + cell.training + cell.failed + cell.missing
    cells = {(cell.curve, cell.lr): cell for cell in found.cells}
    assert set(cells) == {(c, lr) for c in ("none", "clippy abs=0.01", "clippy abs=0.001") for lr in (0.1, 0.4)}
    high = cells["none", 0.4]
    assert (high.done, high.diverged, high.undertrained, high.failed) == (3, 2, 1, 1)
    assert sum(cell.training for cell in found.cells if cell.curve == "clippy abs=0.01") == 3
    assert found.failures == {"RuntimeError: an odd shape": 2}
    assert [trial["trial"] for trial in found.training] == ["alive"]
    assert [trial["trial"] for trial in found.silent] == ["silent"]


def test_cells_of_a_table_that_is_too_large_are_not_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They would take seconds: a study may have 500,000."""
    monkeypatch.setattr(status, "MOST_CURVES", 2)
    monkeypatch.setattr(status, "_cell_text", None)
    said = status.status(folder)
    assert said.endswith("small: 3 curves and 2 lrs are too many for a table; --json has every cell")
    assert len(json.loads(status.status(folder, as_json=True))["cells"]) == 6


def test_what_a_terminal_shows(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(folder)]) == 0
    said = capsys.readouterr().out
    assert said.startswith(
        f"quick: 7 of 24 runs recorded, 2 failed, in {folder}\n  3 training, 2 diverged, 1 undertrained, 12 missing\n"
    )
    here = f"process {os.getpid()} on {socket.gethostname()}"
    assert f"  training: 3 runs of clippy on small, step 120 of 405 after 0:29, {here}\n" in said
    assert "step 120 of 405 after -" not in said
    assert ", last heartbeat 1:00:0" in said
    assert "  failed: 2 runs: RuntimeError: an odd shape\n" in said
    assert f"nothing is training; `study resume {folder}` continues" in said
    lines = said[said.index("small: runs done of those planned") :].splitlines()
    assert lines[1].split() == ["lr", "none", "clippy", "abs=0.01", "clippy", "abs=0.001"]
    assert lines[2].startswith("0.1  4/4")
    assert lines[3].startswith("0.4  3/4 2d 1u 1f  ")


def test_the_same_for_programs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["total"]["missing"] == 12
    assert len(found["cells"]) == 6
    assert found["at_work"] is False


def test_who_holds_it(folder: Path) -> None:
    with lock.locked(folder):
        held = (folder / "lock").read_text()
        found = status.read_status(folder)
        assert found.at_work
        assert f"process {os.getpid()} on {socket.gethostname()}" in str(found.driver)
        assert f"driver: {found.driver}" in status.text(found)
    assert status.read_status(folder).driver is None
    # Killed: the lock still says who it was.
    holder = json.loads(held)
    boot, namespace, _ = holder["process"]
    (folder / "lock").write_text(json.dumps(holder | {"pid": 2**22 + 1, "process": [boot, namespace, "1"]}))
    gone = status.read_status(folder)
    assert (gone.driver is None, gone.at_work) == (False, False)
    assert "has ended" in status.text(gone)


@pytest.mark.parametrize("seconds", [-3600, 3600])
def test_clocks_of_other_machines_decide_nothing(folder: Path, seconds: int) -> None:
    (folder / "training" / "alive.json").unlink()
    runs = [run for run in runs_of(STUDY, CONTENT) if run.method == "clippy" and run.options["abs"] == 0.001]
    beats(folder, "silent", runs[:2], beat=time.time() + seconds, process=ELSEWHERE)
    with lock.locked(folder):
        found = status.read_status(folder)
        assert [trial["trial"] for trial in found.training] == ["silent"]
        assert found.total["training"] == 2
    found = status.read_status(folder)
    assert [trial["trial"] for trial in found.silent] == ["silent"], "its driver has ended"
    assert found.total["training"] == 0


@pytest.mark.filterwarnings("ignore:.*alive.json cannot be read")
@pytest.mark.parametrize(
    "text", ["", "[]", '{"host": 3}', "\x00", '{"host": "h", "pid": 1, "beat": 0, "clock": 0, "seconds": 0}']
)
def test_files_of_anyone_do_no_harm(folder: Path, text: str) -> None:
    (folder / "training" / "alive.json").write_text(text)
    (folder / "training" / "silent.json").unlink()
    (folder / "lock").write_text(text)
    found = status.read_status(folder)
    assert found.total["training"] == 0
    assert status.text(found)
    assert json.loads(status.status(folder, as_json=True))


def test_runs_that_were_recorded_since_count_once(folder: Path) -> None:
    """A process was killed after it had recorded its runs."""
    runs = [run for run in runs_of(STUDY, CONTENT) if run.method == "none"]
    beats(folder, "alive", runs[:2])
    found = status.read_status(folder)
    assert found.total["training"] == 0
    assert found.total["done"] == 7
    heartbeat.tidy(folder)
    assert not status.read_status(folder).training


DEEP = "[" * 200_000
BEAT = dict.fromkeys(("beat", "clock", "seconds", "step", "limit", "pid"), 1)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (DEEP, "nested too deep"),
        ("[]", "not a JSON object"),
        ("{", "Expecting property name"),
        ("\udcff", "'utf-8' codec can't decode byte 0xff"),
        (json.dumps(BEAT | {"runs": 5}), "runs is 5"),
        (json.dumps(BEAT | {"runs": True}), "runs is True"),
        (json.dumps(BEAT | {"runs": [5]}), r"runs is \[5\]"),
        (json.dumps(BEAT | {"runs": [], "steps": 10**400}), "steps is 1000"),
        (json.dumps(BEAT | {"steps": "5"}), "steps is '5'"),
        (json.dumps(BEAT | {"beat": None}), "beat is None"),
    ],
)
def test_a_damaged_heartbeat_is_named_and_ignored(folder: Path, content: str, why: str) -> None:
    before = status.status(folder)
    (folder / "training" / "x.json").write_bytes(content.encode(errors="surrogateescape"))
    (folder / "training" / "README").write_text("no heartbeat")
    with pytest.warns(UserWarning, match=rf"training/x\.json cannot be read \({why}"):
        assert status.status(folder) == before
    assert heartbeat.last(folder, "x") == {}
    assert "x" not in heartbeat.work_done(folder)


@pytest.mark.parametrize("content", [DEEP, "[]", "{", "\udcff"])
def test_a_damaged_lock_is_named_and_is_not_nobody(folder: Path, content: str) -> None:
    (folder / "lock").write_bytes(content.encode(errors="surrogateescape"))
    found = status.read_status(folder)
    assert found.driver is None
    assert f"unknown whether a driver is at work: {folder}/lock cannot be read (" in status.text(found)
    assert "nothing is training" not in status.text(found)


@pytest.mark.parametrize("name", ["lock", "lease/00000001"])
def test_a_lock_that_cannot_be_read_now_is_not_nobody(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (folder / "lease").mkdir()
    (folder / name).write_text("{}")
    opened = os.open

    def fail(path: Any, *words: Any, **named: Any) -> int:
        if path == Path(name).name:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return opened(path, *words, **named)

    monkeypatch.setattr(os, "open", fail)
    expected = f"unknown whether a driver is at work: {folder}/{name} cannot be read (Input/output error)"
    assert expected in status.status(folder)

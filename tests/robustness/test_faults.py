"""A study that is killed at random moments and resumed ends with the bits of an undisturbed one.

`make faults` goes on for longer; tests/helpers/faults.py is its tool.
"""

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import faults
import pandas as pd
import pytest
from faults import MlflowServer, Room, trials
from processes import SECONDS, kill_tree, send, tree, wait_until
from simulated_record import simulated_definition, write_simulated_study
from studies import losses, recorded, shown

from study.config import Arm
from study.record import tables
from study.tracking import mirror
from study.tracking.client import DATABASE

SEED = 1
AT_LEAST = {"grid": 7, "edges": 7, "quality": 6}
"""Kills that must have happened. A study may end before its last one."""


@pytest.mark.long
@pytest.mark.parametrize("name", faults.STUDIES)
def test_a_killed_and_resumed_study_has_the_bits_of_an_undisturbed_one(name: str, tmp_path: Path) -> None:
    killed = faults.torment(name, tmp_path / name, SEED)
    killed.pop("clock", None)
    assert sum(killed.values()) >= AT_LEAST[name], f"the study ended after {dict(killed)}"


# Without MLflow ------------------------------------------------------------------------------------------------------

SHORT = [*faults.SIX_CELLS, "--seeds", "0-1"]
RUNS = 24 + 2 * 3 * 2


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Room]:
    monkeypatch.chdir(tmp_path)  # MLflow writes files there
    room = Room(tmp_path)
    yield room
    room.end()


class Silence:
    """A server that accepts every connection and never answers."""

    def __init__(self) -> None:
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.socket.listen(64)
        self.port = self.socket.getsockname()[1]
        self.taken: list[socket.socket] = []
        threading.Thread(target=self._take, daemon=True).start()

    def _take(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self.taken.append(self.socket.accept()[0])

    def asked(self) -> bool:
        """Return whether a client waits for an answer."""
        return any(self._has_said(one) for one in list(self.taken))

    @staticmethod
    def _has_said(one: socket.socket) -> bool:
        with contextlib.suppress(OSError):
            return bool(one.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        return False

    def close(self) -> None:
        # A thread that waits in accept keeps the socket until someone calls.
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        for one in self.taken:
            one.close()


def rebuilt(room: Room, folder: Path) -> Path:
    """Write the view into an empty database, as `study mlflow` does; return its path."""
    database = room.folder / "rebuilt.db"
    mirror.mirror(folder, f"sqlite:///{database}")
    return database


@pytest.mark.slow
def test_training_does_not_wait_for_a_tracking_server(room: Room) -> None:
    """A server that never answers is the worst case: a refused connection costs nothing."""
    folder, log = room.folder / "out", room.folder / "log"
    silence = Silence()
    settings = {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{silence.port}", "MLFLOW_HTTP_REQUEST_TIMEOUT": "300"}
    words = ["run", *SHORT, "--out", folder, "--stack", "1", "--workers", "2"]
    child = room.popen([sys.executable, "-c", faults.STUDY, *words], log, settings)
    try:
        wait_until(lambda: trials(folder), "the first run")
        send(child.pid, signal.SIGSTOP)  # a follower has the lowest priority, and may come late
        wait_until(silence.asked, "the follower asks the server")
        send(child.pid, signal.SIGCONT)
        before = len(recorded(folder))
        assert before < RUNS, "asked too late to be waited for"
        wait_until(lambda: len(recorded(folder)) == RUNS, "every run is trained")
        # The same question is still unanswered: had training waited for it, there would be fewer runs.
        assert silence.asked()
        wait_until((folder / "report.html").exists, "the report is written")
        silence.close()
        assert child.wait(timeout=SECONDS) == 0, log.read_text()
    finally:
        room.note(tree(child.pid))
        kill_tree(child.pid)
    text = log.read_text()
    assert f"MLflow was not updated: the tracking server at {settings['MLFLOW_TRACKING_URI']} does not answer" in text
    assert len(tables.read_runs(folder)) == RUNS

    server = MlflowServer(room, "later")
    server.start()
    try:
        said = subprocess.run(
            [sys.executable, "-m", "study", "mlflow", folder, "--tracking-uri", server.uri],
            env=room.environment,
            capture_output=True,
            text=True,
            check=True,
        )
    finally:
        server.kill()
    assert said.stdout == f"MLflow: 2 curves, 6 cells, {RUNS} training runs in {server.uri}\n"
    assert shown(server.database) == shown(rebuilt(room, folder))


@pytest.mark.slow
def test_the_view_catches_up_after_a_tracking_server_was_away(room: Room) -> None:
    folder, log = room.folder / "out", room.folder / "log"
    server = MlflowServer(room, "away")
    server.start()
    words = ["run", *SHORT, "--out", folder, "--stack", "1", "--workers", "2", "--tracking-uri", server.uri]
    child = room.popen([sys.executable, "-c", faults.STUDY, *words], log)
    try:
        wait_until(lambda: len(recorded(folder)) >= RUNS // 3, "a third of the runs")
        server.kill()
        wait_until(lambda: len(recorded(folder)) >= 2 * RUNS // 3, "two thirds of the runs, without a server")
        send(child.pid, signal.SIGSTOP)  # to start one takes longer than the last third
        server.start()
        send(child.pid, signal.SIGCONT)
        assert child.wait(timeout=SECONDS) == 0, log.read_text()
    finally:
        room.note(tree(child.pid))
        kill_tree(child.pid)
        server.kill()
    assert f"MLflow: 2 curves, 6 cells, {RUNS} training runs in {server.uri}" in log.read_text()
    assert len(tables.read_runs(folder)) == RUNS
    assert shown(server.database) == shown(rebuilt(room, folder))


# Clocks --------------------------------------------------------------------------------------------------------------


def test_file_times_decide_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a clock that jumped, files are older than those before them, or come from the future."""
    monkeypatch.chdir(tmp_path)
    arms = (Arm(method="none"), Arm(method="clippy"))
    write_simulated_study(tmp_path, simulated_definition(models=["small"], arms=arms, lrs=(0.1, 1.6), seeds=range(4)))
    before, bits = tables.read_runs(tmp_path), losses(tmp_path)
    mirror.mirror(tmp_path)
    view = shown(tmp_path / DATABASE)
    rng = random.Random(SEED)
    for path in (tmp_path / "runs").iterdir():
        os.utime(path, (at := time.time() + rng.uniform(-3e8, 3e8), at))
    pd.testing.assert_frame_equal(tables.read_runs(tmp_path), before)
    assert losses(tmp_path) == bits
    mirror.mirror(tmp_path)
    assert shown(tmp_path / DATABASE) == view
    mirror.mirror(tmp_path, f"sqlite:///{tmp_path / 'anew.db'}")
    assert shown(tmp_path / "anew.db") == view

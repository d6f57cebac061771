"""The MLflow server on loopback."""

import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import screenshots
from mlflow_view import View, assert_exactly_once, write

from study.tracking.client import TrackingError
from study.tracking.mirror import KIND, mirror
from study.tracking.server import server


def test_taken_port_is_named(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(TrackingError, match=f"port {port} cannot be used"), server(folder, port=port):
            pass


def test_shared_server_keeps_two_studies_of_one_name_apart(folder: Path) -> None:
    """`serve` as a user runs it, and its server as the shared one of two studies of the same name."""
    command = [sys.executable, "-m", "study", "ui", str(folder), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as user:
        assert user.stdout is not None
        try:
            line = user.stdout.readline().strip()
            address, _, page = line.partition("/#/")
            assert page.startswith("experiments/1/runs?compareRunsMode=CHART")
            with urllib.request.urlopen(f"{address}/health", timeout=10) as answer:
                assert answer.status == 200
            other = folder.with_name("other")
            write(other, seeds=2)
            (other / "report.html").write_text("a report")
            results = [mirror(where, address) for where in (folder, other, folder, other)]
            assert results[:2] == results[2:]
            assert results[0].experiment_id != results[1].experiment_id
            assert_exactly_once(folder, View(folder, address, results[0].experiment_id))
            view = View(other, address, results[1].experiment_id)
            assert_exactly_once(other, view)
            (study,) = [run for run in view.tops if run.data.tags[KIND] == "study"]
            files = {file.path for file in view.client.list_artifacts(study.info.run_id)}
            assert files == {"report.html", "study.json"}
        finally:
            user.send_signal(signal.SIGTERM)
            assert user.wait(timeout=30) == 0
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", int(address.rpartition(":")[2]))) != 0


@pytest.mark.slow
@pytest.mark.skipif(screenshots.chromium() is None, reason="no Chromium is installed")
def test_charts_are_drawn_when_the_page_opens(folder: Path, tmp_path: Path) -> None:
    for picture in screenshots.take(folder, tmp_path / "pictures"):
        assert picture.stat().st_size > 30_000

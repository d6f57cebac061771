"""The MLflow page on loopback."""

import base64
import json
import os
import shutil
import socket
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import chromium
import pytest
import screenshots
from mlflow_view import View, assert_exactly_once, shared_server, study_ui, write

from study.config import Arm
from study.tracking.client import TrackingError
from study.tracking.mirror import mirror
from study.tracking.server import serve
from study.tracking.writing import KIND


def test_taken_port_is_named(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(TrackingError, match=f"port {port} cannot be used"):
            serve(folder, port=port)


def test_another_user_neither_reads_nor_writes_through_the_page(folder: Path, tmp_path: Path) -> None:
    """An experiment whose folder is elsewhere would read and write files there."""
    secret = tmp_path / "secret"
    secret.mkdir()
    create = json.dumps({"name": "theirs", "artifact_location": secret.as_uri()}).encode()
    with study_ui(folder) as line:
        password, at = urlsplit(line).password or "", f"127.0.0.1:{urlsplit(line).port}"
        own = View(folder, f"http://study:{password}@{at}")
        assert_exactly_once(folder, own)
        assert own.client.list_artifacts(next(run for run in own.tops if run.data.tags[KIND] == "study").info.run_id)
        assert len(password) > 40
        assert all(password.encode() not in path.read_bytes() for path in folder.rglob("*") if path.is_file())

        api = "/api/2.0/mlflow"
        reads = ("/", "/health", "/open", f"{api}/experiments/get?experiment_id=1", "/get-artifact?path=study.json")
        for path in reads:
            assert answer(at, path) == answer(at, path, "wrong") == answer(at, path, "") == 401
        writes = {
            "POST": (
                f"{api}/experiments/create",
                f"{api}/runs/create",
                f"{api}/runs/delete",
                f"{api}/upload-artifact",
                "/api/2.0/mlflow-artifacts/mpu/create/x/search",
                "/ajax-api/3.0/mlflow/assistant/message",
            ),
            "PUT": ("/api/2.0/mlflow-artifacts/artifacts/runs/search", "/graphql"),
            "PATCH": ("/api/2.0/mlflow/registered-models/search",),
            "DELETE": ("/api/2.0/mlflow/logged-models/search",),
        }
        for method, paths in writes.items():
            for path in paths:
                assert answer(at, path, method=method, body=create) == 401
                assert answer(at, path, password, method=method, body=create) == 403
        assert answer(at, "/health", password) == 200
        assert answer(at, "/health", password, Origin="http://127.0.0.1:1") == 403  # a page of another user's server
        assert answer(at, "/", password) == 200
        assert answer(at, "/", password, Host="elsewhere.example") == 403  # a name that someone lets point to loopback
        assert answer(at, f"{api}/experiments/get-by-name?experiment_name=theirs", password) == 404
    assert list(secret.iterdir()) == []
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", int(at.rpartition(":")[2]))) != 0


def test_each_start_has_a_password_of_its_own_which_no_command_line_shows(folder: Path) -> None:
    with study_ui(folder) as first, study_ui(folder) as second:
        passwords = [urlsplit(line).password or "" for line in (first, second)]
        assert answer(f"127.0.0.1:{urlsplit(second).port}", "/health", passwords[0]) == 401
        for process in filter(str.isdigit, os.listdir("/proc")) if os.path.isdir("/proc") else ():
            try:
                words = Path("/proc", process, "cmdline").read_text(errors="replace")
            except OSError:  # it has ended
                continue
            assert not any(password in words for password in passwords)


def answer(
    at: str, path: str, password: str | None = None, method: str = "GET", body: bytes | None = None, **headers: str
) -> int:
    """Return the status of an answer."""
    if password is not None:
        headers["Authorization"] = f"Basic {base64.b64encode(f'study:{password}'.encode()).decode()}"
    request = urllib.request.Request(f"http://{at}{path}", body, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as found:
            return found.status
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def test_shared_server_keeps_two_studies_of_one_name_apart(folder: Path) -> None:
    other = folder.with_name("other")
    write(other, seeds=2)
    (other / "report.html").write_text("a report")
    with shared_server(folder) as address:
        results = [mirror(where, address) for where in (folder, other, folder, other)]
        assert results[:2] == results[2:]
        assert results[0].experiment_id != results[1].experiment_id
        assert_exactly_once(folder, View(folder, address, results[0].experiment_id))
        view = View(other, address, results[1].experiment_id)
        assert_exactly_once(other, view)
        (study,) = [run for run in view.tops if run.data.tags[KIND] == "study"]
        files = {file.path for file in view.client.list_artifacts(study.info.run_id)}
        assert files == {"report.html", "study.json"}


@pytest.mark.slow
@chromium.needs_chromium
def test_the_page_opens_on_the_divergence_of_five_methods(empty_database: Path, tmp_path: Path) -> None:
    """The first chart is in sight at 1366 x 768."""
    methods = ("none", "clippy", "agc", "lamb", "layer_clip")
    folder = tmp_path / "five"
    folder.mkdir()
    shutil.copy(empty_database, folder)
    write(folder, arms=tuple(Arm(method=method) for method in methods))
    first = screenshots.take(folder, tmp_path / "pictures")[0]
    assert first["title"] == "divergence/rate"
    assert sorted(first["lines"]) == sorted(f"small · {method}" for method in methods)
    left, top, right, bottom = first["box"]
    assert left + 200 < right <= screenshots.SIZE[0], "MLflow's assistant takes a quarter of the page"
    assert 0 <= top < bottom <= screenshots.SIZE[1]
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 2

"""The connection to MLflow: database, experiment, lock, and errors without passwords."""

import contextlib
import fcntl
import http.server
import os
import socket
import sqlite3
import ssl
import sys
import threading
import time
import traceback
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from mlflow.exceptions import MlflowException
from mlflow_view import View, assert_exactly_once, study_ui, write

from study.tracking.client import (
    DATABASE,
    TrackingError,
    check_scheme,
    default_uri,
    folder_id,
    is_relative,
    open_client,
    tracking_errors,
    without_credentials,
)
from study.tracking.mirror import mirror


def test_first_mirror_creates_the_database(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / f".{DATABASE}.of-a-killed-one").write_bytes(b"half a database")
    mirror(tmp_path)
    assert_exactly_once(tmp_path, View(tmp_path))
    assert sorted(path.name for path in tmp_path.glob("*mlflow*")) == [".mlflow.lock", "mlflow-artifacts", "mlflow.db"]


def test_any_name_of_a_folder_serves(tmp_path: Path) -> None:
    name = "feature%2Flogin b?c#d'\"&=ü%"
    folder = tmp_path / "inside" / name
    write(folder)
    (folder / "report.html").write_text("a report")
    shown = mirror(folder)
    assert_exactly_once(folder, View(folder))
    assert mirror(folder, shown.uri) == shown
    with study_ui(folder) as line:
        at = urlsplit(line)
        own = View(folder, f"http://study:{at.password}@127.0.0.1:{at.port}")
        assert_exactly_once(folder, own)
        assert [file for run in own.tops for file in own.client.list_artifacts(run.info.run_id)]
    assert len([*folder.glob("mlflow-artifacts/**/report.html")]) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"inside"}
    assert [path.name for path in (tmp_path / "inside").iterdir()] == [name]


def test_locked_database_is_not_called_broken(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("study.tracking.client.LOCK_SECONDS", 0.1)
    with contextlib.closing(sqlite3.connect(folder / DATABASE, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(TrackingError, match=r"is locked by another program, after 0.1 s$"):
            mirror(folder)
    monkeypatch.undo()
    mirror(folder)
    assert_exactly_once(folder, View(folder))


@pytest.mark.slow
def test_locked_database_is_waited_for(folder: Path) -> None:
    """By default SQLite waits for 5 s."""
    with contextlib.closing(sqlite3.connect(folder / DATABASE, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN EXCLUSIVE")
        release = threading.Timer(8, other.execute, ["ROLLBACK"])
        release.start()
        mirror(folder)
        release.join()
    assert_exactly_once(folder, View(folder))


def test_full_disk_does_not_make_a_database_broken(folder: Path) -> None:
    full = sqlite3.OperationalError("database or disk is full")
    full.sqlite_errorcode = sqlite3.SQLITE_FULL
    for cause in (full, OSError(28, "No space left on device")):
        with pytest.raises(TrackingError, match=f"mlflow.db \\(.*{cause.args[-1]}\\)$"):  # noqa: SIM117
            with tracking_errors(folder, "sqlite:///x", own=True):
                raise MlflowException("(raised as a result of Query-invoked autoflush)") from cause


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        *((uri, "it names no server") for uri in ("http://", "http:///x", "https:x", "http://h:0")),
        *(
            (uri, "its host or port is not valid")
            for uri in ("http://127.0.0.1:notaport", "http://h:99999", "http://[")
        ),
        *((uri, "it names no file") for uri in ("sqlite://", "sqlite:///:memory:", "sqlite:///file:x?uri=true")),
        *((uri, "the file cannot be opened") for uri in ("sqlite:////dev/null/x.db", "sqlite+pysqlite:////dev")),
        *((uri, "SQLAlchemy cannot read it") for uri in ("sqlite:x", "mysql://h:bad/x", "sqlite:///x.db?timeout=x")),
        ("sqlite+aiosqlite:////x", "aiosqlite is not installed"),
        *((uri, "an experiment of Databricks needs a path as its name") for uri in ("databricks", "databricks://a")),
        *((uri, "MLflow cannot write to it") for uri in ("./mlruns_x", "/x/mlruns", "file:///dev/null/x", "C:\\x")),
        *((uri, "MLflow cannot write to it") for uri in ("uc:foo", "databricks-uc", "oracle://h/x", "nosuch://x")),
    ],
)
def test_a_uri_that_never_works_is_refused(uri: str, why: str) -> None:
    said = f"{uri} cannot be used as a tracking URI ({why}); use http://HOST:PORT or sqlite:////FOLDER/mlflow.db"
    with pytest.raises(TrackingError) as refused:
        check_scheme(uri)
    assert str(refused.value) == said


def test_a_view_is_not_written_where_mlflow_would_try_again_for_minutes(folder: Path) -> None:
    with pytest.raises(TrackingError, match="the file cannot be opened"):
        mirror(folder, "sqlite:////dev/null/x.db")


def test_a_refused_uri_is_shown_without_its_password() -> None:
    with pytest.raises(TrackingError, match=r"^nosuch://x cannot be used"):
        check_scheme("nosuch://me:s3cret@x")


def test_a_database_needs_its_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    with pytest.raises(TrackingError, match="psycopg2"):
        check_scheme("postgresql+psycopg2://127.0.0.1:1/x")


def test_a_server_that_is_down_is_not_refused() -> None:
    for uri in ("http://127.0.0.1:1", "https://me:s3cret@h/x"):
        check_scheme(uri)


def test_the_folder_of_an_sqlite_file_is_created_under_its_own_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    """MLflow creates the folder as the URI has it, quotes included, and SQLite opens the file without them."""
    monkeypatch.chdir(tmp_path)  # MLflow keeps files beside it
    mirror(folder, f"sqlite:///{tmp_path}/new/x%2Fy%20z.db")
    assert (tmp_path / "new" / "x" / "y z.db").is_file()


@pytest.mark.parametrize(
    "uri",
    [
        *("http://x:5000", "databricks", "databricks://a", "uc", "postgresql://x/y", "plugin://x", "/x/mlruns"),
        *("file:/x", "file:///x/y", "sqlite:////x.db", "sqlite+pysqlite:////x%2Fy.db?timeout=3"),
    ],
)
def test_uris_that_hold_in_every_folder(uri: str) -> None:
    assert not is_relative(uri)


def test_moved_folder_gets_a_new_experiment_with_its_own_files(folder: Path) -> None:
    mirror(folder)
    moved = folder.with_name("moved")
    folder.rename(moved)
    result = mirror(moved)
    view = View(moved, experiment=result.experiment_id)
    assert_exactly_once(moved, view)
    assert not folder.exists()
    assert str(moved) in str(view.curves[0].info.artifact_uri)


def test_an_experiment_says_whose_it_is_and_where(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for user in ("ada", "grace"):
        monkeypatch.setenv("LOGNAME", user)
        result = mirror(folder)
        tags = open_client(default_uri(folder)).get_experiment(result.experiment_id).tags
        assert (tags["study.folder"], tags["study.user"]) == (str(folder), user)


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://me:s3cret@host:5000/path", "http://host:5000/path"),
        ("https://me:s3/cr?et@host", "https://host"),
        ("https://host/x?token=s3cret", "https://host/x"),
        ("postgresql+psycopg://me:s3cret@db/mlflow", "postgresql+psycopg://db/mlflow"),
        ("sqlite:////home/a@b/mlflow.db", "sqlite:////home/a@b/mlflow.db"),
        ("databricks", "databricks"),
    ],
)
def test_without_credentials(uri: str, shown: str) -> None:
    assert without_credentials(uri) == shown


@pytest.mark.parametrize("uri", ["http://me:s3cret@127.0.0.1:{port}", "nonsense://me:s3cret@127.0.0.1:{port}/x"])
def test_unreachable_server_raises_one_line_without_the_password(
    folder: Path, uri: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        began = time.monotonic()
        with pytest.raises(TrackingError) as caught:
            mirror(folder, uri.format(port=unused.getsockname()[1]))
    assert time.monotonic() - began < 10
    assert "\n" not in str(caught.value)
    assert "127.0.0.1" in str(caught.value)
    said = "".join(traceback.format_exception(caught.value)) + caplog.text + "".join(capfd.readouterr())
    assert "s3cret" not in said.replace(uri, "")
    assert "MLFLOW_HTTP_REQUEST_TIMEOUT" not in os.environ
    mirror(folder)  # and the record is as it was
    assert_exactly_once(folder, View(folder))


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (401, "You are not authenticated.", r"refuses our login \(401\); set MLFLOW_TRACKING_USERNAME and"),
        (401, '{"error_code": "UNAUTHENTICATED", "message": "no"}', r"refuses our login \(401\); set"),
        (403, "Permission denied", r"refuses our login \(403\); set .* and run `study mlflow "),
        (404, "Not Found", "cannot be used as a tracking URI"),
        (503, "busy", "does not answer; run `study mlflow "),
        (200, "<html>Sign in</html>", "answers, but not as MLflow does: is it a login page"),
        (200, "[1, 2]", "answers, but not as MLflow does: is it a login page"),
    ],
)
def test_what_a_server_answers_is_told_apart(folder: Path, status: int, body: str, message: str) -> None:
    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            with pytest.raises(TrackingError, match=message):
                mirror(folder, f"http://127.0.0.1:{server.server_port}")
        finally:
            server.shutdown()


def test_a_server_without_tls_is_no_server_that_is_down(folder: Path) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            with pytest.raises(TrackingError, match=r"^TLS with https://\S+ fails \(.*\); is its address http://"):
                mirror(folder, f"https://127.0.0.1:{server.server_port}")
        finally:
            server.shutdown()


def test_a_certificate_that_is_not_trusted_is_no_server_that_is_down(folder: Path) -> None:
    why = ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED]")
    why.verify_message = "self-signed certificate"

    def refuse() -> None:
        try:
            raise requests.exceptions.SSLError("Max retries exceeded") from why
        except requests.RequestException as error:
            raise MlflowException(f"API request failed with exception {error}")  # noqa: B904 - as MLflow does

    with pytest.raises(TrackingError) as raised, tracking_errors(folder, "https://h", own=False):
        refuse()
    assert str(raised.value) == (
        "the certificate of https://h is not trusted (self-signed certificate); set MLFLOW_TRACKING_SERVER_CERT_PATH "
        f"to that of its authority, where the study runs, and run `study mlflow {folder}`"
    )


def test_second_writer_gives_up_after_a_while(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("study.tracking.client.WAIT_SECONDS", 0.1)
    with (folder / ".mlflow.lock").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(TrackingError, match="another process is writing the MLflow view"):
            mirror(folder)
    mirror(folder)


def test_broken_database_is_named(folder: Path) -> None:
    (folder / DATABASE).write_bytes(b"no database at all, but long enough to look at" * 30)
    with pytest.raises(TrackingError, match="move it away, and it is rebuilt from the record"):
        mirror(folder)


def test_an_id_that_is_no_text_names_its_file(tmp_path: Path) -> None:
    (tmp_path / "mlflow-id").write_bytes(b"\xff")
    with pytest.raises(ValueError, match=rf"^{tmp_path}/mlflow-id cannot be read \('utf-8' codec"):
        folder_id(tmp_path)

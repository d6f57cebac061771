"""MLflow's own pages of a study, served on loopback."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from study import telemetry
from study.tracking.client import ARTIFACTS, WAIT_SECONDS, TrackingError, default_uri
from study.tracking.mirror import mirror

DEFAULT_PORT = 5000


def serve(folder: Path, port: int | None = None, uri: str | None = None) -> None:
    """Update the view, serve it on loopback, print the address of its charts, and wait for Ctrl-C.

    Args:
        folder: the study's folder.
        port: None takes 5000, or any free port if that is taken.
        uri: MLflow tracking URI; None is the database in the study's folder. For an http address, which has a server
            already, only the address of the charts is printed.

    Raises:
        TrackingError: the view cannot be written, or the server does not start.
    """
    shown = mirror(folder, uri)
    if uri is not None and uri.startswith(("http://", "https://")):
        print(f"{shown.uri.rstrip('/')}{shown.url_path}", flush=True)
        return
    with _hangup_as_ctrl_c(), server(folder, port=port, uri=uri) as address:
        print(f"{address}{shown.url_path}\nCtrl-C stops the server.", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                time.sleep(3600)


@contextlib.contextmanager
def server(folder: Path, *, port: int | None = None, uri: str | None = None) -> Iterator[str]:
    """Run an MLflow server as a child process on loopback, while the block runs.

    Args:
        folder: the study's folder; the server's log is written there.
        port: see `serve`.
        uri: of the database; None is the one in the study's folder.

    Yields:
        its address, `http://127.0.0.1:PORT`, once it answers.

    Raises:
        TrackingError: it does not answer in time.
    """
    folder = folder.resolve()
    port = _free_port(port)
    address = f"http://127.0.0.1:{port}"
    log = folder / "mlflow-server.log"
    try:
        with log.open("w") as output:
            child = subprocess.Popen(
                _command(folder, port),
                env=_environment(uri or default_uri(folder)),
                cwd="/",  # uvicorn puts its current folder first on sys.path
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C must reach this process alone, which then ends the server
            )
    except OSError as error:
        raise TrackingError(f"cannot start the MLflow server in {folder} ({error.strerror})") from None
    try:
        _wait_until_up(child, address, log)
        yield address
    finally:
        _end(child)


def _command(folder: Path, port: int) -> list[str]:
    words = [sys.executable, "-P", "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    return [*words, "--workers", "1", "--artifacts-destination", str(folder / ARTIFACTS)]


def _environment(uri: str) -> dict[str, str]:
    """The server's environment. It holds the database's URI, since other users can read a password on a command line.

    Job runners are off, since they take 2 GB of memory. MLflow's guard against foreign web pages stays on.
    """
    inherited = {k: v for k, v in os.environ.items() if k != "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE"}
    settings = {"MLFLOW_BACKEND_STORE_URI": uri, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "PYTHONSAFEPATH": "1"}
    return inherited | settings | telemetry.disabled()


def _free_port(port: int | None) -> int:
    for candidate in (DEFAULT_PORT, 0) if port is None else (port,):
        with socket.socket() as probe, contextlib.suppress(OSError, OverflowError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", candidate))
            return probe.getsockname()[1]
    raise TrackingError(f"port {port} cannot be used; without --port, a free one is chosen")


def _wait_until_up(child: subprocess.Popen, address: str, log: Path) -> None:
    until = time.monotonic() + WAIT_SECONDS
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback is not behind a proxy
    while time.monotonic() < until:
        if child.poll() is not None:
            raise TrackingError(f"the MLflow server did not start (exit status {child.returncode}); see {log}")
        try:
            with direct.open(f"{address}/health", timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise TrackingError(f"the MLflow server does not answer at {address}; see {log}")


def _end(child: subprocess.Popen) -> None:
    """End the server and its workers, which are its process group."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(timeout=10)


@contextlib.contextmanager
def _hangup_as_ctrl_c() -> Iterator[None]:
    """Treat a closed terminal (SIGHUP) like Ctrl-C, so that the server ends too."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGHUP, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)

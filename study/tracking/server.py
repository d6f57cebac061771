"""MLflow's own pages of a study, served on loopback, behind a password and to be read only.

Other users of the machine reach loopback too. Whoever may create an experiment in MLflow also chooses the folder of its
files, and so reads and writes files of the user who started the server.
"""

import logging
import re
import secrets
import socket
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from study.text.console import show
from study.tracking.client import ARTIFACTS, TrackingError, default_uri, quiet_mlflow
from study.tracking.mirror import mirror

if TYPE_CHECKING:
    from werkzeug.serving import BaseWSGIServer

DEFAULT_PORT = 5000
LOGIN = "/open"
"""The path in the printed address. A page whose own address holds a password cannot load its data (Chromium)."""

OPEN = """<script>
    localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true")
    location.replace(location.origin + "/" + location.hash)
</script>"""
"""Leads to the charts. MLflow's assistant would open itself beside them, once a browser and port."""

SEARCH = re.compile(r"/graphql|/(ajax-)?api/\d\.0/mlflow/[\w-]+/search(-datasets)?")
"""The requests of MLflow's pages that read, though they are POST."""


def serve(folder: Path, port: int | None = None, uri: str | None = None) -> None:
    """Update the view, serve it on loopback, print the address of its charts, and wait for Ctrl-C.

    Args:
        folder: the study's folder.
        port: None takes 5000, or any free port if that is taken.
        uri: MLflow tracking URI; None is the database in the study's folder. For an http address, which has a server
            already, only the address of the charts is printed.

    Raises:
        TrackingError: the view cannot be written, or the port cannot be used.
    """
    shown = mirror(folder, uri)
    if uri is not None and uri.startswith(("http://", "https://")):
        show(f"{shown.uri.rstrip('/')}{shown.url_path}")
        return
    with quiet_mlflow(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's server uses deprecated parts of its libraries
        logging.getLogger("werkzeug").setLevel(logging.CRITICAL)  # it logs every request, with what a stranger sent
        password = secrets.token_urlsafe()
        server = _server(folder.resolve(), port, uri or default_uri(folder), password)
        address = f"http://study:{password}@127.0.0.1:{server.port}{LOGIN}{shown.url_path.removeprefix('/')}"
        show(f"{address}\nCtrl-C stops the server.")
        server.serve_forever()  # returns on Ctrl-C


def _server(folder: Path, port: int | None, uri: str, password: str) -> "BaseWSGIServer":
    """MLflow's Flask app behind the password. Its assistant and gateway, which run commands, are no part of it."""
    with _bound_socket(port) as listening:
        from mlflow.server import app, security
        from mlflow.server.handlers import initialize_backend_stores
        from werkzeug.datastructures import WWWAuthenticate
        from werkzeug.exceptions import Forbidden, Unauthorized
        from werkzeug.serving import make_server
        from werkzeug.wrappers import Request, Response

        initialize_backend_stores(uri, uri, (folder / ARTIFACTS).as_uri())
        security.init_security_middleware(app)  # refuses foreign Host headers; see MLFLOW_SERVER_ALLOWED_HOSTS

        @Request.application
        def guarded(request: Request):
            given = request.authorization
            if given is None or not secrets.compare_digest((given.password or "").encode(), password.encode()):
                raise Unauthorized(www_authenticate=WWWAuthenticate("basic", {"realm": "study ui"}))
            # A browser that knows the password also sends it for pages of other ports, which other users may serve.
            if request.headers.get("Origin", request.host_url[:-1]) != request.host_url[:-1]:
                raise Forbidden("This page answers no other page.")
            reads = request.method in ("GET", "HEAD") or (request.method == "POST" and SEARCH.fullmatch(request.path))
            if not reads:
                raise Forbidden("`study ui` shows a study and changes nothing.")
            return Response(OPEN, mimetype="text/html") if request.path == LOGIN else app

        return make_server("127.0.0.1", 0, guarded, threaded=True, fd=listening.fileno())


def _bound_socket(port: int | None) -> socket.socket:
    """A listening socket. It is bound once, so that no other user can take the port before the server does."""
    for candidate in (DEFAULT_PORT, 0) if port is None else (port,):
        try:
            return socket.create_server(("127.0.0.1", candidate))
        except (OSError, OverflowError):
            continue
    raise TrackingError(f"port {port} cannot be used; without --port, a free one is chosen")

"""A connection to MLflow: its database and experiment, quiet logs, and errors in one line without passwords."""

import contextlib
import logging
import os
import shlex
import sqlite3
import ssl
import urllib.parse
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import filelock

from study import telemetry
from study.record.definition import Definition
from study.storage import holder, stores
from study.storage.small_files import read_text

if TYPE_CHECKING:  # MLflow takes a second to import
    from mlflow import MlflowClient

DATABASE = "mlflow.db"
ARTIFACTS = "mlflow-artifacts"
WAIT_SECONDS = 60.0
"""How long to wait for another process that writes the same view, and for a server to start."""

LOCK_SECONDS = 20.0
"""How long to wait for an SQLite database that another program has locked. MLflow itself waits as long, but for its
first look at a database."""

BROKEN = (None, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
"""SQLite's codes of a database that stays unusable. None: MLflow refuses it, as one of another version."""

HTTP_SETTINGS = {
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
"""By default MLflow retries for minutes. Settings that the user has made stay."""

LOGIN = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, where the study runs"

CERTIFICATE = "set MLFLOW_TRACKING_SERVER_CERT_PATH to that of its authority, where the study runs"

NO_ANSWER_OF_MLFLOW = "was not in a valid JSON format"
"""In MLflow's error where a server answers 200 with something else than a JSON object."""

NOTE_TAG = "mlflow.note.content"
NOTE = (
    "P(divergence | learning rate): the charts show one line per curve. A step is 1000 log10(lr "
    "/ 1e-6): 3000 is a learning rate of 0.001, 4000 is 0.01, 5000 is 0.1, 6000 is 1. Each curve's cells are nested "
    "under it. A view of the study's record, rebuilt by `study mlflow`."
)


class TrackingError(ValueError):
    """The MLflow view could not be written or shown. The message is for the user; the record is unchanged."""


def default_uri(folder: Path) -> str:
    """Return the tracking URI of the SQLite database inside the study's folder."""
    return database_uri(folder.resolve() / DATABASE)


def database_uri(path: Path) -> str:
    """Return the tracking URI of an SQLite database."""
    quoted = urllib.parse.quote(str(path))
    # For a URI that begins with sqlite:///, MLflow creates the folder as it stands there, quotes included.
    return f"sqlite:///{path}" if quoted == str(path) else f"sqlite+pysqlite:///{quoted}"


def without_credentials(uri: str) -> str:
    """Return a tracking URI without user, password and query."""
    scheme, found, rest = uri.partition("://")
    if not found or scheme.partition("+")[0] == "sqlite":
        return uri
    # From the last @, because an unquoted password may hold any of the other separators.
    return f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}"


SCHEMES = ("file", "sqlite", "http", "https", "mysql", "postgresql", "mssql", "databricks", "databricks-uc", "uc")
"""The schemes of tracking URIs that MLflow itself knows. Its plugins may add others."""

DATABASES = ("sqlite", "mysql", "postgresql", "mssql")


def check_scheme(uri: str) -> None:
    """Raise TrackingError if a tracking URI can never work. Connects to no server.

    What works: a server with a host; an SQLite file, whose folder is created; another database of MLflow whose driver
    is installed; and what a plugin of MLflow knows.
    """
    scheme = uri.partition(":")[0].partition("+")[0].lower()
    if scheme in ("http", "https"):
        why = _why_no_server(uri)
    elif scheme in DATABASES:
        why = _why_no_database(uri)
    elif scheme == "databricks":
        why = "an experiment of Databricks needs a path as its name"
    else:
        why = _why_no_store(uri)
    if why:
        works = "use http://HOST:PORT or sqlite:////FOLDER/mlflow.db"
        raise TrackingError(f"{without_credentials(uri)} cannot be used as a tracking URI ({why}); {works}")


def _why_no_server(uri: str) -> str:
    try:
        parts = urllib.parse.urlsplit(uri)
        return "" if parts.hostname and parts.port != 0 else "it names no server"
    except ValueError:
        return "its host or port is not valid"


def _why_no_database(uri: str) -> str:
    from sqlalchemy import create_engine
    from sqlalchemy.exc import ArgumentError, SQLAlchemyError

    try:
        engine = create_engine(uri)
        file = engine.url.database
        if engine.dialect.name != "sqlite":
            return ""
        if not file or file.startswith((":memory:", "file:")):
            return "it names no file"
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        engine.connect().close()  # if this fails, MLflow tries again for minutes
        engine.dispose()
        return ""
    except ImportError as error:
        return f"{error.name} is not installed"
    except (ArgumentError, TypeError, ValueError):
        return "SQLAlchemy cannot read it"
    except (OSError, SQLAlchemyError):
        return "the file cannot be opened"


def _why_no_store(uri: str) -> str:
    with quiet_mlflow():
        from mlflow.exceptions import MlflowException

        try:
            open_client(uri)
            return ""
        except (MlflowException, OSError):
            return "MLflow cannot write to it"


def is_relative(uri: str) -> bool:
    """Return whether a tracking URI names a file or folder below the current folder."""
    scheme, _, path = uri.partition(":")
    if scheme.partition("+")[0] == "sqlite":
        return not path.startswith("////")
    if scheme == "file":
        return not path.startswith("/")
    return scheme not in SCHEMES and "://" not in uri and not uri.startswith("/")


def open_client(uri: str) -> "MlflowClient":
    """Return a client for a tracking URI."""
    if uri.startswith("sqlite") and "?" not in uri:
        uri += f"?timeout={LOCK_SECONDS}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=uri)


def create_database(folder: Path) -> None:
    """Create the study's database, unless there is one.

    It is created under another name and renamed: MLflow cannot open a database whose creation was interrupted.
    """
    if (folder / DATABASE).exists():
        return
    for left in folder.glob(f".{DATABASE}.*"):
        left.unlink(missing_ok=True)
    unfinished = folder / f".{DATABASE}.{uuid.uuid4().hex}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow uses deprecated parts of SQLAlchemy
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        store = SqlAlchemyStore(database_uri(unfinished), (folder / ARTIFACTS).as_uri())
    store.engine.dispose()
    unfinished.replace(folder / DATABASE)


def open_experiment(
    client: "MlflowClient", folder: Path, definition: Definition, *, own: bool, part: str = "", note: str = NOTE
) -> str:
    """Return the id of the study's experiment; it is created or restored if necessary.

    Args:
        client: of the tracking server.
        folder: the study's folder.
        definition: the study's definition.
        own: whether the database is the one in the study's folder. A shared server may hold studies of the same name.
        part: the end of its name, of a further experiment of the study.
        note: what MLflow shows above it. A note that a user has written stays.
    """
    from mlflow.exceptions import MlflowException

    name = experiment_name(folder, definition, own=own, part=part)
    artifacts = (folder / ARTIFACTS).as_uri() if own else None
    whose = {"study.folder": stores.address(folder), "study.user": holder.user()}
    found = client.get_experiment_by_name(name)
    if found is not None and found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    if found is not None and artifacts not in (None, found.artifact_location):
        # The folder was moved, and MLflow would write files to its old place.
        client.rename_experiment(found.experiment_id, f"{name} (moved {uuid.uuid4().hex[:8]})")
        client.delete_experiment(found.experiment_id)
        found = None
    if found is not None:
        own_note = not found.tags.get(NOTE_TAG, "").startswith(note.partition(":")[0])
        for key, value in (whose if own_note else whose | {NOTE_TAG: note}).items():
            if found.tags.get(key) != value:
                client.set_experiment_tag(found.experiment_id, key, value)
        return found.experiment_id
    # The kind makes MLflow open the page of runs, not its page for language models.
    tags = {"study": definition.study.name, NOTE_TAG: note}
    tags |= whose | {"mlflow.experimentKind": "custom_model_development"}
    try:
        return client.create_experiment(name, artifact_location=artifacts, tags=tags)
    except MlflowException:
        # If a server dies before it answers, MLflow asks again, and the experiment exists by then.
        if (found := client.get_experiment_by_name(name)) is None:
            raise
        return found.experiment_id


def experiment_name(folder: Path, definition: Definition, *, own: bool, part: str = "") -> str:
    """Return the name of a study's experiment, or of a further one; see `open_experiment`."""
    return definition.study.name + ("" if own else f" {folder_id(folder)[:8]}") + part


def folder_id(folder: Path) -> str:
    """Return the id that distinguishes this study's folder on a shared server. It stays when the folder is moved."""
    store = stores.store_for(folder)
    if not (found := read_text(store, "mlflow-id")):
        store.delete("mlflow-id")  # empty after an interrupted write
        store.create("mlflow-id", uuid.uuid4().hex.encode())
        found = read_text(store, "mlflow-id")  # of this process, or of another that created it first
    return found.strip()


@contextlib.contextmanager
def view_lock(folder: Path) -> Iterator[None]:
    """Hold the right to write the view of a study. Raises TrackingError after WAIT_SECONDS.

    Of two processes that write at once, each would delete the other's unfinished runs.
    """
    lock = filelock.FileLock(folder / ".mlflow.lock", timeout=WAIT_SECONDS)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise TrackingError(f"another process is writing the MLflow view of {folder}") from None
    except OSError as error:
        raise TrackingError(f"cannot write to {folder} ({error.strerror})") from None
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def quiet_mlflow() -> Iterator[None]:
    """Turn off MLflow's telemetry and logs, and shorten its retries, while the block runs."""
    settings = telemetry.disabled() | HTTP_SETTINGS
    added = [name for name in settings if name not in os.environ]
    os.environ.update({name: settings[name] for name in added})
    loggers = [logging.getLogger(name) for name in ("mlflow", "mlflow.store.db.utils", "alembic", "urllib3")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)  # MLflow also raises the errors that it logs
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        for name in added:
            os.environ.pop(name, None)


@contextlib.contextmanager
def tracking_errors(folder: Path, uri: str, *, own: bool, again: str | None = None) -> Iterator[None]:
    """Turn errors of MLflow into a TrackingError of one line. It has no cause, which may hold a password.

    Args:
        folder: the study's folder.
        uri: tracking URI.
        own: whether the database is the one in the study's folder.
        again: the command to repeat; None is `study mlflow`.
    """
    from mlflow.exceptions import MlflowException, RestException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    shown, remote = without_credentials(uri), uri.startswith(("http://", "https://"))
    try:
        yield
    except (MlflowException, RequestException, SQLAlchemyError, OSError, ImportError) as error:
        cause, status, tls = _system_error(error), _http_status(error), _tls_error(error)
        code = getattr(cause, "sqlite_errorcode", None)
        why = _first_line(cause, uri)
        again = again or f"study mlflow {shlex.quote(stores.address(folder))}"
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            message = f"{folder / DATABASE if own else shown} is locked by another program, after {LOCK_SECONDS:g} s"
        elif own:
            broken = code in BROKEN and not isinstance(cause, (OSError, ImportError))
            hint = "; move it away, and it is rebuilt from the record" if broken else ""
            message = f"cannot write {folder / DATABASE} ({why}){hint}"
        elif remote and status in (401, 403):
            message = f"the tracking server at {shown} refuses our login ({status}); set {LOGIN}, and run `{again}`"
        elif remote and isinstance(tls, ssl.SSLCertVerificationError):
            message = (
                f"the certificate of {shown} is not trusted ({tls.verify_message}); {CERTIFICATE}, and run `{again}`"
            )
        elif remote and tls and not isinstance(tls, ssl.SSLEOFError):  # as of a server that dies
            message = f"TLS with {shown} fails ({tls.reason}); is its address http://?"
        elif remote and isinstance(error, MlflowException) and NO_ANSWER_OF_MLFLOW in why:
            message = f"{shown} answers, but not as MLflow does: is it a login page, or another server?"
        elif remote and status >= 500 and not isinstance(error, RestException):
            message = f"the tracking server at {shown} does not answer; run `{again}` when it does"
        else:
            message = f"{shown} cannot be used as a tracking URI ({why})"
        raise TrackingError(message) from None


def _system_error(error: BaseException) -> BaseException:
    """Return the error of SQLite or of the system that caused an error of MLflow, or that error itself."""
    cause: BaseException | None = error
    while cause and not isinstance(cause, (sqlite3.Error, OSError)):
        cause = cause.__cause__
    return cause or error


def _tls_error(error: BaseException | None) -> ssl.SSLError | None:
    """Return the error of TLS that caused an error. MLflow raises its own while it handles that of requests."""
    while error and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    return error


def _http_status(error: BaseException) -> int:
    """Return the status that a server answered; where none did, that of a server that fails."""
    if status := getattr(getattr(error, "response", None), "status_code", None):
        return status
    of_mlflow = getattr(error, "get_http_status_code", None)
    return of_mlflow() if of_mlflow else 503


def _first_line(error: BaseException, uri: str) -> str:
    text = (str(error).strip() or type(error).__name__).splitlines()[0].replace(uri, without_credentials(uri))
    user, _, password = uri.partition("://")[2].rpartition("@")[0].partition(":")
    for secret in (password, urllib.parse.unquote(password), f"{user}@"):
        text = text.replace(secret, "***") if len(secret) > 1 else text
    return text[:300]

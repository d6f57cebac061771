"""What Ray and MLflow are told, through the environment, so that no door stands open and nothing is reported.

A Ray of our own listens on loopback alone, behind a token that was made for it and goes with it; its files lie where
nobody else can enter. Reports of usage, Ray's and MLflow's, are off unless the user has said STUDY_TELEMETRY=1.
"""

import contextlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

LOOPBACK = "127.0.0.1"

UNREPORTED = {"RAY_USAGE_STATS_ENABLED": "0", "MLFLOW_DISABLE_TELEMETRY": "true"}
"""Read by each once, when it is imported. A user who has set one of these has decided."""

OF_OUR_RAY = {
    "RAY_AUTH_MODE": "token",
    "RAY_enable_metrics_collection": "0",
    # These two of Ray's servers of metrics have no switch, but do not start on a port that cannot be.
    "AUTOSCALER_METRIC_PORT": "-1",
    "DASHBOARD_METRIC_PORT": "-1",
}
TOKEN = "RAY_AUTH_TOKEN"

LONGEST_FOLDER = 40
"""Bytes: Ray's sockets lie in a folder below, and a socket's path has 107 at most."""


def unreported() -> dict[str, str]:
    """What the environment of this process lacks, ahead of the import of ray or mlflow, for nothing to be reported."""
    if os.environ.get("STUDY_TELEMETRY") == "1":
        return {}
    return {name: value for name, value in UNREPORTED.items() if name not in os.environ}


@contextlib.contextmanager
def of_our_ray() -> Iterator[Path]:
    """The environment of a Ray that this command starts, and the folder for its files, which goes at the end.

    The token stands in the environment, which nobody else can read: no command line shows it, and no file keeps it.
    """
    ours = OF_OUR_RAY | {TOKEN: secrets.token_hex(32)}
    where = tempfile.gettempdir()
    folder = Path(tempfile.mkdtemp(prefix="study-ray-", dir=where if len(where) < LONGEST_FOLDER - 20 else "/tmp"))
    try:
        with environment(ours):
            yield folder / "r"  # Ray opens its own folder to everyone
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def environment(settings: Mapping[str, str]) -> Iterator[None]:
    """These settings for a while; what stood in their place comes back."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

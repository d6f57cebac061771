"""The environment variables that Ray reads, set before ray is imported.

Ray reads most of them once, when it is first imported. So the modules of this folder import ray inside their functions,
and `prepare` comes before all of them, and before a user's own modules.
"""

import functools
import os
import secrets
import sys
import warnings
from pathlib import Path
from urllib.parse import urlsplit

from study import telemetry

LOCAL = "local"
"""The address that stands for a Ray of this command alone."""

TUNE = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_RESULT_BUFFER_LENGTH": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Tune would drop what trains; see `study.execution.interrupts`
    "TUNE_MAX_PENDING_TRIALS_PG": "4096",  # the queue limits the trials
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
"""Defaults of ours: a variable that the user has set stays."""

WORKERS = {
    # By default glibc gives the freed tensors of a step back to the system. To take them again costs an eighth of a
    # stack's time.
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
    # Ray gives its workers nice 15: beside a busy process they would get a tenth of a core.
    "RAY_worker_niceness": "0",
}
"""Defaults of a local Ray's workers."""

START = {
    # How long Ray waits for its head, its agents and each worker: two or three times its own limits.
    "RAY_gcs_server_port_wait_time_s": "60",
    "RAY_agent_register_timeout_ms": "180000",
    "RAY_worker_register_timeout_seconds": "180",
}
"""Defaults of a local Ray, which may start on a busy machine."""

LOCAL_SECURITY = {
    "RAY_AUTH_MODE": "token",
    # Ray's switch for macOS and Windows. Its ports are then on loopback alone, on Linux too.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_enable_metrics_collection": "0",
}
"""A local Ray always has these, whatever the user has set for a cluster."""

ALIVE = "/ray.rpc.NodeInfoGcsService/CheckAlive"
"""What Ray's processes ask the head to know that it lives."""

TOKEN = "RAY_AUTH_TOKEN"
TOKEN_PATH = "RAY_AUTH_TOKEN_PATH"
_token = secrets.token_hex(32)


def prepare(address: str | None) -> str:
    """Set the environment for a local Ray, or for a cluster at an address.

    The token of a local Ray is made anew by each process. It stands in the environment alone: no command line shows it
    and no file keeps it.

    Args:
        address: Of a cluster; None is `own_connection`, else RAY_ADDRESS, as in a submitted job, else a local Ray.

    Returns:
        The address.

    Raises:
        ValueError: A local Ray is wanted, but ray was imported before, without a token: it could not connect.
    """
    address = address or own_connection() or os.environ.get("RAY_ADDRESS") or LOCAL
    if address == LOCAL and "ray" in sys.modules and os.environ.get("RAY_AUTH_MODE") != "token":
        raise ValueError("ray was imported before study; set RAY_AUTH_MODE=token before that")
    defaults = telemetry.disabled() | TUNE
    if address == LOCAL:
        defaults |= WORKERS | START
        os.environ.update(LOCAL_SECURITY | {TOKEN: _token})
    elif has_token() and not answers_anyone(address):
        if os.path.isfile(path := os.environ.get(TOKEN_PATH, "")):
            os.environ[TOKEN_PATH] = os.path.abspath(path)  # Ray connects from another folder
        # Ray's job client does not look for a token unless the mode is set.
        defaults |= {"RAY_AUTH_MODE": "token"}
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    return address


def own_connection() -> str | None:
    """Return the address of Ray's head if this process has called `ray.init` itself, else None.

    Raises:
        ValueError: The connection is one of Ray's client, which cannot run a study.
    """
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return None
    from ray.util import client

    if client.ray.is_connected():
        raise ValueError(
            "this process is connected by Ray's client, which cannot run a study; call ray.shutdown() first"
        )
    return ray.get_runtime_context().gcs_address


def checked_address(address: str | None, *, submits: bool) -> str | None:
    """Return the address that a command uses, or raise before it contacts anything.

    Args:
        address: The option `--address`.
        submits: The command needs a job server. Then the environment counts before the option, as for `ray job submit`.

    Raises:
        ValueError: The address is of another kind.
    """
    named = os.environ.get("RAY_API_SERVER_ADDRESS") if submits else address
    found = named or os.environ.get("RAY_ADDRESS") or address
    variable = "RAY_API_SERVER_ADDRESS" if named else "RAY_ADDRESS"
    shown = found if found == address else f"{found}, which {variable} names,"
    scheme, has_scheme, rest = (found or "").rpartition("://")
    host = rest.rpartition("@")[2].partition("/")[0].rpartition(":")[0] or "HEAD"
    takes = f"`study submit` takes the job server, such as http://{host}:8265"
    if scheme == "ray":
        raise ValueError(f"{shown} is for Ray's client, which cannot run a study; {takes}")
    if found and not submits and not _is_head(found):
        raise ValueError(f"{shown} is no address of Ray's head, such as {host}:6379; {takes}")
    if found and submits and not _is_server(found) and (has_scheme or found == address):
        raise ValueError(f"{shown} is no address of a job server; {takes}")
    if submits and address and found != address:
        warnings.warn(f"the environment names {found}, which counts before --address, as for `ray job`", stacklevel=2)
    return found if submits else address


def _is_head(address: str) -> bool:
    """Return whether this can be the address of Ray's head."""
    host, _, port = address.rpartition(":")
    named = host and "://" not in host and port.isdecimal() and len(port) <= 5 and 0 < int(port) < 65536
    return bool(named) or address in ("auto", LOCAL)


def _is_server(address: str) -> bool:
    """Return whether this can be the address of a job server. Schemes but http are modules that the user may have."""
    scheme, has_scheme, _ = address.partition("://")
    try:
        parts = urlsplit(address)
        named = scheme not in ("http", "https") or (parts.hostname and parts.port != 0)
    except ValueError:  # the port
        return False
    return bool(has_scheme and named) or address == "auto"


@functools.lru_cache
def answers_anyone(address: str) -> bool:
    """Return whether Ray's head at `host:port` answers without a token.

    A driver that has one there would refuse the workers, which have none. Ray reads the mode once, before it connects.
    """
    import grpc

    with grpc.insecure_channel(address) as channel:
        ask = channel.unary_unary(ALIVE, request_serializer=bytes, response_deserializer=bytes)
        try:
            ask(b"", timeout=5)
        except grpc.RpcError:
            return False
        return True


def has_token() -> bool:
    """True if the user has a token for a Ray cluster."""
    named = {TOKEN, TOKEN_PATH} & os.environ.keys()
    return bool(named) or (Path.home() / ".ray" / "auth_token").is_file()

"""Runs a command of ours as a job of a Ray cluster."""

import asyncio
import os
import re
import shlex
import stat
import sys
import time
import uuid
import warnings
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from study import plugins
from study.text import console, own_errors, redaction
from study.text.console import show
from study.tune import environment
from study.tune.cluster import TOKEN_HINT, ClusterError, refuse_dead_address

STOP_SETTINGS = {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": "30"}
"""Give a stopped job time to checkpoint."""

NOT_FOUND = 127
"""Exit code of a shell that does not find the command."""


class LostServerError(ClusterError):
    """The job server does not answer any more. The job goes on."""

    exit_code = 1


def submit(
    address: str, words: list[str], *, study: str, working_dir: Path | None, wait: bool, commit: str | None = None
) -> int:
    """Submit a command as a job, with this version of the code, and return its exit code.

    Args:
        address: Of the cluster's job server, such as http://127.0.0.1:8265, or of its head.
        words: The command, the cluster's Python first.
        study: Its name, which the job's id begins with.
        working_dir: Folder of the user's own modules.
        wait: Print the job's log until it ends. If False, return 0 once it is submitted.
        commit: Version of the code, for the record.

    Raises:
        ClusterError: No cluster answers, or it refuses the token or the job, or the folder cannot be sent.
        LostServerError: The server is gone while the job runs.
    """
    if working_dir:
        if not working_dir.is_dir():
            raise ClusterError(f"--working-dir {working_dir} is no folder")
        _refuse_pipes(working_dir)
    environment.prepare(address)
    if "://" not in address:
        refuse_dead_address(address)
    from ray.exceptions import AuthenticationError, RayError
    from ray.job_submission import JobSubmissionClient

    try:
        client = JobSubmissionClient(address)
        runtime_env = _runtime_env(working_dir, commit, client.get_address())
        name = re.sub(r"[^\w-]", "_", study) + f"-{uuid.uuid4().hex[:8]}"
        job = client.submit_job(entrypoint=shlex.join(words), runtime_env=runtime_env, submission_id=name)
    except AuthenticationError as error:
        raise ClusterError(
            f"the Ray job server at {address} refuses our token, or we have none: {TOKEN_HINT}"
        ) from error
    except ConnectionError as error:
        raise ClusterError(f"no Ray job server at {address} ({console.first_line(error)})") from error
    except (RuntimeError, ValueError, AssertionError, OSError, RayError) as error:
        why = console.one_line(str(error))[: console.MAX_LINE_LENGTH]
        if "Maximum request body size" in why:
            why = f"{working_dir} has more than it accepts: list what the job does not need in .rayignore; {why}"
        raise ClusterError(f"the Ray job server at {address} takes no job ({why})") from error
    except (TypeError, KeyError, AttributeError) as error:
        raise ClusterError(f"{address} does not answer as a Ray job server ({console.first_line(error)})") from error
    show(f"job {job} submitted to {redaction.redacted(client.get_address())}")
    return _follow(client, job) if wait else 0


def _runtime_env(working_dir: Path | None, commit: str | None, server: str) -> dict[str, Any]:
    settings = STOP_SETTINGS | ({"STUDY_COMMIT": commit} if commit else {})
    if urlsplit(server).hostname in ("127.0.0.1", "localhost", "::1") and sys.prefix != sys.base_prefix:
        # If the cluster is on this machine, its `python` is ours. At the other end of a tunnel there is no such folder.
        settings["PATH"] = f"{Path(sys.prefix) / 'bin'}:${{PATH}}"
    runtime_env: dict[str, Any] = {
        "py_modules": [str(folder) for folder in own_errors.our_folders().values()],
        "excludes": ["**/__pycache__"],
        "env_vars": settings,
    }
    if working_dir:
        _warn_of_hidden_modules(working_dir)
        runtime_env["working_dir"] = str(working_dir.resolve())
    elif own := plugins.own_files():
        warnings.warn(f"the cluster needs {own[0]} of this folder; send it with --working-dir .", stacklevel=2)
    return runtime_env


def _refuse_pipes(working_dir: Path) -> None:
    """Raise ClusterError if the folder holds a pipe or a device: Ray reads every file to its end, also behind links."""
    waiting, seen = [working_dir], set[tuple[int, int]]()
    while waiting:
        for path in _entries(waiting.pop()):
            try:
                state = path.stat()
            except OSError:  # a broken link, or one that may not be followed; Ray skips it
                continue
            endless = stat.S_ISFIFO(state.st_mode) or stat.S_ISCHR(state.st_mode) or stat.S_ISBLK(state.st_mode)
            if endless and not path.samefile(os.devnull):
                raise ClusterError(f"{path} is a pipe or a device, which has no end; remove it from --working-dir")
            if stat.S_ISDIR(state.st_mode) and (state.st_dev, state.st_ino) not in seen:
                seen.add((state.st_dev, state.st_ino))
                waiting.append(path)


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:  # Ray says why it cannot be sent
        return []


def _warn_of_hidden_modules(working_dir: Path) -> None:
    """Warn of files that hide a module of Python, since Ray puts the folder first on the path of a job."""
    for path in sorted([*working_dir.glob("*.py"), *working_dir.glob("*/__init__.py")]):
        found = path.parent if path.name == "__init__.py" else path
        if found.stem in sys.stdlib_module_names:
            warnings.warn(f"{found} hides Python's own module {found.stem!r} in the job; rename it", stacklevel=2)


def _follow(client: Any, job: str) -> int:
    """Print the job's log to its end; return its exit code. The job goes on if this is stopped or loses the server."""
    server = redaction.redacted(client.get_address())
    to = f"--address {shlex.quote(server)}"
    how = f"the job goes on; `ray job logs {to} --follow {job}` shows it, and `ray job stop {to} {job}` stops it"
    try:
        info = _print_log(client, job)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(how) from None
    except BrokenPipeError:  # stdout was closed
        raise
    except Exception as error:  # of each library that the client uses
        raise LostServerError(
            f"the job server at {server} is gone ({console.first_line(error)}); if Ray lives, {how}"
        ) from error
    if info.driver_exit_code == NOT_FOUND:
        warnings.warn("the cluster has no such Python; name it by --python", stacklevel=2)
    return 0 if info.status == "SUCCEEDED" else info.driver_exit_code or 1


def _print_log(client: Any, job: str) -> Any:
    """Print the job's log to its end; return Ray's account of the job."""

    async def print_log() -> None:
        async for lines in client.tail_job_logs(job):
            show(lines, end="")

    asyncio.run(print_log())
    info = client.get_job_info(job)
    while not info.status.is_terminal():  # the log may end a moment before the job
        time.sleep(0.5)
        info = client.get_job_info(job)
    return info

"""Folders and commands as a user types them."""

import contextlib
import os
import shlex
import shutil
import sys
from pathlib import Path

from study.storage import stores
from study.storage.untrusted_input import refuse_links
from study.tracking import client


def study_folder(where: str) -> Path:
    """Return a study's folder from what a user typed: a path, or a URL, whose local mirror is returned.

    Raises:
        StorageError: the folder holds links, pipes or devices where a study has files.
    """
    folder = stores.folder_of(where).expanduser().resolve()
    refuse_links(folder)
    return folder


def new_folder(where: str) -> Path:
    """Return `study_folder` of what may not exist yet. Raises ValueError where a file is in its place."""
    folder = study_folder(where)
    for place in (folder, *folder.parents):
        if place.exists() and not place.is_dir():
            raise ValueError(f"{place} is a file, and a record is a folder")
    return folder


def on_cluster(address: str | None) -> bool:
    """Return whether the study runs on a Ray cluster that exists already."""
    return bool(address or os.environ.get("RAY_ADDRESS"))


def check_absolute(address: str | None, option: str, where: str | None, shown: str | None = None) -> None:
    """Raise ValueError for a relative path on a cluster, where the current folder may not be the user's.

    Args:
        address: Of the cluster; None is RAY_ADDRESS, else this machine.
        option: The option's name.
        where: The path or URL.
        shown: What the user gave, if not that.
    """
    if (
        on_cluster(address)
        and where
        and not (stores.is_url(where) or stores.folder_of(where).expanduser().is_absolute())
    ):
        kind = "an absolute path" if option == "--data-dir" else "an absolute path or a URL"
        raise ValueError(f"{_on_which(address)} {option} must be {kind}, got {shown or where}")


def data_folder(where: str) -> Path:
    """Return the folder of --data-dir as an absolute path. Raises ValueError for a URL: data sources read files."""
    if "://" in where:
        raise ValueError(f"--data-dir must be a folder, got {where}; copy or mount the data")
    return Path(where).expanduser().resolve()


def check_tracking_uri(address: str | None, uri: str | None) -> None:
    """Raise ValueError for a relative tracking URI of MLflow on a cluster; see `check_absolute`."""
    if uri and on_cluster(address) and client.is_relative(uri):
        raise ValueError(f"{_on_which(address)} --tracking-uri must be an absolute path or a server, got {uri}")


def _on_which(address: str | None) -> str:
    """Return where a study runs, for a message: a variable that was forgotten is named."""
    return "on a cluster" if address else f"on the cluster {os.environ['RAY_ADDRESS']}, which RAY_ADDRESS names,"


def typed_path(folder: Path) -> str:
    """Return a folder as it is typed in a shell in the current folder; for the mirror of a URL, the URL."""
    address = stores.address(folder)
    return _from_here(address) if address == str(folder) else shlex.quote(address)


def typed_command() -> str:
    """Return how the command is typed: as it was, a path or `python -m study`; `study` in a program of the user."""
    typed = Path(sys.argv[0])
    if typed.parts[-2:] == ("study", "__main__.py"):
        return "python -m study"
    return "study" if typed.name != "study" or shutil.which("study") == str(typed) else _from_here(str(typed))


def _from_here(path: str) -> str:
    """Return a path from the current folder, if that is shorter. In a job, or where that folder is gone, it stays."""
    with contextlib.suppress(FileNotFoundError):
        relative = os.path.relpath(path)
        if not on_cluster(None) and len(relative) < len(path) and not relative.startswith("-"):
            path = relative
    return shlex.quote(path)

"""Folders and commands as a user types them."""

import os
import shlex
import shutil
import sys
from pathlib import Path

from study.storage import stores
from study.storage.untrusted_input import refuse_links


def study_folder(where: str) -> Path:
    """Return a study's folder from what a user typed: a path, or a URL, whose local mirror is returned.

    Raises:
        StorageError: the folder holds links, pipes or devices where a study has files.
    """
    folder = stores.folder_of(where).expanduser().resolve()
    refuse_links(folder)
    return folder


def on_cluster(address: str | None) -> bool:
    """Return whether the study runs on a Ray cluster that exists already."""
    return bool(address or os.environ.get("RAY_ADDRESS"))


def typed_path(folder: Path) -> str:
    """Return a folder as it is typed in a shell in the current folder; for the mirror of a URL, the URL."""
    address, relative = stores.address(folder), os.path.relpath(folder)
    is_short = address == str(folder) and len(relative) < len(address) and not relative.startswith("-")
    return shlex.quote(relative if is_short else address)


def typed_command() -> str:
    """Return how this command is typed: `study`, a path to it, or `python -m study`."""
    typed = sys.argv[0]
    if not typed.endswith("study"):
        return "python -m study"
    return "study" if shutil.which("study") == os.path.abspath(typed) else shlex.quote(os.path.relpath(typed))

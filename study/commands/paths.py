"""Folders and commands as a user types them."""

import os
import shutil
import sys
from pathlib import Path

from study.storage import stores


def study_folder(where: str) -> Path:
    """Return a study's folder from what a user typed: a path, or a URL, whose local mirror is returned."""
    return stores.folder_of(where).expanduser().resolve()


def on_cluster(address: str | None) -> bool:
    """Return whether the study runs on a Ray cluster that exists already."""
    return bool(address or os.environ.get("RAY_ADDRESS"))


def typed_path(folder: Path) -> str:
    """Return a folder as it can be typed in the current folder; for the mirror of a URL, the URL."""
    if (address := stores.address(folder)) != str(folder):
        return address
    relative = os.path.relpath(folder)
    return relative if len(relative) < len(str(folder)) else str(folder)


def typed_command() -> str:
    """Return how this command is typed: `study`, a path to it, or `python -m study`."""
    typed = sys.argv[0]
    if not typed.endswith("study"):
        return "python -m study"
    return "study" if shutil.which("study") == os.path.abspath(typed) else os.path.relpath(typed)

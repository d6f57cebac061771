"""What is flushed to the disk, and what then gets its final name."""

import os
from pathlib import Path

import pytest


def note_flushes(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Return a list that grows by each file or folder that is flushed, and by the new name of each that is renamed."""
    noted: list[Path] = []
    rename = Path.rename

    def renamed(old: Path, new: Path) -> Path:
        noted.append(new)
        return rename(old, new)

    monkeypatch.setattr(os, "fsync", lambda file: noted.append(Path(os.readlink(f"/proc/self/fd/{file}"))))
    monkeypatch.setattr(Path, "rename", renamed)
    return noted

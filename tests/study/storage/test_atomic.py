"""What survives a power failure: a file, its name in its folder, and the names of new folders."""

import os
from pathlib import Path

import pytest

from study.storage.atomic import write_atomic
from study.storage.local import LocalStore


@pytest.fixture
def flushed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Paths in the order in which they are flushed, each with the names that a folder has then."""
    found: list[Path] = []
    monkeypatch.setattr(os, "fsync", lambda file: found.append(Path(os.readlink(f"/proc/self/fd/{file}"))))
    return found


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="the system does not tell the path of an open file")
def test_names_are_flushed_after_contents(tmp_path: Path, flushed: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    replace = Path.replace

    def noted(old: Path, new: Path) -> Path:
        flushed.append(new)
        return replace(old, new)

    monkeypatch.setattr(Path, "replace", noted)
    path = tmp_path / "study" / "runs" / "a.parquet"
    write_atomic(path, b"rows")
    assert flushed[:2] == [tmp_path, path.parents[1]], "new folders"
    assert flushed[2].parent == path.parent
    assert flushed[3:] == [path, path.parent]
    flushed.clear()
    write_atomic(path, b"rows", sync=False)
    assert flushed == [path]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="the system does not tell the path of an open file")
def test_new_and_moved_files_keep_their_names(tmp_path: Path, flushed: list[Path]) -> None:
    store = LocalStore(tmp_path)
    assert store.create("runs/a", b"rows")
    assert flushed == [tmp_path, tmp_path / "runs" / "a", tmp_path / "runs"]
    flushed.clear()
    store.move("runs/a", "set_aside/a")
    assert flushed == [tmp_path, tmp_path / "set_aside", tmp_path / "runs"]

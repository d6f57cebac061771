"""Files that a user names: a pipe or a device in their place is refused at once, and a link is followed."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from study import data
from study.cli.main import main
from study.loops.losses_table import read_table
from study.storage.untrusted_input import open_named
from study.trainers import warm_start

DECLARED = 'files = ["log.csv"]\norder = "rows"\nnumbers = ["a"]\n[tasks]\ny = "regression"\n'


@pytest.fixture(autouse=True)
def _at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What waits for the writer of a pipe, or reads a device to its end, fails."""
    monkeypatch.setenv("STUDY_CACHE", str(tmp_path / "cache"))

    def give_up(*_: object) -> None:
        raise AssertionError("it waits")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(params=["a pipe", "a device"])
def no_file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "named"
    os.mkfifo(path) if request.param == "a pipe" else path.symlink_to("/dev/zero")
    return path


def test_weights_to_start_from(no_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "quick", "--init-from", str(no_file)]) == 2
    assert capsys.readouterr().err == f"study: {no_file} cannot be read (no regular file)\n"


def test_an_exported_file_replaces_no_device(no_file: Path) -> None:
    with pytest.raises(ValueError, match="named is no regular file"):
        warm_start.check_replaceable(str(no_file))
    assert not no_file.is_file()


@pytest.mark.parametrize("name", ["table.toml", "log.csv", "log.parquet"])
def test_a_table_and_its_declaration(no_file: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "log.csv").write_text("a,y\n1,2\n")
    (folder / "table.toml").write_text(DECLARED.replace("log.csv", name) if "log" in name else DECLARED)
    no_file.rename(folder / name)
    with pytest.raises(ValueError, match=rf"cannot read {folder / name} \(no regular file\)"):
        data.load("table", {"dir": str(folder)}, tmp_path / "cache")


def test_a_log_of_kuairand(no_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("user_features_pure.csv", "video_features_basic_pure.csv"):
        (folder / name).write_text("")
    no_file.rename(folder / "log_standard_4_08_to_4_21_pure.csv")
    with pytest.raises(ValueError, match="no regular file"):
        data.load("kuairand", {"dir": str(folder)}, tmp_path / "cache")


def test_losses_to_import(no_file: Path) -> None:
    with pytest.raises(ValueError, match=rf"cannot read {no_file} \(no regular file\)"):
        read_table(no_file)


def test_what_is_opened(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("file")
    for name in ("file", "link"):
        with open_named(tmp_path / name) as file:
            assert file.read() == b"12345"
    with pytest.raises(OSError, match="5 bytes, and at most 4 are read"):
        open_named(tmp_path / "file", 4)
    with pytest.raises(IsADirectoryError):
        open_named(tmp_path)
    opened = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(OSError, match="no regular file"):
            open_named(Path("/dev/zero"))
    assert len(os.listdir("/proc/self/fd")) == opened

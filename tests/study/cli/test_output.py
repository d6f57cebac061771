"""What a command prints: no terminal controls from somebody else's files, and commands that a shell reads as meant."""

import json
import shlex
import shutil
import time
from pathlib import Path

import pytest
from simulated_record import simulated_definition, write_simulated_study

from study.cli.main import main
from study.commands.paths import typed_path
from study.config import Arm
from study.record.failures import write_failure
from study.storage import holder, lock

BAD = "\x1b[2J\x1b]0;x\x07\u202e\r"
FORGED = "driver: none"

BEAT = {"clock": 1, "seconds": 1, "beat": 1, "step": 3, "limit": 0, "model": "m", "method": "n", "steps": 9}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    written = tmp_path / "out"
    write_simulated_study(written, simulated_definition(models=("small",), arms=[Arm(method="none")], lrs=(0.1, 0.6)))
    return written


def output(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """Return what a command prints, checked for control characters and forged lines."""
    assert main([str(word) for word in words]) == 0
    said = "".join(capsys.readouterr())
    assert said.replace("\n", "").isprintable()
    assert FORGED not in [line.strip() for line in said.splitlines()]
    return said


def test_a_reason_controls_no_terminal_and_forges_no_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_failure(folder, "x", ["a"], f"died {BAD}\n{FORGED}\n")
    for command in ("status", "report"):
        assert "died" in output(capsys, command, folder)
    assert "\x1b" not in (folder / "report.html").read_text()


@pytest.mark.filterwarnings("ignore:.*bad.json cannot be read")
def test_a_heartbeat_controls_no_terminal(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    about = {"clock": 1, "seconds": 1, "beat": time.time(), "step": 3, "limit": 0, "pid": 1, "steps": 9, "runs": ["a"]}
    (folder / "training").mkdir()
    for name, host in {"bad": f"{BAD}\n{FORGED}\n", "good": "elsewhere"}.items():
        beat = json.dumps(about | {"host": host, "model": "small", "method": "none"})
        (folder / "training" / f"{name}.json").write_text(beat)
    said = output(capsys, "status", folder)
    assert "on elsewhere" in said
    assert said.count("process gone: 1 run") == 1


@pytest.mark.filterwarnings("ignore:.*odd.json cannot be read")
@pytest.mark.parametrize("pid", [10**400, True, "1", None])
def test_a_heartbeat_with_an_odd_number_does_not_count(
    folder: Path, capsys: pytest.CaptureFixture[str], pid: object
) -> None:
    (folder / "training").mkdir()
    (folder / "training" / "odd.json").write_text(json.dumps(BEAT | {"pid": pid, "host": "elsewhere"}))
    assert "elsewhere" not in output(capsys, "status", folder)


def test_a_lock_controls_no_terminal(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    about = holder.this_process() | {"user": f"{BAD}\n{FORGED}\n"}
    (folder / "lock").write_text(json.dumps(about))
    assert "driver:" in output(capsys, "status", folder)
    with lock.locked(folder):
        for text in (json.dumps(about), f"{BAD}\n{FORGED}\n"):
            (folder / "lock").write_text(text)
            assert main(["resume", str(folder)]) == 2
            said = capsys.readouterr().err
            assert said.replace("\n", "").isprintable()
            assert "is in use by" in said


@pytest.mark.parametrize("part", ["name", "words"])
def test_words_of_a_family_control_no_terminal(folder: Path, capsys: pytest.CaptureFixture[str], part: str) -> None:
    family = folder.with_name("family")
    family.mkdir()
    shutil.copytree(folder, family / "one")
    member = {"label": "one", "words": "one", "against": "one"}
    content = {"format": 1, "name": "two", "members": [member]}
    (family / "family.json").write_text(json.dumps(content))
    for command in ("status", "report"):
        assert "one" in output(capsys, command, family)
    (member if part == "words" else content)[part] = f"{BAD}\n{FORGED}\n"
    (family / "family.json").write_text(json.dumps(content))
    for command in ("status", "report"):
        assert main([command, str(family)]) == 2
        assert capsys.readouterr().err[:-1].isprintable()


def test_suggested_commands_are_quoted(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = folder.with_name("it's; touch x $(id) & y")
    folder.rename(odd)
    monkeypatch.chdir(odd.parent)
    write_failure(odd, "x", ["a"], "no memory")
    (odd / "training").mkdir()
    (odd / "training" / "x.json").write_text(json.dumps(BEAT | {"pid": 1, "host": "h"}))
    for words in (["status"], ["report"], ["recommend"], ["rescore", "--rule", "kept=0.5"]):
        said = output(capsys, words[0], odd.name, *words[1:])
        commands = [
            part for part in said.replace("`", "\n").splitlines() if "study re" in part or "study confirm" in part
        ]
        assert commands, said
        for command in commands:
            typed = shlex.split(command[command.index("study ") :])
            assert any(Path(word).is_dir() for word in typed[2:]), command


def test_a_folder_named_like_an_option_is_typed_whole(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    assert typed_path(folder.parent / "-x") == str(folder.parent / "-x")
    assert typed_path(folder) == "out"

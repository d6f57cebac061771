"""Paths and commands in hints."""

import os
import sys
from pathlib import Path

import pytest
from paths import ROOT

from study.commands.paths import typed_command, typed_path


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "bin" / "study")])


def test_hints_are_short_in_the_current_folder(tmp_path: Path) -> None:
    assert (typed_command(), typed_path(tmp_path / "out")) == ("bin/study", "out")


def test_hints_are_absolute_in_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert (typed_command(), typed_path(tmp_path / "out")) == (f"{tmp_path}/bin/study", f"{tmp_path}/out")


def test_hints_are_absolute_once_the_current_folder_is_gone(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    assert (typed_command(), typed_path(tmp_path / "out")) == (f"{tmp_path}/bin/study", f"{tmp_path}/out")


@pytest.mark.parametrize(
    ("typed", "command"),
    [
        (ROOT / "study" / "__main__.py", "python -m study"),
        ("my_study.py", "study"),
        ("my_study", "study"),
        ("/usr/lib/python3/site-packages/ipykernel_launcher.py", "study"),
        ("", "study"),
        ("-c", "study"),
    ],
)
def test_from_python_hints_are_of_the_command(typed: object, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -m study` is hinted at only where it was typed: Python would look into the current folder first."""
    monkeypatch.setattr(sys, "argv", [str(typed)])
    assert typed_command() == command

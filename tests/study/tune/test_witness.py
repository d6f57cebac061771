"""A process that is ended without a word has a last line all the same; one that leaves in order has none."""

import os
import signal
import subprocess
import sys

import pytest
from paths import ROOT

ENDS = """
import os, signal, sys
from study import witness
if sys.argv[1] == "interrupted":  # as it has been given its line
    give = witness._give
    def give_and_stop(line):
        give(line)
        if line:
            raise KeyboardInterrupt
    witness._give = give_and_stop
    try:
        with witness.stands_by("not said"):
            pass
    except KeyboardInterrupt:
        assert witness._beside is None
        sys.exit("stopped")
with witness.stands_by("study: ended\\nby others"):
    if sys.argv[1] == "later":
        witness.says("study: ended\\nlater")
        os._exit(1)
    if sys.argv[1] == "said":
        witness.withdraw()
        os._exit(1)
    if sys.argv[1].isdecimal():
        os.kill(0 if sys.argv[2] == "group" else os.getpid(), int(sys.argv[1]))
        signal.pause()
    if sys.argv[1] == "raises":
        raise SystemExit("our own words")
"""


def ended(*words: str) -> tuple[int, list[str]]:
    """Its exit code, and what was said once it and the process beside it had ended."""
    command = [sys.executable, "-c", ENDS, *words]
    child = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    _, said = child.communicate(timeout=60)
    return child.returncode, said.splitlines()


@pytest.mark.parametrize("whom", ["alone", "group"])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGABRT], ids=lambda how: how.name)
def test_what_is_ended_from_outside_has_a_last_line(how: signal.Signals, whom: str) -> None:
    code, said = ended(str(int(how)), whom)
    assert code == -how
    assert said == ["study: ended by others"]


def test_what_leaves_has_none() -> None:
    assert ended("leaves") == (0, [])
    assert ended("said") == (1, [])
    assert ended("raises") == (1, ["our own words"])


def test_one_that_is_interrupted_as_it_begins_has_none() -> None:
    assert ended("interrupted") == (1, ["stopped"])


def test_it_is_said_as_it_was_given_last() -> None:
    assert ended("later") == (1, ["study: ended later"])


def test_where_none_can_be_started_nothing_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    from study.tune import witness

    def refused(*_words: object, **_settings: object) -> None:
        raise OSError("no more processes")

    monkeypatch.setattr(witness.subprocess, "Popen", refused)
    with witness.stands_by("never said"):
        witness.withdraw()
    assert os.getpid()

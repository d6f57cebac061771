"""A user's own module that changes between the runs of a study: the command stops, or the record says so."""

from pathlib import Path

import pytest
from studies import CONTROL, Studies, kill_child

import analysis
from study.record import tables
from study.record.recorded_code import code_counts

METHOD = """
from my_methods._factor import FACTOR
from study.transforms import chain, scale


def build(lr, *, base):
    return chain(base(), scale(FACTOR * lr))
"""

SETTINGS = ["models=small", "methods=none,my_methods.fast", "lr=0.1", "data.rows=5000", "batch=64", "window=500"]


@pytest.fixture
def studies(tmp_path: Path) -> Studies:
    (tmp_path / "my_methods").mkdir()
    (tmp_path / "my_methods" / "fast.py").write_text(METHOD)
    (tmp_path / "my_methods" / "_factor.py").write_text("FACTOR = 1.0\n")
    return Studies(tmp_path)


def refused(studies: Studies, *words: str) -> str:
    """Return the last line of a command that ends with exit code 2 before it starts Ray."""
    child = studies.start(*words)
    try:
        printed, _ = child.communicate(timeout=240)
    finally:
        kill_child(child)
    assert child.returncode == 2, printed
    assert "Ray" not in printed
    return printed.splitlines()[-1]


def test_a_method_that_changed_is_said_refused_and_accepted(studies: Studies) -> None:
    settings = [word for setting in [*SETTINGS, "steps=40"] for word in ("--set", setting)]
    factor, out = studies.folder / "my_methods" / "_factor.py", studies.folder / "results" / "quick"
    assert "code" not in studies("run", "quick", "--seeds", "0-1", *settings)
    first = code_counts(tables.read_runs(out))
    [(old, n)] = first["my_methods.fast"].items()
    assert (list(first), n) == (["my_methods.fast"], 2)

    factor.write_text("FACTOR = 10.0  # ten times the step\n")
    said = "my_methods.fast changed: 2 runs by code " + old[:12]
    assert said in studies("plan", "quick", "--seeds", "0-3", *settings)
    line = refused(studies, "run", "quick", "--seeds", "0-3", *settings)
    assert said in line
    assert line.endswith("train into another folder (study run --out), or mix both with --accept-changed-code")
    assert "4 recorded; 0 to train" in studies("resume", str(out)), "nothing is left that would mix both"
    assert said in refused(studies, "confirm", str(out), "--lr", "0.1", "--seeds", "100-101")
    assert len(tables.read_runs(out)) == CONTROL + 4
    run_id = analysis.load(out).query("method == 'my_methods.fast'")["run_id"].iloc[0]
    assert "my_methods.fast changed since (code " + old[:12] in studies("replay", str(out), run_id)

    printed = studies("run", "quick", "--seeds", "0-3", *settings, "--accept-changed-code")
    after = code_counts(tables.read_runs(out))["my_methods.fast"]
    assert after[old] == 2
    assert sorted(after.values()) == [2, 2]
    mixed = "my_methods.fast changed between the runs: 2 runs by code "
    assert mixed in printed
    assert mixed in (out / "report.html").read_text()
    assert mixed in studies("status", str(out))
    assert mixed in studies("plan", "quick", "--seeds", "0-3", *settings)
    assert mixed in studies("resume", str(out)), "it was accepted once"

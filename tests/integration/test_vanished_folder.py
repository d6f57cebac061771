"""The current folder is removed while a study trains, as Ray does with the working directory of a job."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from local_ray import TINY, environment

SMALL = [*TINY, "--set", "data.rows=2000", "--set", "batch=64"]


@pytest.mark.slow
def test_a_study_reports_and_hints_without_its_current_folder(tmp_path: Path) -> None:
    here, out = tmp_path / "here", tmp_path / "out"
    here.mkdir()
    child = subprocess.Popen(
        [sys.executable, "-m", "study", "run", *SMALL, "--out", str(out)],
        cwd=here,
        env=environment(tmp_path, STUDY_CACHE=str(tmp_path / "cache")),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert child.stdout
    with child:
        printed = ""
        for line in child.stdout:
            printed += line
            if line.startswith("record: "):
                shutil.rmtree(here)
    assert child.returncode == 0, printed
    assert (out / "report.html").is_file()
    assert f"python -m study ui {out}  " in printed
    assert "MLflow: 1 curve, 1 cell" in printed

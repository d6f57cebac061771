"""The installed wheel runs in a user's folder whose files have the names of our packages and of Python's modules.

The own model there has BatchNorm.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from paths import ROOT

from study.record import tables

pytestmark = pytest.mark.slow

SMALL = ["data.rows=5000", "batch=64", "window=500", "steps=40", "lr=0.1", "methods=none"]

FILES = {
    "models/__init__.py": "raise RuntimeError\n",
    "models/mine.py": "from analysis.ours import WIDTH\n"
    "from models import ranker\n"
    "from torch import nn\n\n\n"
    "def build(spec, *, width=WIDTH):\n"
    "    return nn.Sequential(nn.BatchNorm1d(spec.width), ranker.build(spec, width=width, depth=1))\n",
    "analysis/__init__.py": "raise RuntimeError\n",
    "analysis/ours.py": "WIDTH = 8\n",
    "search_spaces/mine.py": "import dataclasses\n\n"
    "from search_spaces.quick import study as quick\n\n"
    "study = dataclasses.replace(quick, name='mine', models=('models.mine',))\n",
} | {
    f"{name}.py": "raise RuntimeError\n" for name in ("study", "queue", "calendar", "signal", "random", "pandas", "ray")
}


def run(words: list[str | Path], folder: Path, **settings: str) -> str:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_", "PYTHON"))}
    done = subprocess.run(
        words, cwd=folder, env=kept | settings, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def installed(folder: Path) -> Path:
    """Return the command `study` of an environment with our wheel and the libraries of this one."""
    source, environment = folder / "source", folder / "environment"
    tracked = run(["git", "ls-files", "study", "models", "search_spaces", "analysis", "pyproject.toml"], ROOT).split()
    for name in [*tracked, "README.md", "LICENSE"]:
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    pip = [sys.executable, "-m", "pip"]
    offline = ["-q", "--no-deps", "--no-index"]
    run([*pip, "wheel", *offline, "--no-build-isolation", "-w", folder, source], folder)
    run([sys.executable, "-m", "venv", "--without-pip", environment], folder)
    run([*pip, "--python", environment / "bin" / "python", "install", *offline, *folder.glob("*.whl")], folder)
    [packages] = environment.glob("lib/python*/site-packages")
    (packages / "libraries.pth").write_text(f"{Path(torch.__file__).parents[1]}\n")
    return environment / "bin" / "study"


def test_wheel_runs_in_a_folder_with_files_of_our_names(tmp_path: Path) -> None:
    study = installed(tmp_path)
    project = tmp_path / "project"
    for name, text in FILES.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(text)
    settings = {"HOME": str(tmp_path), "STUDY_CACHE": str(tmp_path / "cache")}
    narrow = [word for setting in SMALL for word in ("--set", setting)]
    for space, models in (("quick", ["--set", "models=small"]), ("mine", [])):
        run([study, "run", space, *narrow, *models, "--seeds", "0", "--out", space], project, **settings)
    quick, mine = (tables.read_runs(project / space) for space in ("quick", "mine"))
    assert set(quick["model"]) == {"small"}
    assert set(mine["model"]) == {"models.mine"}
    run([study, "mlflow", "mine"], project, **settings)

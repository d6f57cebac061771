"""Every example of docs/loops.md runs as it is written there."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import analysis

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[2] / "docs" / "loops.md"
FILES = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE.read_text(), flags=re.DOTALL))
EXAMPLES = [name.removesuffix(".py") for name in FILES if name.startswith("my_")]
NEEDS = {"my_lightning": "lightning", "my_transformers": "transformers"}


def test_the_page_has_its_examples() -> None:
    assert EXAMPLES == ["my_digits", "my_command", "my_trainable", "my_lightning", "my_transformers"]


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_of_the_page_finds_its_edge(tmp_path: Path, name: str) -> None:
    if name in NEEDS and importlib.util.find_spec(NEEDS[name]) is None:
        pytest.skip(f"{NEEDS[name]} is not installed")
    for file, content in FILES.items():
        (tmp_path / file).write_text(content)
    environment = os.environ | {"STUDY_CACHE": str(tmp_path / "cache"), "HOME": str(tmp_path)}
    words = [sys.executable, "-m", "study", "run", name, "--out", "out", "--workers", "2", "--seeds", "0-1"]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    runs = analysis.load(tmp_path / "out")
    runs = runs[runs["method"] == runs["method"].iloc[0]]
    diverged = (runs["outcome"] == "diverged").groupby(runs["lr"]).mean()
    assert diverged.iloc[0] == 0
    assert diverged.iloc[-1] == 1
    assert not list((tmp_path / "out" / "failures").glob("*"))

"""docs/python.md runs from top to bottom."""

import os
import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "python.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)

LAST = """
assert set(result.runs["method"]) == {"none", "agc"} and result.runs["seed"].nunique() == 4
assert set(losses.columns) == {"run_id", "step", "task", "loss"}
assert comparison.edges["curve"].tolist() == ["none"]
assert left.get_legend() is not None
assert "PYTHONBREAKPOINT" not in __import__("os").environ
"""


LOOP = """
def train(run, watch):
    w = 1.0
    for _ in range(60):
        watch(w * w / 2)
        w -= run.lr * w
"""

SCRIPT = """
import os
import study
from my_loop import train

os.chdir(os.environ["ELSEWHERE"])
mine = study.Study(name="mine", trainer=study.Loop(train), arms=(study.Arm("plain"),), lrs=(0.5, 2.5), seeds=range(2))
result = study.run(mine, os.environ["OUT"], workers=1)
print(result.rates().set_index("lr")["k"].to_dict())
"""


def test_a_script_runs_a_study_of_its_own_modules_from_any_folder(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "mine", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    (folder / "my_loop.py").write_text(LOOP)
    (folder / "script.py").write_text(SCRIPT)
    environment = os.environ | {"STUDY_CACHE": str(tmp_path / "cache"), "HOME": str(tmp_path)}
    environment |= {"OUT": str(tmp_path / "out"), "ELSEWHERE": str(elsewhere)}
    done = subprocess.run(
        [sys.executable, folder / "script.py"], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "{0.5: 0, 2.5: 2}"


def test_the_page_runs_from_top_to_bottom(tmp_path: Path) -> None:
    script = tmp_path / "page.py"
    script.write_text("\n".join(["import matplotlib", "matplotlib.use('agg')", *BLOCKS, LAST]))
    environment = os.environ | {"STUDY_CACHE": str(tmp_path / "cache"), "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert r"\bottomrule" in done.stdout
    assert "results/nothing holds no study" in done.stdout
    assert (tmp_path / "divergence.pdf").stat().st_size > 5000
    assert (tmp_path / "results" / "mine" / "report.html").exists()

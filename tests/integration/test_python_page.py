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
"""


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

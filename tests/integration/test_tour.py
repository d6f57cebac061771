"""docs/tour.ipynb runs from top to bottom.

Its code cells are run by Python in one process, each value of a last line shown as a notebook shows it: the tested set
of packages has no kernel.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

NOTEBOOK = Path(__file__).parents[2] / "docs" / "tour.ipynb"

RUNNER = """
import ast, json, os, sys
import matplotlib
matplotlib.use("agg")

names = {"__name__": "__main__"}
for cell in json.load(open(sys.argv[1]))["cells"]:
    if cell["cell_type"] != "code":
        continue
    body = ast.parse("".join(cell["source"])).body
    last = body.pop() if isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), "cell", "exec"), names)
    if last is not None:
        value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
        if value is not None:
            print(getattr(value, "_repr_html_", value.__repr__)())

result, other, both = names["result"], names["other"], names["both"]
assert result.runs["seed"].nunique() == 4 and len(result.runs) == len(result.rates()) * 4
assert len(both.runs) == len(names["claimed"].runs) + len(other.runs)
assert set(both.across_models()["models"]) <= {2}
assert len(names["failed"]) == 5, names["failed"]
assert "PYTHONBREAKPOINT" not in os.environ
assert matplotlib.rcParams["font.size"] == 10
"""


def test_the_notebook_runs_from_top_to_bottom(tmp_path: Path) -> None:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) >= 20
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code), "outputs are not kept"
    runner = tmp_path / "run.py"
    runner.write_text(RUNNER)
    environment = os.environ | {"STUDY_CACHE": str(tmp_path / "cache"), "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, runner, NOTEBOOK], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-4000:]
    for words in ("RecordError: ", "need 0 < level < 1", "0 runs of ", "cannot be merged", "polar"):
        assert words in done.stdout, words
    for name in ("divergence", "tradeoff", "losses", "frontier"):
        assert (tmp_path / f"{name}.pdf").stat().st_size > 3000
    assert (tmp_path / "results" / "tour" / "tables" / "edges.csv").exists()

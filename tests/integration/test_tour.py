"""docs/tour.ipynb runs from top to bottom.

Its code cells are run by Python in one process, each value of a last line shown as a notebook shows it: the tested set
of packages has no kernel.
"""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

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
assert both.across_models()[["curve", "models"]].to_numpy().tolist() == [["agc max_ratio=0.01", 2]]
assert len(names["failed"]) == 5, names["failed"]
assert len(names["training"]) >= len(names["claimed"].runs)
assert all(path.stat().st_size > 3000 for path in names["paths"]) and len(names["paths"]) > 5
assert "PYTHONBREAKPOINT" not in os.environ
assert matplotlib.rcParams["font.size"] == 10
"""


def cpu_seconds() -> float:
    """Those of processes that this one has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_the_notebook_runs_from_top_to_bottom(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) >= 20
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code), "outputs are not kept"
    runner = tmp_path / "run.py"
    runner.write_text(RUNNER)
    environment = os.environ | {"STUDY_CACHE": str(tmp_path / "cache"), "HOME": str(tmp_path)}
    began, used = time.monotonic(), cpu_seconds()
    done = subprocess.run(
        [sys.executable, runner, NOTEBOOK], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900
    )
    with capsys.disabled():
        print(f"\nThe tour took {time.monotonic() - began:.0f} s, and {cpu_seconds() - used:.0f} s of CPU.")
    assert done.returncode == 0, done.stderr[-4000:]
    for words in ("RecordError: ", "need 0 < level < 1", "0 runs of ", "cannot be merged", "polar"):
        assert words in done.stdout, words
    for name in ("divergence", "tradeoff", "losses", "frontier"):
        assert (tmp_path / f"{name}.pdf").stat().st_size > 3000
    assert (tmp_path / "results" / "tour" / "tables" / "edges.csv").exists()

"""Processes of this machine do not run the user's script again."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]

SCRIPT = """
import math, sys
sys.path.insert(0, {root!r})
print("the script")
from study.execution.processes import parallel_map
with parallel_map(2) as each:
    print(list(each(math.sqrt, [1.0, 4.0])))
print(__file__, __spec__)
"""


def test_a_script_needs_no_guard_of_main(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(root=str(ROOT)))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines() == ["the script", "[1.0, 2.0]", f"{script} None"], done.stderr

"""Runs a short `quick` with the oldest and with the newest versions that pyproject.toml allows.

    python tests/benchmarks/compat.py [--folder .compat] [--torch torch==2.13.0]      (make compat)

Each side has a virtual environment of its own in the folder. Both take the same torch, since pip would otherwise load
gigabytes of CUDA libraries for each; --torch chooses another.
"""

import argparse
import re
import subprocess
import sys
import tomllib
import venv
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COMPARED = ("ray", "mlflow", "optuna", "pandas", "torch")
QUICK = ["quick", "--seeds", "0-1", "--set", "lr=0.1,1.6", "--set", "steps=60", "--set", "data.rows=40000"]
SECONDS = 900


def requirements(side: str, declared: Sequence[str], torch: str) -> list[str]:
    """Return what pip installs for a side: the lowest allowed version of each compared package, or the highest.

    Args:
        side: "oldest" or "newest".
        declared: The dependencies of pyproject.toml.
        torch: Requirement of torch, for both sides.
    """
    found = []
    for requirement in declared:
        name = re.split(r"[^\w-]", requirement)[0]
        if name == "torch":
            found.append(torch)
        elif name in COMPARED and side == "oldest":
            found.append(re.sub(r">=([\d.]+).*", r"==\1", requirement))
        else:
            found.append(requirement)
    return found


def install(folder: Path, wanted: Sequence[str]) -> Path:
    """Make a virtual environment; return its Python."""
    venv.create(folder, with_pip=True, clear=True)
    python = folder / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *wanted], check=True)
    subprocess.run([*pip, "--no-deps", "--editable", str(ROOT)], check=True)
    return python


def versions(python: Path) -> str:
    """Return the versions of the compared packages, in words."""
    code = f"from importlib.metadata import version\nfor name in {COMPARED}: print(name, version(name))"
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True)
    return ", ".join(done.stdout.splitlines())


def passes(python: Path, out: Path) -> bool:
    """Run `quick` and return whether it trained every run, and wrote its report and its MLflow view."""
    words = [str(python), "-P", "-m", "study", "run", *QUICK, "--out", str(out)]
    done = subprocess.run(words, cwd=out.parent, capture_output=True, text=True, timeout=SECONDS, check=False)
    good = done.returncode == 0 and (out / "report.html").is_file() and "MLflow: " in done.stdout
    if not good or "missing" in done.stdout:
        print(done.stdout[-3000:], done.stderr[-3000:], sep="\n")
        return False
    return True


def main() -> int:
    """Test both sides; return 1 if one fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / ".compat")
    parser.add_argument("--torch", default="torch==2.13.0", help="requirement, or the path of a wheel")
    chosen = parser.parse_args()
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    failed = False
    for side in ("oldest", "newest"):
        folder = (chosen.folder / side).resolve()
        python = install(folder, requirements(side, declared, chosen.torch))
        good = passes(python, folder / "out")
        print(f"{side}: {'passed' if good else 'FAILED'} with {versions(python)}", flush=True)
        failed |= not good
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

"""The versions that a study's definition records."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

import study

PACKAGES = ("torch", "ray", "mlflow", "numpy", "pandas")


def versions() -> dict[str, str]:
    """Return name -> version of this package, Python, the main dependencies, and the commit if it is known."""
    found = {"study": study.__version__, "python": platform.python_version()}
    found |= {name: importlib.metadata.version(name) for name in PACKAGES}
    checkout = commit()
    return found | ({"commit": checkout} if checkout else {})


def commit() -> str | None:
    """Return the commit of this checkout, marked if files differ from it; on a cluster, that of the submitter."""
    if os.environ.get("STUDY_COMMIT"):
        return os.environ["STUDY_COMMIT"]
    here = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None

"""What the tests of several folders share: local ray."""

import os
from pathlib import Path

from paths import ROOT


def environment(home: Path, **settings: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_", "STUDY_"))}
    return kept | {"HOME": str(home), "PYTHONPATH": str(ROOT)} | settings


TINY = ["quick", "--set", "models=small", "--set", "methods=none", "--set", "lr=0.1", "--seeds", "0"]

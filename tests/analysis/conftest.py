"""Runs and records that several tests read."""

from pathlib import Path

import pandas as pd
import pytest
from simulated_record import write_simulated_study
from threshold_runs import star

from analysis.stats.edges import fits


@pytest.fixture(scope="module")
def crossed() -> tuple[pd.DataFrame, dict]:
    """The runs of `star`, and their fits."""
    runs = star()
    return runs, fits(runs)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulated study."""
    folder = tmp_path_factory.mktemp("study")
    write_simulated_study(folder)
    return folder

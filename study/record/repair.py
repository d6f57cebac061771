"""Moves bad files of a record to `set_aside/`, before their runs are trained again."""

import uuid
import warnings
from pathlib import Path

import pandas as pd

from study.record import failures, files, range_tests, tables
from study.storage import stores


def set_bad_files_aside(folder: Path) -> pd.DataFrame:
    """Read every file of a record completely, and move each bad one to `set_aside/`, with a warning.

    Args:
        folder: the study's folder. The caller holds its lock.

    Returns:
        The recorded runs, as `study.record.tables.read_runs`.

    Raises:
        StorageError: a file cannot be read now, or cannot be moved.
    """
    for _ in files.read_each(folder, "losses", "parquet", tables.parse_losses, on_bad=_set_aside):
        pass
    runs = tables.read_runs(folder, on_bad=_set_aside)
    for _ in files.read_each(folder, "failures", "json", failures.parse, on_bad=_set_aside):
        pass
    for _ in files.read_each(folder, range_tests.FOLDER, "parquet", range_tests.parse, on_bad=_set_aside):
        pass
    return runs


def _set_aside(folder: Path, path: Path, reason: str) -> None:
    name = f"set_aside/{path.parent.name}-{path.stem}-{uuid.uuid4().hex[:8]}{path.suffix}"
    stores.store_for(folder).move(path.relative_to(folder).as_posix(), name)
    where = f"set aside as {stores.address(folder)}/{name}"
    warnings.warn(f"{path} cannot be read ({reason}); {where}; its runs count as missing", RuntimeWarning, stacklevel=3)

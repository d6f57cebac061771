"""The CSV files of a report, and what their columns mean, in a `columns.json` beside them."""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.loading import read_family, tasks_of
from analysis.report.columns import described
from analysis.report.csv_file import write_csv
from study.record.definition import RecordError, read_definition
from study.record.files import read_file
from study.storage.atomic import write_atomic

COLUMNS_FILE = "columns.json"


def write_tables(
    folder: Path, tables: Mapping[str, pd.DataFrame], at: str = "tables", float_format: str | None = None
) -> list[Path]:
    """Write tables as CSV, describe their columns in `columns.json`, and return the paths of the CSV files.

    Args:
        folder: Of a study or family. The tables of other commands in it stay described.
        tables: Name, without ending -> table. `analysis.report.columns` knows each name.
        at: The folder inside, for these files.
        float_format: As in `DataFrame.to_csv`.

    Raises:
        OSError: If the folder cannot be written.
    """
    where, paths = folder / at, []
    study, version, units = _named(folder)
    files = {
        name: what for name, what in _described(where).items() if name.endswith(".csv") and (where / name).exists()
    }
    for name, table in tables.items():
        paths.append(where / f"{name}.csv")
        write_csv(paths[-1], table, float_format=float_format)
        files[f"{name}.csv"] = described(name, map(str, table.columns), units)
    content = {"study": study, "version": version, "tables": dict(sorted(files.items()))}
    write_atomic(where / COLUMNS_FILE, json.dumps(content, indent=1).encode(), sync=False)
    return paths


def _named(folder: Path) -> tuple[str, str, dict[str, str]]:
    """The name of a study or family, the versions that recorded it, and task -> unit."""
    with contextlib.suppress(RecordError):
        definition = read_definition(folder)
        units = {task["name"]: str(task.get("unit") or "that of the task") for task in tasks_of(definition.data)}
        return definition.study.name, str(definition.versions.get("study", "")), units
    with contextlib.suppress(RecordError):
        name, members = read_family(folder)
        found = [_named(member.folder) for member in members]
        units = {task: unit for _, _, own in found for task, unit in own.items()}
        return name, ", ".join(sorted({version for _, version, _ in found if version})), units
    return folder.name, "", {}


def _described(where: Path) -> dict[str, Any]:
    """The tables that the file describes; none if it cannot be read."""
    with contextlib.suppress(OSError, ValueError, RecursionError, KeyError, TypeError):
        return dict(json.loads(read_file(where, COLUMNS_FILE) or b"{}")["tables"])
    return {}

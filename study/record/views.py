"""`rescored/<hash of the rule>/`: the same runs judged by another rule. A view reads as a study and trains nothing."""

import dataclasses
import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from study.config import Rule, canonical_json
from study.record import checksums
from study.record.definition import read_definition, write_definition
from study.record.tables import read_run_files
from study.storage import stores

SHARED = ("losses", "failures", "confirm", "init")
"""Folders that a view links to, or copies from, its study."""


def write_view(folder: Path, rule: Rule, columns: Mapping[str, Mapping[str, Any]]) -> Path:
    """Write the view of a study under another rule. A second call updates it.

    Args:
        folder: the study's folder.
        rule: the other rule.
        columns: run id -> column -> value under this rule, for every recorded run.

    Returns:
        The folder of the view.
    """
    definition = read_definition(folder)
    name = hashlib.sha256(canonical_json(dataclasses.asdict(rule)).encode()).hexdigest()[:12]
    view = folder / "rescored" / name
    (view / "runs").mkdir(parents=True, exist_ok=True)
    if content := definition.study.recipe.init_from:  # a mirror fetches these only on request
        stores.store_for(folder).fetch([f"init/{content}.safetensors", f"init/{content}.zip"])
    for shared in SHARED:
        _link_or_copy(folder / shared, view / shared)
    tables = dict(read_run_files(folder))
    for path, table in tables.items():
        replaced = [row | columns[row["run_id"]] for row in table.to_pylist()]
        content = checksums.parquet_bytes(pa.Table.from_pylist(replaced, schema=table.schema))
        stores.store_for(view).put(f"runs/{path.name}", content)
    for path in set((view / "runs").glob("*.parquet")) - {view / "runs" / path.name for path in tables}:
        path.unlink()
    write_definition(view, dataclasses.replace(definition, study=dataclasses.replace(definition.study, rule=rule)))
    return view


def _link_or_copy(original: Path, shared: Path) -> None:
    """Copies only if the file system has no links."""
    if shared.is_symlink():
        return
    try:
        shared.symlink_to(Path("..", "..", original.name), target_is_directory=True)
    except (OSError, NotImplementedError):
        if original.is_dir():
            shutil.copytree(original, shared, dirs_exist_ok=True)

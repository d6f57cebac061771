"""`rescored/<hash of the rule>/`: the same runs judged by another rule. A view reads as a study and trains nothing.

It holds the runs and the definition. All else is read from its study (`study.record.definition.origin_of`).
"""

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from study.config import Rule, canonical_json
from study.record import checksums
from study.record.definition import read_definition, write_definition
from study.record.files import names_of
from study.record.tables import read_run_files
from study.storage import stores
from study.storage.untrusted_input import inside


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
    store = stores.LocalStore(view)
    inside(folder, f"rescored/{name}/runs")
    tables = dict(read_run_files(folder))
    for path, table in tables.items():
        replaced = [row | columns[row["run_id"]] for row in table.to_pylist()]
        content = checksums.parquet_bytes(pa.Table.from_pylist(replaced, schema=table.schema))
        store.put(f"runs/{path.name}", content)
    for gone in set(names_of(store, "runs", "parquet")) - {path.name for path in tables}:
        store.delete(f"runs/{gone}")
    write_definition(view, dataclasses.replace(definition, study=dataclasses.replace(definition.study, rule=rule)))
    return view

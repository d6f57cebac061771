"""Copies the files of one record into that of the same study: runs that it lacks with their losses, and the rest."""

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute

from study.record import confirmations, failures, files, range_tests, tables
from study.storage import stores

OTHERS: dict[str, tuple[str, Callable[[bytes], object]]] = {
    "failures": ("json", failures.parse),
    "confirm": ("json", confirmations.parse),
    range_tests.FOLDER: ("parquet", range_tests.parse),
}
"""Folder of other files -> their suffix, and what reads one."""


def read_weights(folders: Iterable[Path]) -> dict[str, bytes]:
    """Return the files of weights that runs start from: name -> content.

    Raises:
        StorageError: one cannot be read now, or was removed meanwhile.
    """
    found: dict[str, bytes] = {}
    for folder in folders:
        source = stores.store_for(folder)  # a mirror does not hold them
        for name in source.names("init"):
            if name not in found:
                found[name] = _present(source.get(f"init/{name}"), folder, f"init/{name}")
    return found


def write_weights(into: Path, weights: Mapping[str, bytes]) -> None:
    """Write the files of weights that a record lacks. The caller holds its lock."""
    store = stores.store_for(into)
    for name, content in weights.items():
        if store.get(f"init/{name}", 1) is None:
            store.put(f"init/{name}", content)


def copy_record(folder: Path, into: Path) -> None:
    """Copy what the record of `into` lacks, except weights. Can be repeated and interrupted.

    A trial's file is copied whole, byte for byte, if all of its runs are new. Of a file with some new runs, these are.

    Args:
        folder: of the record to copy; it stays as it is.
        into: of the other one, with the same study. The caller holds its lock.

    Raises:
        StorageError: a file cannot be read or written now, or was removed meanwhile.
    """
    store = stores.store_for(into)
    there = {kind: set(store.names(kind)) for kind in ("losses", "runs", *OTHERS)}
    recorded = tables.recorded_ids(into)
    for path, runs in tables.read_run_files(folder):
        new = [run for run in runs["run_id"].to_pylist() if run not in recorded]
        recorded |= set(new)
        if len(new) == runs.num_rows:
            contents = {kind: _content(folder, f"{kind}/{path.name}") for kind in ("losses", "runs")}
            name = _free(store, path, contents, there)
            for kind, content in contents.items():  # losses are written before their rows
                store.put(f"{kind}/{name}", content)
        elif new:
            losses = tables.parse_losses(_content(folder, f"losses/{path.name}"))
            own = hashlib.sha256(",".join(new).encode()).hexdigest()[:32]
            tables.write_tables(into, own, _of(runs, new), _of(losses, new))
    for kind, (suffix, parse) in OTHERS.items():
        for path, _ in files.read_each(folder, kind, suffix, parse):
            content = _content(folder, f"{kind}/{path.name}")
            if kind != "confirm" or path.name not in there[kind]:
                store.put(f"{kind}/{_free(store, path, {kind: content}, there)}", content)


def _content(folder: Path, name: str) -> bytes:
    return _present(files.read_file(folder, name), folder, name)


def _present(content: bytes | None, folder: Path, name: str) -> bytes:
    if content is None:
        raise stores.StorageError(f"{stores.address(folder)}/{name} is not there; it was removed meanwhile")
    return content


def _free(store: stores.Store, path: Path, contents: Mapping[str, bytes], there: Mapping[str, Collection[str]]) -> str:
    """A name under which the store holds no other content. contents, there: folder -> its file, and names it holds."""
    same = (store.get(f"{kind}/{path.name}") == contents[kind] for kind in contents if path.name in there[kind])
    if all(same):
        return path.name
    digest = hashlib.sha256(b"".join(contents.values())).hexdigest()[:8]
    return f"{path.stem}-{digest}{path.suffix}"


def _of(table: pa.Table, ids: list[str]) -> pa.Table:
    """The rows of these runs, and those of the constant predictor."""
    pc: Any = pyarrow.compute  # its functions are generated at import, unknown to type checkers
    is_kept = pc.or_kleene(pc.is_null(table["run_id"]), pc.is_in(table["run_id"], value_set=pa.array(ids)))
    return table.filter(is_kept)

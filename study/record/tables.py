"""The tables of a study: one row a run, and the loss of every step. All else is computed from these.

    DIR/study.json             the definition (`study.record.definition`)
    DIR/runs/<trial>.parquet   one row a run, one file a trial
    DIR/losses/<trial>.parquet per-step losses of the same runs, one row a run and task
    DIR/failures/<trial>.json  why runs are missing
    DIR/confirm/<hash>.json    runs that were named before they were trained
    DIR/range_tests/           LR range tests (`study.record.range_tests`)
    DIR/init/                  the weights that runs start from, unless random (`study.trainers.warm_start`)
    DIR/set_aside/             files with bad content, unchanged
    DIR/rescored/<hash>/       the same runs judged by another rule (`study.record.views`)
    DIR/runs.parquet           all rows, as a report writes them. A folder with this alone is published: it can be read

Each file is written whole and holds its own hash (`study.record.checksums`). A trial's losses are written before its
rows, so a recorded run always has its losses. DIR may mirror an object store (`study.storage.stores`). Reading runs no
code: the formats are Parquet and JSON.
"""

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from study.config import canonical_json
from study.record import checksums, files, validation
from study.record.definition import RecordError, read_definition
from study.record.identity import Identity
from study.record.schema import (
    COLUMNS,
    COUNTS,
    LOSSES,
    STEP,
    extra_column_type,
    is_threshold,
    nullable_dtype,
    pandas_dtype,
    threshold_column,
    threshold_of,
)
from study.storage import stores
from study.storage.untrusted_input import open_file

PUBLISHED = "runs.parquet"


def write_trial(
    where: Path | str, trial: str, rows: Sequence[Mapping[str, Any]], losses: Sequence[Mapping[str, Any]]
) -> None:
    """Record the runs of one trial. Can be repeated and interrupted.

    Args:
        where: the study's folder, or its address on a machine without a mirror.
        trial: the name of both files.
        rows: one mapping a run, with the columns of `COLUMNS` and those per task.
        losses: one mapping a run and task, with the columns of `LOSSES`.
    """
    extra = sorted({key for row in rows for key in row} - set(COLUMNS.names))
    schema = pa.schema([*COLUMNS, *((name, extra_column_type(name)) for name in extra)])
    table = pa.Table.from_pylist([{name: row.get(name) for name in schema.names} for row in rows], schema=schema)
    of_losses = LOSSES.append(STEP) if any(row.get("step") is not None for row in losses) else LOSSES
    write_tables(where, trial, table, pa.Table.from_pylist(list(losses), schema=of_losses))


def write_tables(where: Path | str, trial: str, runs: pa.Table, losses: pa.Table) -> None:
    """Record the runs of one trial, as `write_trial`, from tables with the columns of both files."""
    store = stores.store_for(where)
    store.put(f"losses/{trial}.parquet", checksums.parquet_bytes(losses))
    store.put(f"runs/{trial}.parquet", checksums.parquet_bytes(runs))


def read_runs(folder: Path, trials: Collection[str] | None = None, on_bad: files.OnBad | None = None) -> pd.DataFrame:
    """Return one row a run, the control included, with a column for each threshold.

    Rows and columns are sorted, so equal records give equal tables. A bad file is ignored with a warning, and its runs
    count as missing.

    Args:
        folder: the study's folder.
        trials: names of the trials to read; None reads all.
        on_bad: called for each bad file; None warns once of all.

    Raises:
        RecordError: there is no study.
        StorageError: a file cannot be read now.
    """
    tables = [table for _, table in read_run_files(folder, trials, on_bad)]
    if tables:  # to pandas once: each conversion takes milliseconds, and there are hundreds of files
        frame = pa.concat_tables(tables, promote_options="default").to_pandas(types_mapper=nullable_dtype)
    else:
        frame = pd.DataFrame({f.name: pd.Series(dtype=pandas_dtype(f.type)) for f in COLUMNS})
    frame = frame.drop_duplicates("run_id", keep="first")
    # The control's files lack some columns: the order of the files must not change the order of the columns.
    frame = frame.reindex(columns=[*COLUMNS.names, *sorted(set(frame.columns) - set(COLUMNS.names))])
    of_text, texts = pd.factorize(frame.pop("thresholds"))
    thresholds = [json.loads(text) for text in texts]
    for name in sorted({key for values in thresholds for key in values}):
        column = np.array([values.get(name, np.nan) for values in thresholds], np.float64)
        frame.insert(list(frame.columns).index("lr"), threshold_column(name), column[of_text])
    if COUNTS[0] in frame:  # older records hold a meaningless distance for runs that were rolled back
        frame["moved"] = frame["moved"].mask(frame[COUNTS[0]].fillna(0) > 0)
    return frame.sort_values(["role", "model", "method", "options", "lr", "seed", "run_id"], ignore_index=True)


def recorded_ids(folder: Path) -> set[str]:
    """Return the ids of the recorded runs."""
    return {run for _, table in read_run_files(folder) for run in table["run_id"].to_pylist()}


def diverged_in(folder: Path, trial: str) -> dict[str, bool]:
    """Return run id -> whether it diverged, for the runs of a trial; empty if its file is bad."""
    return {
        run: outcome == "diverged"
        for _, table in read_run_files(folder, [trial])
        for run, outcome in zip(table["run_id"].to_pylist(), table["outcome"].to_pylist(), strict=True)
    }


def read_losses(
    folder: Path, run_ids: Iterable[str] | None = None, trials: Collection[str] | None = None
) -> pd.DataFrame:
    """Return per-step losses, one row a run and task.

    Args:
        folder: the study's folder.
        run_ids, trials: runs and trials to read; None reads all.

    Returns:
        Columns run_id, seed, task, loss (float32, one value a logged step), constant (the losses of the best constant
        predictor on the same batches) and step (numbers of the logged steps; None is every step).
    """
    wanted = None if run_ids is None else set(run_ids)
    found: dict[tuple[str, str], tuple[Any, ...]] = {}
    for _, table in files.read_each(folder, "losses", "parquet", parse_losses, trials):
        # Tables of pandas take milliseconds each, and there are thousands of files.
        run, seed, task = (table[name].to_pylist() for name in ("run_id", "seed", "task"))
        loss = table["loss"].to_numpy(zero_copy_only=False)
        step = table[STEP.name].to_numpy(zero_copy_only=False) if STEP.name in table.column_names else [None] * len(run)
        rows = list(zip(run, seed, task, loss, step, strict=True))
        constants = {row[1:3]: row[3] for row in reversed(rows) if row[0] is None}
        for row in rows:
            if row[0] is not None and (wanted is None or row[0] in wanted):
                found.setdefault((row[0], row[2]), (*row, constants[row[1:3]]))
    names = ("run_id", "seed", "task", "loss", "step", "constant")
    columns = zip(*found.values(), strict=True) if found else [[]] * len(names)
    return pd.DataFrame({name: list(column) for name, column in zip(names, columns, strict=True)})


def read_run_files(
    folder: Path, trials: Collection[str] | None = None, on_bad: files.OnBad | None = None
) -> Iterator[tuple[Path, pa.Table]]:
    """Yield path and table of each file of `runs/` whose losses are there too, or those of a published table.

    A file with runs of another study is bad (`study.record.identity`).
    """
    identity = Identity(read_definition(folder))

    def read(content: bytes) -> pa.Table:
        table = _parse_runs(content)
        identity.check(table)
        return table

    bad = files.BadFiles()
    on_bad = on_bad or bad.add
    for path, table in files.read_each(folder, "runs", "parquet", read, trials, on_bad):
        if why := _without_losses(folder, path.name):
            on_bad(folder, path, why)
        else:
            yield path, table
    bad.warn()
    if trials is None and (table := _published(folder)) is not None:
        yield folder / PUBLISHED, table


def check_not_published(folder: Path) -> None:
    """Raise RecordError if the folder has a table of runs without their losses: nothing can be trained there."""
    if _published(folder) is not None:
        raise RecordError(
            f"{stores.address(folder)} holds a table of runs without their losses ({PUBLISHED}, no runs/), which can "
            "be read and not continued; choose another folder"
        )


def read_published(content: bytes) -> pa.Table:
    """Return a `runs.parquet` with the columns of `runs/`. Raises ValueError, or an error of pyarrow, if it is bad."""
    table = checksums.read_parquet(content)
    # the index that pandas saves where a table was filtered; it is no threshold
    table = table.drop_columns([name for name in table.column_names if re.fullmatch(r"__index_level_\d+__", name)])
    thresholds = table.select([name for name in table.column_names if is_threshold(name)]).to_pylist()
    texts = [canonical_json({threshold_of(k): v for k, v in row.items() if v is not None}) for row in thresholds]
    table = table.append_column("thresholds", pa.array(texts, pa.string()))
    extra = [name for name in table.column_names if name not in COLUMNS.names and not is_threshold(name)]
    schema = pa.schema([*COLUMNS, *((name, extra_column_type(name)) for name in extra)])
    table = table.select(schema.names).cast(schema)
    validation.validate_runs(table)
    return table


def _parse_runs(content: bytes) -> pa.Table:
    table = _parse(content, COLUMNS)
    validation.validate_runs(table)
    return table


def parse_losses(content: bytes) -> pa.Table:
    """Return the table of a file of `losses/`. Raises ValueError, or an error of pyarrow, if it is bad."""
    table = _parse(content, LOSSES)
    run, seed, task = (table[name].to_pylist() for name in ("run_id", "seed", "task"))
    keys = list(zip((name is None for name in run), seed, task, strict=True))
    if not {key[1:] for key in keys if not key[0]} <= {key[1:] for key in keys if key[0]}:
        raise ValueError("the constant predictor's losses are missing")
    return table


def _parse(content: bytes, schema: pa.Schema) -> pa.Table:
    table = checksums.read_parquet(content)
    names = table.column_names
    schema = schema.append(STEP) if schema is LOSSES and STEP.name in names else schema
    wrong = [f.name for f in schema if f.name not in names or table.schema.field(f.name).type != f.type]
    if wrong:
        raise ValueError(f"not a file of a record: columns {', '.join(wrong)}")
    return table


def _published(folder: Path) -> pa.Table | None:
    """The rows of `runs.parquet` where nothing was ever in `runs/`; None elsewhere."""
    store = stores.store_for(folder)
    ever = (stores.LocalStore(folder), "runs"), (store, "runs"), (store, "set_aside")
    if any(files.names_of(at, kind, "parquet") for at, kind in ever):
        return None
    store.refresh(PUBLISHED)
    content = files.read_file(folder, PUBLISHED)
    try:
        table = None if content is None else files.parsed(read_published, content)
        if table is not None:
            files.parsed(Identity(read_definition(folder)).check, table)
    except files.BadFileError as error:
        raise RecordError(f"{folder / PUBLISHED} cannot be read ({error})") from error
    return None if table is None or not table.num_rows else table


def _without_losses(folder: Path, name: str) -> str:
    """Return why the runs of a file could not be judged again; empty if its losses are there. Reads their footer."""
    folder = files.origin_of(folder)
    try:
        with open_file(folder, f"losses/{name}") as file:
            files.parsed(pq.read_schema, file)
    except FileNotFoundError:
        return "the losses of its runs are missing"
    except files.BadFileError as error:
        return f"losses/{name} cannot be read: {error}"
    except OSError as error:
        raise stores.StorageError(f"cannot read {folder}/losses/{name} ({error.strerror or error})") from error
    return ""

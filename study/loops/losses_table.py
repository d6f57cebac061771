"""Reads the runs of a long table of losses: CSV or Parquet, one row a run and step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from study.storage.untrusted_input import open_named

MAX_BLOCK = 2**30
MOST_NAMES = 30
"""Most column names in a message."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Names of the columns of a long table.

    Args:
        lr, step: learning rate, and number of the step.
        loss: one column a task.
        seed: None where runs have no seed.
        curve: columns whose values distinguish curves; none for a single curve.
        run: identifies runs that share curve and lr and have no seed; None where curve, lr and seed identify a run.
        baseline: one column a task, the loss that each loss is paired with; or none.
    """

    lr: str
    step: str
    loss: tuple[str, ...]
    seed: str | None = None
    curve: tuple[str, ...] = ()
    run: str | None = None
    baseline: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """All columns, each once."""
        single = [name for name in (self.lr, self.seed, self.run, self.step) if name]
        return list(dict.fromkeys([*single, *self.curve, *self.loss, *self.baseline]))


@dataclass(frozen=True, kw_only=True)
class History:
    """The losses of one run (N logged steps, K tasks).

    Args:
        curve: column -> value, of the columns that distinguish curves. A column without a value is left out.
        lr: learning rate.
        seed: None where the table names none.
        step: int64 (N,), increasing.
        loss: float32 (N, K).
        baseline: float32 (N, K); None without columns of it.
    """

    curve: Mapping[str, Any]
    lr: float
    seed: int | None
    step: np.ndarray
    loss: np.ndarray
    baseline: np.ndarray | None = None


def read_table(path: Path) -> pa.Table:
    """Return the table in a CSV or Parquet file. Raises ValueError for any other file.

    Only an empty field of a CSV is a missing value; `nan` and `inf` are losses.
    """
    try:
        with open_named(path, None) as file:
            if file.read(4) == b"PAR1":
                return pq.ParquetFile(path).read()
        block = min(path.stat().st_size + 1, MAX_BLOCK)  # types follow from the whole file
        table = pyarrow.csv.read_csv(
            path,
            read_options=pyarrow.csv.ReadOptions(block_size=block),
            convert_options=pyarrow.csv.ConvertOptions(null_values=[""], strings_can_be_null=True),
        )
        return table.rename_columns(table.column_names)  # raises for names that are no text
    except (pa.ArrowException, UnicodeError) as error:
        raise ValueError(f"{path} is no table in CSV or Parquet ({str(error).splitlines()[0]})") from None
    except OSError as error:
        raise ValueError(f"cannot read {path} ({error.strerror or error})") from error


def histories(table: pa.Table, columns: Columns, source: str) -> list[History]:
    """Return the runs of a long table, in order of their first rows.

    A row whose losses are all missing logged none, and is skipped; but at the end of a run such rows are losses that
    are not finite, as pandas writes NaN to a CSV.

    Args:
        table: one row a run and step.
        columns: names of its columns.
        source: the table's name, for messages.

    Raises:
        ValueError: a column is not there or holds wrong values; steps go back; two runs have the same curve, lr and
            seed.
    """
    if absent := [name for name in columns.names if name not in table.column_names]:
        names = ", ".join(table.column_names[:MOST_NAMES]) + (", ..." if table.num_columns > MOST_NAMES else "")
        raise ValueError(f"{source} has no column {absent[0]!r}; it has {names}")
    if twice := [name for name in columns.names if table.column_names.count(name) > 1]:
        raise ValueError(f"{source} has several columns {twice[0]!r}")
    if not table.num_rows:
        raise ValueError(f"{source} has no rows")
    table = table.select(columns.names)
    lr = _numbers(table, columns.lr, source)
    _complete(lr, columns.lr, source)
    if wrong := np.flatnonzero(~((lr > 0) & np.isfinite(lr))).tolist():
        raise ValueError(f"the column {columns.lr} of {source} holds the lr {lr[wrong[0]]:g}; need lr > 0")
    constant_lr = f"; the column {columns.lr} is constant" if (lr == lr[0]).all() else ""
    step = _whole(table, columns.step, source, "step")
    _complete(step, columns.step, source)
    loss_NK = _losses(table, columns.loss, source)
    missing_N = np.all([_missing(table, name) for name in columns.loss], axis=0)
    baseline_NK = _losses(table, columns.baseline, source) if columns.baseline else None
    keys = pd.DataFrame({"lr": lr})
    keys["seed"] = _whole(table, columns.seed, source, "seed") if columns.seed else np.nan
    for i, name in enumerate(columns.curve):
        values = table[name].to_pandas()
        keys[i] = values.astype(object).where(values.notna(), None)
    identity = list(keys.columns)
    if columns.run:
        keys["run"] = table[columns.run].to_pandas()
        _complete(keys["run"].to_numpy(object), columns.run, source)
    found, seen = [], set()
    for _, rows in keys.groupby("run" if columns.run else identity, sort=False, dropna=False):
        first = rows.iloc[0]
        if columns.run and len(rows[identity].drop_duplicates()) > 1:
            raise ValueError(f"{source}: the run {first['run']} has several curves, lrs or seeds")
        curve = {name: _plain(first[i]) for i, name in enumerate(columns.curve) if first[i] is not None}
        run = first["lr"], None if pd.isna(first["seed"]) else int(first["seed"])
        said = _said(curve, *run)
        key = (tuple(curve.items()), *run)
        if run[1] is not None and key in seen:
            raise ValueError(f"{source}: two runs have the same curve, lr and seed ({said})")
        seen.add(key)
        at = rows.index.to_numpy()
        _check_steps(step[at].astype(np.int64), said + constant_lr, source)
        logged = np.flatnonzero(~missing_N[at])
        if not len(logged):
            raise ValueError(f"{source}: the run of {said} has no losses")
        kept = at[~missing_N[at] | (np.arange(len(at)) > logged[-1])]
        found.append(
            History(
                curve=curve,
                lr=float(run[0]),
                seed=run[1],
                step=step[kept].astype(np.int64),
                loss=loss_NK[kept],
                baseline=None if baseline_NK is None else baseline_NK[kept],
            )
        )
    return found


def _check_steps(step: np.ndarray, said: str, source: str) -> None:
    if len(np.unique(step)) < len(step):
        twice = np.sort(step)[np.flatnonzero(np.diff(np.sort(step)) == 0)[0]]
        raise ValueError(
            f"{source}: two runs have the same curve, lr and seed ({said}), or one has step {twice} twice; name the "
            "columns that tell runs apart (--curve, --seed, --run)"
        )
    if len(back := np.flatnonzero(np.diff(step) < 0)):
        raise ValueError(
            f"{source}: the steps of the run of {said} go back from {step[back[0]]} to {step[back[0] + 1]}"
        )


def _losses(table: pa.Table, names: Sequence[str], source: str) -> np.ndarray:
    """Return columns as float32 (N, K). What float32 cannot hold is infinite."""
    with np.errstate(over="ignore"):
        return np.stack([_numbers(table, name, source) for name in names], axis=1).astype(np.float32)


def _numbers(table: pa.Table, name: str, source: str) -> np.ndarray:
    """Return a column as float64, missing values as NaN."""
    kind = table[name].type
    if not (
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind) or pa.types.is_null(kind)
    ):
        values = table[name].to_pylist()
        example = next((value for value in values if not _is_number(value)), values[0])
        raise ValueError(f"the column {name} of {source} is not a number (such as {example!r})")
    return table[name].cast(pa.float64()).to_numpy()


def _whole(table: pa.Table, name: str, source: str, what: str) -> np.ndarray:
    """Return a column of whole numbers from 0 as float64, missing values as NaN."""
    values = _numbers(table, name, source)
    with np.errstate(invalid="ignore"):
        wrong = np.flatnonzero(~np.isnan(values) & ~((values >= 0) & (values == np.floor(values)) & (values < 2**53)))
    if len(wrong):
        raise ValueError(
            f"row {wrong[0] + 1} of {source} has the {what} {values[wrong[0]]:g}; need a whole number from 0 upward"
        )
    return values


def _complete(values: np.ndarray, name: str, source: str) -> None:
    if pd.isna(values).any():
        raise ValueError(f"row {np.flatnonzero(pd.isna(values))[0] + 1} of {source} has no value in the column {name}")


def _missing(table: pa.Table, name: str) -> np.ndarray:
    return table[name].is_null().to_numpy()


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return value is None
    return True


def _plain(value: Any) -> Any:
    """Return a value of a column as a JSON value."""
    value = value.item() if isinstance(value, np.generic) else value
    return value if isinstance(value, bool | int | float) else str(value)


def _said(curve: Mapping[str, Any], lr: float, seed: int | None) -> str:
    parts = [*(f"{name} {value}" for name, value in curve.items()), f"lr {lr:g}"]
    return ", ".join(parts + ([] if seed is None else [f"seed {seed}"]))


def task_names(loss: Sequence[str]) -> list[str]:
    """Return the names of tasks from those of their columns."""
    return [name.removeprefix("metrics.") for name in loss]

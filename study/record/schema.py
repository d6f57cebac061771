"""The columns of the record's tables, with their types."""

from collections.abc import Iterable
from typing import Any

import pandas as pd
import pyarrow as pa

COLUMNS = pa.schema(
    [
        ("run_id", pa.string()),
        ("study", pa.string()),
        ("data", pa.string()),
        ("model", pa.string()),
        ("method", pa.string()),
        ("options", pa.string()),  # JSON: options that the runs of a stack agree in and that are not at their default
        ("thresholds", pa.string()),  # JSON: every threshold of the method; read back as one column each
        ("lr", pa.float64()),
        ("seed", pa.int64()),
        ("role", pa.string()),  # cell | control
        ("outcome", pa.string()),  # completed, diverged or undertrained; null for the control
        ("reason", pa.string()),  # nonfinite | collapsed | never_learned; null unless diverged
        ("diverged_at_step", pa.int64()),
        ("micro_episodes", pa.int64()),
        ("episodes", pa.string()),  # JSON: [[start, depth, length], ...]
        ("spikes", pa.int64()),
        ("final_loss", pa.float64()),  # mean training loss of the last steps; null if not finite
        ("kept", pa.float64()),
        ("moved", pa.float64()),  # L2 norm of the change of all parameters; null if not finite or rolled back
        ("steps", pa.int64()),
        ("seconds", pa.float64()),
        ("device", pa.string()),
        ("version", pa.string()),
    ]
)
"""Columns of `runs/`: one row a run. The columns per task (`PER_TASK`) follow them."""

COUNTS = ("rollbacks", "skipped_steps")
"""Columns (int64) of runs whose method acts on whole runs."""

PER_TASK = {
    "kept_": pa.float64(),
    "diverged_": pa.bool_(),
    "auc_": pa.float64(),
    "rmse_": pa.float64(),
    "score_": pa.float64(),
    "error_": pa.float64(),  # the metric by which a loop is judged: more, or less is better
}
"""Columns per task, such as `kept_click`. A value is null if it is not finite or if the task is not learnable."""

LOSSES = pa.schema(
    [
        ("run_id", pa.string()),  # null: the best constant predictor, on the batches of this seed
        ("seed", pa.int64()),
        ("task", pa.string()),
        ("loss", pa.list_(pa.float32())),  # one value a logged step, before its update
    ]
)
"""Columns of `losses/`: one row a run and task."""

STEP = pa.field("step", pa.list_(pa.int64()))
"""A further column of `losses/`: numbers of the logged steps. It is absent or null where every step is logged."""

FIRST_LOSSES = "first_losses"

OF_SOME = {
    "baseline": pa.string(),
    "declared": pa.bool_(),
    "initial_loss": pa.float64(),
    "raised": pa.string(),
    "own_code": pa.string(),
}
"""Columns that only some runs have, mostly those of other trainers than rankers.

`baseline` is `FIRST_LOSSES` where the run is judged against the loss at initialization; `declared`, whether the trainer
says that it diverged; `initial_loss` is the first training loss; `raised`, what ended a run that was not finite;
`own_code`, JSON of the user's own modules that the run depends on, each with the hash of its code
(`study.definition.own_code`).
"""

OF_TABLES = frozenset(
    """
    against basis best_lr best_lr_against binned bound bound_high bound_low chance collapsed complete_lr confidence
    confirms curve difference difference_high difference_low difference_pairs edge edge_status failed failed_allowed
    failed_k failed_lr failed_n headroom headroom_high headroom_low
    held high highest_lr k known level low lowest_bound lowest_k lowest_lr lowest_n lr_max lr_min lr_named
    lr_only lr_only_against lr_p lr_p_holm lr_pairs lr_trained lrs measure micro micro_high micro_low micro_rate
    missing missing_from models monotone more_at_rate more_if_clean most_k most_lr most_n moves moves_high moves_low n
    n_max n_min never_learned
    nominated nominated_bound nominated_k nominated_n nonfinite p p_holm pairs pareto pending planned quality
    quality_median quality_median_high quality_median_low quality_n quality_q10 quality_q90 rate ratio recorded risk
    run_ids runs safe_bound safe_k safe_lr safe_n searched seeds seeds_against sensitivity sensitivity_high
    sensitivity_low sensitivity_lr_max sensitivity_lr_min share status step tested_at threshold trend undertrained
    value
    """.split()  # noqa: SIM905 - a list has a line for each word
)
"""Columns of the tables that `analysis` makes of a record. Each threshold is a column there too."""


_OF_RECORD = frozenset((*COLUMNS.names, *COUNTS, *OF_SOME))
_PREFIXES = tuple(PER_TASK)
_PREFIX = "threshold."


def check_thresholds(names: Iterable[str], where: str) -> None:
    """Raise ValueError for a threshold or numeric option that would be a column of the same name as another.

    Args:
        names: of the thresholds.
        where: what has them, for the message.
    """
    for name in names:
        if threshold_column(name) != name:
            raise ValueError(f"{where} has the option {name}, but reports have a column of this name; rename it")


def check_tasks(names: Iterable[str]) -> None:
    """Raise ValueError for a task one of whose columns (`PER_TASK`) would be another column of the record."""
    for name in names:
        if taken := sorted({prefix + name for prefix in PER_TASK} & _OF_RECORD):
            raise ValueError(f"the task {name} would have the column {taken[0]}, which every record has; rename it")


def threshold_column(name: str) -> str:
    """Return the column of a threshold: its name, or `threshold.NAME` if tables have another column of that name.

    No study is planned with such a name. But a record of an earlier version may have it, and its runs are not lost.
    """
    return _PREFIX + name if name in OF_TABLES or not is_threshold(name) else name


def threshold_of(column: str) -> str:
    """Return the name of the threshold in a column; the inverse of `threshold_column`."""
    name = column.removeprefix(_PREFIX)
    return name if threshold_column(name) == column else column


def is_threshold(name: str) -> bool:
    """Return whether a column of a table of runs holds a threshold: the record itself has no such column."""
    return name not in _OF_RECORD and not name.startswith(_PREFIXES)


def extra_column_type(name: str) -> pa.DataType:
    """Return the type of a column of `runs/` that is not in `COLUMNS`."""
    if name in OF_SOME:
        return OF_SOME[name]
    if name in COUNTS:
        return pa.int64()
    for prefix, kind in PER_TASK.items():
        if name.startswith(prefix):
            return kind
    raise AssertionError(f"{name} is not a column of the record")


def nullable_dtype(kind: pa.DataType) -> Any:
    """Return the pandas type that can hold missing integers and booleans; None for other types."""
    return {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}.get(kind)


def pandas_dtype(kind: pa.DataType) -> Any:
    """Return the pandas type of a column."""
    return nullable_dtype(kind) or ("float64" if pa.types.is_floating(kind) else "str")

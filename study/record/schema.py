"""The columns of the record's tables, with their types."""

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
        ("options", pa.string()),  # JSON: the method's options that are not numbers and not at their default
        ("thresholds", pa.string()),  # JSON: every threshold of the method; read back as one column each
        ("lr", pa.float64()),
        ("seed", pa.int64()),
        ("role", pa.string()),  # cell | control
        ("outcome", pa.string()),  # one of OUTCOMES; null for the control
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

OF_LOOPS = {"baseline": pa.string(), "declared": pa.bool_(), "initial_loss": pa.float64()}
"""Columns of runs of other trainers than rankers.

`baseline` is `FIRST_LOSSES` where the run is judged against the loss at initialization; `declared`, whether the trainer
says that it diverged; `initial_loss` is the first training loss.
"""

OUTCOMES = ("completed", "diverged", "undertrained")


def extra_column_type(name: str) -> pa.DataType:
    """Return the type of a column of `runs/` that is not in `COLUMNS`."""
    if name in OF_LOOPS:
        return OF_LOOPS[name]
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

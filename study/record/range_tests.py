"""`range_tests/`: curves of LR range tests, beside the runs of a study and never among them.

    DIR/range_tests/<hash>.parquet   one row a seed and task: the lr and the loss of each step

A range test belongs to the cells that share its data, trainer and recipe: `setting` is the hash of these.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from study.config import Arm, Study, canonical_json
from study.config.checks import MAX_LR
from study.record import checksums, files
from study.storage import stores
from study.storage.untrusted_input import check_integer, check_json, check_name, check_number, require

FOLDER = "range_tests"

LEAST_STEPS, MOST_STEPS = 20, 1_000_000

LEAST_LR = 1e-30
"""Rules of `analysis.stats.range_rules` compute with 32-bit numbers, which end at 1e-38."""

COLUMNS = pa.schema(
    [
        ("setting", pa.string()),
        ("model", pa.string()),
        ("method", pa.string()),
        ("options", pa.string()),  # JSON, as in `runs/`
        ("thresholds", pa.string()),  # JSON, as in `runs/`
        ("lr_from", pa.float64()),
        ("lr_to", pa.float64()),
        ("lr_steps", pa.int64()),
        ("seed", pa.int64()),
        ("task", pa.string()),
        ("step_lr", pa.list_(pa.float64())),  # of each logged step; shorter than lr_steps where the test ended early
        ("loss", pa.list_(pa.float32())),  # before the update of the step
        ("seconds", pa.float64()),
        ("device", pa.string()),
        ("version", pa.string()),
        ("own_code", pa.string()),  # JSON, as in `runs/`; null without code of the user's own
    ]
)

TEST = COLUMNS.names[:9]
"""The columns that name a range test."""


@dataclass(frozen=True, kw_only=True)
class Ramp:
    """The lr of a range test: it rises exponentially from `low` to `high`, both included, in `steps` steps.

    Raises:
        ValueError: in the words of the command line.
    """

    low: float
    high: float
    steps: int

    def __post_init__(self) -> None:
        for option, lr in (("--from", self.low), ("--to", self.high)):
            if not 0 < lr < np.inf:
                raise ValueError(f"{option} needs a finite lr above 0, got {lr:g}")
        if self.low < LEAST_LR:
            raise ValueError(f"--from needs an lr of at least {LEAST_LR:g}, got {self.low:g}")
        if self.high > MAX_LR:
            raise ValueError(f"--to is at most {MAX_LR:g}, got {self.high:g}")
        if not self.low < self.high:
            raise ValueError(f"--from {self.low:g} is not below --to {self.high:g}")
        if self.steps < LEAST_STEPS:
            raise ValueError(f"--steps needs at least {LEAST_STEPS}, got {self.steps}")
        if self.steps > MOST_STEPS:
            raise ValueError(f"--steps is at most {MOST_STEPS:,}, got {self.steps:,}")
        if not rises(self.lrs()):
            steps, low, high = f"{self.steps:,} steps", f"--from {self.low:g}", f"--to {self.high:g}"
            raise ValueError(f"{steps} do not rise from {low} to {high}: give lrs farther apart")

    def lrs(self) -> list[float]:
        """Return the lr of each step."""
        lrs = np.geomspace(self.low, self.high, self.steps).tolist()
        return [self.low, *lrs[1:-1], self.high]


def rises(lrs: Sequence[float]) -> bool:
    """Return whether each lr is above the one before it, as a 32-bit number."""
    return bool((np.diff(np.asarray(lrs, np.float32)) > 0).all())


def setting_of(study: Study, content: str) -> str:
    """Return the hash of what range tests share with the cells of a study. content: that of the study's data."""
    # Steps, warm-up and schedule have no part in a range test. They count, as a study of other steps is another one.
    shared = [study.trainer, content, study.recipe.identity]
    return hashlib.sha256(canonical_json(shared).encode()).hexdigest()


def write_range_tests(where: Path | str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the range tests of one stack. Can be repeated and interrupted.

    Args:
        where: the study's folder.
        rows: one mapping a seed and task, with the columns of `COLUMNS`.
    """
    keys = [[row[name] for name in COLUMNS.names[:10]] for row in rows]
    name = hashlib.sha256(canonical_json(keys).encode()).hexdigest()[:32]
    table = pa.Table.from_pylist(list(rows), schema=COLUMNS)
    stores.store_for(where).put(f"{FOLDER}/{name}.parquet", checksums.parquet_bytes(table))


def read_range_tests(folder: Path) -> pd.DataFrame:
    """Return one row a range test, the losses of its tasks summed. A bad file is ignored with a warning.

    Returns:
        The columns of `COLUMNS` but for `task`; `step_lr` and `loss` hold arrays. Each test is there once.
    """
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for _, table in files.read_each(folder, FOLDER, "parquet", parse):
        of_file: dict[tuple[Any, ...], dict[str, Any]] = {}
        for row in table.to_pylist():
            tasks = of_file.setdefault(tuple(row[name] for name in TEST), row | {"tasks": {}})["tasks"]
            tasks.setdefault(row["task"], np.array(row["loss"], np.float64))
        found = of_file | found
    made = [
        row | {"step_lr": np.array(row["step_lr"]), "loss": np.sum(list(row["tasks"].values()), axis=0)}
        for row in found.values()
    ]
    columns = [name for name in COLUMNS.names if name != "task"]
    return pd.DataFrame(made, columns=pd.Index(columns)).sort_values(TEST, ignore_index=True)


def parse(content: bytes) -> pa.Table:
    """Return the table of a file of `range_tests/`. Raises ValueError, or an error of pyarrow, if it is bad."""
    table = checksums.read_parquet(content)
    wrong = [f.name for f in COLUMNS if f.name not in table.column_names or table.schema.field(f.name).type != f.type]
    require(not wrong, f"not a file of a record: columns {', '.join(wrong)}")
    steps: dict[tuple[Any, ...], list[float]] = {}
    for row in table.to_pylist():
        for name in ("setting", "model", "method", "task"):
            check_name(row[name], name)
        for name in ("options", "thresholds"):
            values = json.loads(row[name] or "")
            require(isinstance(values, dict), f"{name} are no JSON object")
            check_json(values)
        ramp = [check_number(row[name], name) for name in ("lr_from", "lr_to")]
        Ramp(low=ramp[0], high=ramp[1], steps=int(check_integer(row["lr_steps"], "lr_steps")))
        check_integer(row["seed"], "a seed")
        lrs, losses = row["step_lr"] or [], row["loss"] or []
        require(0 < len(lrs) == len(losses) <= row["lr_steps"], f"it has {len(losses)} losses at {len(lrs)} lrs")
        within = ramp[0] <= lrs[0] and lrs[-1] <= ramp[1]
        require(within and rises(lrs), "its lrs do not rise from its first to its last")
        test = tuple(row[name] for name in TEST)
        require(steps.setdefault(test, lrs) == lrs, "its tasks have different steps")
    return table


def recorded_tests(
    table: pd.DataFrame, setting: str, model: str, columns: Mapping[str, str], ramp: Ramp
) -> pd.DataFrame:
    """Return the recorded range tests of a curve. columns: `method`, `options` and `thresholds` of its arm."""
    same = {"setting": setting, "model": model, **columns}
    same |= {"lr_from": ramp.low, "lr_to": ramp.high, "lr_steps": ramp.steps}
    is_same = np.ones(len(table), bool)
    for name, value in same.items():
        is_same &= (table[name] == value).to_numpy(bool)
    return table.loc[is_same]


def arm_columns(arm: Arm, thresholds: Mapping[str, float], options: Mapping[str, Any]) -> dict[str, str]:
    """Return the columns that name an arm."""
    return {
        "method": arm.method,
        "options": canonical_json(dict(options)),
        "thresholds": canonical_json(dict(thresholds)),
    }

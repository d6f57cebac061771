"""The form in which every data source returns its log: encoded, sorted by time, split by day."""

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Task:
    """A prediction target. Labels are stored as 0 and 1, or standardized for a regression.

    Args:
        name: the task's name.
        kind: "binary" (logistic loss, judged by AUC) or "regression" (squared error, judged by RMSE).
        base: base rate of a binary task in the training rows; for a regression the mean, in the target's unit.
        scale: standard deviation of a regression's target in the training rows; 1 for a binary task. If only some
            days are kept, base and scale of a regression are those of the whole log.
        constant_loss: mean loss of the constant predictor `base` in the training rows (nats, or squared deviations).
        constant_rmse: RMSE of that constant on the held-out rows, in the target's unit; None for a binary task.
        unit: unit of a regression's RMSE, for labels of figures, such as "log(1 + s)".
    """

    name: str
    kind: str
    base: float
    scale: float = 1.0
    constant_loss: float
    constant_rmse: float | None = None
    unit: str = ""


@dataclass(frozen=True, kw_only=True)
class Log:
    """A time-ordered log, ready for training: N rows, F id features, D number features, T tasks.

    Args:
        ids: int32 (N, F), codes from 0; code 0 of each feature means "not seen in training". With lists, (N, C).
        numbers: float32 (N, D), standardized over the training rows, finite.
        labels: float32 (N, T), NaN where missing: such a row does not count for the task.
        train_rows: the first rows, for training; the others (the last day) are held out.
        vocabulary: number of codes of each id feature, code 0 included.
        id_names, number_names: names of the features.
        tasks: the tasks, in the order of the labels' columns.
        content: SHA-256 of what the arrays were made from (content of files, options, version of the conversion).
        facts: facts for reports (name, licence, first and last day, ...), JSON-able.
        lengths: the columns of `ids` that each feature takes; () if it is one each. A list of ids has its codes first,
            at least one, and then -1.
        pools: how the rows of each feature's ids become one: "mean" or "sum"; () without lists.
    """

    ids: np.ndarray
    numbers: np.ndarray
    labels: np.ndarray
    train_rows: int
    vocabulary: tuple[int, ...]
    id_names: tuple[str, ...]
    number_names: tuple[str, ...]
    tasks: tuple[Task, ...]
    content: str
    facts: dict[str, Any]
    lengths: tuple[int, ...] = ()
    pools: tuple[str, ...] = ()

    @property
    def spans(self) -> list[range]:
        """Return the columns of `ids` of each feature."""
        stops = np.cumsum(self.lengths or (1,) * len(self.vocabulary)).tolist()
        return [range(start, stop) for start, stop in itertools.pairwise([0, *stops])]

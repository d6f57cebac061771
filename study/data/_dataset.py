"""The one shape in which every data source hands its log to training: encoded, sorted by time, split by day."""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Task:
    """One thing to predict. Labels are stored as training wants them: 0/1, or standardized for a regression.

    kind: "binary" (logistic loss, judged by AUC) or "regression" (squared error, judged by RMSE).
    base: the base rate of a binary task over the training part; for a regression the mean, in the target's unit.
    scale: the standard deviation of a regression's target over the training part (1 for a binary task).
        Where only some days of a log are kept, a regression's base and scale are those of all of it.
    constant_loss: mean loss of the constant predictor `base` over the training part (nats; for a regression, squared
        deviations).
    constant_rmse: RMSE of that constant on the held-out part, in the target's unit (None for a binary task).
    unit: what a regression's RMSE is measured in, for labels of figures ("log(1 + s)").
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

    ids: int32 (N, F), codes from 0; code 0 of every feature is "not seen in training".
    numbers: float32 (N, D), standardized over the training part, finite.
    labels: float32 (N, T). train_rows: rows [0, train_rows) are for training, the rest (the last day) is held out.
    vocabulary: number of codes of each id feature, code 0 included.
    content: SHA-256 of what the arrays were made from (files' content, options, version of the conversion).
    facts: what a report wants to say about the data (name, licence, first and last day ...), JSON-able.
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

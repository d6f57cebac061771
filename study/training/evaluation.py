"""What is measured of a trained stack: AUC and RMSE on the held-out rows, finite weights, distance from the start.

Shape letters: R runs, T tasks, B batch, N held-out rows.
"""

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from study.data._dataset import Task

if TYPE_CHECKING:
    from study.training.stack import StackTraining


def evaluate(stack: "StackTraining") -> dict[str, np.ndarray]:
    """Return the AUC or RMSE (R,) of each task on the held-out rows, such as `auc_click`.

    Only labelled rows count. RMSE is in the unit of the target. A value is NaN where a run has a score that is not
    finite.
    """
    scores_RTN = _scores(stack).cpu()
    measured = {}
    for t, task in enumerate(stack.log.tasks):
        labels_N = stack.log.labels_NT[stack.log.train_rows :, t].double().cpu().numpy()
        # One run at a time in double precision: the scores of all runs may take more memory than all else.
        known_N = ~np.isnan(labels_N)
        scores = (scores_TN[t].double().numpy() for scores_TN in scores_RTN)
        measured[measure_of(task)] = np.array([_metric(task, scores_N, labels_N, known_N) for scores_N in scores])
    return measured


def measure_of(task: Task) -> str:
    """Return the name of a task's measure, such as `auc_click`."""
    return f"{'auc' if task.kind == 'binary' else 'rmse'}_{task.name}"


def finite(stack: "StackTraining") -> Tensor:
    """Return whether all weights of each run are finite, bool (R,)."""
    weights = [w.isfinite().view(len(w), math.prod(w.shape[1:])).all(1) for w in stack.network.parameters.values()]
    return torch.stack([*weights, stack.tables.finite()]).all(0)


def moved(stack: "StackTraining") -> np.ndarray:
    """Return the L2 distance of each network from its start, float64 (R,); NaN where a run was rolled back."""
    squares = np.zeros(len(stack.groups.runs))
    start = stack.initial_networks(stack.groups.seeds)  # made anew, since a copy would take memory during the training
    for name, weight in stack.network.parameters.items():
        for r, run in enumerate(stack.groups.runs):
            initial = start[run.seed].get_parameter(name).detach().to(weight.dtype).double().numpy()
            with np.errstate(over="ignore", invalid="ignore"):
                squares[r] += np.square(weight[r].detach().cpu().double().numpy() - initial).sum()
    return np.where(stack.counts().get("rollbacks", 0) > 0, np.nan, np.sqrt(squares))


def auc(scores_N: np.ndarray, labels_N: np.ndarray) -> float:
    """Return the area under the ROC curve, ties counted half; NaN if only one class is present."""
    order = np.argsort(scores_N)  # numpy's unstable sort is 7 times faster, and ties share one rank anyway
    ordered, positive = scores_N[order], labels_N[order] > 0.5
    first = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    group = np.cumsum(first) - 1
    size = np.bincount(group)
    rank = (np.cumsum(size) - (size - 1) / 2)[group]
    n_positive = int(positive.sum())
    n_negative = len(positive) - n_positive
    if not n_positive or not n_negative:
        return math.nan
    return float((rank[positive].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def _scores(stack: "StackTraining") -> Tensor:
    """The scores (R, T, N) of the held-out rows, in batches of the size of the training's."""
    log, batch = stack.log, stack.recipe.batch
    rows_N = torch.arange(log.train_rows, len(log.labels_NT), device=stack.device)
    size = (len(stack.groups.runs), len(log.tasks), len(rows_N))
    scores_RTN = torch.empty(size, dtype=stack.dtype, device=stack.device)
    with stack.network.judging():
        for rows_B, scores_RTB in zip(rows_N.split(batch), scores_RTN.split(batch, dim=2), strict=True):
            # The last batch is filled up, since matrix products of another height may round otherwise.
            filled_B = functional.pad(rows_B, (0, batch - len(rows_B)), value=int(log.train_rows))
            stack.read(filled_B.expand(stack.groups.count, -1))
            scores_RTB.copy_(stack.network.logits(stack.inputs)[:, :, : len(rows_B)])
    return scores_RTN


def _metric(task: Task, scores_N: np.ndarray, labels_N: np.ndarray, known_N: np.ndarray) -> float:
    if not np.isfinite(scores_N).all() or not known_N.any():
        return math.nan
    if not known_N.all():
        scores_N, labels_N = scores_N[known_N], labels_N[known_N]
    if task.kind == "binary":
        return auc(scores_N, labels_N)
    with np.errstate(over="ignore"):
        return float(np.sqrt(np.mean((scores_N - labels_N) ** 2)) * task.scale)

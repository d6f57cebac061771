"""What is measured of a trained stack: AUC and RMSE on the held-out rows, finite weights, distance from the start.

On CPU one run after the other is measured. On other devices all runs are measured in large blocks, and nothing waits.

Shape letters: R runs, G groups of K runs that share a seed, T tasks, B batch, N held-out rows.
"""

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from study.data._dataset import Task
from study.training import devices
from study.training.metrics import auc, auc_of_runs, rmse, rmse_of_runs

if TYPE_CHECKING:
    from study.training.stack import StackTraining

NUMBERS_AT_A_TIME = 2**24
"""Scores or weights that a device measures together: about 1 GB of temporaries."""


def evaluate(stack: "StackTraining") -> dict[str, np.ndarray]:
    """Return the AUC or RMSE, float64 (R,), of each task on the held-out rows, such as `auc_click`.

    Only labelled rows count. RMSE is in the unit of the target. A value is NaN where a run has a score that is not
    finite.
    """
    return {name: values.cpu().numpy() for name, values in measured(stack).items()}


def measured(stack: "StackTraining") -> dict[str, Tensor]:
    """Return what `evaluate` returns, on the device of the stack."""
    scores_RTN = _scores(stack)
    labels_NT = stack.log.heldout_labels
    found = {}
    for t, task in enumerate(stack.log.tasks):
        known_N = ~np.isnan(labels_NT[:, t])
        places_N = None if known_N.all() else torch.from_numpy(np.flatnonzero(known_N)).to(stack.device)
        labels_N = torch.from_numpy(labels_NT[known_N, t].astype(np.float64))
        of_runs = _of_block if devices.wants_few_operations(stack.device) else _one_by_one
        values = [
            of_runs(task, scores_BN, scores_BN if places_N is None else scores_BN.index_select(1, places_N), labels_N)
            for scores_BN in scores_RTN[:, t].split(max(1, NUMBERS_AT_A_TIME // max(1, scores_RTN.shape[2])))
        ]
        found[measure_of(task)] = torch.cat(values)
    return found


def measure_of(task: Task) -> str:
    """Return the name of a task's measure, such as `auc_click`."""
    return f"{'auc' if task.kind == 'binary' else 'rmse'}_{task.name}"


def finite(stack: "StackTraining") -> Tensor:
    """Return whether all weights of each run are finite, bool (R,)."""
    weights = [w.isfinite().view(len(w), math.prod(w.shape[1:])).all(1) for w in stack.network.parameters.values()]
    return torch.stack([*weights, stack.tables.finite()]).all(0)


def moved(stack: "StackTraining") -> Tensor:
    """Return the L2 distance of each network from its start, float64 (R,); NaN where a run was rolled back."""
    distance = (_moved_in_blocks if devices.wants_few_operations(stack.device) else _moved_one_by_one)(stack)
    rollbacks = stack.counts().get("rollbacks")
    return distance if rollbacks is None else distance.masked_fill_(rollbacks > 0, math.nan)


def _moved_one_by_one(stack: "StackTraining") -> Tensor:
    squares = np.zeros(len(stack.groups.runs))
    start = stack.initial_networks(stack.groups.seeds)  # made anew, since a copy would take memory during the training
    for name, weight in stack.network.parameters.items():
        for r, run in enumerate(stack.groups.runs):
            initial = start[run.seed].get_parameter(name).detach().to(weight.dtype).double().numpy()
            with np.errstate(over="ignore", invalid="ignore"):
                squares[r] += np.square(weight[r].detach().double().numpy() - initial).sum()
    return torch.from_numpy(np.sqrt(squares))


def _moved_in_blocks(stack: "StackTraining") -> Tensor:
    groups, size = stack.groups, stack.groups.size
    start = stack.initial_networks(groups.seeds)
    squares = torch.zeros(len(groups.runs), dtype=torch.float64, device=stack.device)
    for name, weight in stack.network.parameters.items():
        weight_RP = weight.detach().reshape(len(weight), -1)
        at_a_time = max(1, NUMBERS_AT_A_TIME // max(1, size * weight_RP.shape[1]))
        for first in range(0, groups.count, at_a_time):
            seeds = groups.seeds[first : first + at_a_time]
            initial = torch.stack([start[seed].get_parameter(name).detach().flatten() for seed in seeds])
            initial = initial.to(stack.device, weight.dtype, non_blocking=True).repeat_interleave(size, dim=0)
            part = slice(first * size, (first + len(seeds)) * size)
            squares[part] += (weight_RP[part].double() - initial).square().sum(1)
    return squares.sqrt()


def _one_by_one(task: Task, scores_BN: Tensor, known_BK: Tensor, labels_K: Tensor) -> Tensor:
    # One run at a time in double precision: the scores of all runs may take more memory than all else.
    runs = zip(scores_BN, known_BK, strict=True)
    labels = labels_K.numpy()
    return torch.tensor([_metric(task, scores, known, labels) for scores, known in runs], dtype=torch.float64)


def _metric(task: Task, scores_N: Tensor, known_K: Tensor, labels_K: np.ndarray) -> float:
    if not scores_N.isfinite().all() or not len(labels_K):
        return math.nan
    scores_K = known_K.double().numpy()
    return auc(scores_K, labels_K) if task.kind == "binary" else rmse(scores_K, labels_K) * task.scale


def _of_block(task: Task, scores_BN: Tensor, known_BK: Tensor, labels_K: Tensor) -> Tensor:
    labels_K = labels_K.to(scores_BN.device)
    is_finite = scores_BN.isfinite().all(1)
    known_BK = known_BK.nan_to_num(nan=0.0)  # a sort needs numbers
    if not len(labels_K):
        found = torch.full_like(is_finite, math.nan, dtype=torch.float64)
    elif task.kind == "binary":
        found = auc_of_runs(known_BK, labels_K)
    else:
        found = rmse_of_runs(known_BK, labels_K) * task.scale
    return torch.where(is_finite, found, math.nan)


def _scores(stack: "StackTraining") -> Tensor:
    """The scores (R, T, N) of the held-out rows, in batches of the size of the training's."""
    log, batch = stack.log, stack.recipe.batch
    rows_N = torch.arange(log.train_rows, len(log.labels_NT), device=stack.device)
    size = (len(stack.groups.runs), len(log.tasks), len(rows_N))
    scores_RTN = torch.empty(size, dtype=stack.dtype, device=stack.device)
    with stack.network.judging():
        for rows_B, scores_RTB in zip(rows_N.split(batch), scores_RTN.split(batch, dim=2), strict=True):
            # The last batch is filled up, since matrix products of another height may round otherwise.
            filled_B = functional.pad(rows_B, (0, batch - len(rows_B)), value=log.train_rows)
            stack.read(filled_B.expand(stack.groups.count, -1))
            scores_RTB.copy_(stack.network.logits(stack.inputs)[:, :, : len(rows_B)])
    return scores_RTN

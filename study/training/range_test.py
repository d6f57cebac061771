"""Trains a stack whose lr rises step by step: an LR range test of each of its runs.

Shape letters: R runs, S steps, T tasks.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch

from study.config import Run
from study.data._dataset import Log
from study.training import evaluation
from study.training.stack import StackTraining
from study.training.threads import one_thread_on_cpu
from study.training.weights import Weights


def range_test(
    runs: Sequence[Run],
    log: Log,
    lrs: Sequence[float],
    device: str = "cpu",
    start: Weights | None = None,
) -> np.ndarray:
    """Return the loss of each task at each step, before its update: float32 (R, S, T), in the order of `runs`.

    Steps, warm-up and schedule of the recipe have no part in it, and no method that rolls back.

    Args:
        runs: Runs that share model, recipe, data, method and the method's options. Their lr is the last of `lrs`.
        log: The data.
        lrs: The lr of each step, increasing.
        device: "cpu", "cuda", ...
        start: The weights that the recipe's `init_from` names.

    Raises:
        ValueError: A run has another lr than the last of `lrs`.
    """
    others = [run.lr for run in runs if run.lr != lrs[-1]]
    if others:
        raise ValueError(f"need runs at the last lr of the ramp, {lrs[-1]:g}, got lr={others[0]:g}")
    with one_thread_on_cpu(device):
        stack = StackTraining(runs, log, torch.device(device), start, ramp=[lr / lrs[-1] for lr in lrs])
        for step, rows_GB in enumerate(stack.batches()):
            try:
                stack.loss_RST[:, step], _ = stack.step(step, rows_GB)
            except (MemoryError, torch.OutOfMemoryError):
                raise
            except Exception:
                if len(runs) > 1:  # the other runs can be trained
                    of_each = [range_test([run], log, lrs, device, start) for run in runs]
                    return np.concatenate(of_each)
                if stack.loss_RST[:, :step].isfinite().all() and evaluation.finite(stack).all():
                    raise
                stack.loss_RST[:, step:] = math.nan
                break
        return stack.loss_RST.cpu().numpy()[stack.groups.callers_order]

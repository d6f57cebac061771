"""Trains a stack: runs of one model and method, in lockstep, as one batched computation.

A run's result does not depend on what it is stacked with. On CPU, with one thread, its bits are the same alone and in
any stack: products are batched matrix products, sums run inside a run, the batch is a multiple of the vector width.
The loop never waits for the device: the losses of all steps stay there and come back at the end.

Shape letters: R runs, G groups of K runs that share a seed (R = G * K), T tasks, S steps.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from study.config import Run
from study.data._dataset import Log
from study.training import evaluation, step_graph
from study.training.checkpointer import Checkpointer
from study.training.embeddings import EmbeddingTables
from study.training.networks import StackedNetworks
from study.training.stack import StackTraining, StepView
from study.training.step_graph import StepGraph
from study.training.threads import one_thread_on_cpu
from study.training.weights import Weights


@dataclass(frozen=True, kw_only=True)
class Trained:
    """The result of a trained stack, in the order of the caller's runs.

    Args:
        loss: float32 (R, S, T), mean loss of each task on the batch of each step, before its update.
        constant: float32 (R, S, T), the same of the best constant predictor, on the same batches.
        finite: bool (R,), whether all weights are finite at the end.
        moved: float64 (R,), L2 norm of the change of all network parameters; NaN where the run was rolled back, since
            it then says where the last snapshot lay.
        judged: `auc_click`, `rmse_play_time`, ... -> float64 (R,), on the held-out rows. NaN where the run has a score
            that is not finite. RMSE is in the unit of the target.
        counts: `rollbacks`, ... -> int64 (R,), what a method that acts on whole runs did; else empty.
        notes: Sentences for the user.
        seconds: Wall time per run.
    """

    loss: np.ndarray
    constant: np.ndarray
    finite: np.ndarray
    moved: np.ndarray
    judged: dict[str, np.ndarray]
    counts: dict[str, np.ndarray] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    seconds: float


class StepError(Exception):
    """A step after the first one raised. The cause is what was raised.

    Args:
        trained: What a run that was alone leaves if its losses or weights are not finite: its further losses are NaN.
            Else None.
    """

    def __init__(self, trained: Trained | None) -> None:
        super().__init__("a step raised")
        self.trained = trained


def train(
    runs: Sequence[Run],
    log: Log,
    device: str = "cpu",
    on_step: Callable[[int], None] | None = None,
    on_update: Callable[[StepView], None] | None = None,
    checkpointer: Checkpointer | None = None,
    start: Weights | None = None,
    on_end: Callable[[StackedNetworks, EmbeddingTables, Callable[[int], dict[str, Tensor]]], None] | None = None,
    cuda_graphs: bool = True,
) -> Trained:
    """Train runs as one stack and judge them on the held-out rows.

    Args:
        runs: Runs that share model, recipe, data, method and the method's options. They differ in lr, thresholds and
            seed. Runs of one seed cost less in one stack than in two.
        log: The data.
        device: "cpu", "cuda", ...
        on_step: Called after each step with its number.
        on_update: Called with each update before it is applied. It must change nothing.
        checkpointer: Restores and stores the state. On CPU it changes no bit.
        start: The weights that the recipe's `init_from` names. Adagrad's accumulators start fresh, or from those of
            `start` if the recipe's `init_accumulators` names them.
        on_end: Called with the trained networks, their tables, and a function that returns the accumulators of a run.
            The order of the run axis may differ from that of `runs`.
        cuda_graphs: Whether a CUDA device may replay the steps as a graph (`study.training.step_graph`), which changes
            no bit. Models and methods of the user's own are trained without.

    Raises:
        StepError: A step after the first one raised; at the first one, what it raised.
    """
    started = time.perf_counter()
    with one_thread_on_cpu(device):
        stack = StackTraining(runs, log, torch.device(device), start)
        stack.on_update = on_update
        first = checkpointer.begin(stack.load_state, stack.max_bytes()) if checkpointer else 0
        graph = StepGraph(stack) if cuda_graphs and StepGraph.suits(stack) else None
        with graph.running() if graph else contextlib.nullcontext():
            for step, rows_GB in enumerate(stack.batches(first), first):
                with _step_errors(stack, step, started):
                    losses = graph.step(step, rows_GB) if graph else stack.step(step, rows_GB)
                    stack.loss_RST[:, step], stack.constant_GST[:, step] = losses
                if on_step:
                    on_step(step)
                if checkpointer:
                    checkpointer.after(step + 1, stack.state_arrays)
        if on_end:
            on_end(stack.network, stack.tables, stack.accumulators)
        with _step_errors(stack, stack.steps, started):
            judged = evaluation.evaluate(stack)
        seconds = (time.perf_counter() - started) / len(runs) * stack.steps / (stack.steps - first)
        return replace(_trained(stack, judged, seconds), notes=step_graph.unsaid())


def _trained(stack: StackTraining, judged: dict[str, np.ndarray], seconds: float) -> Trained:
    order = stack.groups.callers_order
    return Trained(
        loss=stack.loss_RST.cpu().numpy()[order],
        constant=stack.constant_GST.cpu().numpy().repeat(stack.groups.size, axis=0)[order],
        finite=evaluation.finite(stack).cpu().numpy()[order],
        moved=evaluation.moved(stack).cpu().numpy()[order],
        judged={name: values[order] for name, values in judged.items()},
        counts={name: values.cpu().numpy()[order] for name, values in stack.counts().items()},
        seconds=seconds,
    )


@contextlib.contextmanager
def _step_errors(stack: StackTraining, step: int, started: float) -> Iterator[None]:
    """Raise StepError for what a step raises, but for a lack of memory. `stack.steps` is the evaluation."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if step == 0:  # nothing has been trained: lr and seed are not the reason
            raise
        raise StepError(_diverged(stack, step, time.perf_counter() - started)) from error


def _diverged(stack: StackTraining, step: int, seconds: float) -> Trained | None:
    """What a run leaves that was alone and raised at `step`, if its losses or weights are not finite; else None."""
    is_finite = bool(stack.loss_RST[:, :step].isfinite().all() & evaluation.finite(stack).all())
    if len(stack.groups.runs) > 1 or is_finite:
        return None
    stack.loss_RST[:, step:] = math.nan
    for later, rows_GB in enumerate(stack.batches(step), step):
        stack.constant_GST[:, later] = stack.constants(later, *stack.labels(rows_GB))
    return _trained(stack, {evaluation.measure_of(task): np.array([math.nan]) for task in stack.log.tasks}, seconds)

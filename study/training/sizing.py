"""How much memory and work a run of a ranker takes, by its model, recipe and data: estimated, not measured."""

import functools

import numpy as np
import torch
from torch.utils._pytree import tree_leaves

import models
from study.config import Recipe, steps_of
from study.data._dataset import Log
from study.training import fused_mlp
from study.training.leaves import SMALL
from study.training.model_check import ROWS
from study.training.networks import network_of_seed, spec_of

WORK_BESIDE = 1.4e-4
"""Work of embeddings, judging and recording per example, in GFLOP of products of the same duration (measured)."""


def bytes_of_run(model: str, recipe: Recipe, log: Log, *, gpu: bool = False) -> int:
    """Return the memory of one run in a stack.

    It counts weights with gradient, state and temporaries; embedding rows with accumulators; what a batch reads of
    them, and its gradient; the scores of the held-out rows; and the activations that the backward pass needs.

    On CPU within 20% of what was measured (docs/performance.md); not measured on a GPU.
    """
    spec = spec_of(log, recipe)
    parameters, activations, _ = _counts(model, spec, recipe.precision)
    dtype = getattr(torch, recipe.precision)
    network = network_of_seed(model, spec, 0)
    if fused_mlp.takes(network, dtype, torch.device("cuda" if gpu else "cpu")):
        activations = 0
    rows = sum(log.vocabulary) * recipe.embedding_dim
    ids_BF = log.ids[: recipe.batch]
    # On a GPU the number of touched rows is never read back: there are as many as ids.
    touched = ids_BF.size if gpu else sum(len(np.unique(column)) for column in ids_BF.T)
    of_batch = (2 * ids_BF.size + 6 * touched) * spec.embedding_dim
    heldout = (len(log.labels) - log.train_rows) * len(log.tasks)
    # On a GPU the gradients of small parameters are packed, and so are the temporaries of a method.
    small = sum(p.numel() for p in network.parameters() if gpu and p.numel() <= SMALL)
    numbers = 4 * parameters + 3 * small + 2 * rows + of_batch + heldout
    return int(dtype.itemsize * (numbers + 0.65 * recipe.batch * activations))


def bytes_of_snapshots(model: str, recipe: Recipe, log: Log) -> int:
    """Return the memory that `study.training.rollback` adds to a run.

    It counts two copies of its weights and embedding rows with their accumulators, and the state before a step.
    """
    parameters, _, _ = _counts(model, spec_of(log, recipe), recipe.precision)
    rows = sum(log.vocabulary) * recipe.embedding_dim
    return getattr(torch, recipe.precision).itemsize * (2 * (2 * parameters + 2 * rows) + 3 * parameters)


def work_of_run(model: str, recipe: Recipe, log: Log) -> float:
    """Return the GFLOP of a run's matrix products, and of those that would take as long as the rest of it.

    Raises:
        ValueError: the training rows fill no batch.
    """
    products = _counts(model, spec_of(log, recipe), recipe.precision)[2]
    examples = recipe.batch * steps_of(recipe, log.train_rows)
    return 6e-9 * products * examples + WORK_BESIDE * examples


@functools.cache
def _counts(model: str, spec: models.Spec, precision: str) -> tuple[int, float, int]:
    """Parameters, activations of one row, and multiplications of one row in matrix products."""
    dtype = getattr(torch, precision)
    network = network_of_seed(model, spec, 0).to(dtype)
    rows = torch.randn(ROWS, spec.width, generator=torch.Generator().manual_seed(0), dtype=dtype)
    outputs: list[int] = []
    for module in network.modules():
        if not list(module.children()):
            module.register_forward_hook(lambda _m, _i, out: outputs.extend(map(_numbers, tree_leaves(out))))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        network(rows)
    parameters = sum(p.numel() for p in network.parameters())
    products = sum(p.numel() for p in network.parameters() if p.dim() > 1)
    return parameters, 2 * spec.width + sum(outputs) / ROWS, products


def _numbers(output: object) -> int:
    """Numbers in one output of a module, which may return several, as a GRU does."""
    return output.numel() if isinstance(output, torch.Tensor) else 0

"""How much memory and work a run of a ranker takes, by its model, recipe and data: estimated, not measured."""

import numpy as np
import torch

import models
from study.config import Recipe
from study.data._dataset import Log
from study.training import fused_mlp
from study.training.networks import build_network, spec_of
from study.training.stack import steps_of

WORK_BESIDE = 1.4e-4
"""Work of embeddings, judging and recording per example, in GFLOP of products of the same duration (measured)."""


def bytes_of_run(model: str, recipe: Recipe, log: Log, *, gpu: bool = False) -> int:
    """Return the memory of one run in a stack.

    It counts weights with gradient, state and temporaries; embedding rows with accumulators; what a batch reads of
    them, and its gradient; the scores of the held-out rows; and the activations that the backward pass needs.

    On CPU within 20% of what was measured (docs/performance.md); not measured on a GPU.
    """
    spec = spec_of(log, recipe)
    parameters, activations, _ = _counts(model, spec)
    dtype = getattr(torch, recipe.precision)
    with torch.device("meta"):
        network = build_network(model, spec)
    if fused_mlp.takes(network, dtype, torch.device("cuda" if gpu else "cpu")):
        activations = 0
    rows = sum(log.vocabulary) * recipe.embedding_dim
    ids_BF = log.ids[: recipe.batch]
    # On a GPU the number of touched rows is never read back: there are as many as ids.
    touched = ids_BF.size if gpu else sum(len(np.unique(ids_BF[:, f])) for f in range(spec.features))
    of_batch = (2 * ids_BF.size + 6 * touched) * spec.embedding_dim
    heldout = (len(log.labels) - log.train_rows) * len(log.tasks)
    numbers = 4 * parameters + 2 * rows + of_batch + heldout
    return int(dtype.itemsize * (numbers + 0.65 * recipe.batch * activations))


def bytes_of_snapshots(model: str, recipe: Recipe, log: Log) -> int:
    """Return the memory that `study.training.rollback` adds to a run.

    It counts two copies of its weights and embedding rows with their accumulators, and the state before a step.
    """
    parameters, _, _ = _counts(model, spec_of(log, recipe))
    rows = sum(log.vocabulary) * recipe.embedding_dim
    return getattr(torch, recipe.precision).itemsize * (2 * (2 * parameters + 2 * rows) + 3 * parameters)


def work_of_run(model: str, recipe: Recipe, log: Log) -> float:
    """Return the GFLOP of a run's matrix products, and of those that would take as long as the rest of it.

    Raises:
        ValueError: the training rows fill no batch.
    """
    products = _counts(model, spec_of(log, recipe))[2]
    examples = recipe.batch * steps_of(recipe, log.train_rows)
    return 6e-9 * products * examples + WORK_BESIDE * examples


def _counts(model: str, spec: models.Spec) -> tuple[int, int, int]:
    """Parameters, activations of one row, and multiplications of one row in matrix products."""
    with torch.device("meta"):
        network = build_network(model, spec)
        activations: list[int] = [2 * spec.width]
        for module in network.modules():
            if not list(module.children()):
                module.register_forward_hook(lambda _m, _i, out: activations.append(out.numel()))
        try:
            network(torch.empty(1, spec.width))
        except (RuntimeError, NotImplementedError):
            activations.append(sum(p.shape[0] for p in network.parameters() if p.dim() > 1))
    parameters = sum(p.numel() for p in network.parameters())
    return parameters, sum(activations), sum(p.numel() for p in network.parameters() if p.dim() > 1)

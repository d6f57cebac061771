"""The ranker `small` as a plain PyTorch loop: our data, initial weights and batches of a seed, none of our training.

Adagrad divides by `sqrt(G + eps)` here, and by `sqrt(G) + eps` in torch. With `eps` in the initial accumulator, both
are the same formula.
"""

import functools
import os
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from study import data
from study.config import Recipe
from study.data import Log
from study.streams import stream
from study.training.networks import network_of_seed, spec_of
from study.training.rng import batches

RECIPE = Recipe()
TASKS = ("click", "long_view", "like", "play_time")


class Ranker(nn.Module):
    """ids_BF, numbers_BD -> logits_BT: one embedding table for all features, and the network of the seed."""

    def __init__(self, log: Log, seed: int) -> None:
        super().__init__()
        features = zip(log.id_names, log.vocabulary, strict=True)
        self.table = nn.Embedding.from_pretrained(
            torch.cat([_initial_rows(seed, name, codes) for name, codes in features]), freeze=False
        )
        self.network = network_of_seed("small", spec_of(log, RECIPE), seed)

    def forward(self, rows_BF: Tensor, numbers_BD: Tensor) -> Tensor:
        return self.network(torch.cat([self.table(rows_BF).flatten(1), numbers_BD], 1))


def train(run, watch):
    log = load()
    steps = log.train_rows // RECIPE.batch
    starts_F = torch.tensor([0, *log.vocabulary[:-1]]).cumsum(0)
    ids, numbers, labels = (torch.tensor(array) for array in (log.ids, log.numbers, log.labels))
    model = Ranker(log, run.seed)
    start = RECIPE.initial_accumulator + RECIPE.eps
    optimizer = torch.optim.Adagrad(model.parameters(), lr=run.lr, initial_accumulator_value=start, eps=0.0)
    warmup = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / RECIPE.warmup))
    order = batches(run.seed, rows=log.train_rows, batch=RECIPE.batch, window=RECIPE.window, steps=steps)
    for rows in map(torch.from_numpy, order):
        logits_BT, y_BT = model(ids[rows] + starts_F, numbers[rows]), labels[rows]
        losses = {}
        for t, task in enumerate(log.tasks):
            binary = task.kind == "binary"
            loss = functional.binary_cross_entropy_with_logits if binary else functional.mse_loss
            losses[task.name] = loss(logits_BT[:, t], y_BT[:, t])
        watch(losses, targets={task.name: y_BT[:, t] for t, task in enumerate(log.tasks)})
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        warmup.step()


@functools.cache
def load() -> Log:
    """Return the embedded stream."""
    return data.load("synthetic", {}, Path(os.environ["STUDY_CACHE"]))


def _initial_rows(seed: int, name: str, codes: int) -> Tensor:
    draws = torch.Generator().manual_seed(stream(seed, "embeddings", name))
    return torch.randn(codes, RECIPE.embedding_dim, generator=draws) * RECIPE.embedding_std

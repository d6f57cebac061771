"""The plain side of the benchmarks: one run after the other, as a careful user would write it in torch alone.

The same data, network, batches of 512, warm-up, loss and held-out AUC as `study run` on `small` or `large` with the
method `none`: one embedding table for all features, and the loss read from the device once, at the end. Of ours, it
only takes a `study.data.Log`.
"""

from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

LRS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.2, 1.6)
BATCH, WARMUP, WINDOW, DIM = 512, 20, 20_000, 4


class Ranker(nn.Module):
    """One embedding table for all id features, a shared bottom, and a column of the last layer for each task."""

    def __init__(self, vocabulary: tuple[int, ...], numbers: int, hidden: tuple[int, ...], bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("starts", torch.tensor([0, *np.cumsum(vocabulary)[:-1]]))
        self.table = nn.Embedding(sum(vocabulary), DIM)  # dense gradients: measured, 16% faster than sparse ones here
        nn.init.normal_(self.table.weight, std=0.05)
        width = len(vocabulary) * DIM + numbers
        pairs = zip((width, *hidden), hidden, strict=False)
        self.bottom = nn.Sequential(*(layer for pair in pairs for layer in (nn.Linear(*pair), nn.ReLU())))
        self.heads = nn.Linear(hidden[-1], len(bias))
        for layer in self.bottom:
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)
        nn.init.normal_(self.heads.weight, std=hidden[-1] ** -0.5)
        with torch.no_grad():
            self.heads.bias.copy_(bias)

    def forward(self, ids_BF: Tensor, numbers_BD: Tensor) -> Tensor:
        embedded = self.table(ids_BF + self.starts).flatten(1)
        return self.heads(self.bottom(torch.cat([embedded, numbers_BD], 1)))


def train(config: dict[str, Any], shared: dict[str, Any], device: str = "cpu") -> dict[str, float]:
    """One run, from config["lr"] and config["seed"]: final training loss (nats) and each binary task's AUC."""
    torch.manual_seed(config["seed"])
    ids, numbers, labels = (torch.from_numpy(np.array(shared[key])).to(device) for key in ("ids", "numbers", "labels"))
    tasks, rows = shared["tasks"], shared["train_rows"]
    binary = [t for t, task in enumerate(tasks) if task["kind"] == "binary"]
    real = [t for t, task in enumerate(tasks) if task["kind"] != "binary"]
    of_binary, of_real = (torch.tensor(which, dtype=torch.int64, device=device) for which in (binary, real))
    rate = torch.tensor([task["base"] if task["kind"] == "binary" else 0.5 for task in tasks])

    model = Ranker(shared["vocabulary"], numbers.shape[1], shared["hidden"], torch.logit(rate)).to(device)
    optimizer = torch.optim.Adagrad(model.parameters(), lr=config["lr"], initial_accumulator_value=0.1, eps=1e-7)
    warmup = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / WARMUP))
    losses = []
    for batch in _order(rows, shared["steps"] or rows // BATCH, device):
        logits, wanted = model(ids[batch], numbers[batch]), labels[batch]
        loss = functional.binary_cross_entropy_with_logits(logits[:, of_binary], wanted[:, of_binary]) * len(binary)
        if real:
            loss = loss + functional.mse_loss(logits[:, of_real], wanted[:, of_real]) * len(real)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        warmup.step()
        losses.append(loss.detach())

    with torch.no_grad():
        logits = torch.cat(
            [model(i, n) for i, n in zip(ids[rows:].split(4096), numbers[rows:].split(4096), strict=True)]
        )
    found = {"loss": float(torch.stack(losses[-25:]).mean())}
    return found | {
        f"auc_{tasks[t]['name']}": auc(logits[:, t].cpu().numpy(), labels[rows:, t].cpu().numpy() > 0.5) for t in binary
    }


def auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve by ranks; 0.5 where a score is not finite."""
    n, m = int(positive.sum()), int((~positive).sum())
    if not np.isfinite(scores).all() or not n or not m:
        return 0.5
    return float((pd.Series(scores).rank().to_numpy()[positive].sum() - n * (n + 1) / 2) / (n * m))


def _order(rows: int, steps: int, device: str):
    """Batches of row numbers in the order of time, shuffled inside windows; another pass after the last row."""
    passes = -(-steps * BATCH // rows)
    order = [
        start + torch.randperm(min(WINDOW, rows - start)) for _ in range(passes) for start in range(0, rows, WINDOW)
    ]
    return torch.cat(order)[: steps * BATCH].to(device).split(BATCH)


def shared_of(log: Any, hidden: tuple[int, ...], steps: int | None) -> dict[str, Any]:
    """What all trials read: the arrays of a `study.data.Log`, its tasks, the bottom's widths, and the steps of a run
    (None: one pass)."""
    tasks = [{"name": t.name, "kind": t.kind, "base": t.base} for t in log.tasks]
    arrays = {key: np.ascontiguousarray(getattr(log, key)) for key in ("ids", "numbers", "labels")}
    rest = {"tasks": tasks, "train_rows": log.train_rows, "vocabulary": log.vocabulary, "hidden": hidden}
    return arrays | rest | {"steps": steps}

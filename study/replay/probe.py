"""A probe of a stack in training: what it observes at every step, by run, tensor and layer.

It is passed to `study.training.trainer.train` and changes no bit. At each step it reads gradients, weights, updates and
factors of every tensor. It passes held-out rows through each network (`study.replay.held_rows`), and at chosen steps
computes the sharpness of the loss on them.

Rows are named by tensor ("bottom.0.weight"), by layer ("bottom.0": the tensors of one module), "embeddings", and "all".
Shape letters: S steps, L tensors, M measures of a tensor, R runs, B held rows.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from study.config import Run
from study.data._dataset import Log
from study.replay.held_rows import HeldRows, SharpnessSettings
from study.replay.sharpness import ALL
from study.storage.atomic import atomic_path
from study.training.stack import StepView
from study.transforms import Leaf

HELD_ROWS = 1024
"""Held-out rows that pass through each network at every step."""

BOUND = (0.5, 0.01)
"""rel and abs of `largest_over_bound`: the defaults of Clippy."""

MEASURES = (
    "gradient_norm",
    "weight_norm",
    "update_norm",
    "largest_update",  # max |u_i|
    "largest_share",  # max |u_i| / |w_i|, over weights that are not 0
    "largest_over_bound",  # max |u_i| / (0.5 |w_i| + 0.01): 1 / sigma of Clippy with its defaults
    "factor",  # what the method multiplied the update by
)

OF_SOME_MODELS = ("held_auc", "dead_share")
"""What needs a binary task, or activations that are modules."""


class Probe:
    """Observes every run of one stack.

    Args:
        log: The data.
        sharpness_at: Whether to compute the sharpness at a step.
        blocks: Whether to compute the sharpness of each layer too.
        layers: Whether to keep rows of tensors and layers, besides "all".
        tolerance: Relative tolerance of the sharpness.
        held_rows: Number of held-out rows.
    """

    def __init__(
        self,
        log: Log,
        *,
        sharpness_at: Callable[[int], bool] = lambda _step: False,
        blocks: bool = True,
        layers: bool = True,
        tolerance: float = 1e-4,
        held_rows: int = HELD_ROWS,
    ) -> None:
        self.log, self.sharpness_at, self.layers = log, sharpness_at, layers
        self.settings = SharpnessSettings(blocks=blocks, tolerance=tolerance)
        rows = np.linspace(log.train_rows, len(log.labels) - 1, min(held_rows, len(log.labels) - log.train_rows))
        self.held_B = np.unique(rows.round().astype(np.int64))
        self.rows: list[dict[str, Any]] = []
        self.runs: Sequence[Run] = ()
        self.names: list[str] = []
        self.measured: list[Tensor] = []

    def __call__(self, view: StepView) -> None:
        """Observe one step."""
        self.runs, self.names = view.runs, list(view.leaves)
        self.measured.append(torch.stack([torch.stack(_measures(leaf)) for leaf in view.leaves.values()]).cpu())
        held = HeldRows(self.log, self.held_B, view)
        with view.network.judging():
            for r, run in enumerate(view.runs):
                key = {"run_id": run.id, "step": view.step, "layer": ALL}
                try:
                    values, by_layer = held.forward(r)
                except Exception:  # a model may check its activations
                    if all(bool(leaf.weight[r].isfinite().all()) for leaf in view.leaves.values()):
                        raise
                    values, by_layer = {"held_loss": math.nan}, {}
                sharpness = {}
                if self.sharpness_at(view.step) and math.isfinite(values["held_loss"]):
                    sharpness = held.sharpness(r, self.settings)
                for layer in {**by_layer, **sharpness}.keys() - {ALL} if self.layers else ():
                    self.rows.append(key | {"layer": layer} | by_layer.get(layer, {}) | sharpness.get(layer, {}))
                self.rows.append(key | {"step_lr": float(view.lr[r])} | values | sharpness.get(ALL, {}))

    def table(self) -> pd.DataFrame:
        """Return one row a run, step and layer; NaN where a row has no such value.

        Columns: run_id, step, layer, `MEASURES`, step_lr, and those of `HeldRows.forward` and `HeldRows.sharpness`.
        """
        measured_SLMR = torch.stack(self.measured).double().numpy()
        steps = range(len(measured_SLMR))
        parts = [_frame(steps, self.runs, [ALL], _over_tensors(measured_SLMR))]
        if self.layers:
            parts.append(_frame(steps, self.runs, self.names, measured_SLMR))
        rows, key = pd.DataFrame(self.rows), ["run_id", "step", "layer"]
        rows = rows.assign(**{name: math.nan for name in OF_SOME_MODELS if name not in rows})
        table = pd.concat(parts, ignore_index=True).merge(rows, on=key, how="outer")
        place = {name: i for i, name in enumerate([ALL, *dict.fromkeys([*self.names, *table["layer"]])])}
        table = table.assign(_place=[place[name] for name in table["layer"]]).sort_values(["run_id", "step", "_place"])
        return table.drop(columns="_place").reset_index(drop=True)


def _measures(leaf: Leaf) -> list[Tensor]:
    """`MEASURES` of one tensor, each (R,)."""
    assert leaf.factor is not None
    weight, update = leaf.weight.detach().flatten(1), leaf.update.flatten(1).abs()
    size = weight.abs()
    share = update / size
    bound = size * BOUND[0] + BOUND[1]
    return [
        leaf.gradient.flatten(1).norm(dim=1),
        weight.norm(dim=1),
        update.norm(dim=1),
        update.amax(1),
        share.masked_fill_(size == 0, 0.0).amax(1),
        (update / bound).amax(1),
        leaf.factor,
    ]


def _frame(steps: Sequence[int], runs: Sequence[Run], names: Sequence[str], measured_SLMR: np.ndarray) -> pd.DataFrame:
    """One row a step, tensor and run."""
    shape = (len(steps), len(names), len(runs))
    columns = {
        "run_id": np.broadcast_to(np.array([run.id for run in runs], object), shape).ravel(),
        "step": np.broadcast_to(np.array(steps)[:, None, None], shape).ravel(),
        "layer": np.broadcast_to(np.array(names, object)[None, :, None], shape).ravel(),
    }
    measures = {name: measured_SLMR[:, :, m].ravel() for m, name in enumerate(MEASURES)}
    return pd.DataFrame(columns | measures)


def _over_tensors(measured_SLMR: np.ndarray) -> np.ndarray:
    """All tensors as one, (S, 1, M, R): norms over all, the largest of maxima, the smallest factor."""
    with np.errstate(over="ignore", invalid="ignore"):
        norms = np.sqrt(np.square(measured_SLMR[:, :, :3]).sum(1, keepdims=True))
        largest = measured_SLMR[:, :, 3:6].max(1, keepdims=True)
        smallest = measured_SLMR[:, :, 6:].min(1, keepdims=True)
    return np.concatenate([norms, largest, smallest], 2)


def write_parquet(path: Path, table: pd.DataFrame) -> None:
    """Write a table completely or not at all, with floats in single precision."""
    floats = table.select_dtypes("float64").columns
    with atomic_path(path, sync=False) as temporary:
        table.astype(dict.fromkeys(floats, "float32")).to_parquet(temporary, index=False, compression="zstd")

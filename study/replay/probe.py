"""Everything that can be seen of runs while they train, step by step and layer by layer: what a replay is made of.

A `Watch` is handed to `study.training.trainer.train` as `look`, and changes no bit of it. Each step it reads off the
gradients, weights, updates and factors of every tensor; it sends the held rows, a fixed part of the held-out day,
through each network for their loss, AUC, dead units and last activations; and at chosen steps it takes the sharpness
(`study.replay.sharpness`) of the loss on the held rows, embeddings included.

Names of rows: a tensor ("bottom.0.weight"), a layer ("bottom.0": the tensors of one module), "embeddings", and "all".
Shape letters: R runs, L tensors, M measures of a tensor, B held rows, F id features, U touched rows of the tables.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from study.config import Run
from study.data._dataset import Log
from study.replay.sharpness import ALL, divisor, sharpness, threshold
from study.training.losses import losses
from study.training.trainer import Look, auc

HELD_ROWS = 1024
"""Rows of the held-out day that are looked at each step."""

EMBEDDINGS = "embeddings"

BOUND = (0.5, 0.01)
"""rel and abs of `largest_over_bound`: Clippy's defaults."""

MEASURES = (
    "gradient_norm",
    "weight_norm",
    "update_norm",
    "largest_update",  # max |u_i|
    "largest_share",  # max |u_i| / |w_i|, over weights that are not 0
    "largest_over_bound",  # max |u_i| / (0.5 |w_i| + 0.01): 1 / sigma of Clippy by its defaults
    "factor",  # what the method multiplied the update by
)


class Watch:
    """Watches every run of one stack.

    sharpness_at: whether to take it at a step. blocks: of each layer too. layers: rows of tensors and layers, not of
    "all" alone. tolerance: relative, of the sharpness.
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
        self.log, self.sharpness_at, self.blocks, self.layers = log, sharpness_at, blocks, layers
        self.tolerance = tolerance
        rows = np.linspace(log.train_rows, len(log.labels) - 1, min(held_rows, len(log.labels) - log.train_rows))
        self.held_B = np.unique(rows.round().astype(np.int64))
        self.ranked = next((t for t, task in enumerate(log.tasks) if task.kind == "binary"), None)
        self.rows: list[dict[str, Any]] = []
        self.runs: Sequence[Run] = ()
        self.names: list[str] = []
        self.measured: list[Tensor] = []
        self.near: dict[str, dict[str, Tensor]] = {}

    def __call__(self, look: Look) -> None:
        self.runs, self.names = look.runs, list(look.leaves)
        self.measured.append(torch.stack([torch.stack(_measured(leaf)) for leaf in look.leaves.values()]).cpu())
        held = _Held(self, look)
        with look.network.judging():
            for r, run in enumerate(look.runs):
                of_all = {"run_id": run.id, "step": look.step, "layer": ALL}
                seen, of_layers = held.forward(r)
                found = held.sharpness(r) if self.sharpness_at(look.step) and math.isfinite(seen["held_loss"]) else {}
                for layer in {**of_layers, **found}.keys() - {ALL} if self.layers else ():
                    row = of_all | {"layer": layer} | of_layers.get(layer, {}) | found.get(layer, {})
                    self.rows.append(row)
                self.rows.append(of_all | {"step_lr": float(look.lr[r])} | seen | found.get(ALL, {}))

    def table(self) -> pd.DataFrame:
        """One row a run, step and layer; columns as named in this module, NaN where a row has no such value."""
        measured_SLMR = torch.stack(self.measured).double().numpy()
        steps = range(len(measured_SLMR))
        parts = [_frame(steps, self.runs, [ALL], _together(measured_SLMR))]
        if self.layers:
            parts.append(_frame(steps, self.runs, self.names, measured_SLMR))
        rows, key = pd.DataFrame(self.rows), ["run_id", "step", "layer"]
        table = pd.concat(parts, ignore_index=True).merge(rows, on=key, how="outer")
        place = {name: i for i, name in enumerate([ALL, *dict.fromkeys([*self.names, *table["layer"]])])}
        table = table.assign(_place=[place[name] for name in table["layer"]]).sort_values(["run_id", "step", "_place"])
        return table.drop(columns="_place").reset_index(drop=True)


class _Held:
    """The held rows as the networks of a stack see them at one step."""

    def __init__(self, watch: Watch, look: Look) -> None:
        self.watch, self.look, self.tables = watch, look, look.tables
        log, dtype, device = watch.log, look.tables.weight.dtype, look.tables.weight.device
        rows = watch.held_B
        self.numbers_BD = torch.from_numpy(np.array(log.numbers[rows])).to(device, dtype)
        self.labels_TB = torch.from_numpy(np.array(log.labels[rows])).to(device, dtype).T.contiguous()
        self.positions_G = None
        if self.tables.features:
            ids_BF = torch.from_numpy(np.array(log.ids[rows])).long().to(device)
            groups = self.tables.groups
            self.positions_G = self.tables.positions(ids_BF.expand(groups, -1, -1)).view(groups, -1)

    def forward(self, r: int) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
        """What is seen of a run as a whole, and by layer."""
        with torch.no_grad(), _activations(self.look.network.module) as seen:
            logits_BT = self.look.network.logits_of_run(r, self._inputs(self._embedded(r)))
        log, values = self.watch.log, {}
        loss_T = losses(logits_BT.T[None], self.labels_TB[None], log.tasks).mean(2)[0]
        values["held_loss"] = float(loss_T.sum())
        if (t := self.watch.ranked) is not None:
            scores_B = logits_BT[:, t].double().cpu().numpy()
            labels_B = self.labels_TB[t].cpu().numpy()
            values["held_auc"] = auc(scores_B, labels_B) if np.isfinite(scores_B).all() else math.nan
        values["activation_norm"] = seen.last_norm()
        dead = seen.dead()
        if dead:
            units = sum(len(d) for d in dead.values())
            values["dead_share"] = sum(float(d.sum()) for d in dead.values()) / units
        return values, {layer: {"dead_share": float(d.double().mean())} for layer, d in dead.items()}

    def sharpness(self, r: int) -> dict[str, dict[str, float]]:
        """By block: sharpness, that under the method's factors (of all), and either as a share of the threshold."""
        look, run = self.look, self.look.runs[r]
        names = list(look.leaves)
        leaves = list(look.leaves.values())
        eps = run.recipe.eps
        weights = [leaf.weight[r].detach() for leaf in leaves]
        divisors = [
            divisor({k: v[r : r + 1] for k, v in leaf.state.items()}, eps, leaf.weight[r : r + 1])[0] for leaf in leaves
        ]
        factors = [float(leaf.factor[r]) if leaf.factor is not None else 1.0 for leaf in leaves]
        blocks: dict[str, list[int]] = {}
        for place, name in enumerate(names):
            blocks.setdefault(layer_of(look.network.module, name), []).append(place)
        inverse = None
        if self.positions_G is not None and run.recipe.embeddings == "adagrad":
            touched_U, inverse = torch.unique(self.positions_G[r // self.tables.runs], return_inverse=True)
            weights.append(self._rows(self.tables.weight, touched_U, r))
            divisors.append(
                divisor({"accumulator": self._rows(self.tables.accumulator, touched_U, r)}, eps, weights[-1])
            )
            factors.append(1.0)
            blocks[EMBEDDINGS] = [len(weights) - 1]
        fixed = None if inverse is not None else self._embedded(r).double()

        def loss(parameters: Sequence[Tensor]) -> Tensor:
            embedded = parameters[-1].index_select(0, inverse) if inverse is not None else fixed
            own = dict(zip(names, parameters, strict=False))
            logits_BT = look.network.logits_of_run(r, self._inputs(embedded), own)
            return losses(logits_BT.T[None], self.labels_TB.double()[None], self.watch.log.tasks).mean(2).sum()

        wanted = {ALL: list(range(len(weights))), **(blocks if self.watch.blocks else {})}
        near = self.watch.near.setdefault(run.id, {})
        tolerance = self.watch.tolerance
        found = sharpness(loss, weights, divisors, wanted, near=near, tolerance=tolerance)
        near |= {name: e.vector for name, e in found.items()}
        edge = _threshold(run, leaves[0].state, float(look.lr[r]))
        values = {name: {"sharpness": e.value, "sharpness_share": e.value / edge} for name, e in found.items()}
        treated = values[ALL]["sharpness"]
        if any(f != 1 for f in factors):
            scaled = [d / f if f else d * math.inf for d, f in zip(divisors, factors, strict=True)]
            treated_near = {ALL: near["treated"]} if "treated" in near else None
            found = sharpness(loss, weights, scaled, {ALL: wanted[ALL]}, near=treated_near, tolerance=tolerance)
            near["treated"], treated = found[ALL].vector, found[ALL].value
        values[ALL] |= {"treated_sharpness": treated, "treated_share": treated / edge, "edge": edge}
        return values

    def _rows(self, table: Tensor, rows_U: Tensor, r: int) -> Tensor:
        k, dim = r % self.tables.runs, self.tables.dim
        return table.index_select(0, rows_U)[:, k * dim : (k + 1) * dim]

    def _embedded(self, r: int) -> Tensor:
        """(B * F, E); of no ids, (0, E)."""
        if self.positions_G is None:
            return self.numbers_BD.new_empty(0, 1)
        return self._rows(self.tables.weight, self.positions_G[r // self.tables.runs], r)

    def _inputs(self, embedded: Tensor | None) -> Tensor:
        assert embedded is not None
        numbers_BD = self.numbers_BD.to(embedded.dtype)
        return torch.cat([embedded.reshape(len(numbers_BD), -1), numbers_BD], 1) if len(embedded) else numbers_BD


class _Seen:
    """What the modules of a network did in one call."""

    def __init__(self, module: nn.Module) -> None:
        self.layer, self.of_units, self.read = "", {}, {}
        self.last = [name for name, _ in module.named_parameters()][-1]

    def dead(self) -> dict[str, Tensor]:
        """By layer: bool, the units that are 0 on every row."""
        return {
            layer: torch.cat([u.flatten(0, -2).eq(0).all(0) for u in units]) for layer, units in self.of_units.items()
        }

    def last_norm(self) -> float:
        """The mean norm of what the module with the last parameters reads."""
        owners = [name for name in self.read if not name or self.last.startswith(f"{name}.")]
        return float(self.read[max(owners, key=len)].float().norm(dim=-1).mean()) if owners else math.nan


@contextlib.contextmanager
def _activations(module: nn.Module) -> Iterator[_Seen]:
    seen, hooks = _Seen(module), []

    def before(name: str) -> Callable:
        def hook(_module: nn.Module, inputs: tuple) -> None:
            if inputs and isinstance(inputs[0], Tensor):
                seen.read[name] = inputs[0]

        return hook

    def after(name: str, own: nn.Module) -> Callable:
        def hook(_module: nn.Module, _inputs: tuple, out: Tensor) -> None:
            if isinstance(own, nn.ReLU):
                seen.of_units.setdefault(seen.layer, []).append(out)
            elif next(own.parameters(recurse=False), None) is not None:
                seen.layer = name

        return hook

    for name, own in module.named_modules():
        hooks += [own.register_forward_pre_hook(before(name)), own.register_forward_hook(after(name, own))]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def layer_of(module: nn.Module, parameter: str) -> str:
    """The module that a parameter belongs to: "bottom.0" of "bottom.0.weight", "heads" of "heads.weights.1"."""
    name = parameter.rpartition(".")[0]
    while name and isinstance(module.get_submodule(name), nn.ParameterList | nn.ParameterDict):
        name = name.rpartition(".")[0]
    return name or "network"


def _threshold(run: Run, state: Mapping[str, Tensor], lr: float) -> float:
    if "first_moment" in state:
        return threshold(lr, momentum=0.9, averaged=True)
    return threshold(lr, momentum=float(run.options.get("momentum", 0.0)))


def _measured(leaf: Any) -> list[Tensor]:
    """`MEASURES` of one tensor, each (R,)."""
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


def _together(measured_SLMR: np.ndarray) -> np.ndarray:
    """All tensors as one: norms over all, the largest of maxima, the smallest factor; (S, 1, M, R)."""
    with np.errstate(over="ignore", invalid="ignore"):
        norms = np.sqrt(np.square(measured_SLMR[:, :, :3]).sum(1, keepdims=True))
        largest, smallest = (
            measured_SLMR[:, :, 3:6].max(1, keepdims=True),
            measured_SLMR[:, :, 6:].min(1, keepdims=True),
        )
    return np.concatenate([norms, largest, smallest], 2)

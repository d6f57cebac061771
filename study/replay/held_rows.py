"""The networks of a stack on held-out rows at one step: loss, AUC, activations, sharpness.

Shape letters: R runs, B held rows, F id features, D number features, G groups of runs that share batches, U touched
rows of the embedding tables, T tasks.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from study import methods
from study.config import Run
from study.data._dataset import Log
from study.replay.activations import layer_of, record_activations
from study.replay.sharpness import ALL, divisor, sharpness, threshold
from study.training.evaluation import auc
from study.training.losses import labelled, mean_losses
from study.training.pooling import lists_of, pooled
from study.training.stack import StepView

EMBEDDINGS = "embeddings"
"""The layer of all embedding tables together."""

OF_ALL = ("treated_sharpness", "treated_share", "edge")
"""What the sharpness of all parameters has beside that of a layer."""

Values = dict[str, float]


@dataclass(kw_only=True)
class SharpnessSettings:
    """How the sharpness of runs is computed.

    Attributes:
        blocks: Whether to compute that of each layer too.
        tolerance: Relative tolerance of Lanczos.
        eigenvectors: Run id -> block -> its last eigenvector, from which the next computation starts.
    """

    blocks: bool
    tolerance: float
    eigenvectors: dict[str, dict[str, Tensor]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class _Block:
    """Parameters of one run: weights, what the base divides their gradients by, and the factors of the method."""

    weights: list[Tensor]
    divisors: list[Tensor]
    factors: list[float]
    layers: dict[str, list[int]]


class HeldRows:
    """Held-out rows as the networks of a stack see them at one step.

    Args:
        log: The data.
        rows_B: Indices of the rows.
        view: The step of the stack.
    """

    def __init__(self, log: Log, rows_B: np.ndarray, view: StepView) -> None:
        self.log, self.view, self.tables = log, view, view.tables
        dtype, device = view.tables.weight.dtype, view.tables.weight.device
        self.numbers_BD = torch.from_numpy(np.array(log.numbers[rows_B])).to(device, dtype)
        labels_TB = torch.from_numpy(np.array(log.labels[rows_B])).to(device, dtype).T.contiguous()
        self.labels_1TB, self.share_1TB = labels_TB[None], None
        if labels_TB.isnan().any():
            self.labels_1TB, self.share_1TB = labelled(labels_TB[None])
        self.binary_task = next((t for t, task in enumerate(log.tasks) if task.kind == "binary"), None)
        self.positions_G = None
        if self.tables.features:
            ids_BF = torch.from_numpy(np.array(log.ids[rows_B])).long().to(device)
            groups = self.tables.groups
            self.positions_G = self.tables.positions(ids_BF.expand(groups, -1, -1)).view(groups, -1)
        self.lists = lists_of(log.lengths, log.pools)

    def forward(self, r: int) -> tuple[Values, dict[str, Values]]:
        """Return held_loss, held_auc, activation_norm and dead_share of run `r`, and dead_share by layer."""
        with torch.no_grad(), record_activations(self.view.network.module_of(r)) as activations:
            logits_BT, _ = self.view.network.of_run(r, self._inputs(self._embedded(r)))
        loss_T = self._losses(logits_BT)
        values = {"held_loss": float(loss_T.sum())}
        if (t := self.binary_task) is not None:
            scores_B = logits_BT[:, t].double().cpu().numpy()
            known_B = slice(None) if self.share_1TB is None else (self.share_1TB[0, t] > 0).cpu().numpy()
            labels_B = self.labels_1TB[0, t].cpu().numpy()[known_B]
            values["held_auc"] = auc(scores_B[known_B], labels_B) if np.isfinite(scores_B).all() else math.nan
        values["activation_norm"] = activations.last_norm()
        dead = activations.dead()
        if dead:
            units = sum(len(d) for d in dead.values())
            values["dead_share"] = sum(float(d.sum()) for d in dead.values()) / units
        return values, {layer: {"dead_share": float(d.double().mean())} for layer, d in dead.items()}

    def sharpness(self, r: int, settings: SharpnessSettings) -> dict[str, Values]:
        """Return by block the sharpness of run `r` and its share of the threshold `edge`, 2 / lr.

        The block of all parameters also has the sharpness under the method's factors: treated_sharpness, treated_share.
        All are NaN for a method with a base of its own.
        """
        view, run = self.view, self.view.runs[r]
        if not methods.uses_base(run.method):  # nobody knows what its own base divides a gradient by
            return {ALL: dict.fromkeys(("sharpness", "sharpness_share", *OF_ALL), math.nan)}
        names = list(view.leaves)
        block, inverse = self._parameters(r)
        fixed = None if inverse is not None else self._embedded(r).double()

        def loss(parameters: Sequence[Tensor]) -> Tensor:
            embedded = fixed
            if inverse is not None:
                embedded = self._pooled(parameters[-1].index_select(0, inverse), r)
            own = dict(zip(names, parameters, strict=False))
            logits_BT, aux = view.network.of_run(r, self._inputs(embedded), own)
            return self._losses(logits_BT).sum() + (0 if aux is None else aux)

        everything = list(range(len(block.weights)))
        blocks = {ALL: everything, **(block.layers if settings.blocks else {})}
        near = settings.eigenvectors.setdefault(run.id, {})
        tolerance = settings.tolerance
        found = sharpness(loss, block.weights, block.divisors, blocks, near=near, tolerance=tolerance)
        near |= {name: eigenvalue.vector for name, eigenvalue in found.items()}
        edge = _threshold(run, next(iter(view.leaves.values())).state, float(view.lr[r]))
        values = {name: {"sharpness": e.value, "sharpness_share": e.value / edge} for name, e in found.items()}
        treated = values[ALL]["sharpness"]
        if any(factor != 1 for factor in block.factors):
            scaled = [d / f if f else d * math.inf for d, f in zip(block.divisors, block.factors, strict=True)]
            treated_near = {ALL: near["treated"]} if "treated" in near else None
            found = sharpness(loss, block.weights, scaled, {ALL: everything}, near=treated_near, tolerance=tolerance)
            near["treated"], treated = found[ALL].vector, found[ALL].value
        values[ALL] |= {"treated_sharpness": treated, "treated_share": treated / edge, "edge": edge}
        return values

    def _parameters(self, r: int) -> tuple[_Block, Tensor | None]:
        """The parameters of a run, with the embedding rows that Adagrad updates, and where each held id is in them."""
        view, run = self.view, self.view.runs[r]
        leaves = view.leaves
        of_base = methods.base_options(run.method, run.options)
        eps = run.recipe.eps if of_base["eps"] is None else of_base["eps"]
        weights = [leaf.weight[r].detach() for leaf in leaves.values()]
        divisors = [
            divisor({k: v[r : r + 1] for k, v in leaf.state.items()}, eps, leaf.weight[r : r + 1])[0]
            for leaf in leaves.values()
        ]
        factors = [float(leaf.factor[r]) if leaf.factor is not None else 1.0 for leaf in leaves.values()]
        layers: dict[str, list[int]] = {}
        for place, name in enumerate(leaves):
            layers.setdefault(layer_of(view.network.module_of(r), name), []).append(place)
        inverse = None
        if self.positions_G is not None and run.recipe.embeddings == "adagrad":
            touched_U, inverse = torch.unique(self.positions_G[r // self.tables.runs], return_inverse=True)
            weights.append(self._rows(self.tables.weight, touched_U, r))
            accumulator = self._rows(self.tables.accumulator, touched_U, r)
            of_rows = divisor({"accumulator": accumulator}, run.recipe.eps, weights[-1])
            peak = run.recipe.embeddings_lr  # a factor of the lr acts as 1 / D does
            divisors.append(of_rows if peak is None else of_rows * (run.lr / peak))
            factors.append(1.0)
            layers[EMBEDDINGS] = [len(weights) - 1]
        return _Block(weights=weights, divisors=divisors, factors=factors, layers=layers), inverse

    def _losses(self, logits_BT: Tensor) -> Tensor:
        """The mean loss of each task (T,), in the precision of the logits."""
        labels_1TB = self.labels_1TB.to(logits_BT.dtype)
        share_1TB = None if self.share_1TB is None else self.share_1TB.to(logits_BT.dtype)
        return mean_losses(logits_BT.T[None], labels_1TB, self.log.tasks, share_1TB)[0]

    def _rows(self, table: Tensor, rows_U: Tensor, r: int) -> Tensor:
        k, dim = r % self.tables.runs, self.tables.dim
        return table.index_select(0, rows_U)[:, k * dim : (k + 1) * dim]

    def _embedded(self, r: int) -> Tensor:
        """(B * F, E); without ids, (0, E)."""
        if self.positions_G is None:
            return self.numbers_BD.new_empty(0, 1)
        return self._pooled(self._rows(self.tables.weight, self.positions_G[r // self.tables.runs], r), r)

    def _pooled(self, rows_NE: Tensor, r: int) -> Tensor:
        if self.lists is None or self.positions_G is None:
            return rows_NE
        return pooled(rows_NE, self.positions_G[r // self.tables.runs], self.lists, self.tables.no_row)

    def _inputs(self, embedded: Tensor | None) -> Tensor:
        assert embedded is not None
        numbers_BD = self.numbers_BD.to(embedded.dtype)
        return torch.cat([embedded.reshape(len(numbers_BD), -1), numbers_BD], 1) if len(embedded) else numbers_BD


def _threshold(run: Run, state: Mapping[str, Tensor], lr: float) -> float:
    of_base = methods.base_options(run.method, run.options)
    if "first_moment" in state:
        return threshold(lr, momentum=of_base["beta1"], averaged=True)
    momentum = float(run.options.get("momentum", 0.0))
    return threshold(lr, momentum=momentum, nesterov=of_base["nesterov"])

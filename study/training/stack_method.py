"""The method of a stack: learning rates and thresholds of all runs at any step, on the network and on embedding rows.

Shape letters: R runs, G groups of K runs that share a seed (R = G * K), U touched ids, E embedding dimension.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from study import methods
from study.config import Recipe, Run
from study.methods._rollback import RollbackOptions
from study.training.embeddings import EmbeddingTables
from study.training.lr_schedule import lr_share
from study.training.rollback import where_resting
from study.transforms import Chain, Leaf


class StackMethod:
    """The method of a stack, with one lr and one value of each threshold per run.

    Args:
        runs: Runs of one method, whose options agree; thresholds may differ.
        recipe: The lr's warm-up and schedule, and the constants of Adagrad.
        steps: Steps of a run.

    Attributes:
        lr_share_R: A run's own share of its peak lr at this step, instead of the schedule's; set by rollbacks.
        resting_R: Runs that learn nothing from this step; set by rollbacks.
    """

    def __init__(
        self, runs: Sequence[Run], recipe: Recipe, steps: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.name, self.recipe, self.steps = runs[0].method, recipe, steps
        self.options = methods.stack_options(self.name, [run.options for run in runs], dtype=dtype, device=device)
        self.peak_lr_R = torch.tensor([run.lr for run in runs], dtype=dtype, device=device)
        self.embeddings_peak_lr_R = self.peak_lr_R
        if recipe.embeddings_lr is not None:
            self.embeddings_peak_lr_R = torch.full_like(self.peak_lr_R, recipe.embeddings_lr)
        self.lr_share_R: Tensor | None = None
        self.resting_R: Tensor | None = None
        self._chains: dict[tuple[float, int | None], Chain] = {}

    def lr(self, step: int) -> Tensor:
        """Return the lr of each run (R,) at a step."""
        return self.peak_lr_R * self._share(step)

    def embeddings_lr(self, step: int) -> Tensor:
        """Return the lr of each run's embeddings (R,) at a step."""
        return self.embeddings_peak_lr_R * self._share(step)

    def unit_limit(self) -> Tensor | None:
        """Return the limit of each run's hidden units (R,), or None if they are not clamped."""
        limit = methods.unit_limit(self.name, self.options)
        return None if limit is None else torch.ones_like(self.peak_lr_R) * limit

    def rollback_options(self) -> RollbackOptions | None:
        """Return when runs are rolled back, or None if the method never does so."""
        return methods.rollback_options(self.name, self.options)

    def chain(self, step: int, part: slice = slice(None)) -> Chain:
        """Return the method at this step, for a part of the runs."""
        share = self._share(step)
        key = (float(step) if isinstance(share, Tensor) else share, part.start)
        if key not in self._chains:
            self._chains = {k: c for k, c in self._chains.items() if k[0] == key[0]}
            self._chains[key] = methods.build(
                self.name,
                self.lr(step)[part],
                {k: v[part] if isinstance(v, Tensor) else v for k, v in self.options.items()},
                initial_accumulator=self.recipe.initial_accumulator,
                eps=self.recipe.eps,
            )
        return self._chains[key]

    def set_updates(self, step: int, leaves: Sequence[Leaf], part: slice = slice(None)) -> None:
        """Turn the gradient of each leaf into its update. Runs that rest get no update and keep their state."""
        if self.resting_R is None:
            self.chain(step, part).updates(leaves)
            return
        states = [{key: value.clone() for key, value in leaf.state.items()} for leaf in leaves]
        self.chain(step, part).updates(leaves)
        resting = self.resting_R[part]
        for leaf, state in zip(leaves, states, strict=True):
            leaf.update = where_resting(resting, torch.zeros_like(leaf.update), leaf.update)
            for key, value in state.items():
                leaf.state[key] = where_resting(resting, value, leaf.state[key])

    def _share(self, step: int) -> float | Tensor:
        return lr_share(self.recipe, self.steps, step) if self.lr_share_R is None else self.lr_share_R


class TableMethod:
    """Applies the method of a stack to the embedding rows too, as the recipe's `embeddings="method"` asks.

    Args:
        method: The method of the stack.
        tables: The embedding tables of the stack.
        accumulators: Adagrad's accumulators (codes, E) of each feature to start from, the same for all runs.

    Attributes:
        states: The state of the method for each (group, feature), made when a batch first touches the table.
    """

    def __init__(
        self, method: StackMethod, tables: EmbeddingTables, accumulators: Sequence[Tensor] | None = None
    ) -> None:
        self.method, self.tables, self.accumulators = method, tables, accumulators
        self.states: dict[tuple[int, int], dict[str, Tensor]] = {}

    def state(self, group: int, feature: int) -> dict[str, Tensor]:
        """Return the state of one table, new if there is none yet. Raises ValueError if there is no such table."""
        tables = self.tables
        if not (0 <= group < tables.groups and 0 <= feature < tables.features):
            raise ValueError(f"there is no table {group}/{feature}")
        if (group, feature) not in self.states:
            starts = [*tables.starts_F.tolist(), tables.ids]
            one_row = tables.weight.new_zeros(tables.runs, 1, tables.dim)
            rows = one_row.expand(-1, starts[feature + 1] - starts[feature], -1)
            state = self.method.chain(0, self._runs_of(group)).init(rows)
            if self.accumulators:
                state["accumulator"].copy_(self.accumulators[feature])
            self.states[group, feature] = state
        return self.states[group, feature]

    def update(self, step: int, leaves: Sequence[Leaf], rows_U: Tensor, gradient: Tensor) -> None:
        """Set the updates of the network's leaves, and update the touched rows.

        It works on one group at a time, since groups touch different rows.

        Args:
            step: The number of the step.
            leaves: The parameters of the network.
            rows_U: Touched rows of the tables.
            gradient: Their gradients (U, K * E).
        """
        segments = self.tables.segments(rows_U)
        updated: list[list[Leaf]] = [[] for _ in leaves]
        for group in range(self.tables.groups):
            part = self._runs_of(group)
            own = [_of_runs(leaf, part) for leaf in leaves]
            touched = [self._touched(g, f, rows_U[span], gradient[span]) for g, f, span in segments if g == group]
            self.method.set_updates(step, [*own, *(table.leaf for table in touched)], part)
            for table in touched:
                table.write(self.tables)
            for parts, leaf in zip(updated, own, strict=True):
                parts.append(leaf)
        for leaf, parts in zip(leaves, updated, strict=True):
            leaf.update = torch.cat([part.update for part in parts])
            leaf.state |= {key: torch.cat([part.state[key] for part in parts]) for key in parts[0].state}
            if leaf.factor is not None:
                leaf.factor = torch.cat([part.factor for part in parts if part.factor is not None])

    def _runs_of(self, group: int) -> slice:
        return slice(group * self.tables.runs, (group + 1) * self.tables.runs)

    def _touched(self, group: int, feature: int, rows: Tensor, gradient: Tensor) -> "_TouchedTable":
        tables, state = self.tables, self.state(group, feature)
        codes = rows - (group * tables.ids + int(tables.starts_F[feature]))
        gradient = _by_run(gradient, tables.dim)
        leaf = Leaf(
            weight=_by_run(tables.weight.index_select(0, rows), tables.dim),
            gradient=gradient,
            update=gradient.clone(),
            state={key: value[:, codes] if value.dim() == 3 else value for key, value in state.items()},
        )
        return _TouchedTable(rows, codes, leaf, state)


@dataclass
class _TouchedTable:
    """The touched rows of one group and feature, as a leaf of the method."""

    rows: Tensor
    codes: Tensor
    leaf: Leaf
    state: dict[str, Tensor]

    def write(self, tables: EmbeddingTables) -> None:
        """Write the updated rows and their state back."""
        weight = (self.leaf.weight - self.leaf.update).transpose(0, 1).reshape(len(self.rows), -1)
        tables.weight.index_copy_(0, self.rows, weight)
        for key, value in self.leaf.state.items():
            if value.dim() == 3:
                self.state[key] = self.state[key].contiguous().index_copy_(1, self.codes, value)
            else:
                self.state[key] = value


def _by_run(rows: Tensor, dim: int) -> Tensor:
    """(U, K * E) -> (K, U, E)."""
    return rows.unflatten(1, (-1, dim)).transpose(0, 1).contiguous()


def _of_runs(leaf: Leaf, part: slice) -> Leaf:
    return Leaf(
        weight=leaf.weight[part],
        gradient=leaf.gradient[part],
        update=leaf.update[part],
        state={key: value[part] for key, value in leaf.state.items()},
        factor=None if leaf.factor is None else leaf.factor[part],
    )

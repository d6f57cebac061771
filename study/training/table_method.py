"""The method of a stack on embedding rows, as the recipe's `embeddings="method"` asks.

On CPU (`TouchedTableMethod`) a leaf holds the rows that a batch touches of one table. On other devices
(`WholeTableMethod`) every size is fixed: each table has as many rows as the batch has ids of it, and those that are too
many are zeros. So no size is read back, and norms and factors are the same but for rounding.

Shape letters: R runs, G groups of K runs that share a seed (R = G * K), F id features, U touched rows, N rows of all
blocks, E embedding dimension.
"""

import functools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from study.training.embeddings import EmbeddingTables
from study.training.leaves import NEVER_ZERO, of_numbers
from study.training.rollback import StatePart
from study.training.stack_method import StackMethod
from study.training.touched_rows import TableBlocks
from study.transforms import Leaf, Segments


class TableMethod(ABC):
    """Applies the method of a stack to the embedding rows too.

    Args:
        method: The method of the stack.
        tables: The embedding tables of the stack.
        accumulators: Adagrad's accumulators (codes, E) of each feature to start from, the same for all runs.

    Attributes:
        states: The state of the method for each (group, feature): (K, codes, E), or one value or row a run.
    """

    def __init__(
        self, method: StackMethod, tables: EmbeddingTables, accumulators: Sequence[Tensor] | None = None
    ) -> None:
        self.method, self.tables, self.accumulators = method, tables, accumulators
        self.states: dict[tuple[int, int], dict[str, Tensor]] = {}

    @abstractmethod
    def state(self, group: int, feature: int) -> dict[str, Tensor]:
        """Return the state of one table. Raises ValueError if there is no such table."""

    @abstractmethod
    def update(self, step: int, leaves: Sequence[Leaf], rows_U: Tensor, gradient: Tensor) -> None:
        """Set the updates of the network's leaves, and update the touched rows.

        Args:
            step: The number of the step.
            leaves: The parameters of the network.
            rows_U: Touched rows of the tables.
            gradient: Their gradients (U, K * E).
        """

    @abstractmethod
    def parts(self) -> Iterator[StatePart]:
        """Return what a rollback restores."""

    def _check(self, group: int, feature: int) -> None:
        if not (0 <= group < self.tables.groups and 0 <= feature < self.tables.features):
            raise ValueError(f"there is no table {group}/{feature}")

    def _runs_of(self, group: int) -> slice:
        return slice(group * self.tables.runs, (group + 1) * self.tables.runs)


class TouchedTableMethod(TableMethod):
    """One group after the other, since groups touch different rows; on CPU. A state is made when it is first needed."""

    def state(self, group: int, feature: int) -> dict[str, Tensor]:
        self._check(group, feature)
        tables = self.tables
        if (group, feature) not in self.states:
            one_row = tables.weight.new_zeros(tables.runs, 1, tables.dim)
            rows = one_row.expand(-1, tables.starts[feature + 1] - tables.starts[feature], -1)
            state = self.method.chain(0, self._runs_of(group)).init(rows)
            if self.accumulators:
                state["accumulator"].copy_(self.accumulators[feature])
            self.states[group, feature] = state
        return self.states[group, feature]

    def update(self, step: int, leaves: Sequence[Leaf], rows_U: Tensor, gradient: Tensor) -> None:
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

    def parts(self) -> Iterator[StatePart]:
        for group in range(self.tables.groups):
            for feature in range(self.tables.features):
                state = self.state(group, feature)
                for key in state:
                    get = functools.partial(state.__getitem__, key)
                    yield StatePart(get=get, axes=(self.tables.runs,), runs=self._runs_of(group))

    def _touched(self, group: int, feature: int, rows: Tensor, gradient: Tensor) -> "_TouchedTable":
        tables, state = self.tables, self.state(group, feature)
        codes = rows - (group * tables.ids + tables.starts[feature])
        gradient = _by_run(gradient, tables.dim)
        leaf = Leaf(
            weight=_by_run(tables.weight.index_select(0, rows), tables.dim),
            gradient=gradient,
            update=gradient.clone(),
            state={key: value[:, codes] if value.dim() == 3 else value for key, value in state.items()},
        )
        return _TouchedTable(rows, codes, leaf, state)


class WholeTableMethod(TableMethod):
    """All groups and tables at once, on any device.

    The state with one value a number is laid out as the tables are, (G * ids + 1, K * E), and its last row stands for
    no row. A state with one value a run is (R, F), or the only one if it is shared.

    Args:
        blocks: Gives each table its block of rows, as `EmbeddingTables.gradients` does.
    """

    def __init__(
        self,
        method: StackMethod,
        tables: EmbeddingTables,
        blocks: TableBlocks,
        accumulators: Sequence[Tensor] | None = None,
    ) -> None:
        super().__init__(method, tables, accumulators)
        chain = method.chain(0)
        first = chain.init(tables.weight.new_zeros(tables.groups * tables.runs, 1, tables.dim))
        self.by_row = of_numbers(chain)
        self.state_of_all: dict[str, Tensor] = {}
        for key, value in first.items():
            if key in self.by_row:
                rows = torch.zeros_like(tables.weight)
                tables.of_run(rows).copy_(value.view(tables.groups, tables.runs, 1, tables.dim))
                self.state_of_all[key] = rows
            elif key in chain.shared:
                self.state_of_all[key] = value
            else:
                self.state_of_all[key] = torch.stack([value] * tables.features, 1)
        for feature, initial in enumerate(accumulators or ()):
            tables.of_feature(self.state_of_all["accumulator"])[feature].copy_(initial)
        self._rest()
        self.segments = Segments.of([size * tables.dim for size in blocks.sizes], tables.weight.device)
        self.rows_of_tables = Segments.of(blocks.sizes, tables.weight.device)
        self.states = {
            (group, feature): {key: self._view(key, group, feature) for key in self.state_of_all}
            for group in range(tables.groups)
            for feature in range(tables.features)
        }

    def state(self, group: int, feature: int) -> dict[str, Tensor]:
        self._check(group, feature)
        return self.states[group, feature]

    def update(self, step: int, leaves: Sequence[Leaf], rows_U: Tensor, gradient: Tensor) -> None:
        tables = self.tables
        taken = {key: self._taken(value.index_select(0, rows_U)) for key, value in self._rows()}
        own = self._taken(gradient)
        weight = self._taken(tables.weight.index_select(0, rows_U))
        of_tables = {key: taken.get(key, value) for key, value in self.state_of_all.items()}
        counts_RF = self._counts(rows_U)
        packed = Leaf(weight, own, own, of_tables, segments=self.segments, counts=counts_RF)
        chain = self.method.chain(step)
        before = {k: x.clone() for k, x in self._of_runs() if tables.has_lists and k not in chain.shared}
        if chain.packable:
            self.method.set_updates(step, [*leaves, packed])
        else:
            each = self._each(packed, chain.shared)
            self.method.set_updates(step, [*leaves, *each])
            self._join(packed, each, chain.shared)
        tables.weight.index_copy_(0, rows_U, self._as_rows(packed.weight - packed.update))
        for key, value in self._rows():
            value.index_copy_(0, rows_U, self._as_rows(packed.state[key]))
        for key, kept in self._of_runs():
            # A table whose lists are all empty keeps its state.
            new = torch.where(counts_RF > 0, packed.state[key], before[key]) if key in before else packed.state[key]
            if new is not kept:
                kept.copy_(new)
        self._rest()

    def parts(self) -> Iterator[StatePart]:
        tables = self.tables
        for key, value in self.state_of_all.items():
            if key in self.by_row:
                yield StatePart(get=functools.partial(tables.of_run, value), axes=(tables.groups, tables.runs))
            else:
                yield StatePart(get=functools.partial(self.state_of_all.__getitem__, key), axes=(len(value),))

    def _rows(self) -> list[tuple[str, Tensor]]:
        return [(key, value) for key, value in self.state_of_all.items() if key in self.by_row]

    def _of_runs(self) -> list[tuple[str, Tensor]]:
        return [(key, value) for key, value in self.state_of_all.items() if key not in self.by_row]

    def _rest(self) -> None:
        """Set the row that stands for no row: a run that is not finite may have changed it."""
        self.tables.weight[self.tables.no_row].zero_()
        for key, value in self._rows():
            value[self.tables.no_row].fill_(1.0 if key in NEVER_ZERO else 0.0)

    def _view(self, key: str, group: int, feature: int) -> Tensor:
        value = self.state_of_all[key]
        if key in self.by_row:
            return self.tables.of_feature(value)[feature][group]
        runs = value[self._runs_of(group)]
        return runs if key in self.method.chain(0).shared else runs[:, feature]

    def _taken(self, rows_NX: Tensor) -> Tensor:
        """(G * N, K * E) -> (R, N * E)."""
        rows = rows_NX.view(self.tables.groups, -1, self.tables.runs, self.tables.dim)
        return rows.transpose(1, 2).reshape(self.tables.groups * self.tables.runs, -1)

    def _as_rows(self, taken_RP: Tensor) -> Tensor:
        """(R, N * E) -> (G * N, K * E)."""
        rows = taken_RP.view(self.tables.groups, self.tables.runs, -1, self.tables.dim)
        return rows.transpose(1, 2).reshape(-1, self.tables.runs * self.tables.dim)

    def _counts(self, rows_U: Tensor) -> Tensor:
        """The touched numbers of each table (R, F)."""
        real = (rows_U < self.tables.no_row).view(self.tables.groups, -1)
        return (self.rows_of_tables.sum(real) * self.tables.dim).repeat_interleave(self.tables.runs, dim=0)

    def _each(self, packed: Leaf, shared: set[str]) -> list[Leaf]:
        """One leaf a table, (R, rows, E)."""

        def split(value_RP: Tensor) -> list[Tensor]:
            parts = value_RP.split(self.segments.sizes, 1)
            return [part.unflatten(1, (-1, self.tables.dim)) for part in parts]

        states: list[dict[str, Tensor]] = [{} for _ in self.segments.sizes]
        for key, value in packed.state.items():
            several = split(value) if key in self.by_row else [value] * len(states)
            if key not in self.by_row and key not in shared:
                several = value.unbind(1)
            for state, one in zip(states, several, strict=True):
                state[key] = one
        assert packed.counts is not None
        of_tables = zip(split(packed.weight), split(packed.gradient), states, packed.counts.unbind(1), strict=True)
        return [Leaf(weight, own, own, state, counts=counts) for weight, own, state, counts in of_tables]

    def _join(self, packed: Leaf, each: Sequence[Leaf], shared: set[str]) -> None:
        packed.update = torch.cat([leaf.update.flatten(1) for leaf in each], 1)
        for key in packed.state:
            if key in self.by_row:
                packed.state[key] = torch.cat([leaf.state[key].flatten(1) for leaf in each], 1)
            elif key in shared:
                packed.state[key] = each[0].state[key]
            else:
                packed.state[key] = torch.stack([leaf.state[key] for leaf in each], 1)


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

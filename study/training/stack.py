"""The training of a stack: its weights, the state of its method, and one step of all its runs.

Shape letters: R runs, G groups of K runs that share a seed (R = G * K), B batch, T tasks, S steps.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from models import Spec
from study import methods, plugins
from study.config import Run, steps_of
from study.data._dataset import Log
from study.definition import model_options
from study.training import devices, fused_mlp
from study.training.device_log import DeviceLog
from study.training.embeddings import EmbeddingTables
from study.training.groups import Groups
from study.training.inputs import Inputs, InputSizes, TouchedInputs, WholeInputs
from study.training.leaves import NamedLeaves, PackedLeaves
from study.training.losses import labelled, mean_losses
from study.training.lr_schedule import lr_share
from study.training.model_check import stackable
from study.training.networks import (
    SeparateNetworks,
    StackedNetworks,
    network_of_seed,
    network_of_weights,
    spec_of,
)
from study.training.pooling import PooledTouchedInputs, PooledWholeInputs
from study.training.rollback import Rollbacks, StatePart, where_resting
from study.training.stack_method import StackMethod
from study.training.table_method import TableMethod, TouchedTableMethod, WholeTableMethod
from study.training.touched_rows import TableBlocks
from study.training.weights import Weights
from study.transforms import Leaf

TABLE_METHOD = "table_method"

MAX_HEADER_BYTES = 2**24
"""Bytes of a checkpoint beside its numbers, at most."""


@dataclass(frozen=True, kw_only=True)
class StepView:
    """A step of a stack after its update is computed and before it is applied. Read only.

    The weights are those that the losses were computed with. The state of the method includes this step's gradient; the
    accumulators of the tables do not. With the recipe's `embeddings="method"`, the tables are already updated.

    Args:
        step: The number of the step, from 0.
        runs: The runs in the order of the run axis, which may differ from the caller's.
        lr: The lr of each run at this step, (R,).
        leaves: The parameters of the network by name, each with the method's factor.
        network: The networks.
        tables: The embedding tables.
    """

    step: int
    runs: Sequence[Run]
    lr: Tensor
    leaves: Mapping[str, Leaf]
    network: StackedNetworks
    tables: EmbeddingTables


class StackTraining:
    """All that the training of a stack reads and changes.

    Args:
        runs: Runs that share model, recipe, data, method and the method's options.
        log: The data.
        device: Where to train.
        start: The weights that the recipe's `init_from` names.
        ramp: The share of its lr that a run has at each of its steps, in place of the recipe's steps, warm-up and
            schedule; empty is the recipe's.

    Attributes:
        loss_RST: The mean loss of each task at each step, before its update.
        constant_GST: The same of the best constant predictor.
        on_update: Called with a `StepView` at each step, if given.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        log: Log,
        device: torch.device,
        start: Weights | None = None,
        ramp: Sequence[float] = (),
    ) -> None:
        first = runs[0]
        _check_runs(runs, log, start)
        self.recipe, self.device = first.recipe, device
        self.dtype: torch.dtype = getattr(torch, first.recipe.precision)
        self.steps = len(ramp) or steps_of(first.recipe, log.train_rows)
        self.groups = Groups.of(runs)
        self.log = DeviceLog(log, device)
        self.on_update: Callable[[StepView], None] | None = None

        spec = spec_of(log, self.recipe)
        self.constant_logit_T = torch.tensor(spec.head_bias, dtype=self.dtype, device=device)
        constant_losses = [task.constant_loss for task in log.tasks]
        self.constant_loss_T = torch.tensor(constant_losses, dtype=self.dtype, device=device)
        self.initial_networks = functools.partial(_initial_networks, first.model, spec, start)
        accumulators = start if first.recipe.init_accumulators else None
        self.tables = self._new_tables(log, start, accumulators)
        self.method = StackMethod(self.groups.runs, self.recipe, self.steps, self.dtype, device, ramp)
        self.network = self._new_networks(first.model, spec)
        self.inputs = self._new_inputs(spec)
        self.states = self._new_states(accumulators)
        self.leaves = self._new_leaves()
        self.table_method = self._new_table_method(accumulators)
        self.rollbacks = self._new_rollbacks()
        assert not (self.rollbacks and len(ramp)), "a run that is rolled back leaves the ramp"

        losses_of_step = (self.steps, len(log.tasks))
        self.loss_RST = torch.zeros(len(runs), *losses_of_step, dtype=torch.float32, device=device)
        self.constant_GST = torch.zeros(self.groups.count, *losses_of_step, dtype=torch.float32, device=device)

    # Training.

    @property
    def capturable(self) -> bool:
        """Whether each step is the same operations on the same tensors, but for its rows and the lr's share.

        Rollbacks act on some steps only, and exchange tensors. Where labels are missing, a step reads the losses of the
        one before by its number. A user's own model or method may keep numbers of Python between calls, which a graph
        would not change.
        """
        model, _ = model_options.parse(self.groups.runs[0].model)
        ours = model in plugins.names("models") and self.method.name in methods.names()
        varies = self.rollbacks or self.log.labels_are_missing or self.on_update
        return ours and self.network.capturable and not varies

    def batches(self, first: int = 0) -> Iterator[Tensor]:
        """Yield the row numbers (G, B) of each step, from the step `first` on."""
        return self.log.batches(self.groups.seeds, self.recipe, self.steps, first)

    def step(self, step: int, rows_GB: Tensor) -> tuple[Tensor, Tensor]:
        """Train one step. Returns the losses (R, T) before it, and those of the constant predictor (G, T)."""
        self.read(rows_GB)
        labels_GTB, share_GTB = self.labels(rows_GB)
        labels_RTB = labels_GTB.repeat_interleave(self.groups.size, dim=0)
        share_RTB = None if share_GTB is None else share_GTB.repeat_interleave(self.groups.size, dim=0)
        buffers = [part.get().clone() for part in self._buffer_parts()] if self.rollbacks else []
        loss_RT, gradients = self.network.learn(self.inputs, labels_RTB, self.log.tasks, share_RTB)
        with torch.no_grad():
            constant_GT = self.constants(step, labels_GTB, share_GTB)
            loss_RT = self._or_as_before(step, loss_RT, share_RTB, self.loss_RST)
            if self.rollbacks:
                self._roll_back(self.rollbacks, step, loss_RT, buffers)
            self._update(step, gradients)
            return loss_RT, constant_GT

    def labels(self, rows_GB: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the labels (G, T, B) of a batch and, if the log lacks some, what each row counts."""
        labels_GTB = self.log.labels(rows_GB, self.dtype)
        return labelled(labels_GTB) if self.log.labels_are_missing else (labels_GTB, None)

    def constants(self, step: int, labels_GTB: Tensor, share_GTB: Tensor | None) -> Tensor:
        """Return the losses (G, T) of the constant predictor at a step, as they are recorded."""
        return self._or_as_before(step, self.constant_losses(labels_GTB, share_GTB), share_GTB, self.constant_GST)

    def _or_as_before(self, step: int, loss_XT: Tensor, share_XTB: Tensor | None, losses_XST: Tensor) -> Tensor:
        """Return the losses; of a task without any label in the batch, those of the step before."""
        if share_XTB is None:
            return loss_XT
        before_XT = losses_XST[:, step - 1].to(loss_XT.dtype) if step else self.constant_loss_T.expand_as(loss_XT)
        return torch.where(share_XTB.any(2), loss_XT, before_XT)

    def constant_losses(self, labels_GTB: Tensor, share_GTB: Tensor | None = None) -> Tensor:
        """Return the losses (G, T) of the constant predictor on a batch."""
        constant_GTB = self.constant_logit_T.unsqueeze(1).expand_as(labels_GTB).contiguous()
        return mean_losses(constant_GTB, labels_GTB, self.log.tasks, share_GTB)

    def read(self, rows_GB: Tensor) -> None:
        """Fill the inputs with a batch."""
        positions = self.tables.positions(self.log.ids(rows_GB))
        self.inputs.read(self.tables, positions, self.log.numbers(rows_GB))

    def counts(self) -> dict[str, Tensor]:
        """Return what the method did to each run (R,), such as `rollbacks`."""
        return self.rollbacks.counts() if self.rollbacks else {}

    def _roll_back(self, rollbacks: Rollbacks, step: int, loss_RT: Tensor, buffers: Sequence[Tensor]) -> None:
        waiting = rollbacks.state["waits"] > 0
        for part, before in zip(self._buffer_parts(), buffers, strict=True):
            torch.where(part.flags(waiting), before, part.get(), out=part.get())
        rollbacks.step(step, loss_RT)
        self.method.lr_share_R, self.method.resting_R = rollbacks.lr_share_R, rollbacks.resting_R

    def _update(self, step: int, gradients: Sequence[Tensor]) -> None:
        of_names = dict(zip(self.network.parameters, gradients, strict=True))
        unused = self.network.unused
        before = {name: {key: state.clone() for key, state in self.states[name].items()} for name in unused}
        leaves = self.leaves.of(of_names, torch.ones_like(self.method.peak_lr_R) if self.on_update else None)
        touched = self.inputs.gradients(self.tables) if self.tables.features else None
        if touched and self.table_method:
            self.table_method.update(step, leaves, *touched)
        else:
            self.method.set_updates(step, leaves)
        of_name = self.leaves.by_name(leaves) if unused else {}
        for name, runs in unused.items():  # as in torch, which does not even decay them
            update = of_name[name].update
            update.copy_(where_resting(runs, torch.zeros_like(update), update))
        if self.on_update:
            self.on_update(self._view(step, leaves))
        if touched and not self.table_method:
            self._update_tables(step, *touched)
        self.leaves.apply(leaves)
        for name, runs in unused.items():
            for key in before[name].keys() - self.method.chain(step).shared:
                state = self.states[name][key]
                state.copy_(where_resting(runs, before[name][key], state))

    def _update_tables(self, step: int, rows_U: Tensor, gradient: Tensor) -> None:
        lr_GK = self.method.embeddings_lr(step).view(self.groups.count, self.groups.size)
        weight = self.inputs.weight_U
        if self.rollbacks:
            gradient = self.tables.without(rows_U, gradient, self.rollbacks.resting_R.view_as(lr_GK))
            weight = None  # rows that were read may have been replaced by a snapshot
        self.tables.adagrad(rows_U, gradient, lr_GK, self.recipe.eps, weight)

    def _view(self, step: int, leaves: Sequence[Leaf]) -> StepView:
        return StepView(
            step=step,
            runs=self.groups.runs,
            lr=self.method.lr(step),
            leaves=self.leaves.by_name(leaves),
            network=self.network,
            tables=self.tables,
        )

    # Checkpoints and weights.

    def state_arrays(self) -> Iterator[tuple[str, np.ndarray]]:
        """Return the state as arrays: those on CPU are not copied, others one at a time."""
        return ((name, tensor.detach().cpu().numpy()) for name, tensor in self.state().items())

    def state(self) -> dict[str, Tensor]:
        """Return all tensors that a step changes, by name. Random streams are not among them: seeds make them anew."""
        tables = {"tables/weight": self.tables.weight, "tables/accumulator": self.tables.accumulator}
        states = {f"method/{name}": state for name, state in self.states.items()}
        if self.table_method:
            states |= {f"{TABLE_METHOD}/{g}/{f}": state for (g, f), state in self.table_method.states.items()}
        of_method = {f"{name}/{key}": x for name, state in states.items() for key, x in state.items()}
        rollbacks = self.rollbacks.tensors() if self.rollbacks else {}
        of_method |= {f"rollbacks/{name}": x for name, x in rollbacks.items()}
        losses = {"loss": self.loss_RST, "constant": self.constant_GST}
        return self.network.state() | tables | of_method | losses

    def load_state(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Restore a checkpointed state. Raises ValueError, and changes nothing, if it is not one of this stack."""
        for name in arrays:
            if self.table_method and name.startswith(f"{TABLE_METHOD}/"):
                self.table_method.state(*(int(number) for number in name.split("/")[1:3]))
        own = self.state()
        if own.keys() != arrays.keys():
            raise ValueError(f"it lacks or adds {', '.join(sorted(own.keys() ^ arrays.keys())[:3])}")
        loaded = {name: torch.from_numpy(array) for name, array in arrays.items()}
        for name, tensor in own.items():
            if (tensor.shape, tensor.dtype) != (loaded[name].shape, loaded[name].dtype):
                raise ValueError(f"{name} is {loaded[name].dtype} {tuple(loaded[name].shape)}")
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(loaded[name])

    def max_bytes(self) -> int:
        """Return more bytes than a checkpoint of this stack has.

        With `embeddings="method"`, the first steps add a few numbers for each weight and accumulator of a row.
        """
        return 4 * sum(tensor.numel() * tensor.element_size() for tensor in self.state().values()) + MAX_HEADER_BYTES

    def accumulators(self, run: int) -> dict[str, Tensor]:
        """Return Adagrad's accumulators of one run, by their names in a file of weights.

        They are the tensors themselves. The result is empty if the method keeps none.
        """
        if not all("accumulator" in state for state in self.states.values()):
            return {}
        group, k = divmod(run, self.groups.size)
        if self.table_method:
            features = range(self.tables.features)
            tables = [self.table_method.state(group, f)["accumulator"][k] for f in features]
        else:
            tables = [rows[group, k] for rows in self.tables.of_feature(self.tables.accumulator)]
        own = {f"accumulator/{name}": state["accumulator"][run] for name, state in self.states.items()}
        return own | {f"table_accumulator/{f}": rows for f, rows in enumerate(tables)}

    # The parts, as a new stack has them.

    def _new_tables(self, log: Log, start: Weights | None, accumulators: Weights | None) -> EmbeddingTables:
        return EmbeddingTables(
            log.vocabulary,
            log.id_names,
            self.groups.seeds,
            self.groups.size,
            dim=self.recipe.embedding_dim,
            std=self.recipe.embedding_std,
            initial_accumulator=self.recipe.initial_accumulator,
            dtype=self.dtype,
            device=self.device,
            start=_tensors(start.tables) if start else None,
            start_accumulator=_tensors(accumulators.table_accumulators) if accumulators else None,
            lengths=log.lengths,
        )

    def _new_networks(self, model: str, spec: Spec) -> StackedNetworks:
        seeds = [run.seed for run in self.groups.runs]
        by_seed = self.initial_networks(seeds)
        kind = kind_of_networks(model, spec, by_seed[seeds[0]], self.dtype, self.device)
        networks = [by_seed[seed] for seed in seeds]
        if kind is SeparateNetworks:  # a module of its own for each run; some cannot be copied
            networks = [self.initial_networks([seed])[seed] for seed in seeds]
        return kind(networks, self.dtype, self.device, seeds, self.method.unit_limit())

    def _new_inputs(self, spec: Spec) -> Inputs:
        sizes = InputSizes(
            groups=self.groups.count,
            runs_of_group=self.groups.size,
            batch=self.recipe.batch,
            features=spec.features,
            dim=spec.embedding_dim,
            numbers=spec.numbers,
            dtype=self.dtype,
            device=self.device,
        )
        lists = self.log.lists
        if not devices.wants_few_operations(self.device):
            return PooledTouchedInputs(sizes, lists) if lists else TouchedInputs(sizes)
        blocks = self._blocks()
        return PooledWholeInputs(sizes, lists, blocks=blocks) if lists else WholeInputs(sizes, blocks=blocks)

    def _blocks(self) -> TableBlocks | None:
        if self.recipe.embeddings != "method" or not self.tables.features:
            return None
        tables = self.tables
        return TableBlocks(
            tables.starts, tables.lengths, groups=tables.groups, batch=self.recipe.batch, device=self.device
        )

    def _new_states(self, accumulators: Weights | None) -> dict[str, dict[str, Tensor]]:
        chain = self.method.chain(0)
        states = {name: chain.init(weight) for name, weight in self.network.parameters.items()}
        for name, array in (accumulators.network("accumulator") if accumulators else {}).items():
            states[name]["accumulator"].copy_(torch.from_numpy(array))  # the same for every run
        return states

    def _new_leaves(self) -> NamedLeaves:
        network, chain = self.network, self.method.chain(0)
        if network.packed is None or not chain.packable:
            return NamedLeaves(network.parameters, self.states)
        places, weight_RP = network.packed
        return PackedLeaves(network.parameters, weight_RP, places, self.states, chain)

    def _new_table_method(self, accumulators: Weights | None) -> TableMethod | None:
        if self.recipe.embeddings != "method":
            return None
        start = _tensors(accumulators.table_accumulators) if accumulators else None
        if isinstance(self.inputs, WholeInputs) and self.inputs.blocks:
            return WholeTableMethod(self.method, self.tables, self.inputs.blocks, start)
        return TouchedTableMethod(self.method, self.tables, start)

    def _new_rollbacks(self) -> Rollbacks | None:
        options = self.method.rollback_options()
        if options is None:
            return None
        runs = len(self.groups.runs)
        parts = [*self._network_parts(), *self._buffer_parts(), *self._table_parts()]
        shares = [lr_share(self.recipe, self.steps, step) for step in range(self.steps)]
        shares_S = torch.tensor(shares, dtype=torch.float64, device=self.device)
        return Rollbacks(options, parts, runs=runs, lr_shares_S=shares_S, dtype=self.dtype, device=self.device)

    # What a rollback restores.

    def _network_parts(self) -> Iterator[StatePart]:
        axes = (len(self.groups.runs),)
        for weight in self.network.parameters.values():
            yield StatePart(get=weight.detach, axes=axes)
        for state in self.states.values():
            for key in state:
                yield StatePart(get=functools.partial(state.__getitem__, key), axes=axes)

    def _buffer_parts(self) -> list[StatePart]:
        if isinstance(self.network, SeparateNetworks):
            return [
                StatePart(get=functools.partial(module.get_buffer, name), axes=(), runs=slice(r, r + 1))
                for r, module in enumerate(self.network.modules)
                for name, _ in module.named_buffers()
            ]
        buffers, axes = self.network.buffers, (len(self.groups.runs),)
        return [StatePart(get=functools.partial(buffers.__getitem__, name), axes=axes) for name in buffers]

    def _table_parts(self) -> Iterator[StatePart]:
        tables = self.tables
        if not tables.features:
            return
        axes = (self.groups.count, self.groups.size)
        for table in [tables.weight] if self.table_method else [tables.weight, tables.accumulator]:
            yield StatePart(get=functools.partial(tables.of_run, table), axes=axes)
        if self.table_method:
            yield from self.table_method.parts()


def kind_of_networks(
    model: str, spec: Spec, network: nn.Module, dtype: torch.dtype, device: torch.device
) -> type[StackedNetworks]:
    """Return the class that computes the networks of a stack of this model."""
    if fused_mlp.takes(network, dtype, device):
        return fused_mlp.FusedRankers
    return StackedNetworks if stackable(model, spec) else SeparateNetworks


def _initial_networks(model: str, spec: Spec, start: Weights | None, seeds: Sequence[int]) -> dict[int, nn.Module]:
    """The networks that the runs of each seed start from."""
    if start:
        return dict.fromkeys(seeds, network_of_weights(model, spec, start))
    return {seed: network_of_seed(model, spec, seed) for seed in dict.fromkeys(seeds)}


def _check_runs(runs: Sequence[Run], log: Log, start: Weights | None) -> None:
    first = runs[0]
    assert first.recipe.init_from == (start.content if start else "")
    assert first.recipe.init_accumulators in ("", start.accumulators if start else "")
    shared = (first.model, first.method, first.recipe, log.content)
    assert all((run.model, run.method, run.recipe, run.data) == shared for run in runs)


def _tensors(arrays: Sequence[np.ndarray]) -> list[Tensor]:
    return [torch.from_numpy(rows) for rows in arrays]

"""Trains a stack: runs of one model and method, in lockstep, as one batched computation.

A run's result does not depend on what it is stacked with: on CPU, with one thread, its bits are the same alone and in
any stack (products are batched matrix products, sums run inside a run, the batch is a multiple of the vector width).
Nothing waits for the device inside the loop: the losses of every step stay there and come back at the end.

Shape letters: R runs, G groups of K runs that share a seed (R = G * K), B batch, F id features, I inputs, T tasks,
S steps, N rows.
"""

import contextlib
import functools
import itertools
import math
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from models import Spec
from study import methods
from study.config import Recipe, Run
from study.data._dataset import Log, Task
from study.training import fused_mlp
from study.training.embeddings import Tables
from study.training.inputs import Sizes, TouchedInputs, WholeInputs
from study.training.losses import mean_losses
from study.training.networks import (
    OneByOne,
    Stacked,
    network_of_seed,
    network_of_weights,
    spec_of,
    stackable,
)
from study.training.rng import batches
from study.training.rollback import Piece, Snapshots, rest
from study.training.weights import Weights
from study.transforms import Chain, Leaf


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a stack leaves behind; the order of runs is that of the stack.

    loss: float32 (R, S, T), mean loss of each task on each step's batch, before its update. constant: the same of the
    best constant predictor, on the same batches. finite: bool (R,), every weight is finite at the end. moved: float64
    (R,), how far the network has come from where it started: the L2 norm of the change of all its parameters; NaN
    where the run went back (`study.training.rollback`), for then it says where the last snapshot lay, and not how slow
    it is. judged: {"auc_click": (R,), "rmse_play_time": (R,), ...} on the held-out rows; NaN where the run has no
    finite scores; RMSE in the target's unit. counts: {"rollbacks": int64 (R,), ...}, what a method that acts on whole
    runs did; empty with any other. seconds: wall time a run.
    """

    loss: np.ndarray
    constant: np.ndarray
    finite: np.ndarray
    moved: np.ndarray
    judged: dict[str, np.ndarray]
    counts: dict[str, np.ndarray] = field(default_factory=dict)
    seconds: float


def steps_of(recipe: Recipe, train_rows: int) -> int:
    """Optimizer steps of a run: as the recipe says, or one pass. ValueError where the rows fill no batch."""
    if train_rows < recipe.batch:
        raise ValueError(f"{train_rows} training rows do not fill one batch of {recipe.batch}")
    return recipe.steps or train_rows // recipe.batch


@dataclass(frozen=True, kw_only=True)
class Look:
    """A step of a stack at the moment when its update is known and not yet made: weights are those of the losses, and
    the method's state holds this step's gradient. For reading only.

    runs: in the order of the run axis, which is not that of the caller. lr: (R,), of this step. leaves: by name, with
    each method's factor. The tables' accumulators lack this step's gradient; with `embeddings="method"`, the tables are
    one update ahead.
    """

    step: int
    runs: Sequence[Run]
    lr: Tensor
    leaves: Mapping[str, Leaf]
    network: Stacked
    tables: Tables


MOST_HEADERS = 2**24
"""Bytes of a kept stack's file beside its numbers, at most."""


class Keeper(Protocol):
    """Who keeps what a stack is between two steps, so that it can go on from there; see
    `study.execution.checkpoint`."""

    def begin(self, load: Callable[[dict[str, np.ndarray]], None], most_bytes: int) -> int:
        """How many steps were done when it was kept, 0 where nothing is; fewer than all. load: takes what was kept; its
        ValueError says that this is no state of the stack, which then is as it was. most_bytes: more is none."""
        ...

    def after(self, done: int, state: Callable[[], dict[str, Tensor]]) -> None:
        """So many steps are done. state: what the stack is now; read at once, for the next step changes it."""
        ...


def train(
    runs: Sequence[Run],
    log: Log,
    device: str = "cpu",
    watch: Callable[[int], None] | None = None,
    look: Callable[[Look], None] | None = None,
    keeper: Keeper | None = None,
    start: Weights | None = None,
    ended: Callable[[Stacked, Tables, Callable[[int], dict[str, Tensor]]], None] | None = None,
) -> Trained:
    """Train the runs as one stack and judge them on the held-out rows.

    All runs share model, recipe, method and the method's options; they differ in lr, thresholds and seed. Runs of a
    seed cost less in one stack than in two. watch(step) is called after each step. look(...) sees each update before it
    is made; it changes no bit. keeper: where the stack was kept, it goes on from there, with the same bits on CPU as if
    it had never stopped. start: the weights that the recipe's `init_from` names; Adagrad's accumulators start fresh, or
    as those of `start`, where the recipe's `init_accumulators` names them. ended(network, tables, accumulators) is
    shown the trained stack, whose run axis is not in the order of the caller, and how to ask for the accumulators of a
    run; for reading only.
    """
    started = time.perf_counter()
    with _reproducible(device):
        stack = _Stack(runs, log, torch.device(device), start)
        stack.look = look
        first = keeper.begin(stack.load_state, stack.most_bytes()) if keeper else 0
        for step, rows_GB in enumerate(stack.batches(first), first):
            stack.loss_RST[:, step], stack.constant_GST[:, step] = stack.step(step, rows_GB)
            if watch:
                watch(step)
            if keeper:
                keeper.after(step + 1, stack.state)
        if ended:
            ended(stack.network, stack.tables, stack.accumulators)
        judged = stack.judge()
        back = stack.order_of_runs
        return Trained(
            loss=stack.loss_RST.cpu().numpy()[back],
            constant=stack.constant_GST.cpu().numpy().repeat(stack.runs_of_group, axis=0)[back],
            finite=stack.finite().cpu().numpy()[back],
            moved=stack.moved()[back],
            judged={name: values[back] for name, values in judged.items()},
            counts={name: values[back] for name, values in stack.counts().items()},
            seconds=(time.perf_counter() - started) / len(runs) * stack.steps / (stack.steps - first),
        )


TABLE_METHOD = "table_method"


class _Stack:
    """The state of a stack: tables, network parameters, method state, and the data it reads."""

    def __init__(self, runs: Sequence[Run], log: Log, device: torch.device, start: Weights | None = None) -> None:
        first = runs[0]
        assert first.recipe.init_from == (start.content if start else "")
        assert first.recipe.init_accumulators in ("", start.accumulators if start else "")
        self.handed = start if first.recipe.init_accumulators else None
        assert all(
            (r.model, r.method, r.recipe, r.data) == (first.model, first.method, first.recipe, log.content)
            for r in runs
        )
        self.recipe, self.tasks, self.device = first.recipe, log.tasks, device
        self.dtype = getattr(torch, first.recipe.precision)
        self.steps = steps_of(first.recipe, log.train_rows)
        self.train_rows = log.train_rows

        # Groups must be of one size; a seed with more runs fills several groups, which read the same batches.
        of_seed = Counter(run.seed for run in runs)
        self.runs_of_group = math.gcd(*of_seed.values())
        order = sorted(range(len(runs)), key=lambda i: (runs[i].seed, i))
        self.order_of_runs = np.argsort(order)
        ordered = [runs[i] for i in order]
        self.runs = ordered
        self.seeds = [run.seed for run in ordered[:: self.runs_of_group]]
        self.groups = len(self.seeds)

        self.ids_NF = _tensor(log.ids).to(device)
        # As they lie on the disk: only what a batch reads is turned into the precision of the run.
        self.numbers_ND = _tensor(log.numbers).to(device)
        self.labels_NT = _tensor(log.labels).to(device)
        spec = spec_of(log, self.recipe)
        self.constant_logit_T = torch.tensor(spec.head_bias, dtype=self.dtype, device=device)
        self.tables = Tables(
            log.vocabulary,
            log.id_names,
            self.seeds,
            self.runs_of_group,
            dim=self.recipe.embedding_dim,
            std=self.recipe.embedding_std,
            initial_accumulator=self.recipe.initial_accumulator,
            dtype=self.dtype,
            device=device,
            start=[torch.from_numpy(rows) for rows in start.tables] if start else None,
            start_accumulator=[torch.from_numpy(rows) for rows in self.handed.table_accumulators]
            if self.handed
            else None,
        )

        def of_start() -> dict[int, nn.Module]:
            if start:
                return dict.fromkeys(of_seed, network_of_weights(first.model, spec, start))
            return {seed: network_of_seed(first.model, spec, seed) for seed in of_seed}

        self.start = of_start
        networks = self.start()
        kind = _kind_of_stack(first.model, spec, networks[first.seed], self.dtype, device)
        self.method = _Method(ordered, self.recipe, self.dtype, device)
        seeds = [run.seed for run in ordered]
        self.network = kind([networks[seed] for seed in seeds], self.dtype, device, seeds, self.method.unit_limit())
        sizes = Sizes(
            groups=self.groups,
            runs_of_group=self.runs_of_group,
            batch=self.recipe.batch,
            features=spec.features,
            dim=spec.embedding_dim,
            numbers=spec.numbers,
            dtype=self.dtype,
            device=device,
        )
        # A method that acts on embeddings asks how many rows were touched, on a GPU too.
        fixed = self.recipe.embeddings != "method"
        self.inputs = TouchedInputs(sizes) if device.type == "cpu" else WholeInputs(sizes, fixed=fixed)

        self.states = {name: self.method.chain(0).init(w) for name, w in self.network.parameters.items()}
        for name, handed in (self.handed.network("accumulator") if self.handed else {}).items():
            self.states[name]["accumulator"].copy_(torch.from_numpy(handed))  # the same for every run
        self.table_states: dict[tuple[int, int], dict[str, Tensor]] = {}
        self.look: Callable[[Look], None] | None = None
        self.snapshots = self._snapshots()
        losses_of_step = (self.steps, len(self.tasks))
        self.loss_RST = torch.zeros(len(runs), *losses_of_step, dtype=torch.float32, device=device)
        self.constant_GST = torch.zeros(self.groups, *losses_of_step, dtype=torch.float32, device=device)

    def state(self) -> dict[str, Tensor]:
        """All that a step changes, by name: the tensors themselves. What a seed draws is made anew from its streams."""
        tables = {"tables/weight": self.tables.weight, "tables/accumulator": self.tables.accumulator}
        methods_of = {f"method/{name}": state for name, state in self.states.items()}
        methods_of |= {f"{TABLE_METHOD}/{g}/{f}": state for (g, f), state in self.table_states.items()}
        of_method = {f"{name}/{key}": x for name, state in methods_of.items() for key, x in state.items()}
        going_back = self.snapshots.tensors() if self.snapshots else {}
        of_method |= {f"going_back/{name}": x for name, x in going_back.items()}
        losses = {"loss": self.loss_RST, "constant": self.constant_GST}
        return self.network.state() | tables | of_method | losses

    def most_bytes(self) -> int:
        """More than a file of this stack's state has: a method that acts on embeddings adds to the weight and the
        accumulator of a row, from its first step on, a few numbers of that size."""
        return 4 * sum(tensor.numel() * tensor.element_size() for tensor in self.state().values()) + MOST_HEADERS

    def accumulators(self, run: int) -> dict[str, Tensor]:
        """Adagrad's accumulators of one run, by their names in a file of weights: the tensors themselves. Empty where
        its method keeps none."""
        if not all("accumulator" in state for state in self.states.values()):
            return {}
        group, k = divmod(run, self.runs_of_group)
        if self.recipe.embeddings == "method":
            tables = [self._state_of_table(group, f)["accumulator"][k] for f in range(self.tables.features)]
        else:
            tables = [rows[group, k] for rows in self.tables.of_feature(self.tables.accumulator)]
        own = {f"accumulator/{name}": state["accumulator"][run] for name, state in self.states.items()}
        return own | {f"table_accumulator/{f}": rows for f, rows in enumerate(tables)}

    def load_state(self, kept: dict[str, np.ndarray]) -> None:
        """Be what the stack was when `state` was kept. ValueError, and nothing is changed, where that is none of it."""
        for name in kept:
            if name.startswith(f"{TABLE_METHOD}/"):
                self._state_of_table(*(int(number) for number in name.split("/")[1:3]))
        own = self.state()
        if own.keys() != kept.keys():
            raise ValueError(f"it lacks or adds {', '.join(sorted(own.keys() ^ kept.keys())[:3])}")
        loaded = {name: torch.from_numpy(array) for name, array in kept.items()}
        for name, tensor in own.items():
            if (tensor.shape, tensor.dtype) != (loaded[name].shape, loaded[name].dtype):
                raise ValueError(f"{name} is {loaded[name].dtype} {tuple(loaded[name].shape)}")
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(loaded[name])

    def batches(self, first: int = 0) -> Iterator[Tensor]:
        """Row numbers (G, B) of each step, from the first on."""
        recipe = self.recipe
        streams = {
            seed: batches(seed, rows=self.train_rows, batch=recipe.batch, window=recipe.window, steps=self.steps)
            for seed in dict.fromkeys(self.seeds)
        }
        for rows_of_seed in itertools.islice(zip(*streams.values(), strict=True), first, None):
            rows = dict(zip(streams, rows_of_seed, strict=True))
            yield torch.from_numpy(np.stack([rows[seed] for seed in self.seeds])).to(self.device, non_blocking=True)

    def step(self, step: int, rows_GB: Tensor) -> tuple[Tensor, Tensor]:
        """One optimizer step. Returns the loss (R, T) before it, and the constant predictor's (G, T)."""
        self._read(rows_GB)
        labels_GBT = self.labels_NT.index_select(0, rows_GB.flatten()).view(*rows_GB.shape, -1)
        labels_GTB = labels_GBT.mT.contiguous().to(self.dtype)
        labels_RTB = labels_GTB.repeat_interleave(self.runs_of_group, dim=0)
        held = [piece.get().clone() for piece in self._buffers()] if self.snapshots else []
        loss_RT, gradients = self.network.learn(self.inputs, labels_RTB, self.tasks)
        with torch.no_grad():
            if self.snapshots:
                waits = self.snapshots.state["waits"] > 0
                for piece, before in zip(self._buffers(), held, strict=True):
                    torch.where(piece.of(waits), before, piece.get(), out=piece.get())
                self.snapshots.watch(step, loss_RT)
                self.method.share_of_run = self.snapshots.share
            self._update(step, gradients)
            constant_GTB = self.constant_logit_T.unsqueeze(1).expand_as(labels_GTB).contiguous()
            return loss_RT, mean_losses(constant_GTB, labels_GTB, self.tasks)

    def judge(self) -> dict[str, np.ndarray]:
        """AUC or RMSE (R,) of each task on the held-out rows, in batches of the training's size."""
        rows_N = torch.arange(self.train_rows, len(self.labels_NT), device=self.device)
        size = (len(self.runs), len(self.tasks), len(rows_N))
        scores_RTN = torch.empty(size, dtype=self.dtype, device=self.device)
        with self.network.judging():
            batches_B = zip(rows_N.split(self.recipe.batch), scores_RTN.split(self.recipe.batch, dim=2), strict=True)
            for rows_B, scores_RTB in batches_B:
                # The last batch is filled up: matrix products of another height may round otherwise.
                filled_B = functional.pad(rows_B, (0, self.recipe.batch - len(rows_B)), value=int(self.train_rows))
                self._read(filled_B.expand(self.groups, -1))
                scores_RTB.copy_(self.network.logits(self.inputs)[:, :, : len(rows_B)])
        scores_RTN = scores_RTN.cpu()
        judged = {}
        for t, task in enumerate(self.tasks):
            labels_N = self.labels_NT[self.train_rows :, t].double().cpu().numpy()
            # One run at a time in double precision: of many held-out rows, all runs' scores are the larger part.
            scores = (scores_TN[t].double().numpy() for scores_TN in scores_RTN)
            name = f"{'auc' if task.kind == 'binary' else 'rmse'}_{task.name}"
            judged[name] = np.array([_judge(task, scores_N, labels_N) for scores_N in scores])
        return judged

    def finite(self) -> Tensor:
        """Bool (R,): all weights of the run are finite."""
        finite = [w.isfinite().flatten(1).all(1) for w in self.network.parameters.values()]
        return torch.stack([*finite, self.tables.finite()]).all(0)

    def moved(self) -> np.ndarray:
        """float64 (R,): L2 distance of each network from its start, which is made anew: a copy would cost memory. NaN
        where a run went back."""
        squares = np.zeros(len(self.runs))
        start = self.start()
        for name, weight in self.network.parameters.items():
            for r, run in enumerate(self.runs):
                began = start[run.seed].get_parameter(name).detach().to(weight.dtype).double().numpy()
                with np.errstate(over="ignore", invalid="ignore"):
                    squares[r] += np.square(weight[r].detach().cpu().double().numpy() - began).sum()
        return np.where(self.counts().get("rollbacks", 0) > 0, np.nan, np.sqrt(squares))

    def counts(self) -> dict[str, np.ndarray]:
        """What the method did to each run, (R,)."""
        counts = self.snapshots.counts() if self.snapshots else {}
        return {name: values.cpu().numpy() for name, values in counts.items()}

    def _snapshots(self) -> Snapshots | None:
        """Of all that a step changes, where the method goes back to them."""
        asked = methods.going_back(self.method.name, self.method.options)
        if not asked:
            return None
        runs = len(self.runs)
        pieces = [Piece(get=weight.detach, axes=(runs,)) for weight in self.network.parameters.values()]
        for state in self.states.values():
            pieces += [Piece(get=functools.partial(state.__getitem__, key), axes=(runs,)) for key in state]
        pieces += self._buffers()
        by_method = self.recipe.embeddings == "method"
        if self.tables.features:
            axes = (self.groups, self.runs_of_group)
            tables = [self.tables.weight] if by_method else [self.tables.weight, self.tables.accumulator]
            pieces += [Piece(get=functools.partial(self.tables.of_run, table), axes=axes) for table in tables]
        for group in range(self.groups if by_method else 0):
            part = slice(group * self.runs_of_group, (group + 1) * self.runs_of_group)
            for feature in range(self.tables.features):
                state = self._state_of_table(group, feature)
                own = [functools.partial(state.__getitem__, key) for key in state]
                pieces += [Piece(get=get, axes=(self.runs_of_group,), runs=part) for get in own]
        return Snapshots(asked, pieces, runs=runs, warmup=self.recipe.warmup, dtype=self.dtype, device=self.device)

    def _buffers(self) -> list[Piece]:
        if isinstance(self.network, OneByOne):
            return [
                Piece(get=functools.partial(buffers.__getitem__, name), axes=(), runs=slice(r, r + 1))
                for r, buffers in enumerate(self.network.own_buffers)
                for name in buffers
            ]
        buffers = self.network.buffers
        return [Piece(get=functools.partial(buffers.__getitem__, name), axes=(len(self.runs),)) for name in buffers]

    def _read(self, rows_GB: Tensor) -> None:
        """Fill the inputs with a batch."""
        rows = rows_GB.flatten()
        ids_GBF = self.ids_NF.index_select(0, rows).view(*rows_GB.shape, self.tables.features)
        numbers_GBD = self.numbers_ND.index_select(0, rows).view(*rows_GB.shape, self.inputs.numbers)
        self.inputs.read(self.tables, self.tables.positions(ids_GBF), numbers_GBD)

    def _update(self, step: int, gradients: Sequence[Tensor]) -> None:
        parameters = self.network.parameters
        leaves = [
            Leaf(
                weight=weight,
                gradient=gradient,
                update=gradient,
                state=self.states[name],
                scratch={},
                factor=torch.ones_like(self.method.peak_lr_R) if self.look else None,
            )
            for (name, weight), gradient in zip(parameters.items(), gradients, strict=True)
        ]
        if not self.tables.features:
            self._chained(step, leaves)
            self._show(step, leaves)
        else:
            rows_U, gradient = self.inputs.gradients(self.tables)
            if self.recipe.embeddings == "method":
                self._update_with_tables(step, leaves, rows_U, gradient)
                self._show(step, leaves)
            else:
                self._chained(step, leaves)
                self._show(step, leaves)
                lr_GK, weight = self.method.lr(step).view(self.groups, self.runs_of_group), self.inputs.weight_U
                if self.snapshots:
                    gradient = self.tables.without(rows_U, gradient, self.snapshots.resting.view_as(lr_GK))
                    weight = None  # rows may have been put back to what they were
                self.tables.adagrad(rows_U, gradient, lr_GK, self.recipe.eps, weight)
        for weight, leaf in zip(parameters.values(), leaves, strict=True):
            weight.sub_(leaf.update)

    def _chained(self, step: int, leaves: Sequence[Leaf], part: slice = slice(None)) -> None:
        """From each leaf's gradient to its update; of runs that rest, nothing changes."""
        if not self.snapshots:
            self.method.chain(step, part).updates(leaves)
            return
        held = [{key: value.clone() for key, value in leaf.state.items()} for leaf in leaves]
        self.method.chain(step, part).updates(leaves)
        resting = self.snapshots.resting[part]
        for leaf, before in zip(leaves, held, strict=True):
            leaf.update = rest(resting, torch.zeros_like(leaf.update), leaf.update)
            for key, value in before.items():
                leaf.state[key] = rest(resting, value, leaf.state[key])

    def _show(self, step: int, leaves: Sequence[Leaf]) -> None:
        if self.look:
            by_name = dict(zip(self.network.parameters, leaves, strict=True))
            lr_R = self.method.lr(step)
            self.look(
                Look(step=step, runs=self.runs, lr=lr_R, leaves=by_name, network=self.network, tables=self.tables)
            )

    def _update_with_tables(self, step: int, leaves: list[Leaf], rows_U: Tensor, gradient: Tensor) -> None:
        """The method acts on the network and on each feature's touched rows, one group of runs at a time: groups touch
        different rows."""
        tables, dim = self.tables, self.recipe.embedding_dim
        segments = tables.segments(rows_U)
        dense = [[] for _ in leaves]
        for group in range(self.groups):
            part = slice(group * self.runs_of_group, (group + 1) * self.runs_of_group)
            own = [_slice(leaf, part) for leaf in leaves]
            sparse = []
            for _, feature, span in (s for s in segments if s[0] == group):
                rows = rows_U[span]
                state = self._state_of_table(group, feature)
                weight = _by_run(tables.weight.index_select(0, rows), dim)
                first = group * tables.ids + int(tables.starts_F[feature])
                leaf = Leaf(
                    weight=weight,
                    gradient=_by_run(gradient[span], dim),
                    update=_by_run(gradient[span], dim),
                    state={k: v[:, rows - first] if v.dim() == 3 else v for k, v in state.items()},
                    scratch={},
                    factor=None,
                )
                sparse.append((rows, rows - first, leaf, state))
            self._chained(step, [*own, *(leaf for _, _, leaf, _ in sparse)], part)
            for rows, codes, leaf, state in sparse:
                new = (leaf.weight - leaf.update).transpose(0, 1).reshape(len(rows), -1)
                tables.weight.index_copy_(0, rows, new)
                for key, value in leaf.state.items():
                    if value.dim() == 3:
                        state[key] = state[key].contiguous().index_copy_(1, codes, value)
                    else:
                        state[key] = value
            for collected, leaf in zip(dense, own, strict=True):
                collected.append(leaf)
        for leaf, parts in zip(leaves, dense, strict=True):
            leaf.update = torch.cat([part.update for part in parts])
            leaf.state |= {key: torch.cat([part.state[key] for part in parts]) for key in parts[0].state}
            if leaf.factor is not None:
                leaf.factor = torch.cat([part.factor for part in parts if part.factor is not None])

    def _state_of_table(self, group: int, feature: int) -> dict[str, Tensor]:
        """What the method keeps for a feature's table; made when a batch first touches it."""
        if not (0 <= group < self.groups and 0 <= feature < self.tables.features):
            raise ValueError(f"there is no table {group}/{feature}")
        if (group, feature) not in self.table_states:
            starts = [*self.tables.starts_F.tolist(), self.tables.ids]
            part = slice(group * self.runs_of_group, (group + 1) * self.runs_of_group)
            like = self.tables.weight.new_zeros(self.runs_of_group, 1, self.recipe.embedding_dim)
            rows = like.expand(-1, starts[feature + 1] - starts[feature], -1)
            state = self.method.chain(0, part).init(rows)
            if self.handed:
                state["accumulator"].copy_(torch.from_numpy(self.handed.table_accumulators[feature]))
            self.table_states[group, feature] = state
        return self.table_states[group, feature]


class _Method:
    """The stack's method at any step: lr after warm-up and thresholds, one value a run."""

    def __init__(self, runs: Sequence[Run], recipe: Recipe, dtype: torch.dtype, device: torch.device) -> None:
        self.name, self.recipe = runs[0].method, recipe
        self.options = methods.stack_options(self.name, [run.options for run in runs], dtype=dtype, device=device)
        self.peak_lr_R = torch.tensor([run.lr for run in runs], dtype=dtype, device=device)
        self.share_of_run: Tensor | None = None
        self.chains: dict[tuple[float, int | None], Chain] = {}

    def lr(self, step: int) -> Tensor:
        """(R,): linear warm-up, then the run's lr; where runs go back, their own share of it at this step."""
        return self.peak_lr_R * (self._share(step) if self.share_of_run is None else self.share_of_run)

    def unit_limit(self) -> Tensor | None:
        """(R,): to what hidden units are clamped, if they are."""
        limit = methods.unit_limit(self.name, self.options)
        return None if limit is None else torch.ones_like(self.peak_lr_R) * limit

    def chain(self, step: int, part: slice = slice(None)) -> Chain:
        """The method for this step, for a part of the runs."""
        key = (self._share(step) if self.share_of_run is None else float(step), part.start)
        if key not in self.chains:
            self.chains = {k: c for k, c in self.chains.items() if k[0] == key[0]}
            self.chains[key] = methods.build(
                self.name,
                self.lr(step)[part],
                {k: v[part] if isinstance(v, Tensor) else v for k, v in self.options.items()},
                initial_accumulator=self.recipe.initial_accumulator,
                eps=self.recipe.eps,
            )
        return self.chains[key]

    def _share(self, step: int) -> float:
        return min(1.0, (step + 1) / self.recipe.warmup) if self.recipe.warmup else 1.0


def _kind_of_stack(
    model: str, spec: Spec, network: nn.Module, dtype: torch.dtype, device: torch.device
) -> type[Stacked]:
    if fused_mlp.takes(network, dtype, device):
        return fused_mlp.FusedRankers
    return Stacked if stackable(model, spec) else OneByOne


def _judge(task: Task, scores_N: np.ndarray, labels_N: np.ndarray) -> float:
    if not np.isfinite(scores_N).all():
        return math.nan
    if task.kind == "binary":
        return auc(scores_N, labels_N)
    with np.errstate(over="ignore"):
        return float(np.sqrt(np.mean((scores_N - labels_N) ** 2)) * task.scale)


def auc(scores_N: np.ndarray, labels_N: np.ndarray) -> float:
    """Area under the ROC curve, ties counted half; NaN where only one class is present."""
    order = np.argsort(scores_N)  # numpy's unstable sort is 7 times faster, and ties share one rank anyway
    ordered, positive = scores_N[order], labels_N[order] > 0.5
    first = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    group = np.cumsum(first) - 1
    size = np.bincount(group)
    rank = (np.cumsum(size) - (size - 1) / 2)[group]
    n_positive = int(positive.sum())
    n_negative = len(positive) - n_positive
    if not n_positive or not n_negative:
        return math.nan
    return float((rank[positive].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def _by_run(rows: Tensor, dim: int) -> Tensor:
    """(U, K * E) -> (K, U, E)."""
    return rows.unflatten(1, (-1, dim)).transpose(0, 1).contiguous()


def _slice(leaf: Leaf, part: slice) -> Leaf:
    return Leaf(
        weight=leaf.weight[part],
        gradient=leaf.gradient[part],
        update=leaf.update[part],
        state={key: value[part] for key, value in leaf.state.items()},
        scratch={},
        factor=None if leaf.factor is None else leaf.factor[part],
    )


def _tensor(array: np.ndarray) -> Tensor:
    with warnings.catch_warnings():
        # Memory maps and Ray's shared arrays cannot be written, which torch warns of. Nothing here writes to them.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


@contextlib.contextmanager
def _reproducible(device: str) -> Iterator[None]:
    """One thread on CPU: with more, sums over large tensors are split by the size of the stack."""
    threads = torch.get_num_threads()
    if device == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)

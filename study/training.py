"""Trains a stack: runs of one model and method, in lockstep, as one batched computation.

A run's result does not depend on what it is stacked with: on CPU, with one thread, its bits are the same alone and in
any stack (products are batched matrix products, sums run inside a run, the batch is a multiple of the vector width).
Nothing waits for the device inside the loop: the losses of every step stay there and come back at the end.

Shape letters: R runs, G groups of K runs that share a seed (R = G * K), B batch, F id features, I inputs, T tasks,
S steps, N rows.
"""

import contextlib
import functools
import math
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state
from torch.nn import functional

import models
from study import methods, plugins
from study.config import Recipe, Run
from study.embeddings import Tables
from study.log import Log, Task
from study.streams import batches, stream
from study.transforms import Chain, Leaf


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a stack leaves behind; the order of runs is that of the stack.

    loss: float32 (R, S, T), mean loss of each task on each step's batch, before its update. constant: the same of the
    best constant predictor, on the same batches. finite: bool (R,), every weight is finite at the end. moved: float64
    (R,), how far the network has come from where it started: the L2 norm of the change of all its parameters.
    judged: {"auc_click": (R,), "rmse_play_time": (R,), ...} on the held-out rows; NaN where the run has no finite
    scores; RMSE in the target's unit. seconds: wall time a run.
    """

    loss: np.ndarray
    constant: np.ndarray
    finite: np.ndarray
    moved: np.ndarray
    judged: dict[str, np.ndarray]
    seconds: float


def steps_of(recipe: Recipe, train_rows: int) -> int:
    """Optimizer steps of a run: as the recipe says, or one pass. ValueError where the rows fill no batch."""
    if train_rows < recipe.batch:
        raise ValueError(f"{train_rows} training rows do not fill one batch of {recipe.batch}")
    return recipe.steps or train_rows // recipe.batch


def spec_of(log: Log, recipe: Recipe) -> models.Spec:
    return models.Spec(
        features=len(log.vocabulary),
        embedding_dim=recipe.embedding_dim,
        numbers=log.numbers.shape[1],
        head_bias=tuple(math.log(t.base / (1 - t.base)) if t.kind == "binary" else 0.0 for t in log.tasks),
    )


def build_network(model: str, spec: models.Spec) -> nn.Module:
    """A network by name. ValueError lists those there are."""
    return plugins.load("models", model, "model", "build").build(spec)


def train(runs: Sequence[Run], log: Log, device: str = "cpu", watch: Callable[[int], None] | None = None) -> Trained:
    """Train the runs as one stack and judge them on the held-out rows.

    All runs share model, recipe, method and the method's options; they differ in lr, thresholds and seed. Runs of a
    seed cost less in one stack than in two. watch(step) is called after each step.
    """
    started = time.perf_counter()
    with _reproducible(device):
        stack = _Stack(runs, log, torch.device(device))
        loss_RST = torch.empty(len(runs), stack.steps, len(log.tasks), dtype=torch.float32, device=device)
        constant_GST = torch.empty(stack.groups, stack.steps, len(log.tasks), dtype=torch.float32, device=device)
        for step, rows_GB in enumerate(stack.batches()):
            loss_RST[:, step], constant_GST[:, step] = stack.step(step, rows_GB)
            if watch:
                watch(step)
        judged = stack.judge()
        back = stack.order_of_runs
        return Trained(
            loss=loss_RST.cpu().numpy()[back],
            constant=constant_GST.cpu().numpy().repeat(stack.runs_of_group, axis=0)[back],
            finite=stack.finite().cpu().numpy()[back],
            moved=stack.moved()[back],
            judged={name: values[back] for name, values in judged.items()},
            seconds=(time.perf_counter() - started) / len(runs),
        )


@functools.cache
def stackable(model: str, spec: models.Spec) -> bool:
    """Whether two runs of the model can be computed as one stack. Where not, its runs train one by one."""
    networks = [_network(model, spec, seed) for seed in (0, 1)]
    inputs = torch.randn(2, 32, spec.width, generator=torch.Generator().manual_seed(0))
    try:
        with torch.random.fork_rng(devices=[]):
            stacked = _Stacked(networks, torch.float32, inputs.device)
            logits = stacked(inputs)
            torch.autograd.grad(logits.sum(), list(stacked.parameters.values()))
    except RuntimeError:
        return False
    with torch.random.fork_rng(devices=[]):
        return all(
            torch.allclose(logits[i], network(inputs[i]), rtol=1e-3, atol=1e-5) for i, network in enumerate(networks)
        )


class _Stack:
    """The state of a stack: tables, network parameters, method state, and the data it reads."""

    def __init__(self, runs: Sequence[Run], log: Log, device: torch.device) -> None:
        first = runs[0]
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
        self.numbers_ND = _tensor(log.numbers).to(device, self.dtype)
        self.labels_NT = _tensor(log.labels).to(device, self.dtype)
        self.constant_logit_T1 = torch.tensor(spec_of(log, self.recipe).head_bias, dtype=self.dtype, device=device)[
            :, None
        ]

        spec = spec_of(log, self.recipe)
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
        )
        self.start = lambda: {seed: _network(first.model, spec, seed) for seed in of_seed}
        networks = self.start()
        together = _Stacked if stackable(first.model, spec) else _OneByOne
        self.network = together([networks[run.seed] for run in ordered], self.dtype, device, [r.seed for r in ordered])
        self.width = spec.width

        self.method = _Method(ordered, self.recipe, self.dtype, device)
        self.states = {name: self.method.chain(0).init(w) for name, w in self.network.parameters.items()}
        self.table_states: dict[tuple[int, int], dict[str, Tensor]] = {}

    def batches(self) -> Iterator[Tensor]:
        """Row numbers (G, B) of each step."""
        recipe = self.recipe
        streams = {
            seed: batches(seed, rows=self.train_rows, batch=recipe.batch, window=recipe.window, steps=self.steps)
            for seed in dict.fromkeys(self.seeds)
        }
        for rows_of_seed in zip(*streams.values(), strict=True):
            rows = dict(zip(streams, rows_of_seed, strict=True))
            yield torch.from_numpy(np.stack([rows[seed] for seed in self.seeds])).to(self.device, non_blocking=True)

    def step(self, step: int, rows_GB: Tensor) -> tuple[Tensor, Tensor]:
        """One optimizer step. Returns the loss (R, T) before it, and the constant predictor's (G, T)."""
        inputs_RBI, positions = self._inputs(rows_GB)
        inputs_RBI.requires_grad_(self.tables.features > 0)
        labels_GTB = self.labels_NT.index_select(0, rows_GB.flatten()).view(*rows_GB.shape, -1).mT.contiguous()

        logits_RTB = self.network(inputs_RBI).mT.contiguous()
        labels_RTB = labels_GTB.repeat_interleave(self.runs_of_group, dim=0)
        loss_RT = _losses(logits_RTB, labels_RTB, self.tasks).mean(2)
        watched = [*self.network.parameters.values(), *([inputs_RBI] if self.tables.features else [])]
        gradients = torch.autograd.grad(loss_RT.sum(), watched, materialize_grads=True)

        with torch.no_grad():
            self._update(step, positions, gradients)
            constant_GTB = self.constant_logit_T1.expand_as(labels_GTB).contiguous()
            return loss_RT.detach(), _losses(constant_GTB, labels_GTB, self.tasks).mean(2)

    def judge(self) -> dict[str, np.ndarray]:
        """AUC or RMSE (R,) of each task on the held-out rows, in batches of the training's size."""
        rows_N = torch.arange(self.train_rows, len(self.labels_NT), device=self.device)
        scores = []
        with torch.no_grad(), self.network.judging():
            for rows_B in rows_N.split(self.recipe.batch):
                # The last batch is filled up: matrix products of another height may round otherwise.
                filled_B = functional.pad(rows_B, (0, self.recipe.batch - len(rows_B)), value=int(self.train_rows))
                inputs_RBI, _ = self._inputs(filled_B.expand(self.groups, -1))
                scores.append(self.network(inputs_RBI)[:, : len(rows_B)].mT)
        scores_RTN = torch.cat(scores, 2).double().cpu().numpy()
        labels_TN = self.labels_NT[self.train_rows :].double().cpu().numpy().T
        return {
            f"{'auc' if task.kind == 'binary' else 'rmse'}_{task.name}": np.array(
                [_judge(task, scores_RTN[r, t], labels_TN[t]) for r in range(len(scores_RTN))]
            )
            for t, task in enumerate(self.tasks)
        }

    def finite(self) -> Tensor:
        """Bool (R,): all weights of the run are finite."""
        finite = [w.isfinite().flatten(1).all(1) for w in self.network.parameters.values()]
        return torch.stack([*finite, self.tables.finite()]).all(0)

    def moved(self) -> np.ndarray:
        """float64 (R,): L2 distance of each network from its start, which is made anew: a copy would cost memory."""
        squares = np.zeros(len(self.runs))
        start = self.start()
        for name, weight in self.network.parameters.items():
            for r, run in enumerate(self.runs):
                began = start[run.seed].get_parameter(name).detach().to(weight.dtype).double().numpy()
                with np.errstate(over="ignore", invalid="ignore"):
                    squares[r] += np.square(weight[r].detach().cpu().double().numpy() - began).sum()
        return np.sqrt(squares)

    def _inputs(self, rows_GB: Tensor) -> tuple[Tensor, Tensor]:
        runs, batch = self.groups * self.runs_of_group, rows_GB.shape[1]
        inputs_RBI = torch.empty(runs, batch, self.width, dtype=self.dtype, device=self.device)
        positions = self.tables.positions(self.ids_NF.index_select(0, rows_GB.flatten()).view(self.groups, batch, -1))
        if self.tables.features:
            self.tables.read(positions, inputs_RBI)
        if self.numbers_ND.shape[1]:
            numbers_GBD = self.numbers_ND.index_select(0, rows_GB.flatten()).view(self.groups, 1, batch, -1)
            columns = inputs_RBI[:, :, -self.numbers_ND.shape[1] :].unflatten(0, (self.groups, self.runs_of_group))
            columns.copy_(numbers_GBD.expand_as(columns))
        return inputs_RBI, positions

    def _update(self, step: int, positions: Tensor, gradients: Sequence[Tensor]) -> None:
        parameters = self.network.parameters
        leaves = [
            Leaf(weight=weight, gradient=gradient, update=gradient, state=self.states[name], scratch={}, factor=None)
            for (name, weight), gradient in zip(parameters.items(), gradients, strict=False)
        ]
        if not self.tables.features:
            self.method.chain(step).updates(leaves)
        else:
            rows_U, gradient = self.tables.gradients(positions, gradients[-1])
            if self.recipe.embeddings == "method":
                self._update_with_tables(step, leaves, rows_U, gradient)
            else:
                self.method.chain(step).updates(leaves)
                lr_GK = self.method.lr(step).view(self.groups, self.runs_of_group)
                self.tables.adagrad(rows_U, gradient, lr_GK, self.recipe.eps)
        for weight, leaf in zip(parameters.values(), leaves, strict=True):
            weight.sub_(leaf.update)

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
                state = self.table_states.setdefault((group, feature), {})
                weight = _by_run(tables.weight.index_select(0, rows), dim)
                if not state:
                    size = [*tables.starts_F.tolist(), tables.ids]
                    codes = size[feature + 1] - size[feature]
                    state |= self.method.chain(step, part).init(weight[:, :1].expand(-1, codes, -1))
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
            self.method.chain(step, part).updates([*own, *(leaf for _, _, leaf, _ in sparse)])
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


class _Method:
    """The stack's method at any step: lr after warm-up and thresholds, one value a run."""

    def __init__(self, runs: Sequence[Run], recipe: Recipe, dtype: torch.dtype, device: torch.device) -> None:
        self.name, self.recipe = runs[0].method, recipe
        self.options = methods.stack_options(self.name, [run.options for run in runs], dtype=dtype, device=device)
        self.peak_lr_R = torch.tensor([run.lr for run in runs], dtype=dtype, device=device)
        self.chains: dict[tuple[float, int | None], Chain] = {}

    def lr(self, step: int) -> Tensor:
        """(R,): linear warm-up, then the run's lr."""
        return self.peak_lr_R * self._share(step)

    def chain(self, step: int, part: slice = slice(None)) -> Chain:
        """The method for this step, for a part of the runs."""
        key = (self._share(step), part.start)
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


class _Stacked:
    """The networks of a stack as one function: inputs_RBI -> logits_RBT by `vmap` over the run axis."""

    def __init__(
        self, networks: Sequence[nn.Module], dtype: torch.dtype, device: torch.device, seeds: Sequence[int] = ()
    ) -> None:
        self.module = networks[0]
        parameters, buffers = stack_module_state(list(networks))
        self.parameters = {k: v.detach().to(device, dtype).requires_grad_() for k, v in parameters.items()}
        # Running statistics in the run's precision; counters and masks as they are.
        self.buffers = {k: v.to(device, dtype if v.is_floating_point() else v.dtype) for k, v in buffers.items()}
        self.call = torch.vmap(lambda p, b, x: functional_call(self.module, (p, b), (x,)), randomness="error")

    def __call__(self, inputs_RBI: Tensor) -> Tensor:
        return self.call(self.parameters, self.buffers, inputs_RBI)

    @contextlib.contextmanager
    def judging(self) -> Iterator[None]:
        self.module.eval()
        yield
        self.module.train()


class _OneByOne(_Stacked):
    """The same for a network that `vmap` cannot take: each run is computed alone, inside the same stack.

    Whatever the network draws (dropout) comes from the run's own stream, by seed and call.
    """

    def __init__(
        self, networks: Sequence[nn.Module], dtype: torch.dtype, device: torch.device, seeds: Sequence[int] = ()
    ) -> None:
        super().__init__(networks, dtype, device)
        self.seeds, self.calls = seeds, 0
        self.own_buffers = [{k: v[r].clone() for k, v in self.buffers.items()} for r in range(len(networks))]

    def __call__(self, inputs_RBI: Tensor) -> Tensor:
        self.calls += 1
        devices = [inputs_RBI.device] if inputs_RBI.device.type == "cuda" else []
        logits = []
        with torch.random.fork_rng(devices=devices):
            for r, seed in enumerate(self.seeds):
                torch.manual_seed(stream(seed, "network", str(self.calls)))
                own = {name: values[r] for name, values in self.parameters.items()}
                logits.append(functional_call(self.module, (own, self.own_buffers[r]), (inputs_RBI[r],)))
        return torch.stack(logits)


def _network(model: str, spec: models.Spec, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream(seed, "weights"))
        return build_network(model, spec)


def _losses(logits_RTB: Tensor, labels_RTB: Tensor, tasks: Sequence[Task]) -> Tensor:
    """Loss of every example (R, T, B): logistic on logits (nats), squared error on standardized targets."""
    losses = []
    for start, stop, kind in _spans(tasks):
        logits, labels = logits_RTB[:, start:stop], labels_RTB[:, start:stop]
        if kind == "binary":
            losses.append(functional.binary_cross_entropy_with_logits(logits, labels, reduction="none"))
        else:
            losses.append((logits - labels).square())
    return torch.cat(losses, 1)


def _spans(tasks: Sequence[Task]) -> list[tuple[int, int, str]]:
    """Neighbouring tasks of one kind: (start, stop, kind)."""
    spans: list[tuple[int, int, str]] = []
    for t, task in enumerate(tasks):
        if spans and spans[-1][2] == task.kind:
            spans[-1] = (spans[-1][0], t + 1, task.kind)
        else:
            spans.append((t, t + 1, task.kind))
    return spans


def _judge(task: Task, scores_N: np.ndarray, labels_N: np.ndarray) -> float:
    if not np.isfinite(scores_N).all():
        return math.nan
    if task.kind == "binary":
        return auc(scores_N, labels_N)
    with np.errstate(over="ignore"):
        return float(np.sqrt(np.mean((scores_N - labels_N) ** 2)) * task.scale)


def auc(scores_N: np.ndarray, labels_N: np.ndarray) -> float:
    """Area under the ROC curve, ties counted half; NaN where only one class is present."""
    order = np.argsort(scores_N, kind="stable")
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
        factor=None,
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

"""What the tests of several folders share: stacks."""

import dataclasses
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch_schedules import shares_of

from study import methods
from study.config import Recipe, Rule, Run, steps_of
from study.data._dataset import Log, Task
from study.outcomes.judge import judge
from study.outcomes.reference import Reference
from study.streams import stream
from study.training.networks import build_network, spec_of
from study.training.rng import batches
from study.training.stack import StackTraining
from study.training.trainer import Trained

RECIPE = Recipe(batch=64, steps=17, warmup=3, window=150)

EARLY = {
    "zclip": {"warmup_steps": 4, "z_max": 0.5},
    "adagc": {"warmup_steps": 4},
    "update_rms_clip": {"d": 0.01},
    "activation_clip": {"limit": 0.5},
    "rollback": {"spike": 0.5, "back": 4, "skip": 3},
    "rollback_lower_lr": {"spike": 0.5, "back": 4},
}
"""Options that make a method act within a few steps."""

VOCABULARY = (11, 4, 40)


def make_log(*, train_rows: int = 700, heldout_rows: int = 173, noise: float = 1.0, ids: bool = True) -> Log:
    """A log by hand: two binary tasks about a regression, whose logits are sums of effects of ids and numbers."""
    rng = np.random.default_rng(7)
    rows = train_rows + heldout_rows
    vocabulary = VOCABULARY if ids else ()
    codes = [np.minimum(rng.zipf(1.6, rows), n) - 1 for n in vocabulary]
    numbers = rng.standard_normal((rows, 2)).clip(-3, 3)
    signal = numbers @ np.array([[0.9, -0.5, 0.8], [-0.4, 0.9, 0.3]])
    for code, n in zip(codes, vocabulary, strict=True):
        signal = signal + rng.standard_normal((n, 3))[code]
    rates = 1 / (1 + np.exp(-signal / max(noise, 1e-9)))
    watch = 3 + 2 * signal[:, 1] + noise * rng.standard_normal(rows)
    click, like = (rng.random(rows) < rates[:, 0]), (rng.random(rows) < 0.3 * rates[:, 2])
    mean, std = watch[:train_rows].mean(), watch[:train_rows].std()
    labels = np.stack([click, (watch - mean) / std, like], axis=1).astype(np.float32)
    return Log(
        ids=np.stack(codes, axis=1).astype(np.int32) if ids else np.zeros((rows, 0), np.int32),
        numbers=numbers.astype(np.float32),
        labels=labels,
        train_rows=train_rows,
        vocabulary=vocabulary,
        id_names=("user", "tab", "item")[: len(vocabulary)],
        number_names=("age", "price"),
        tasks=(
            _binary("click", labels[:train_rows, 0]),
            Task(name="watch", kind="regression", base=float(mean), scale=float(std), constant_loss=1.0, unit="s"),
            _binary("like", labels[:train_rows, 2]),
        ),
        content="c" * 64,
        facts={},
    )


def _binary(name: str, labels: np.ndarray) -> Task:
    p = float(labels.mean(dtype=np.float64))
    return Task(name=name, kind="binary", base=p, constant_loss=-p * math.log(p) - (1 - p) * math.log1p(-p))


LOG = make_log()

LENGTHS, POOLS = (1, 4, 3), ("mean", "mean", "sum")


def with_lists(log: Log) -> Log:
    """The log with lists in place of its second and third id."""
    random = np.random.default_rng(2)
    rows = len(log.ids)
    columns = [log.ids[:, :1]]
    for length, codes in zip(LENGTHS[1:], log.vocabulary[1:], strict=True):
        ids = random.integers(0, codes, (rows, length))
        ids[np.arange(length) >= random.integers(1, length + 1, rows)[:, None]] = -1
        columns.append(ids)
    ids = np.concatenate(columns, axis=1).astype(np.int32)
    return dataclasses.replace(log, ids=ids, lengths=LENGTHS, pools=POOLS)


def with_missing(log: Log, *shares: float) -> Log:
    """The log without a share of each task's labels."""
    labels = np.array(log.labels)
    labels[np.random.default_rng(3).random(labels.shape) < np.array(shares)] = np.nan
    return dataclasses.replace(log, labels=labels)


def make_run(**changes: Any) -> Run:
    values: dict[str, Any] = {"data": LOG.content, "model": "small", "method": "none", "lr": 0.3, "seed": 5}
    values |= {"recipe": RECIPE} | changes
    return Run(**values)


def bits_of(trained: Trained, i: int) -> tuple[Any, ...]:
    """Everything that a stack leaves of one run, outcome included."""
    reference = Reference(lr=0.02, gain=0.2, task_gain=(0.2, None, 0.1))
    loss_constants = np.array([task.constant_loss for task in LOG.tasks])
    outcomes = judge(trained.loss, trained.constant, loss_constants, trained.finite, reference, Rule())
    judged = {name: values[i].tobytes() for name, values in trained.judged.items()}
    counts = {name: int(values[i]) for name, values in trained.counts.items()}
    return (
        trained.loss[i].tobytes(),
        trained.constant[i].tobytes(),
        bool(trained.finite[i]),
        judged,
        counts,
        outcomes[i],
    )


def assert_resumes(run: Run, at: int) -> None:
    """Check that a run which goes on from the state after `at` steps has the bits of one that was not interrupted."""
    stack, resumed = (StackTraining([run], LOG, torch.device("cpu")) for _ in range(2))
    rows = list(stack.batches())
    for step in range(at):
        stack.step(step, rows[step])
    resumed.load_state({name: array.copy() for name, array in stack.state_arrays()})
    for step in range(at, len(rows)):
        assert torch.equal(stack.step(step, rows[step])[0], resumed.step(step, rows[step])[0])
    assert all(torch.equal(tensor, resumed.state()[name]) for name, tensor in stack.state().items())


def ragged_stack(run: Run) -> list[Run]:
    """32 runs to stand beside it: other seeds in unequal numbers, other lrs and thresholds, and some that blow up."""
    signature = methods.signature(run.method)
    own = [name for name in signature.thresholds if name not in methods.COMMON]
    agreed = {name: value for name, value in run.options.items() if name in signature.options}
    stack = []
    for i in range(26):
        options = agreed | (dict.fromkeys(own, 0.05 * (1 + i)) if i % 3 == 0 else {})
        options |= {"weight_decay": 0.01} if i % 5 == 0 else {}
        seed = (0, 5, 9, 9, 9, 9, 2)[i % 7]
        stack.append(dataclasses.replace(run, lr=0.02 * (1 + i), seed=seed, options=options))
    wild = agreed | dict.fromkeys(own, 1e9)
    for i in range(6):
        stack.append(dataclasses.replace(run, lr=1e4, seed=(5, 5, 5, 3, 2, 9)[i], options=wild | {"weight_decay": 1e3}))
    return stack


class Plain(nn.Module):
    """The same network behind one sparse `nn.Embedding` a feature, in the precision asked for."""

    def __init__(self, run: Run, log: Log) -> None:
        super().__init__()
        recipe = run.recipe
        torch.manual_seed(stream(run.seed, "weights"))
        self.network = build_network(run.model, spec_of(log, recipe))
        self.tables = nn.ModuleList()
        for name, codes in zip(log.id_names, log.vocabulary, strict=True):
            generator = torch.Generator().manual_seed(stream(run.seed, "embeddings", name))
            rows = torch.randn(codes, recipe.embedding_dim, generator=generator) * recipe.embedding_std
            self.tables.append(nn.Embedding.from_pretrained(rows, freeze=False, sparse=True))
        self.to(getattr(torch, recipe.precision))

    def forward(self, ids: Tensor, numbers: Tensor) -> Any:
        embedded = [table(ids[:, f]) for f, table in enumerate(self.tables)]
        return self.network(torch.cat([*embedded, numbers], dim=1))


def plain_loop(
    run: Run,
    log: Log,
    unit_limit: float = math.inf,
    plain: Plain | None = None,
    optimizer: torch.optim.Optimizer | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Losses (S, T) and held-out logits (N, T) of torch.optim.Adagrad. unit_limit: of what comes out of each ReLU.
    plain: trained on in place; None begins anew. optimizer: its own, which goes on; None is a fresh one. A group may
    have a peak lr of its own, `peak`."""
    recipe = run.recipe
    plain = plain or Plain(run, log)
    plain.train()
    for module in plain.modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(lambda _m, _i, out: out.clamp(max=unit_limit))
    dtype = getattr(torch, recipe.precision)
    optimizer = optimizer or torch.optim.Adagrad(
        plain.parameters(), lr=run.lr, initial_accumulator_value=recipe.initial_accumulator, eps=recipe.eps
    )
    ids, numbers = torch.from_numpy(log.ids).long(), torch.from_numpy(log.numbers).to(dtype)
    labels = torch.from_numpy(log.labels).to(dtype)
    losses = []
    steps = steps_of(recipe, log.train_rows)
    shares, peaks = shares_of(recipe, steps), [group.get("peak", run.lr) for group in optimizer.param_groups]
    order = batches(run.seed, rows=log.train_rows, batch=recipe.batch, window=recipe.window, steps=steps)
    for step, rows in enumerate(order):
        outputs = plain(ids[rows], numbers[rows])
        logits, aux = outputs if isinstance(outputs, tuple) else (outputs, torch.zeros(()))
        loss = torch.stack([_loss(logits[:, t], labels[rows, t], task) for t, task in enumerate(log.tasks)])
        losses.append(loss.detach())
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * shares[step]
        optimizer.zero_grad()
        (loss.sum() + aux).backward()
        with torch.sparse.check_sparse_tensor_invariants(True):  # or torch warns that it does not check
            optimizer.step()
    plain.eval()
    with torch.no_grad():
        heldout = plain(ids[log.train_rows :], numbers[log.train_rows :])
        heldout = heldout[0] if isinstance(heldout, tuple) else heldout
    return torch.stack(losses).numpy(), heldout.double().numpy()


def _loss(logits: Tensor, labels: Tensor, task: Task) -> Tensor:
    """The mean over the labelled rows; 0 if there are none."""
    known = ~labels.isnan()
    if not known.any():
        return 0 * logits.sum()
    loss = functional.mse_loss if task.kind == "regression" else functional.binary_cross_entropy_with_logits
    return loss(logits[known], labels[known])

"""A device that computes nothing: what would wait for a GPU, or mix tensors of two devices, raises.

Tensors in `FakeTensorMode` have shapes and a device, and no numbers. Whatever needs a number (`.item()`, `int(x)`)
raises `DataDependentOutputException`. A shape that depends on numbers (`nonzero`, `unique`) raises
`DynamicOutputShapeException`. CPU builds of torch refuse "cuda" here, so the device is one of a Python backend.
"""

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from stacks import LOG, RECIPE, make_run
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from study.config import Run
from study.data._dataset import Log
from study.training.matmul import onednn_is_exact
from study.training.model_check import stackable
from study.training.networks import spec_of
from study.training.stack import StackTraining

# Before the first backward, which makes a queue for each device. From then on torch takes it as the accelerator, for
# checkpoints of activations too: what imports this file needs a process of its own.
_setup_privateuseone_for_python_backend("nothing")

DEVICE = torch.device("nothing:0")

STEPS = 3


@contextlib.contextmanager
def computing_nothing() -> Iterator[FakeTensorMode]:
    """Tensors inside the block have no numbers; those of numpy arrays and lists begin on the CPU."""
    mode: Any = FakeTensorMode()
    mode.__deepcopy__ = lambda _memo: mode  # copies of tensors stay in the mode
    made = {name: getattr(torch, name) for name in ("from_numpy", "tensor", "as_tensor")}

    def without_numbers(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def moved(data: Any, *, device: Any = None, **others: Any) -> Tensor:
            found = data if isinstance(data, Tensor) else mode.from_tensor(make(data, **others))
            return found if device is None else found.to(device)

        return moved

    for name, make in made.items():
        setattr(torch, name, without_numbers(make))
    # `module.to(device)` swaps fake tensors, and refuses to if torch's own caches refer to one.
    utilities: Any = torch.utils
    references, utilities.weakref = utilities.weakref, SimpleNamespace(getweakrefs=lambda _: [])
    try:
        with mode:
            yield mode
    finally:
        utilities.weakref = references
        for name, make in made.items():
            setattr(torch, name, make)


def four_runs(
    method: str, model: str, embeddings: str = "adagrad", precision: str = "float32", **more: Any
) -> list[Run]:
    """Two lrs of two seeds."""
    recipe = dataclasses.replace(RECIPE, steps=STEPS, warmup=2, embeddings=embeddings, precision=precision)
    run = make_run(method=method, model=model, recipe=recipe, **more)
    return [dataclasses.replace(run, seed=seed, lr=lr) for seed in (3, 5) for lr in (0.1, 3.0)]


def try_on_cpu(runs: Sequence[Run], log: Log) -> None:
    """What is tried once a process with real numbers, before a stack is made."""
    onednn_is_exact()
    stackable(runs[0].model, spec_of(log, runs[0].recipe))


def trained(runs: Sequence[Run], log: Log = LOG, watch: TorchDispatchMode | None = None) -> StackTraining:
    """Train a stack on the device, inside `computing_nothing`. `watch` sees the last step."""
    training = StackTraining(runs, log, DEVICE)
    for step, rows_GB in enumerate(training.batches()):
        with watch if watch and step == STEPS - 1 else contextlib.nullcontext():
            training.loss_RST[:, step], training.constant_GST[:, step] = training.step(step, rows_GB)
    return training


class Launches(TorchDispatchMode):
    """Counts the operations that a device would start; views and questions start none.

    Attributes:
        counts: By the name of the operation.
    """

    FREE = ("detach", "_unsafe_view", "lift_fresh", "alias", "device", "empty", "empty_like", "new_empty")

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        name = func.__name__.split(".")[0]
        if not func.is_view and name not in self.FREE:
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


def arrays_like(state: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """Arrays as a checkpoint of this state has them."""
    return {name: np.zeros(x.shape, str(x.dtype).removeprefix("torch.")) for name, x in state.items()}

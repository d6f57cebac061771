"""Tries a user's model before a study: what cannot be trained, or breaks a promise of the study, is one line.

Two seeds and two lrs are trained for a few steps on the first rows of the data, alone, side by side, and from a
checkpoint. Shape letters: B batch, I inputs, T tasks.
"""

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from study.config import Recipe, Run
from study.data._dataset import Log
from study.definition import model_options
from study.text import own_errors
from study.training import evaluation
from study.training.model_check import ROWS
from study.training.networks import network_of_seed, spec_of
from study.training.stack import StackTraining
from study.training.threads import one_thread_on_cpu

STEPS = 3
CODES = 8
"""Most codes of an id feature: tables of the data may be large."""


@torch.random.fork_rng(devices=[])
@one_thread_on_cpu("cpu")
def check(model: str, recipe: Recipe, log: Log) -> None:
    """Raise ValueError if a user's model cannot be trained, with the file, the line and the reason.

    Args:
        model: The model, with its options.
        recipe: The study's recipe.
        log: The study's data.
    """
    name = model_options.parse(model)[0]
    build, module = model_options.load(name).build, model_options.load(name).__name__
    spec = spec_of(log, recipe)
    at_build = own_errors.place_of(build) or name
    with own_errors.located(module, at_build):
        network = network_of_seed(model, spec, 0)
    if not isinstance(network, nn.Module) or isinstance(network, torch.jit.ScriptModule):
        raise ValueError(f"{at_build}: build returns {type(network).__name__}, but a torch.nn.Module is needed")
    if lazy := [key for key, value in network.state_dict().items() if is_lazy(value)]:
        raise ValueError(f"{at_build}: {lazy[0]} has no size yet: give layers their sizes (the inputs are spec.width)")
    own = type(network).__module__ == module
    at_forward = own_errors.place_of(type(network).forward) if own else at_build
    with own_errors.located(module, at_forward):
        inputs_BI = torch.randn(ROWS, spec.width, dtype=getattr(torch, recipe.precision))
        outputs = network.to(inputs_BI.dtype)(inputs_BI.requires_grad_(spec.features > 0) * 1)
    if wrong := _wrong_outputs(outputs, len(log.tasks)):
        raise ValueError(f"{at_forward}: {wrong}")
    with own_errors.located(module, at_forward):
        wrong = _broken_promise(model, _small(recipe), _first_rows(log))
    if wrong:
        raise ValueError(f"{at_forward}: {wrong}")


def _wrong_outputs(outputs: Any, tasks: int) -> str:
    needed = f"but one logit a task is needed, ({ROWS}, {tasks}) for a batch of {ROWS}"
    if isinstance(outputs, tuple) and len(outputs) == 2 and _is_one_number(outputs[1]):
        outputs = outputs[0]
    elif isinstance(outputs, tuple):
        return f"the model returns tuple, {needed}, or (logits, aux) where aux is one number, a tensor of shape ()"
    if not isinstance(outputs, Tensor):
        return f"the model returns {type(outputs).__name__}, {needed}"
    if tuple(outputs.shape) != (ROWS, tasks):
        return f"the model returns {tuple(outputs.shape)}, {needed}"
    if not outputs.is_floating_point():
        return f"the model returns {outputs.dtype}, but logits are needed"
    if not outputs.requires_grad:
        return "no output depends on a weight that can be trained (requires_grad, no_grad, detach)"
    return ""


def _is_one_number(aux: Any) -> bool:
    return isinstance(aux, Tensor) and aux.dim() == 0 and aux.is_floating_point()


def _broken_promise(model: str, recipe: Recipe, log: Log) -> str:
    runs = [
        Run(data=log.content, model=model, method="none", lr=lr, seed=seed, recipe=recipe)
        for seed, lr in ((0, 0.01), (0, 0.02), (1, 0.01))
    ]
    together = _trained(runs, log)
    for i, run in enumerate(runs):
        if not _same(_trained([run], log)[0], together[i]):
            return (
                "a run has other bits alone than beside other runs: the network draws random numbers that are not "
                "torch's, or its runs share what changes"
            )
    if not _same(_trained(runs[:1], log, resumed=True)[0], together[0]):
        return (
            "a run that continues from a checkpoint differs: the network keeps something from batch to batch that is "
            "no buffer (register_buffer), or draws random numbers that are not torch's global ones"
        )
    return ""


def _trained(runs: list[Run], log: Log, *, resumed: bool = False) -> list[list[np.ndarray]]:
    """Return the losses, weights and scores of each run, in the caller's order."""
    stack = StackTraining(runs, log, torch.device("cpu"))
    batches = list(stack.batches())
    for step, rows_GB in enumerate(batches):
        if resumed and step == 1:
            state = {name: array.copy() for name, array in stack.state_arrays()}
            stack = StackTraining(runs, log, torch.device("cpu"))
            stack.load_state(state)
        stack.loss_RST[:, step], _ = stack.step(step, rows_GB)
    judged = evaluation.evaluate(stack)
    found = []
    for r in stack.groups.callers_order:
        weights = stack.network.weights_of_run(int(r)).values()
        found.append(
            [stack.loss_RST[r].numpy(), *(w.detach().numpy() for w in weights), *(v[r] for v in judged.values())]
        )
    return found


def _same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b, equal_nan=np.asarray(a).dtype.kind == "f") for a, b in zip(one, other, strict=True))


def _small(recipe: Recipe) -> Recipe:
    rows = ROWS * STEPS
    return dataclasses.replace(
        recipe, batch=ROWS, steps=STEPS, warmup=0, window=rows, init_from="", init_accumulators="", embeddings="adagrad"
    )


def _first_rows(log: Log) -> Log:
    """The first rows of the data, with few codes."""
    places = np.arange(ROWS * (STEPS + 1)) % len(log.labels)
    ids = np.asarray(log.ids[places])
    codes = np.repeat(np.minimum(CODES, log.vocabulary), [len(span) for span in log.spans]).astype(np.int32)
    return dataclasses.replace(
        log,
        ids=np.where(ids < 0, ids, ids % codes),  # below 0: the end of a list
        numbers=np.asarray(log.numbers[places]),
        labels=np.asarray(log.labels[places]),
        train_rows=ROWS * STEPS,
        vocabulary=tuple(min(CODES, codes) for codes in log.vocabulary),
    )

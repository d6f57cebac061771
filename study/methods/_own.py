"""Tries a user's method on toy tensors before a study: what raises, or breaks a promise of the study, is one line.

Three runs take a few steps: each alone, side by side, with one value of each threshold for all runs and one a run, and
with a state that was saved and loaded. A run must get the same bits each time. Since a link may act only on large or
small values, all of this is done at several scales.
"""

import contextlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from study.methods import _registry as registry
from study.text import own_errors
from study.transforms import Chain, Leaf, LeafLink, Link

SHAPES = ((4, 3), (4,), (1,))
LRS = (0.1, 0.3, 0.02)
STEPS = 3
SCALES = tuple(10.0**power for power in (-3, -2, -1, 1, 2, 3, 4, 5, 6))
"""Further ones, of the gradients and of the lrs. Each is less than the ratio of two runs, so that no threshold falls
between them."""

Trace = list[tuple[Link, list[Tensor], str]]
"""Each link of each step, the updates (R, *shape) that it left, and what it did wrong, which is the last."""


def check(name: str, options: Mapping[str, Any]) -> None:
    """Raise ValueError if the links of a user's method raise or mix runs, with the file and the line.

    Args:
        name: The method.
        options: As `registry.check` returns them.
    """
    module = registry.load(name)
    at_build = own_errors.place_of(module.build)
    with own_errors.located(module.__name__, at_build):
        registry.unit_limit(name, options)
        registry.rollback_options(name, options)
        link, wrong = _wrong(name, options, 1.0)
    for scale in SCALES if not wrong else ():
        with contextlib.suppress(Exception):  # a method may refuse such numbers
            link, wrong = _wrong(name, options, scale)
        if wrong:
            break
    if wrong:
        raise ValueError(f"{(link and _place(link)) or at_build}: {wrong}")


def _wrong(name: str, options: Mapping[str, Any], scale: float) -> tuple[Link | None, str]:
    alone = [_trace(name, options, scale, slice(r, r + 1)) for r in range(len(LRS))]
    ways = (
        (
            _trace(name, options, scale),
            "a run gets another update beside other runs than alone: it mixes runs",
        ),
        (
            _trace(name, options, scale, one_a_run=True),
            "a run gets another update where thresholds have one value a run, a tensor (R,), instead of a number "
            "(number / tensor rounds in another way than tensor / tensor)",
        ),
        (
            _trace(name, options, scale, reloaded=True),
            "a run that continues from a checkpoint gets another update: a link keeps what is not in leaf.state",
        ),
    )
    for link, _, wrong in (trace[-1] for trace in (*alone, *(trace for trace, _ in ways)) if trace):
        if wrong:
            return link, wrong
    if link := _first_difference(alone[:1], _trace(name, options, scale, slice(0, 1))):
        return link, "a run gets another update when it is tried again: a link draws random numbers"
    return next(((link, why) for trace, why in ways if (link := _first_difference(alone, trace))), (None, ""))


def _trace(
    name: str,
    options: Mapping[str, Any],
    scale: float,
    runs: slice = slice(None),
    *,
    one_a_run: bool = False,
    reloaded: bool = False,
) -> Trace:
    values = {key: value for key, value in registry.signature(name).defaults.items() if key not in registry.COMMON}
    values |= options
    if one_a_run:  # a threshold of 0 is often off
        as_tensors = [key for key in registry.signature(name).thresholds if values.get(key)]
        values |= {key: torch.full((len(LRS[runs]),), values[key]) for key in as_tensors}

    def built() -> Chain:
        return registry.build(name, torch.tensor(LRS)[runs] * scale, values)

    chain, trace = built(), []
    draws = torch.Generator().manual_seed(0)
    weights = [torch.randn(len(LRS), *shape, generator=draws)[runs].clone() for shape in SHAPES]
    states = [chain.init(weight) for weight in weights]
    for _ in range(STEPS):
        gradients = [torch.randn(len(LRS), *shape, generator=draws) * scale for shape in SHAPES]
        for gradient in gradients:
            gradient[1] *= 1e3  # so that clips act
        own = [gradient[runs].clone() for gradient in gradients]
        leaves = [Leaf(weight=w, gradient=g, update=g, state=s) for w, g, s in zip(weights, own, states, strict=True)]
        chain.start(leaves)
        for link in chain.links:
            wrong = _apply(link, leaves)
            trace.append((link, [leaf.update.clone() for leaf in leaves], wrong))
            if wrong:
                return trace
        weights, states = [leaf.weight - leaf.update for leaf in leaves], [leaf.state for leaf in leaves]
        if reloaded:
            chain, states = built(), [{key: value.clone() for key, value in state.items()} for state in states]
    return trace


def _apply(link: Link, leaves: list[Leaf]) -> str:
    """Apply a link. Returns what it did wrong: it changed what it must not, or left another shape."""
    before = [(leaf.weight.clone(), leaf.gradient.clone(), set(leaf.state)) for leaf in leaves]
    link.apply(leaves)
    for leaf, (weight, gradient, keys) in zip(leaves, before, strict=True):
        if not (_equal(weight, leaf.weight) and _equal(gradient, leaf.gradient)):
            return "a link changes leaf.weight or leaf.gradient: it may change leaf.update alone"
        if leaf.update.shape != weight.shape:
            return f"a link leaves an update {tuple(leaf.update.shape)} for a weight {tuple(weight.shape)}"
        if more := sorted(set(leaf.state) - keys):
            return f"leaf.state[{more[0]!r}] is not made by the link's init, so a checkpoint has no place for it"
        for key, value in leaf.state.items():
            if value.shape[:1] != weight.shape[:1]:
                return f"leaf.state[{key!r}] is {tuple(value.shape)}: its first axis must be the runs"
    return ""


def _first_difference(alone: list[Trace], together: Trace) -> Link | None:
    """The first link that leaves a run other bits than alone."""
    for (link, updates, _), *own in zip(together, *alone, strict=True):
        for update, *parts in zip(updates, *(tensors for _, tensors, _ in own), strict=True):
            if not _equal(update, torch.cat(parts)):
                return link
    return None


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)


def _place(link: Link) -> str:
    """Where the function of a user's own link is; empty for one of ours."""
    if type(link).__module__.startswith("study.transforms"):
        return ""
    function = type(link).apply_one if isinstance(link, LeafLink) else type(link).apply
    return own_errors.place_of(function)

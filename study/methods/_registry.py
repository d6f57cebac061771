"""Loads methods by name, checks their options and builds their chains."""

import functools
import inspect
import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from study import plugins
from study.config import check_number
from study.methods import _bases
from study.methods._rollback import RollbackOptions
from study.text import own_errors
from study.transforms import (
    Chain,
    Link,
    Scalar,
    chain,
    decay_weights,
    scale_by_adagrad,
)

PACKAGE = "study.methods"

COMMON = {"base": "adagrad", "weight_decay": 0.0, "momentum": 0.0}
"""Of every method. base: one of `BASES`. weight_decay: decoupled, outside clips. momentum: of sgd and rmsprop."""

BESIDE = ("unit_limit", "rollback_options")
"""Functions of a method that acts on more than the update."""


@dataclass(frozen=True)
class MethodSignature:
    """Thresholds and options of a method, with defaults. Only thresholds may differ between the runs of a stack.

    Args:
        thresholds, options: Of the method itself, with `COMMON`.
        of_base: Options that a study gives its base, but those whose name is the method's own. Optimizers have torch's
            words for them.
    """

    thresholds: dict[str, float]
    options: dict[str, str | bool | int]
    of_base: dict[str, bool | float | None]

    @property
    def defaults(self) -> dict[str, Any]:
        return self.thresholds | self.options

    @property
    def agreed(self) -> dict[str, Any]:
        """What the runs of a stack agree in."""
        return self.options | self.of_base


def names() -> list[str]:
    """Return the names of the methods in this folder, in alphabetical order."""
    return list(plugins.names(PACKAGE))


def load(name: str) -> ModuleType:
    """Return the module of a method.

    Args:
        name: A file of this folder, or a dotted name.

    Raises:
        ValueError: If there is no such module, or it defines no `build`.
    """
    return plugins.load(PACKAGE, name, "method", "build")


@functools.cache
def signature(name: str) -> MethodSignature:
    """Return the thresholds and options of a method, read from the signature of its `build`.

    Raises:
        ValueError: If the method is unknown, or its `build` does not take `(lr, *, base, ...)`.
    """
    parameters = dict(inspect.signature(load(name).build).parameters)
    if list(parameters)[:1] != ["lr"] or "base" not in parameters:
        raise ValueError(f"{name!r} is not a method: build takes (lr, *, base, ...)")
    own = {key: p.default for key, p in parameters.items() if key not in ("lr", "base")}
    for key, default in own.items():
        if parameters[key].kind is not inspect.Parameter.KEYWORD_ONLY or not isinstance(default, float | str | int):
            raise ValueError(f"{name!r} is not a method: {key} must be keyword-only, with a number or word as default")
        if key in COMMON:
            raise ValueError(f"{name!r} is not a method: {key} is an option of every method already")
    everything = own | COMMON
    return MethodSignature(
        thresholds={key: default for key, default in everything.items() if isinstance(default, float)},
        options={key: default for key, default in everything.items() if not isinstance(default, float)},
        of_base={key: default for key, default in _bases.OPTIONS.items() if key not in own},
    )


def check(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that differ from the method's defaults, in the order of its signature.

    Args:
        name: The method.
        options: Thresholds and options by name; thresholds may be any real number.

    Returns:
        The options, with thresholds as floats.

    Raises:
        ValueError: If the method or an option is unknown, or a value has another type or is out of range.
    """
    known = signature(name)
    check_known(name, options, known.defaults | known.of_base)
    defaults = known.defaults | known.of_base
    values = defaults | {key: _typed(key, value, defaults[key]) for key, value in options.items()}
    changed = {key: value for key, value in values.items() if value != defaults[key]}
    of_base = {key: value for key, value in changed.items() if key in known.of_base}
    _bases.check(values, {key: value for key, value in changed.items() if key in COMMON} | of_base)
    for key in ("base", *of_base):
        if key in changed and not uses_base(name):
            raise ValueError(f"{name} does not use `base`: {key}={values[key]} would change nothing")
    if check_values := _check_of(name):
        with own_errors.of_plugin(name, load(name).__name__):
            own = known.defaults.keys() - COMMON.keys() | {"base"}
            check_values(**{key: value for key, value in values.items() if key in own})
    return changed


@functools.cache
def _check_of(name: str) -> Callable[..., None] | None:
    return getattr(load(name), "check", None)


def build(
    name: str,
    lr: Scalar,
    options: Mapping[str, Any],
    *,
    initial_accumulator: float = 0.1,
    eps: float = 1e-7,
    of_base: Mapping[str, Any] | None = None,
) -> Chain:
    """Return the chain of a method.

    Args:
        name: The method.
        lr: Learning rate, a float or a tensor (R,) that may change in place between steps.
        options: As `check` returns them; thresholds may be tensors (R,).
        initial_accumulator: Adagrad's G0.
        eps: Added inside Adagrad's root, and to the root of RMSProp and AdamW, unless `options` has another.
        of_base: Further arguments of the base's link, such as AdamW's b1; None takes those of `options`.

    Raises:
        ValueError: If the method or an option is unknown.
    """
    return builder(name)(lr, options, initial_accumulator=initial_accumulator, eps=eps, of_base=of_base)


@functools.cache
def uses_base(name: str) -> bool:
    """Return whether a method works on `base`. If not, it has a base of its own."""
    asked = []

    def base(**options: bool) -> Link:
        asked.append(options)
        return scale_by_adagrad(**options)

    own = {key: value for key, value in signature(name).defaults.items() if key not in COMMON}
    with own_errors.of_plugin(name, load(name).__name__):
        load(name).build(torch.ones(1), base=base, **own)
    return bool(asked)


@functools.cache
def builder(name: str) -> Callable[..., Chain]:
    """Return `build` of one method: it looks nothing up, so that `torch.compile` can trace it."""
    known, make = signature(name), load(name).build
    defaults: dict[str, Any] = known.defaults | known.of_base

    def of_method(
        lr: Scalar,
        options: Mapping[str, Any],
        *,
        initial_accumulator: float = 0.1,
        eps: float = 1e-7,
        of_base: Mapping[str, Any] | None = None,
    ) -> Chain:
        check_known(name, options, known.defaults | known.of_base)
        values = defaults | dict(options)
        common = {key: values.pop(key) for key in COMMON}
        given = {key: values.pop(key) for key in known.of_base}
        more = _bases.link_arguments(common["base"], _bases.OPTIONS | given) if of_base is None else of_base
        own_eps = eps if given.get("eps") is None else given["eps"]
        base = functools.partial(_bases.link, common["base"], common["momentum"], initial_accumulator, own_eps, more)
        links = make(lr, base=base, **values)
        decay = common["weight_decay"]
        return chain(links, decay_weights(decay, lr)) if isinstance(decay, Tensor) or decay != 0 else chain(links)

    return of_method


def base_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a method's base, defaults included; `eps` is None if it is that of the recipe."""
    return _bases.OPTIONS | {key: options[key] for key in signature(name).of_base if key in options}


def acts_on(name: str) -> list[str]:
    """Return which of `BESIDE` the method has. A method with any is not available as an optimizer."""
    return [function for function in BESIDE if hasattr(load(name), function)]


def unit_limit(name: str, options: Mapping[str, Any]) -> Scalar | None:
    """Return the limit to which a method clamps hidden units, or None if it does not clamp them."""
    return _beside("unit_limit", name, options)


def rollback_options(name: str, options: Mapping[str, Any]) -> RollbackOptions | None:
    """Return when a method rolls a run back, or None if it never does."""
    return _beside("rollback_options", name, options)


def _beside(function: str, name: str, options: Mapping[str, Any]) -> Any:
    if function not in acts_on(name):
        return None
    own = {key: value for key, value in signature(name).defaults.items() if key not in COMMON}
    return getattr(load(name), function)(**{key: options.get(key, default) for key, default in own.items()})


def stack_options(
    name: str,
    options: Sequence[Mapping[str, Any]],
    *,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """Return the options of R runs as one mapping for `build`.

    Args:
        name: The method.
        options: One mapping for each run, as `check` returns them.
        dtype: Of the tensors.
        device: Of the tensors.

    Returns:
        Options that differ from the default. A threshold that differs between runs is a tensor (R,).

    Raises:
        ValueError: If the runs differ in an option that is no threshold.
    """
    known = signature(name)
    stacked: dict[str, Any] = {}
    for key, default in (known.defaults | known.of_base).items():
        values = [one.get(key, default) for one in options]
        if all(value == values[0] for value in values):
            if values and values[0] != default:
                stacked[key] = values[0]
        elif key in known.thresholds:
            stacked[key] = torch.tensor(values, dtype=dtype, device=device)
        else:
            found = ", ".join(sorted({str(value) for value in values}))
            raise ValueError(f"runs of one stack need the same {key}, got {found}")
    return stacked


def check_known(name: str, options: Iterable[str], known: Iterable[str]) -> None:
    """Raise ValueError if an option of a method is not among the known ones."""
    known = list(known)
    if unknown := sorted(str(key) for key in options if key not in known):
        raise ValueError(f"{name} has no option {', '.join(unknown)}; it has {', '.join(known) or 'none'}")


def _typed(key: str, value: Any, default: Any) -> Any:
    kind, accepted = {
        bool: ("true or false", bool),
        float: ("a number", numbers.Real),
        int: ("a whole number", numbers.Integral),
        str: ("a word", str),
    }[float if default is None else type(default)]
    if accepted is numbers.Real:
        check_number(value, key)
    misplaced_bool = isinstance(value, bool) and not isinstance(default, bool)
    if not isinstance(value, accepted) or misplaced_bool or value != value:
        raise ValueError(f"{key} is {kind}, got {key}={value!r}")
    return float(value) if default is None else type(default)(value)

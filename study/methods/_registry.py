"""Loads methods by name, checks their options and builds their chains."""

import functools
import inspect
import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from study import plugins
from study.methods._checks import need_below_one, need_finite, need_not_negative, need_one_of
from study.methods._rollback import RollbackOptions
from study.text import own_errors
from study.transforms import (
    Chain,
    Link,
    Scalar,
    chain,
    decay_weights,
    scale_by_adagrad,
    scale_by_adam,
    scale_by_rmsprop,
    scale_by_sgd,
)

PACKAGE = "study.methods"

COMMON = {"base": "adagrad", "weight_decay": 0.0, "momentum": 0.0}
"""Of every method. base: one of `BASES`. weight_decay: decoupled, outside clips. momentum: of sgd and rmsprop."""

BESIDE = ("unit_limit", "rollback_options")
"""Functions of a method that acts on more than the update."""

BASES = ("adagrad", "sgd", "rmsprop", "adamw")


@dataclass(frozen=True)
class MethodSignature:
    """Thresholds and options of a method, with defaults. Only thresholds may differ between the runs of a stack."""

    thresholds: dict[str, float]
    options: dict[str, str | bool | int]

    @property
    def defaults(self) -> dict[str, Any]:
        return self.thresholds | self.options


def names() -> list[str]:
    """Return the names of the methods in this folder, in alphabetical order."""
    return plugins.names(PACKAGE)


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
    _known_only(name, known, options)
    values = known.defaults | {key: _typed(key, value, known.defaults[key]) for key, value in options.items()}
    _check_common(values)
    if values["base"] != COMMON["base"] and not uses_base(name):
        raise ValueError(f"{name} does not use `base`: base={values['base']} would change nothing")
    if check_values := _check_of(name):
        with own_errors.of_plugin(name, load(name).__name__):
            check_values(**{key: value for key, value in values.items() if key not in COMMON or key == "base"})
    return {key: value for key, value in values.items() if value != known.defaults[key]}


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
        eps: Added inside Adagrad's root, and to the root of RMSProp and AdamW.
        of_base: Further arguments of the base's link, such as AdamW's b1.

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
    defaults = known.defaults

    def of_method(
        lr: Scalar,
        options: Mapping[str, Any],
        *,
        initial_accumulator: float = 0.1,
        eps: float = 1e-7,
        of_base: Mapping[str, Any] | None = None,
    ) -> Chain:
        _known_only(name, known, options)
        values = defaults | dict(options)
        common = {key: values.pop(key) for key in COMMON}
        base = functools.partial(_base, common["base"], common["momentum"], initial_accumulator, eps, of_base or {})
        links = make(lr, base=base, **values)
        decay = common["weight_decay"]
        return chain(links, decay_weights(decay, lr)) if isinstance(decay, Tensor) or decay != 0 else chain(links)

    return of_method


def _base(
    base: str, momentum: Scalar, initial_accumulator: float, eps: float, more: Mapping[str, Any], **adagrad_only: bool
) -> Link:
    if base == "adagrad":
        return scale_by_adagrad(initial_accumulator, eps, **adagrad_only)
    assert not any(adagrad_only.values()), f"{adagrad_only} with base={base}"
    if base == "sgd":
        return scale_by_sgd(momentum, **more)
    if base == "rmsprop":
        return scale_by_rmsprop(eps=eps, momentum=momentum, **more)
    return scale_by_adam(eps=eps, **more)


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
    values = signature(name).defaults | dict(options)
    return getattr(load(name), function)(**{key: value for key, value in values.items() if key not in COMMON})


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
    for key, default in known.defaults.items():
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


def _check_common(values: Mapping[str, Any]) -> None:
    need_one_of(BASES, base=values["base"])
    need_finite(weight_decay=values["weight_decay"], momentum=values["momentum"])
    need_not_negative(weight_decay=values["weight_decay"])
    need_below_one(momentum=values["momentum"])
    if values["momentum"] and values["base"] not in ("sgd", "rmsprop"):
        raise ValueError(f"momentum needs base=sgd or base=rmsprop, got base={values['base']}")


def _known_only(name: str, known: MethodSignature, options: Mapping[str, Any]) -> None:
    unknown = [str(key) for key in options if key not in known.defaults]
    if unknown:
        unknown.sort()
        raise ValueError(f"{name} has no option {', '.join(unknown)}; it has {', '.join(known.defaults)}")


def _typed(key: str, value: Any, default: Any) -> Any:
    kind, accepted = {
        bool: ("true or false", bool),
        float: ("a number", numbers.Real),
        int: ("a whole number", numbers.Integral),
        str: ("a word", str),
    }[type(default)]
    misplaced_bool = isinstance(value, bool) and not isinstance(default, bool)
    if not isinstance(value, accepted) or misplaced_bool or value != value:
        raise ValueError(f"{key} is {kind}, got {key}={value!r}")
    return type(default)(value)

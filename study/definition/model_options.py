"""Models with options: `ranker width=128 depth=3` names a model and the options that differ from its defaults.

The options of a model are the numbers in the signature of its `build(spec, *, width=64, depth=2, ...)`. A model with
options is one string everywhere, so that it groups runs, names curves and is part of a run's id.
"""

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

from study import plugins
from study.text import own_errors

Option = bool | int | float

KINDS = {bool: "true or false", int: "a whole number", float: "a number"}


def parse(text: str) -> tuple[str, dict[str, Option]]:
    """Return the name of a model and its options, as written. Imports no model.

    Args:
        text: `small`, or `ranker width=128 depth=3`.

    Raises:
        ValueError: If an option is not `name=number`, or is set twice.
    """
    name, *settings = text.split() or [text]
    options: dict[str, Option] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key.isidentifier():
            raise ValueError(f"an option of a model is NAME=NUMBER, got {setting!r} in {text!r}")
        if key in options:
            raise ValueError(f"{key} is set twice in {text!r}")
        options[key] = number(key, value)
    return name, options


def written(name: str, options: Mapping[str, Option]) -> str:
    """Return the string that `parse` reads."""
    return " ".join([name, *(f"{key}={_short(value)}" for key, value in options.items())])


def with_options(text: str, changes: Mapping[str, Option]) -> str:
    """Return the model with some options replaced. Checks nothing: `canonical` does."""
    name, options = parse(text)
    return written(name, options | dict(changes))


def canonical(text: str) -> str:
    """Return the one way to write a model: options in the order of its signature, without those at their default.

    Raises:
        ValueError: If there is no such model or option, or a value has another type than the option's default.
    """
    name, options = parse(text)
    defaults = options_of(name)
    return written(name, {k: v for k, v in checked(name, options).items() if v != defaults[k]})


def checked(name: str, options: Mapping[str, Option]) -> dict[str, Option]:
    """Return all options of a model, defaults included, in the order of its signature. Raises ValueError."""
    defaults = options_of(name)
    if unknown := [key for key in options if key not in defaults]:
        known = f"it has {', '.join(defaults)}" if defaults else "it takes none"
        raise ValueError(f"the model {name} has no option {', '.join(unknown)}; {known}")
    return {key: _typed(name, key, options.get(key, default), default) for key, default in defaults.items()}


def number(key: str, text: str) -> Option:
    """Return the value of an option from its text. Raises ValueError for a word."""
    value = parse_value(key, text)
    if isinstance(value, str):
        raise ValueError(f"need a number, or true or false, got {key}={text}")
    return value


def parse_value(key: str, text: str) -> Option | str:
    """Return a number, a boolean or a word from its text. Raises ValueError for a number that is not finite."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            value = kind(text)
        except ValueError:
            continue
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"need a finite number, got {key}={text}")
        return value
    return text


def parse_like(key: str, text: str, values: Sequence[Any]) -> Option | str:
    """Return the value of an option from its text, of the kind of the values that the option has.

    A whole number fits a fraction. Where all values are texts, `5` and `true` are texts.

    Args:
        key: the option, for messages.
        text: the value.
        values: of the option. If there are none, or one is no bool, number or text, any value fits.

    Raises:
        ValueError: the value is of another kind.
    """
    if not values or not all(isinstance(value, bool | int | float | str) for value in values):
        return parse_value(key, text)
    kinds = {next(kind for kind in (bool, int, float, str) if isinstance(value, kind)) for value in values}
    if kinds == {str}:
        return text
    value = parse_value(key, text)
    if type(value) is float and float not in kinds and int in kinds and value == int(value):
        value = int(value)
    if type(value) in kinds or (type(value) is int and float in kinds):
        return value
    if str in kinds:
        return text
    wanted = [words for kind, words in KINDS.items() if kind in kinds and not (kind is int and float in kinds)]
    hint = "; a value such as 1.0 there allows fractions" if type(value) is float and int in kinds else ""
    raise ValueError(f"need {' or '.join(wanted)}, got {key}={text} (in the study it is {_short(values[0])}{hint})")


def options_of(name: str) -> dict[str, Option]:
    """Return the options of a model with their defaults.

    Raises:
        ValueError: If there is no such model, or a keyword of its `build` has no default.
    """
    build = load(name).build
    parameters = inspect.signature(build).parameters.values()
    own = [p for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
    if bare := [p.name for p in own if p.default is inspect.Parameter.empty]:
        raise ValueError(f"{name!r} is no model: {', '.join(bare)} of its build needs a default")
    try:
        inspect.signature(build).bind(None)
    except TypeError as error:
        where, takes_spec = own_errors.place_of(build) or repr(name), any(p.kind < p.KEYWORD_ONLY for p in parameters)
        wrong = error if takes_spec else "it has no `spec` argument"
        raise ValueError(f"{where}: build takes (spec, *, width=64, ...), but: {wrong}") from None
    return {p.name: p.default for p in own if type(p.default) in KINDS}


def load(name: str) -> Any:
    """Return the module of a model. Raises ValueError that lists the right names."""
    return plugins.load("models", name, "model", "build")


def _typed(name: str, key: str, value: Option, default: Option) -> Option:
    kind = type(default)
    fits = isinstance(value, bool) == (kind is bool) and (kind is not int or value == int(value))
    if not fits:
        raise ValueError(f"{key} of the model {name} is {KINDS[kind]}, got {key}={_short(value)}")
    return kind(value)


def _short(value: Option) -> str:
    """`true`, `64`, `0.5`; a whole float as `2`."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)

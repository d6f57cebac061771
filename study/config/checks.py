"""Checks of the values that define a study."""

import math
import numbers
import os
from typing import Any

MAX_LR = 1e4
MAX_COUNT = 10**9


def need(condition: bool, message: str) -> None:
    """Raise ValueError with the message unless the condition holds."""
    if not condition:
        raise ValueError(message)


def check_number(value: Any, name: str) -> None:
    """Raise ValueError for what is not one number, such as text."""
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        return
    hint = "; YAML reads 1e-3 as text and 1.0e-3 as a number" if _is_text_of_yaml(value) else ""
    raise ValueError(f"need a number as {name}, got {name}={value!r:.60}{hint}")


def whole(value: Any, name: str) -> int:
    """Return a whole number as an int, such as one of numpy. Raises ValueError for what is not one."""
    check_number(value, name)
    is_whole = isinstance(value, numbers.Integral) or float(value).is_integer()
    need(is_whole, f"need a whole number as {name}, got {name}={value}")
    return int(value)


def _is_text_of_yaml(value: Any) -> bool:
    """Whether it is a number with an exponent and without a point."""
    try:
        return isinstance(value, str) and "." not in value and "e" in value.lower() and math.isfinite(float(value))
    except ValueError:
        return False


def json_value(value: Any, what: str) -> Any:
    """Return a value of options as JSON has it: a path as text, a number of numpy as one of Python, a tuple as a list.

    Raises:
        ValueError: It is, or holds, something else. The message calls it `what`.
    """
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        need(math.isfinite(value), f"{what} needs a finite number, got {value}")
        return float(value)
    if isinstance(value, list | tuple):
        return [json_value(item, what) for item in value]
    need(isinstance(value, dict), f"{what} needs texts, numbers, and lists or dicts of them, got {value!r}")
    for key in value:
        need(isinstance(key, str), f"{what} needs texts as names, got {key!r}")
    return {key: json_value(item, f"{what}: {key}") for key, item in value.items()}


def check_share(value: Any, name: str) -> None:
    """Raise ValueError for a probability that is not between 0 and 1."""
    check_number(value, name)
    need(0 < value < 1, f"need 0 < {name} < 1, got {name}={value:g}")


def check_lr(lr: float, name: str = "lr") -> None:
    """Raise ValueError for a learning rate that cannot be trained."""
    if type(lr) is float and 0 < lr <= MAX_LR:  # a study has hundreds of thousands of them
        return
    check_number(lr, name)
    need(math.isfinite(lr) and 0 < lr <= MAX_LR, f"need 0 < {name} <= {MAX_LR:g}, got {name}={lr:g}")

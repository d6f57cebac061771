"""Checks of the values that define a study."""

import math
import numbers

MAX_LR = 1e4
MAX_COUNT = 10**9


def need(condition: bool, message: str) -> None:
    """Raise ValueError with the message unless the condition holds."""
    if not condition:
        raise ValueError(message)


def check_lr(lr: float, name: str = "lr") -> None:
    """Raise ValueError for a learning rate that cannot be trained."""
    if type(lr) is float and 0 < lr <= MAX_LR:  # a study has hundreds of thousands of them
        return
    text = "; YAML reads 1e-3 as text and 1.0e-3 as a number" if isinstance(lr, str) else ""
    need(isinstance(lr, numbers.Real) and not isinstance(lr, bool), f"need a number as {name}, got {name}={lr!r}{text}")
    need(math.isfinite(lr) and 0 < lr <= MAX_LR, f"need 0 < {name} <= {MAX_LR:g}, got {name}={lr:g}")

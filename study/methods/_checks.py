"""Checks of thresholds and options, for methods. Each raises ValueError with the name and the value."""

import math


def need_positive(**thresholds: float) -> None:
    """Raise ValueError unless all are above 0. Infinity is allowed: it turns a threshold off."""
    for key, value in thresholds.items():
        if not value > 0:
            raise ValueError(f"need {key} > 0, got {key}={value:g}")


def need_not_negative(**thresholds: float) -> None:
    """Raise ValueError if any is below 0. Infinity is allowed."""
    for key, value in thresholds.items():
        if not value >= 0:
            raise ValueError(f"need {key} >= 0, got {key}={value:g}")


def need_finite(**thresholds: float) -> None:
    """Raise ValueError if any is NaN or infinite."""
    for key, value in thresholds.items():
        if not math.isfinite(value):
            raise ValueError(f"need a finite {key}, got {key}={value:g}")


def need_below_one(**thresholds: float) -> None:
    """Raise ValueError unless all are in [0, 1)."""
    for key, value in thresholds.items():
        if not 0 <= value < 1:
            raise ValueError(f"need 0 <= {key} < 1, got {key}={value:g}")


def need_count(**options: int) -> None:
    """Raise ValueError if any is below 1."""
    for key, value in options.items():
        if value < 1:
            raise ValueError(f"need {key} >= 1, got {key}={value}")


def need_one_of(known: tuple[str, ...], **options: str) -> None:
    """Raise ValueError unless all are among the known words."""
    for key, value in options.items():
        if value not in known:
            raise ValueError(f"{key} is one of {', '.join(known)}; got {value!r}")

"""Checks of thresholds and options, for methods. Each raises ValueError in the user's words."""

import math


def need_positive(**thresholds: float) -> None:
    """Raise ValueError unless all are above 0; infinity passes, and turns a threshold off."""
    for key, value in thresholds.items():
        if not value > 0:
            raise ValueError(f"need {key} > 0, got {key}={value:g}")


def need_not_negative(**thresholds: float) -> None:
    """Raise ValueError unless all are 0 or above; infinity passes."""
    for key, value in thresholds.items():
        if not value >= 0:
            raise ValueError(f"need {key} >= 0, got {key}={value:g}")


def need_finite(**thresholds: float) -> None:
    """Raise ValueError for NaN and infinity."""
    for key, value in thresholds.items():
        if not math.isfinite(value):
            raise ValueError(f"need a finite {key}, got {key}={value:g}")


def need_below_one(**thresholds: float) -> None:
    """Raise ValueError unless all are 0 or above and below 1."""
    for key, value in thresholds.items():
        if not 0 <= value < 1:
            raise ValueError(f"need 0 <= {key} < 1, got {key}={value:g}")


def need_count(**options: int) -> None:
    """Raise ValueError unless all are 1 or above."""
    for key, value in options.items():
        if value < 1:
            raise ValueError(f"need {key} >= 1, got {key}={value}")


def need_one_of(known: tuple[str, ...], **options: str) -> None:
    """Raise ValueError unless all are among the known words."""
    for key, value in options.items():
        if value not in known:
            raise ValueError(f"{key} is one of {', '.join(known)}; got {value!r}")

"""The settings in which no step may wait for a device: a fake one in the tests, a GPU in `tests/benchmarks/gpu.py`."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

from study import methods

MODELS = ("small", "large_dcn", "small_mmoe", "own_models.batch_norm", "own_models.dropout")
EMBEDDINGS, PRECISIONS = ("adagrad", "method"), ("float32", "float64")
AXES: tuple[Sequence[str], ...] = (methods.names(), MODELS, EMBEDDINGS, PRECISIONS)

OPTIONS: dict[str, dict[str, Any]] = {name: {"back": 2} for name in ("rollback", "rollback_lower_lr")}
"""Options by method; a snapshot within three steps."""


class Setting(NamedTuple):
    """One row of the table."""

    method: str
    model: str
    embeddings: str
    precision: str

    @property
    def options(self) -> dict[str, Any]:
        return OPTIONS.get(self.method, {})


def every() -> list[Setting]:
    """The full product."""
    return [Setting(*row) for row in itertools.product(*AXES)]


def all_pairs() -> list[Setting]:
    """Each method on each network, with settings such that any two values meet."""
    others = list(itertools.product(EMBEDDINGS, PRECISIONS))
    return [
        Setting(method, model, *others[(m + n) % len(others)])
        for m, method in enumerate(methods.names())
        for n, model in enumerate(MODELS)
    ]

"""The runs of a stack in groups that share a seed.

Shape letters: R runs, G groups of K runs (R = G * K).
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from study.config import Run


@dataclass(frozen=True, kw_only=True)
class Groups:
    """The runs of a stack in groups of one size whose runs share a seed, and so their batches.

    A seed with more runs fills several groups, which read the same batches.

    Args:
        runs: The runs, in the order of the run axis: by seed.
        size: K, runs of a group.
        callers_order: The place in `runs` of each run of the caller.
    """

    runs: tuple[Run, ...]
    size: int
    callers_order: np.ndarray

    @classmethod
    def of(cls, runs: Sequence[Run]) -> "Groups":
        order = sorted(range(len(runs)), key=lambda i: (runs[i].seed, i))
        size = math.gcd(*Counter(run.seed for run in runs).values())
        return cls(runs=tuple(runs[i] for i in order), size=size, callers_order=np.argsort(order))

    @property
    def seeds(self) -> list[int]:
        """One per group."""
        return [run.seed for run in self.runs[:: self.size]]

    @property
    def count(self) -> int:
        """G."""
        return len(self.runs) // self.size

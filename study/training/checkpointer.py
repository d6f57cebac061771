"""What a trainer asks of a checkpoint. Trainers of all kinds are given one; this file knows no torch."""

from collections.abc import Callable, Iterable
from typing import Protocol

import numpy as np


class Checkpointer(Protocol):
    """Stores what a trial is between two steps, so that it can go on from there."""

    def begin(self, load: Callable[[dict[str, np.ndarray]], None], most_bytes: int) -> int:
        """Load the checkpoint, if there is one.

        Args:
            load: restores the state; its ValueError means that this is no state of the trial.
            most_bytes: a larger file is not read.

        Returns:
            The steps that were done, 0 without a checkpoint.
        """
        ...

    def after(self, done: int, state: Callable[[], Iterable[tuple[str, np.ndarray]]] | None) -> None:
        """Take note of a finished step. Raises `StoppedError` where the trial has to stop.

        Args:
            done: steps done so far.
            state: returns the arrays of the state by name; read before this returns, since the next step changes them.
                None keeps no checkpoint.
        """
        ...

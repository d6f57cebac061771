"""Checkpoints of stacks: the state between two steps, from which training continues with the same bits on CPU.

    DIR/checkpoints/<trial>.safetensors    tensors, and a description of them (`study.storage.arrays`)

Each trial has one file, written atomically and removed once its runs are recorded. Random streams are not in it: they
are made again from their names and read up to the step. Loading runs no code. A file that is damaged, or that another
version or kind of device wrote, is set aside, and its stack starts again.
"""

import contextlib
import math
import os
import time
import uuid
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from study.storage import arrays as array_files
from study.storage import stores
from study.storage.atomic import make_folder
from study.storage.untrusted_input import inside, open_file
from study.text import console

Store = stores.Store
State = Iterable[tuple[str, np.ndarray]]

FORMAT = 1
FOLDER = "checkpoints"
SUFFIX = ".safetensors"
SOON_SECONDS = 0.5
"""A stack that is asked to stop trains to its end if that takes no longer than this."""


class StoppedError(Exception):
    """A stack was asked to stop. `kept`: whether it has a checkpoint."""

    def __init__(self, steps: int, *, kept: bool) -> None:
        super().__init__(f"stopped after {steps} steps")
        self.steps, self.kept = steps, kept


class Checkpoint:
    """Keeps one trial in the study's folder: a `study.training.checkpointer.Checkpointer`.

    Args:
        where: the study's folder, or its URL.
        trial: name of the trial.
        runs: ids, in the trial's order.
        steps: of its runs; None where the trainer does not know.
        made_by: what the bits depend on (`Trainer.made_by`); a checkpoint with other values is not used.
        every_seconds: time between two checkpoints; 0 is never, not even when the trial is stopped.
        stopping: asked after each step; True stops the trial.
        note: called with a sentence about a checkpoint that cannot be used or written.
    """

    def __init__(
        self,
        where: Path | str,
        trial: str,
        runs: Iterable[str],
        *,
        steps: int | None,
        made_by: Mapping[str, str],
        every_seconds: float,
        stopping: Callable[[], bool] = lambda: False,
        note: Callable[[str], None] = warnings.warn,
    ) -> None:
        self.store, self.name = stores.store_for(where), f"{FOLDER}/{trial}{SUFFIX}"
        self.about = {"format": FORMAT, "runs": list(runs), "made_by": dict(made_by)}
        self.steps = steps
        self.every_seconds = every_seconds or math.inf
        self.stopping, self.note = stopping, note
        self.began = self.last = time.monotonic()
        self.first = 0

    def begin(self, load: Callable[[dict[str, np.ndarray]], None], most_bytes: int) -> int:
        """Load the checkpoint; see `Checkpointer.begin`."""
        self.began = self.last = time.monotonic()
        # One byte more than the most shows that it is too large.
        content = self.store.get(self.name, most_bytes + 1) if isinstance(self.store, stores.ObjectStore) else b""
        if content is None:
            return 0
        try:
            size = len(content)
            if isinstance(self.store, stores.LocalStore):
                content = self.store.folder / self.name
                with open_file(self.store.folder, self.name, None) as file:
                    size = os.fstat(file.fileno()).st_size
            if size > most_bytes:
                raise ValueError(f"it is larger than {most_bytes:,} bytes, the most that its stack could be")
            about, arrays = array_files.read(content)
            for key, value in self.about.items():
                if about.get(key) != value:
                    raise ValueError(_difference(key, about.get(key), value))
            steps = about["steps"]
            if not isinstance(steps, int) or isinstance(steps, bool) or not 0 < steps < (self.steps or math.inf):
                raise ValueError(f"{steps!r} steps were done")
            load(arrays)
            self.first = steps
        except (FileNotFoundError, NotADirectoryError):
            return 0
        except Exception as error:  # anyone may have written the file: no error in it stops the training
            if isinstance(error, OSError) and error.errno is not None:
                raise stores.StorageError(f"cannot read the checkpoint {self.name} ({error.strerror})") from error
            self._set_aside(error)
            return 0
        return steps

    def after(self, done: int, state: Callable[[], State] | None) -> None:
        """Write a checkpoint if it is time to; see `Checkpointer.after`."""
        if self.stopping() and not self._soon_ends(done):
            kept = state is not None and self.every_seconds < math.inf and self._keep(done, state())
            raise StoppedError(done, kept=kept)
        if state is not None and time.monotonic() - self.last >= self.every_seconds:
            self._keep(done, state())

    def remove(self) -> None:
        """Remove the checkpoint once the runs are recorded."""
        with contextlib.suppress(stores.StorageError):  # `tidy` removes it before the next training
            self.store.delete(self.name)

    def _soon_ends(self, done: int) -> bool:
        if self.steps is None:
            return False
        seconds_per_step = (time.monotonic() - self.began) / (done - self.first)
        return seconds_per_step * (self.steps - done) < SOON_SECONDS

    def _keep(self, done: int, state: State) -> bool:
        if self.steps is not None and done >= self.steps:
            return False  # the stack is trained
        started = time.monotonic()
        try:
            write(self.store, self.name, self.about | {"steps": done}, state)
        except stores.StorageError as error:
            self.note(f"no checkpoint could be written: {error}")
            return False
        finally:
            # If the storage is slow, at most a tenth of the time goes to it.
            self.last = time.monotonic()
            self.every_seconds = max(self.every_seconds, 9 * (self.last - started))
        return True

    def _set_aside(self, error: Exception) -> None:
        aside = f"set_aside/{self.name.replace('/', '-').removesuffix(SUFFIX)}-{uuid.uuid4().hex[:8]}{SUFFIX}"
        try:
            self.store.move(self.name, aside)
            then = f"set aside as {aside}"
        except (OSError, stores.StorageError):
            then = "left where it is, and not used"
        why = console.one_line(str(error))[:200] or type(error).__name__
        self.note(f"the checkpoint {self.name} cannot be used ({why}); {then}; its stack starts anew")


def write(store: Store, name: str, about: Mapping[str, Any], state: State) -> None:
    """Write a checkpoint atomically; in a folder, without a copy of the tensors on CPU. Raises StorageError."""
    arrays = dict(state)
    if isinstance(store, stores.ObjectStore):
        store.put(name, array_files.to_bytes(about, arrays), retry=False)
        return
    path = inside(store.folder, name)
    try:
        make_folder(path.parent)
        array_files.write(path, about, arrays)
    except OSError as error:
        raise stores.StorageError(f"cannot write to {path.parent} ({error.strerror or error})") from error


def checkpointed_stacks(where: Path | str) -> dict[str, tuple[str, ...]]:
    """Return the stacks that have a readable checkpoint: trial -> ids of their runs, in order."""
    found, store = {}, stores.store_for(where)
    for name in store.names(FOLDER):
        try:
            if (file := store.open(f"{FOLDER}/{name}")) is None:
                continue
            with file:
                runs = array_files.describe(file)["runs"]
            if isinstance(runs, list) and all(isinstance(run, str) for run in runs):
                found[name.removesuffix(SUFFIX)] = tuple(runs)
        except Exception:  # reported when its stack is trained
            continue
    return found


def tidy(where: Path | str, recorded: set[str]) -> None:
    """Remove the checkpoints of recorded runs, and files of killed writers.

    The caller holds the study's lock, and nothing trains.
    """
    store = stores.store_for(where)
    for trial, runs in checkpointed_stacks(where).items():
        if not recorded.isdisjoint(runs):
            store.delete(f"{FOLDER}/{trial}{SUFFIX}")
    if isinstance(store, stores.LocalStore):
        # Temporary files of killed writers, and checkpoints in the format of earlier versions.
        at = inside(store.folder, FOLDER)
        for path in [*at.glob(".*"), *at.glob("*.npz")]:
            path.unlink(missing_ok=True)


def _difference(key: str, was: Any, is_now: Any) -> str:
    if key == "made_by" and isinstance(was, dict):
        changed = [f"{name} was {was.get(name)}, is {now}" for name, now in is_now.items() if was.get(name) != now]
        return f"made by another version: {', '.join(changed)}"
    return "it is of other runs" if key == "runs" else f"{key} was {was}, is {is_now}"

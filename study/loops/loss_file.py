"""The losses of one run as it trains, one fixed-size row a logged step, safe from the end of the process.

A row goes to the system as soon as it is appended, so a process that raises, exits or is killed leaves what it saw.
A later try of the run goes on in the same file.

    FOLDER/losses.bin    a JSON line with the names of the tasks, then rows: int64 step, float32 losses and baselines
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

NAME = "losses.bin"


@dataclass(frozen=True, kw_only=True)
class Losses:
    """Logged losses (N logged steps, K tasks).

    Args:
        step: int64 (N,), increasing.
        loss: float32 (N, K).
        baseline: float32 (N, K), the loss of the best constant predictor on the same batch; NaN where it is unknown.
    """

    step: np.ndarray
    loss: np.ndarray
    baseline: np.ndarray


class LossFile:
    """Appends rows to the losses of a run.

    Args:
        folder: the run's folder.
        tasks: names of the tasks.
    """

    def __init__(self, folder: Path, tasks: Sequence[str]) -> None:
        self.path, self.tasks = folder / NAME, list(tasks)
        self._row = _row_type(len(tasks))
        header = _header(self.tasks)
        begun = self.path.read_bytes()[: len(header)] == header if self.path.exists() else False
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | (0 if begun else os.O_TRUNC), 0o644)
        if begun:  # a row that was cut off by the end of a process is dropped
            whole = (os.fstat(self._file).st_size - len(header)) // self._row.itemsize
            os.ftruncate(self._file, len(header) + whole * self._row.itemsize)
        else:
            os.write(self._file, header)
        os.lseek(self._file, 0, os.SEEK_END)

    def append(self, rows: bytes) -> None:
        """Write packed rows, in the layout of `struct`'s `<q` and 2 K floats."""
        os.write(self._file, rows)

    def forget_from(self, step: int) -> None:
        """Drop the rows of an earlier try from a step on: this try trains them again."""
        kept = int(np.searchsorted(self.read().step, step))
        os.ftruncate(self._file, len(_header(self.tasks)) + kept * self._row.itemsize)
        os.lseek(self._file, 0, os.SEEK_END)

    def read(self) -> Losses:
        """Return all rows, also where the loop removed the file."""
        return _losses(os.pread(self._file, os.fstat(self._file).st_size, 0), self.tasks)

    def close(self) -> None:
        """Close the file. A later append of a thread that the loop left raises OSError."""
        file, self._file = self._file, -1
        os.close(file)


def read(path: Path, tasks: Sequence[str]) -> Losses:
    """Return the rows of a file; none where it is not there, or belongs to other tasks."""
    return _losses(path.read_bytes() if path.exists() else b"", tasks)


def _losses(content: bytes, tasks: Sequence[str]) -> Losses:
    row, header = _row_type(len(tasks)), _header(tasks)
    body = content[len(header) :] if content.startswith(header) else b""
    rows = np.frombuffer(body[: len(body) // row.itemsize * row.itemsize], row)
    return Losses(step=rows["step"].copy(), loss=rows["loss"].copy(), baseline=rows["baseline"].copy())


def _header(tasks: Sequence[str]) -> bytes:
    return json.dumps({"tasks": list(tasks)}).encode() + b"\n"


def _row_type(tasks: int) -> np.dtype:
    return np.dtype([("step", "<i8"), ("loss", "<f4", (tasks,)), ("baseline", "<f4", (tasks,))])

"""A command as a loop: it is started with the run's values, and the losses that it writes are read as they come."""

import csv
import io
import itertools
import json
import math
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from study import plugins
from study.loops import supervisor
from study.loops.definition import RUN_FIELDS, placeholders
from study.loops.run import LoopRun
from study.loops.watch import Watch

POLL_SECONDS = 0.1
END_SECONDS = 10.0
OUTPUT = "output.txt"
"""File in the run's folder with what the command printed."""


def arguments(command: str) -> list[str]:
    """Return the words of a command. Raises ValueError where it has none, or a quote that does not end."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ValueError(f"the command {command!r} cannot be split into words ({error})") from None
    if not words:
        raise ValueError("the command is empty")
    return words


def check(command: str, files: Sequence[str], options: Mapping[str, Sequence[str]]) -> None:
    """Check a command before anything is trained.

    Args:
        command: the command line.
        files: names of files, with placeholders.
        options: arm -> names of its options.

    Raises:
        ValueError: no such program, an unknown placeholder, or an option of an arm that the command does not take.
    """
    program = arguments(command)[0]
    if not placeholders(program) and shutil.which(program) is None:
        raise ValueError(f"the command {program!r} does not exist on this machine")
    used = {name for text in (command, *files) for name in placeholders(text)}
    for arm, names in options.items():
        if unknown := sorted(used - {*RUN_FIELDS, *names}):
            known = ", ".join(sorted({*RUN_FIELDS, *names}))
            raise ValueError(f"the command has the placeholder {{{unknown[0]}}}, and the arm {arm} has only {known}")
        if unused := sorted(set(names) - used):
            raise ValueError(f"the option {unused[0]} of the arm {arm} is no placeholder of the command")
    if "lr" not in placeholders(command):
        raise ValueError("the command has no {lr}, so all of its runs would have the same learning rate")
    for file in files:
        if "folder" not in placeholders(file) and not {"lr", "seed"} <= placeholders(file):
            raise ValueError(f"the file {file!r} needs {{folder}}, or several runs would write it")


def own_modules(command: str) -> list[str]:
    """Return the Python files that a command names, and the module after `-m`."""
    words = arguments(command)
    named = [word for before, word in itertools.pairwise(words) if before == "-m" and not placeholders(word)]
    return [word for word in words if word.endswith(".py") and not placeholders(word)] + named


def fill(text: str, run: LoopRun) -> str:
    """Return a text with its placeholders replaced by the run's values; true and false in lower case."""
    values = {name: getattr(run, name) for name in RUN_FIELDS} | dict(run.options)
    return text.format_map({name: _word(value) for name, value in values.items()})


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value) if isinstance(value, float) else str(value)


def train(command: str, losses: str, metrics: str | None, run: LoopRun, watch: Watch) -> dict[str, Any]:
    """Run a command to its end, and watch the losses that it writes.

    Args:
        command: the command line, with placeholders.
        losses: the file of losses, with placeholders.
        metrics: a JSON file of metrics, with placeholders; None is no file.
        run: the run.
        watch: takes the losses.

    Returns:
        The metrics.

    Raises:
        RunEnded: as `watch` does; the command has been ended.
        ValueError: the files are not what they should be.
        RuntimeError: the command failed.
    """
    words = [fill(word, run) for word in arguments(command)]
    table = _LossTable(Path(fill(losses, run)), watch)
    with (run.folder / OUTPUT).open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", supervisor.__file__, *words],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=_environment(),
            start_new_session=True,  # Ray kills the process group of a worker that died
        )
        assert process.stdin is not None
        try:
            while process.poll() is None:
                if not table.read():
                    watch.check_stop()
                    time.sleep(POLL_SECONDS)
            table.read()
        finally:
            process.stdin.close()  # ends the command, if it still runs
            try:
                process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    table.end(complete=process.returncode == 0)
    if process.returncode:
        last = _last_line(run.folder / OUTPUT)
        raise RuntimeError(f"the command ended with status {process.returncode}{f': {last}' if last else ''}")
    if watch.step < 0:
        raise ValueError(f"the command wrote no losses to {fill(losses, run)}")
    return _metrics(Path(fill(metrics, run))) if metrics else {}


def _environment() -> dict[str, str]:
    """Return the command's environment. A command such as `python -m my_train` finds modules in the user's folder."""
    paths = (plugins.user_folder, os.environ.get("PYTHONPATH"))
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


def _metrics(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"the command left no metrics in {path} ({error})") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no JSON object of metrics")
    return found


def _last_line(path: Path) -> str:
    content = path.read_bytes() if path.exists() else b""
    lines = content[-2000:].decode(errors="replace").strip().splitlines()
    return lines[-1].strip()[:200] if lines else ""


class _LossTable:
    """Reads a growing CSV or JSON-lines file, one complete line at a time.

    As in `study import`, an empty field or null is a loss that is not finite, since pandas writes NaN so. But a row
    without any loss is skipped if a later row has one: it holds other numbers, such as those of a validation. If no row
    has a loss, the run diverged, while `study import` refuses it: there the named column may be a wrong one.
    """

    def __init__(self, path: Path, watch: Watch) -> None:
        self.path, self.watch = path, watch
        self.position = 0
        self.columns: list[str] | None = None
        self.line = 0
        self.without_loss: list[tuple[dict[str, float], int]] = []
        if path.exists():  # of an earlier try
            path.unlink()

    def read(self) -> int:
        """Watch the new complete lines; return their number."""
        content = self._new()
        complete = content[: content.rfind(b"\n") + 1]
        self.position += len(complete)
        lines = complete.decode(errors="replace").split("\n")[:-1]
        for line in lines:
            self._read_line(line)
        return len(lines)

    def end(self, *, complete: bool) -> None:
        """Watch what is left. complete: also a last line without an end; a killed command may leave half a line."""
        if complete:
            self._read_line(self._new().decode(errors="replace"))
        for losses, step in self.without_loss:
            self.watch(losses, step=step)

    def _new(self) -> bytes:
        if not self.path.exists():
            return b""
        with self.path.open("rb") as file:
            if file.seek(0, os.SEEK_END) < self.position:
                raise ValueError(f"{self.path} became shorter; the command must append to it")
            file.seek(self.position)
            return file.read()

    def _read_line(self, line: str) -> None:
        self.line += 1
        line = line.removeprefix("\ufeff") if self.line == 1 else line
        if line.strip():
            self._watch(line)

    def _watch(self, line: str) -> None:
        row = self._row(line)
        if row is None:
            return
        tasks = self.watch.tasks
        names = ["loss"] if tasks == ("loss",) else list(tasks)
        missing = [name for name in ["step", *names] if name not in row]
        if missing:
            raise ValueError(f"{self.path} has no column {missing[0]!r}; it has {', '.join(map(str, row))}")
        step = self._number(row["step"], "step")
        if not (0 <= step < 2**53 and step == int(step)):
            raise ValueError(f"{self.path}, line {self.line}: the step is {row['step']!r}, not a whole number")
        if step <= self.watch.step:
            raise ValueError(f"{self.path}, line {self.line}: step {step:g} comes after step {self.watch.step}")
        losses = {task: self._loss(row[name], name) for task, name in zip(tasks, names, strict=True)}
        if all(row[name] in ("", None) for name in names):
            self.without_loss.append((losses, int(step)))
        else:
            self.without_loss.clear()
            self.watch(losses, step=int(step))

    def _row(self, line: str) -> dict[str, Any] | None:
        if (self.columns is None and line.lstrip().startswith("{")) or self.columns == []:
            self.columns = []
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                raise ValueError(f"{self.path}, line {self.line}: not a line of JSON: {line[:60]!r}") from None
            if not isinstance(row, dict):
                raise ValueError(f"{self.path}, line {self.line}: not a JSON object: {line[:60]!r}")
            return row
        values = [value.strip() for value in next(csv.reader(io.StringIO(line)))]
        if self.columns is None:
            self.columns = values
            if "step" not in values:
                raise ValueError(f"{self.path} is not a table with a column 'step'; its first line is {line[:60]!r}")
            return None
        if len(values) != len(self.columns):
            raise ValueError(
                f"{self.path}, line {self.line}: {len(values)} values in {len(self.columns)} columns: {line[:60]!r}"
            )
        return dict(zip(self.columns, values, strict=True))

    def _loss(self, value: Any, column: str) -> float:
        return math.nan if value in ("", None) else self._number(value, column)

    def _number(self, value: Any, column: str) -> float:
        try:
            if isinstance(value, bool):
                raise TypeError
            return float(value)
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"{self.path}, line {self.line}: {column} is {value!r}, not a number") from None

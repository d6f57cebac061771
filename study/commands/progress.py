"""What a user sees while a study trains: runs done, runs per minute, time left, and diverged runs by method.

A stack of 40 runs may train for an hour, so steps count as well: the heartbeats of trials say how far each has come.
"""

import contextlib
import html
import sys
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TextIO

from study.execution import heartbeat
from study.execution.planner import Stack
from study.execution.work_source import Source
from study.storage.stores import StorageError
from study.text import console
from study.text.wording import count

LINE_SECONDS = 10.0
"""Least time between two lines of progress where output is no terminal."""

STEPS_LINE_SECONDS = 30.0
"""Least time before a line that has new steps and no new run."""


class Progress:
    """Counts trials as they end. A terminal shows live bars, a notebook one bar.

    Elsewhere, a line is written every LINE_SECONDS at most, one when the control is done, and one at the end. Failures
    and notes are written at once.

    Args:
        control: stacks that are trained besides those of the source.
        source: says how many runs are left.
        work_of_run: relative cost of a run by model; the time left is proportional to it.
        out: where to write; None is stderr.
        folder: of the study, whose heartbeats say how far trials have come; None counts whole runs alone.
        resumed: names of the trials that continue from a checkpoint. The pace does not count what they had done.
    """

    def __init__(
        self,
        control: Iterable[Stack],
        source: Source,
        work_of_run: Mapping[str, float],
        out: TextIO | None = None,
        *,
        folder: Path | None = None,
        resumed: Collection[str] = (),
    ) -> None:
        self.out = out or sys.stderr
        self.source = source
        self.control_left = Counter(run.model for stack in control for run in stack.runs)
        self.done = self.failed = 0
        self.work_of_run = work_of_run
        self.work_done = 0.0
        self.folder, self.steps, self.ended = folder, dict[str, tuple[str, float]](), set[str]()
        self.resumed, self.before = resumed, dict[str, tuple[str, float]]()
        self.shown_steps = 0.0
        self.judged: Counter[str] = Counter()
        self.diverged: Counter[str] = Counter()
        self.started = self.next_line = time.monotonic()
        self.withheld = self.begun = False
        live = _NotebookBar if console.in_notebook() and out is None else _Bars if self.out.isatty() else None
        self.bars = live(self.out) if live and self._left() else None
        if self._left():
            self._show(f"{self._runs()} runs · the first stacks train")
        self._closed = threading.Event()
        self._reader = threading.Thread(target=self._read, name="progress", daemon=True)

    def __call__(self, stack: Stack, result: dict[str, float] | str) -> None:
        """Count a trial that has ended. result: counts of its runs, or the reason of its failure."""
        self.ended.add(stack.name)
        runs, method = len(stack.runs), stack.runs[0].method
        if stack.is_control:
            self.control_left[stack.runs[0].model] -= runs
        if isinstance(result, str):
            self.failed += runs
            self.note(f"failed, {count(runs, 'run')} of {method}: {result}")
            return
        self.done += runs
        self.work_done += self.work_of_run[stack.runs[0].model] * runs
        if not stack.is_control:
            self.judged[method] += runs
            self.diverged[method] += int(result["diverged"])
        self._show(self.line(), at_once=stack.is_control and not self.control_left.total())

    def add_control(self, stacks: Iterable[Stack]) -> None:
        """Count further stacks of the control among those that are left."""
        self.control_left.update(run.model for stack in stacks for run in stack.runs)

    def begin(self) -> None:
        """Start the clock anew, as the first trial begins: others may have used the cluster until now."""
        if self.begun:  # Tune begins again after a worker was killed for memory
            return
        self.begun, self.started = True, time.monotonic()
        if self.folder is not None:
            self._reader.start()

    def check(self) -> None:
        """Show what trials have done since the last line. Called every few seconds."""
        done, now = sum(runs for _, runs in self._training().values()), time.monotonic()
        if done == self.shown_steps or (not self.bars and now < self.next_line - LINE_SECONDS + STEPS_LINE_SECONDS):
            return
        self._show(self.line())
        self.shown_steps = done

    def read_steps(self) -> None:
        """Read the heartbeats of all trials."""
        assert self.folder is not None
        with contextlib.suppress(StorageError, OSError):
            self.steps = heartbeat.work_done(self.folder)
            self.before = {name: done for name, done in self.steps.items() if name in self.resumed} | self.before

    def _read(self) -> None:
        """Read them again and again, in a thread: an object store may take seconds."""
        while not self._closed.wait(heartbeat.BEAT_SECONDS):
            self.read_steps()

    def _training(self) -> dict[str, tuple[str, float]]:
        """The steps of trials that have not ended since they were read, of models that are still to train."""
        left = self._left()
        steps = self.steps.items()
        return {name: done for name, done in steps if name not in self.ended and left[done[0]]}

    def note(self, text: str) -> None:
        """Write a line that stays."""
        if self.bars:
            self.bars.print(console.printable(text))
        else:
            console.show(text, file=self.out)

    def line(self) -> str:
        """Return `  96/344 runs · 31% · 250/min · 1:02 left · diverged: none 12/32, clippy 0/32`.

        For a search, the last part is its state.
        """
        by_method = ", ".join(f"{method} {self.diverged[method]}/{n}" for method, n in self.judged.items())
        state = self.source.state if self.judged else ""
        state = state or f"diverged: {by_method or 'control first'}"
        return f"{self._runs()} runs · {self._pace()} · {state}"

    def close(self) -> None:
        """Stop the live bars, or write the last line."""
        self._closed.set()
        if self.bars:
            self.bars.stop()
        elif self.withheld:
            self.note(self.line())

    def _show(self, line: str, *, at_once: bool = False) -> None:
        if not self.bars:
            now = time.monotonic()
            self.withheld = now < self.next_line and not at_once
            if not self.withheld:
                self.next_line = now + LINE_SECONDS
                self.note(line)
            return
        done = self.done + self.failed
        state = self.source.state if self.judged else ""
        total, steps = done + self._left().total(), sum(runs for _, runs in self._training().values())
        text = f"{self._runs()} · {self._pace()} {state}" if done + steps else line
        self.bars.update("runs", done + steps, total, text)
        for method, n in self.judged.items():
            self.bars.update(method, self.diverged[method], n, f"{self.diverged[method]}/{n} diverged")

    def _pace(self) -> str:
        minutes, training, before = (
            (time.monotonic() - self.started) / 60,
            self._training().values(),
            self.before.values(),
        )
        rate = (self.done + sum(n for _, n in training) - sum(n for _, n in before)) / minutes if minutes else 0.0
        of_steps, of_before = (sum(self.work_of_run[model] * n for model, n in part) for part in (training, before))
        work_left = sum(self.work_of_run[model] * n for model, n in self._left().items()) - of_steps
        done = self.work_done + of_steps
        left = minutes * work_left / (done - of_before) if done > of_before else 0.0
        share = done / (done + work_left) if done + work_left > 0 else 1.0
        return f"{100 * share:.0f}% · {rate:.0f}/min · {duration(60 * max(left, 0.0))} left"

    def _left(self) -> Counter[str]:
        return Counter(self.source.left) + self.control_left

    def _runs(self) -> str:
        total = self.done + self.failed + self._left().total()
        return f"{self.done:{len(str(total))}}/{'~' if self.source.state else ''}{total}"


class _Bars:
    """Live bars on a terminal, one row per name."""

    def __init__(self, out: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        name, text = (TextColumn(f"{{task.{part}}}", markup=False) for part in ("description", "fields[text]"))
        self.progress = Progress(name, BarColumn(), text, console=Console(file=out, highlight=False))
        self.rows = {}
        self.progress.start()

    def update(self, name: str, done: float, total: int, text: str) -> None:
        if name not in self.rows:
            self.rows[name] = self.progress.add_task(name, total=None, text="")
        self.progress.update(self.rows[name], completed=done, total=total, text=text)

    def print(self, text: str) -> None:
        self.progress.console.print(text, markup=False, soft_wrap=True)

    def stop(self) -> None:
        self.progress.stop()


class _NotebookBar:
    """One live bar in the output of a cell, with what the rows of a terminal say below it."""

    def __init__(self, _out: TextIO) -> None:
        from IPython.display import display  # pyright: ignore[reportMissingImports] - a notebook has it

        self.rows = dict[str, tuple[float, int, str]]()
        self.handle = display(self._shown(), raw=True, display_id=True)

    def _shown(self) -> dict[str, str]:
        done, total, text = self.rows.get("runs", (0, 1, ""))
        others = " · ".join(f"{name} {row[2]}" for name, row in self.rows.items() if name != "runs")
        lines = [text.strip(), *filter(None, [others])]
        bar = f'<progress style="width: 100%" max="{max(total, 1)}" value="{done:.3f}"></progress>'
        shown = "<br>".join(html.escape(line) for line in lines)
        return {"text/plain": "\n".join(lines), "text/html": f"{bar}<br>{shown}"}

    def update(self, name: str, done: float, total: int, text: str) -> None:
        self.rows[name] = (done, total, console.printable(text))
        self.handle.update(self._shown(), raw=True)

    def print(self, text: str) -> None:
        console.show(text)

    def stop(self) -> None:
        pass


def duration(seconds: float) -> str:
    """Return `0:42`, `12:05` or `3:04:00`."""
    whole = round(seconds)
    minutes, hours = whole // 60 % 60, whole // 3600
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"

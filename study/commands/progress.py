"""What a user sees while a study trains: runs done, runs a minute, time left, diverged so far by method."""

import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TextIO

from study.execution.planner import Stack
from study.execution.work_source import Source


class Progress:
    """A line a trial; on a terminal, one line that is written over. Time left goes by the work of each model's runs.

    control: stacks that are trained beside what the source hands out. work_of_run: by model.
    """

    def __init__(
        self, control: Iterable[Stack], source: Source, work_of_run: Mapping[str, float], out: TextIO | None = None
    ) -> None:
        self.out = out or sys.stderr
        self.source = source
        self.control_left = Counter(run.model for stack in control for run in stack.runs)
        self.done = self.failed = 0
        self.work_of_run = work_of_run
        self.work_done = 0.0
        self.judged: Counter[str] = Counter()
        self.diverged: Counter[str] = Counter()
        self.started = time.monotonic()
        self.written = 0
        if self._left():
            self._say(f"{self._runs()} runs · the first stacks train")

    def __call__(self, stack: Stack, result: dict[str, float] | str) -> None:
        if stack.is_control:
            self.control_left[stack.runs[0].model] -= len(stack.runs)
        if isinstance(result, str):
            self.failed += len(stack.runs)
            self._say(f"failed, {len(stack.runs)} runs of {stack.runs[0].method}: {result}", keep=True)
            return
        self.done += len(stack.runs)
        self.work_done += self.work_of_run[stack.runs[0].model] * len(stack.runs)
        if not stack.is_control:
            self.judged[stack.runs[0].method] += len(stack.runs)
            self.diverged[stack.runs[0].method] += int(result["diverged"])
        self._say(self.line())

    def note(self, text: str) -> None:
        """Say something else, on a line that stays."""
        self._say(text, keep=True)

    def line(self) -> str:
        """`  96/344 runs · 250/min · 1:02 left · diverged: none 12/32, clippy 0/32`, or where a search stands."""
        minutes = (time.monotonic() - self.started) / 60
        rate = self.done / minutes if minutes else 0.0
        work_left = sum(self.work_of_run[model] * n for model, n in self._left().items())
        left = minutes * work_left / self.work_done if self.work_done else 0.0
        by_method = ", ".join(f"{method} {self.diverged[method]}/{n}" for method, n in self.judged.items())
        state = self.source.state if self.judged else ""
        state = state or f"diverged: {by_method or 'control first'}"
        return f"{self._runs()} runs · {rate:.0f}/min · {duration(60 * left)} left · {state}"

    def close(self) -> None:
        if self.written:
            print(file=self.out)
        self.written = 0

    def _left(self) -> Counter[str]:
        return Counter(self.source.left) + self.control_left

    def _runs(self) -> str:
        total = self.done + self.failed + self._left().total()
        return f"{self.done:{len(str(total))}}/{'~' if self.source.state else ''}{total}"

    def _say(self, text: str, *, keep: bool = False) -> None:
        if not self.out.isatty():
            print(text, file=self.out, flush=True)
            return
        width = shutil.get_terminal_size().columns - 1  # a line that wraps cannot be written over
        text = text if keep else text[:width]
        print("\r" + text.ljust(self.written), end="\n" if keep else "", file=self.out, flush=True)
        self.written = 0 if keep else len(text)


def duration(seconds: float) -> str:
    """`0:42`, `12:05`, `3:04:00`."""
    whole = round(seconds)
    minutes, hours = whole // 60 % 60, whole // 3600
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"

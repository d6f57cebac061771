"""What a user sees while a study trains: runs done, runs a minute, time left, diverged so far by method."""

import shutil
import sys
import time
from collections import Counter
from typing import TextIO

from study.planning import Plan, Stack


class Progress:
    """A line a trial; on a terminal, one line that is written over. Time left goes by the work of each model's runs."""

    def __init__(self, plan: Plan, out: TextIO | None = None) -> None:
        self.out = out or sys.stderr
        self.total = plan.missing
        self.done = self.failed = 0
        self.work_of_run = plan.work_of_run
        self.work_left = plan.work
        self.work_done = 0.0
        self.judged: Counter[str] = Counter()
        self.diverged: Counter[str] = Counter()
        self.started = time.monotonic()
        self.written = 0
        if self.total:
            self._say(f"{0:{len(str(self.total))}}/{self.total} runs · the first stacks train")

    def __call__(self, stack: Stack, result: dict[str, float] | str) -> None:
        self.work_left -= self._work(stack)
        if isinstance(result, str):
            self.failed += len(stack.runs)
            self._say(f"failed, {len(stack.runs)} runs of {stack.runs[0].method}: {result}", keep=True)
            return
        self.done += len(stack.runs)
        self.work_done += self._work(stack)
        if not stack.is_control:
            self.judged[stack.runs[0].method] += len(stack.runs)
            self.diverged[stack.runs[0].method] += int(result["diverged"])
        self._say(self.line())

    def line(self) -> str:
        """`  96/344 runs · 250/min · 1:02 left · diverged: none 12/32, clippy 0/32`"""
        minutes = (time.monotonic() - self.started) / 60
        rate = self.done / minutes if minutes else 0.0
        left = minutes * self.work_left / self.work_done if self.work_done else 0.0
        width = len(str(self.total))
        by_method = ", ".join(f"{method} {self.diverged[method]}/{n}" for method, n in self.judged.items())
        return (
            f"{self.done:{width}}/{self.total} runs · {rate:.0f}/min · {duration(60 * left)} left"
            f" · diverged: {by_method or 'control first'}"
        )

    def close(self) -> None:
        if self.written:
            print(file=self.out)
        self.written = 0

    def _work(self, stack: Stack) -> float:
        return self.work_of_run[stack.runs[0].model] * len(stack.runs)

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

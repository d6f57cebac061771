"""Sources of a study's stacks: a fixed plan, or a search that depends on recorded outcomes.

The queue (`study.execution.work_queue`) takes stacks from a source and reports each result. Retries, halved stacks and
the control are the queue's: a source learns of a stack once it is recorded or given up.
"""

from collections import Counter, deque
from collections.abc import Iterable
from typing import Protocol

from study.execution.planner import Stack


class Source(Protocol):
    """Hands out the stacks of a study's cells.

    A halved stack is reported in its parts, so a source counts runs, not stacks.
    """

    def next(self) -> Stack | None:
        """Return a stack to train now; None if there is none until a stack in training ends, or at the end."""
        ...

    @property
    def ended(self) -> bool:
        """Whether no more stacks will come."""
        ...

    @property
    def left(self) -> dict[str, int]:
        """Runs by model that are neither recorded nor given up. A search estimates them."""
        ...

    @property
    def state(self) -> str:
        """A few words for the progress line of a search; empty for a plan."""
        ...

    def outline(self) -> list[str]:
        """Return lines that describe a search and its progress; none for a plan."""
        ...

    def recorded(self, stack: Stack) -> None:
        """Take note that the runs of a stack are recorded."""
        ...

    def given_up(self, stack: Stack, reason: str) -> None:
        """Take note that a stack failed for good: its runs stay missing."""
        ...


class Planned:
    """The stacks of a fixed plan, in order."""

    def __init__(self, stacks: Iterable[Stack]) -> None:
        self._waiting = deque(stacks)
        self._left = Counter(run.model for stack in self._waiting for run in stack.runs)

    def next(self) -> Stack | None:
        return self._waiting.popleft() if self._waiting else None

    @property
    def ended(self) -> bool:
        return not self._waiting

    @property
    def left(self) -> dict[str, int]:
        return dict(self._left)

    @property
    def state(self) -> str:
        return ""

    def outline(self) -> list[str]:
        return []

    def recorded(self, stack: Stack) -> None:
        self._left[stack.runs[0].model] -= len(stack.runs)

    def given_up(self, stack: Stack, reason: str) -> None:
        self.recorded(stack)


class CombinedSource:
    """Several sources as one. The next stack comes from the first source that has one."""

    def __init__(self, sources: Iterable[Source]) -> None:
        self._sources = tuple(sources)
        self._of_run: dict[str, Source] = {}

    def next(self) -> Stack | None:
        for source in self._sources:
            if stack := source.next():
                self._of_run |= dict.fromkeys((run.id for run in stack.runs), source)
                return stack
        return None

    @property
    def ended(self) -> bool:
        return all(source.ended for source in self._sources)

    @property
    def left(self) -> dict[str, int]:
        total: Counter[str] = Counter()
        for source in self._sources:
            total.update(source.left)
        return dict(total)

    @property
    def state(self) -> str:
        return ", ".join(filter(None, (source.state for source in self._sources)))

    def outline(self) -> list[str]:
        return [line for source in self._sources for line in source.outline()]

    def recorded(self, stack: Stack) -> None:
        self._of_run[stack.runs[0].id].recorded(stack)

    def given_up(self, stack: Stack, reason: str) -> None:
        self._of_run[stack.runs[0].id].given_up(stack, reason)

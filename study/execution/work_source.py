"""Where the stacks of a study come from, one after another: a fixed plan, or a search that looks at what was recorded.

The queue (`study.tune.runner`) asks a source for stacks, and tells it what became of each. Retries, the halves of a
stack that ran out of memory and the wait for the control are the queue's: a source hears of a stack once it is recorded
or given up, and never of the control.
"""

from collections import Counter, deque
from collections.abc import Iterable
from typing import Protocol

from study.execution.planner import Stack


class Source(Protocol):
    """Hands out the stacks of a study's cells.

    A stack that was halved is told of in its parts: what counts is its runs, not the stack.
    """

    def next(self) -> Stack | None:
        """A stack to be trained now; None: nothing until one that is training has ended, or nothing more at all."""
        ...

    @property
    def ended(self) -> bool:
        """Nothing more will ever come."""
        ...

    @property
    def left(self) -> dict[str, int]:
        """Runs, by model, that are neither recorded nor given up, those that train among them. Of a search: a guess."""
        ...

    @property
    def state(self) -> str:
        """Where a search stands, as a few words of a line of progress; empty for a plan."""
        ...

    def outline(self) -> list[str]:
        """Where a search stands, in full: a line each for whatever it searches; empty for a plan."""
        ...

    def recorded(self, stack: Stack) -> None:
        """Its runs are in the record now."""
        ...

    def given_up(self, stack: Stack, reason: str) -> None:
        """It failed for good: its runs stay missing."""
        ...


class Planned:
    """A fixed plan: its stacks, in order."""

    def __init__(self, stacks: Iterable[Stack]) -> None:
        self._waiting = deque(stacks)
        self._left: dict[str, int] = {}
        for stack in self._waiting:
            self._count(stack, len(stack.runs))

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
        self._count(stack, -len(stack.runs))

    def given_up(self, stack: Stack, reason: str) -> None:
        self._count(stack, -len(stack.runs))

    def _count(self, stack: Stack, runs: int) -> None:
        model = stack.runs[0].model
        self._left[model] = self._left.get(model, 0) + runs


class Together:
    """Several sources as one: the next stack comes from the first that has one."""

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

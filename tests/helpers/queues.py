"""What the tests of several folders share: queues."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from study.config import CONTROL_SEEDS, Recipe, Rule, Run
from study.execution import work_queue as work
from study.execution import work_source
from study.execution.planner import Stack
from study.outcomes.reference import Reference

COUNTS = {"diverged": 0, "undertrained": 0, "seconds": 1.0}

REFERENCE = Reference(lr=0.02, gain=0.5, task_gain=(0.5,))


def make_stack(model: str = "small", *, control: bool = False, seed: int = 0, runs: int = 4) -> Stack:
    seed += CONTROL_SEEDS[0] if control else 0
    return Stack(
        runs=tuple(
            Run(data="d", model=model, method="none", lr=0.1 * (1 + i), seed=seed, recipe=Recipe()) for i in range(runs)
        )
    )


class Queue:
    """The queue as Ray Tune drives it, with what it told."""

    def __init__(
        self,
        folder: Path,
        *stacks: Stack,
        known: tuple[str, ...] = (),
        reference: Callable[[str], Any] | None = None,
        further_control: Callable[[str, Reference], Sequence[Stack]] = lambda model, reference: (),
    ) -> None:
        (folder / "failures").mkdir()
        self.folder, self.trials = folder, 0
        self.told: list[tuple[Stack, Any]] = []
        self.noted: list[str] = []
        self.configs: dict[str, dict[str, Any]] = {}
        self.queue = work.Queue(
            work.Job(
                study="quick",
                folder=folder,
                rule=Rule(),
                control=tuple(stack for stack in stacks if stack.is_control),
                source=work_source.Planned(stack for stack in stacks if not stack.is_control),
                references=dict.fromkeys(known, REFERENCE),
                reference=reference or (lambda model: REFERENCE),
                further_control=further_control,
                on_trial_end=lambda stack, result: self.told.append((stack, result)),
                on_message=self.noted.append,
            )
        )

    def take(self) -> tuple[str, Stack] | str | None:
        """The next trial and its stack; None is wait, at rest or not."""
        self.trials += 1
        config = self.queue.suggest(str(self.trials))
        if isinstance(config, dict) and "rest" in config:
            self.queue.ended(str(self.trials), {"runs": 0})
            return None
        if isinstance(config, dict):
            self.configs[str(self.trials)] = config
            return str(self.trials), self.queue.training[str(self.trials)]
        return config

    def must_take(self) -> tuple[str, Stack]:
        taken = self.take()
        assert isinstance(taken, tuple), taken
        return taken

    def done(self, trial: str, place: str = "here") -> None:
        self.queue.ended(trial, {"runs": len(self.queue.training[trial].runs), "place": place} | COUNTS)

    def fails(self, trial: str, reason: str, kind: str = "error", place: str = "here") -> None:
        self.queue.ended(trial, work.Failure(kind=kind, reason=reason, place=place))

    def dies(self, trial: str) -> None:
        self.fails(trial, "the worker process ended", "worker")

    def failures(self) -> dict[str, str]:
        found = {}
        for path in (self.folder / "failures").iterdir():
            content = pd.read_json(path, typ="series")
            found |= dict.fromkeys(content["run_ids"], content["reason"])
        return found

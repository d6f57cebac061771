"""The work queue of a study: which stack is trained next, and what becomes of one that failed. Knows no scheduler.

A stack waits until the control of its model is recorded, since outcomes are judged against it. A crash is not
divergence: a stack that ran out of memory is halved, one that failed otherwise is tried again, and what fails three
times is recorded as missing, with its reason.
"""

import json
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from study import divergence, record
from study.config import Rule, Run, canonical_json, run_from_json, to_json
from study.planning import Stack
from study.sources import Source
from study.storage import StorageError

FINISHED = "FINISHED"

TRIES = 3
SAME_FAILURE_STOPS = 3

REST_SECONDS = 0.2
SHARE_OF_WAIT = 0.05
"""A rest takes this share of the wait so far: a long wait is cut into few rests, and outstayed by little."""


class StudyStoppedError(ValueError):
    """A study that cannot go on, in words for the user. What was recorded stays."""


@dataclass(kw_only=True)
class Job:
    """A study's trials to be run, and who is told of each that ends.

    control: stacks of the control that are to be trained, ahead of all else. source: where the others come from.
    references: of the models whose control is recorded. reference: makes that of a model once it is; its ValueError
    stops the study. told: called with a stack, and the counts of its runs or the reason of its failure. noted: with a
    machine that takes no part, and why, once.
    """

    study: str
    folder: Path
    rule: Rule
    control: tuple[Stack, ...]
    source: Source
    references: dict[str, divergence.Reference]
    reference: Callable[[str], divergence.Reference]
    told: Callable[[Stack, dict[str, float] | str], None] = field(default=lambda stack, result: None)
    noted: Callable[[str], None] = field(default=lambda text: None)


class Queue:
    """Hands out stacks one after another, as the configuration of a trial: None is wait, FINISHED is the end.

    A worker for which there is nothing yet, since the control or what a search waits for is still being trained, is
    handed a rest. Without one, Tune keeps a single idle worker and ends the others, and a new one takes seconds to
    start.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.source = job.source
        self.waiting = deque(job.control)
        self.again: deque[Stack] = deque()
        self.training: dict[str, Stack] = {}
        self.resting: set[str] = set()
        self.waits_since: float | None = None
        self.tries: Counter[str] = Counter()
        self.failures: dict[str, set[str]] = {}
        self.controls = Counter(stack.runs[0].model for stack in job.control)
        self.unfit: set[str] = set()
        self.stopped: Exception | None = None

    def suggest(self, trial_id: str) -> Any:
        if self.stopped:
            return FINISHED
        try:
            return self._handed_out(trial_id)
        except (StorageError, OSError) as error:
            self.stopped = _unwritable(error)
            return FINISHED

    def _handed_out(self, trial_id: str) -> Any:
        stack = self._ready()
        if stack:
            self.training[trial_id] = stack
            self.waits_since = None
            reference = None if stack.is_control else self.job.references[stack.runs[0].model]
            return {"stack": packed(stack, reference)}
        if self.source.ended and not self.waiting:
            return None if self.training else FINISHED
        assert self.training, "a source has neither ended nor anything to be trained"
        self.waits_since = self.waits_since or time.monotonic()
        self.resting.add(trial_id)
        return {"rest": max(REST_SECONDS, SHARE_OF_WAIT * (time.monotonic() - self.waits_since))}

    def _ready(self) -> Stack | None:
        """The first stack that waits for no control. What failed once is tried again after all others."""
        for i, stack in enumerate(self.waiting):
            if self._can_train(stack):
                del self.waiting[i]
                return stack
        while stack := self.source.next():
            if self._can_train(stack):
                return stack
            self.waiting.append(stack)
        return self.again.popleft() if self.again else None

    def _can_train(self, stack: Stack) -> bool:
        return stack.is_control or stack.runs[0].model in self.job.references

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        if trial_id in self.resting:
            self.resting.discard(trial_id)
            return
        stack = self.training.pop(trial_id)
        try:
            self._ended(stack, result, error)
        except (StorageError, OSError) as unwritable:
            self.stopped = _unwritable(unwritable)

    def _ended(self, stack: Stack, result: dict | None, error: bool) -> None:
        if error or result is None:
            self._failed(stack, "the worker process ended", worker_died=True)
            return
        if result.get("unfit"):
            self._came_back(stack, result["unfit"])
            return
        if result.get("failure"):
            self._failed(stack, result["failure"], out_of_memory=result["out_of_memory"])
            return
        if not stack.is_control:
            self.source.recorded(stack)
        self.job.told(stack, {key: result[key] for key in ("runs", "diverged", "undertrained", "seconds")})
        if stack.is_control:
            self._control_done(stack)

    def _came_back(self, stack: Stack, reason: str) -> None:
        """A machine that joined the cluster cannot take part: that says nothing about the stack, nor of the study."""
        self.waiting.appendleft(stack)
        if reason not in self.unfit:
            self.unfit.add(reason)
            self.job.noted(reason)

    def _control_done(self, stack: Stack) -> None:
        model = stack.runs[0].model
        self.controls[model] -= 1
        if self.controls[model]:
            return
        try:
            self.job.references[model] = self.job.reference(model)
        except ValueError as error:
            self.stopped = StudyStoppedError(f"{model}: {error}")

    def _failed(self, stack: Stack, reason: str, *, out_of_memory: bool = False, worker_died: bool = False) -> None:
        half = len(stack.runs) // 2
        if out_of_memory and half:
            parts = [Stack(runs=stack.runs[:half]), Stack(runs=stack.runs[half:])]
            self.waiting.extendleft(reversed(parts))
            if stack.is_control:
                self.controls[stack.runs[0].model] += 1
            return
        self.tries[stack.name] += 1
        tries_left = self.tries[stack.name] < TRIES
        # A machine that goes away takes all its workers with it, which says nothing about their stacks.
        if not (worker_died and tries_left):
            self.failures.setdefault(reason, set()).add(stack.name)
        if tries_left and len(self.failures.get(reason, ())) < SAME_FAILURE_STOPS:
            self.again.append(stack)
            return
        record.write_failure(self.job.folder, stack.name, [run.id for run in stack.runs], reason)
        if not stack.is_control:
            self.source.given_up(stack, reason)
        self.job.told(stack, reason)
        if stack.is_control:
            self.stopped = StudyStoppedError(f"the control of {stack.runs[0].model} failed: {reason}")
        elif len(self.failures[reason]) >= SAME_FAILURE_STOPS:
            self.stopped = StudyStoppedError(f"{SAME_FAILURE_STOPS} stacks failed the same way: {reason}")


def _unwritable(error: StorageError | OSError) -> StudyStoppedError:
    """A record that can be neither written nor read ends the study: what trained on would be lost."""
    why = (
        str(error)
        if isinstance(error, StorageError)
        else f"{error.filename or 'the record'}: {error.strerror or error}"
    )
    return StudyStoppedError(f"{why}; what was recorded stays, and `study resume` trains the rest")


def packed(stack: Stack, reference: divergence.Reference | None) -> str:
    """A stack as text, what its runs share written once: Tune copies it with every result."""
    runs = [to_json(run) for run in stack.runs]
    shared = {key: runs[0][key] for key in ("data", "model", "method", "recipe")}
    return canonical_json(
        {
            "name": stack.name,
            "shared": shared,
            "runs": [{key: value for key, value in run.items() if key not in shared} for run in runs],
            "reference": None if reference is None else vars(reference),
        }
    )


def unpacked(text: str) -> tuple[str, tuple[Run, ...], divergence.Reference | None]:
    """The name of a stack, its runs, and the reference by which they are judged."""
    content = json.loads(text)
    runs = tuple(run_from_json(content["shared"] | own) for own in content["runs"])
    reference = content["reference"]
    if reference is not None:
        reference = divergence.Reference(**reference | {"task_gain": tuple(reference["task_gain"])})
    return content["name"], runs, reference

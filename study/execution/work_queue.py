"""The work queue of a study: which stack is trained next, and what becomes of one that failed. Knows no scheduler.

A stack waits until the control of its model is recorded, since outcomes are judged against it. A crash is not
divergence: a stack that ran out of memory is halved, one that failed otherwise is tried again, and what fails three
times is recorded as missing, with its reason. A machine that goes away, or a device that is broken, says nothing about
the stacks that trained there: as long as others work, they are trained elsewhere.
"""

import json
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from study.config import Rule, Run, canonical_json, run_from_json, to_json
from study.execution.planner import Stack
from study.execution.work_source import Source
from study.outcomes.reference import Reference
from study.record.failures import write_failure
from study.storage.stores import StorageError

FINISHED = "FINISHED"

TRIES = 3
SAME_FAILURE_STOPS = 3
MOST_TIMES_ELSEWHERE = 20
"""How often a stack is trained anew after what says nothing about it. Each time takes longer to come."""

LEAST_LIMIT_SECONDS = 600.0
FIRST_LIMIT_SECONDS = 1800.0
SHARE_OF_STACK = 0.25
"""A trial without a step for this share of what its whole stack is expected to take hangs."""

REST_SECONDS = 0.2
SHARE_OF_WAIT = 0.05
"""A rest takes this share of the wait so far: a long wait is cut into few rests, and outstayed by little."""


class StudyStoppedError(ValueError):
    """A study that cannot go on, in words for the user. What was recorded stays."""


@dataclass(kw_only=True)
class Job:
    """The trials of a study, and the callbacks for each that ends.

    control: stacks of the control that are to be trained, ahead of all else. source: where the others come from.
    references: of the models whose control is recorded. reference: makes that of a model once it is; its ValueError
    stops the study. on_trial_end: called with a stack, and the counts of its runs or the reason of its failure.
    on_message: called with a sentence for the user.

    begun: the runs of stacks of which there are checkpoints; they are trained first, as they were. seconds_of_run: by
    model, as recorded runs took. trial_seconds: without a step, after which a trial hangs; None goes by what its stack
    is expected to take. checkpoint_seconds: between two checkpoints of a stack; 0 is none.
    """

    study: str
    folder: Path
    rule: Rule
    control: tuple[Stack, ...]
    source: Source
    references: dict[str, Reference]
    reference: Callable[[str], Reference]
    on_trial_end: Callable[[Stack, dict[str, float] | str], None] = field(default=lambda stack, result: None)
    on_message: Callable[[str], None] = field(default=lambda text: None)
    begun: Sequence[Sequence[str]] = ()
    seconds_of_run: Mapping[str, float] = field(default_factory=dict)
    trial_seconds: float | None = None
    checkpoint_seconds: float = 0.0
    resume: str = "study resume"


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a trial failed.

    kind: "error", of the code; "memory", out of it; "device", a GPU that does not work; "hung", no step within the
    limit; "worker", its process ended; "machine", and its machine with it. place: the machine and device where it was.
    """

    kind: str
    reason: str
    place: str = ""


class Queue:
    """Hands out stacks one after another, as the configuration of a trial: None is wait, FINISHED is the end.

    A worker for which there is nothing yet, since the control or what a search waits for is still being trained, is
    handed a rest. Without one, Tune keeps a single idle worker and ends the others, and a new one takes seconds to
    start.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.source = job.source
        self.waiting = deque(continued(job.control, job.begun))
        self.again: deque[Stack] = deque()
        self.training: dict[str, Stack] = {}
        self.resting: set[str] = set()
        self.waits_since: float | None = None
        self.tries: Counter[str] = Counter()
        self.elsewhere: Counter[str] = Counter()
        self.failures: dict[str, set[str]] = {}
        self.controls = Counter(stack.runs[0].model for stack in self.waiting)
        self.seconds_of_run = dict(job.seconds_of_run)
        self.works: set[str] = set()  # places whose last trial ended well
        self.failed_at: dict[str, set[str]] = {}
        self.unfit: set[str] = set()
        self.last_unfit: str | None = None  # why a machine gave a stack back, where nothing else has come since
        self.served = 0  # stacks that a machine has taken, and not given back, whatever became of them
        self.kept = self.dropped = 0
        self.interrupted = False
        self.stopped: Exception | None = None
        if job.begun:
            at_hand = []
            while stack := self.source.next():
                at_hand.append(stack)
            self.waiting.extend(continued(at_hand, job.begun))

    def suggest(self, trial_id: str, capacity: int | None = None) -> Any:
        """What the trial is to do. capacity: how many trials may be out."""
        if self.stopped or self.interrupted:
            return FINISHED
        if capacity is not None and len(self.training) + len(self.resting) >= capacity:
            return None
        try:
            return self._handed_out(trial_id)
        except (StorageError, OSError) as error:
            self.stopped = self._unwritable(error)
            return FINISHED

    def _handed_out(self, trial_id: str) -> Any:
        stack = self._ready()
        if stack:
            self.training[trial_id] = stack
            self.waits_since = None
            reference = None if stack.is_control else self.job.references[stack.runs[0].model]
            return {"stack": packed(stack, reference), "limit": self.limit_seconds(stack)}
        if self.source.ended and not self.waiting:
            return None if self.training else FINISHED
        assert self.training, "a source has neither ended nor anything to be trained"
        self.waits_since = self.waits_since or time.monotonic()
        self.resting.add(trial_id)
        return {"rest": max(REST_SECONDS, SHARE_OF_WAIT * (time.monotonic() - self.waits_since))}

    def limit_seconds(self, stack: Stack) -> float:
        """Without a step for so long, a trial of the stack hangs."""
        if self.job.trial_seconds is not None:
            return self.job.trial_seconds
        known = self.seconds_of_run.get(stack.runs[0].model)
        if known is None:
            return FIRST_LIMIT_SECONDS
        return max(LEAST_LIMIT_SECONDS, SHARE_OF_STACK * known * len(stack.runs))

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

    def ended(self, trial_id: str, result: dict[str, Any] | Failure) -> None:
        """What became of a trial: its counts, that it was stopped, or why it failed. A trial that rests after it has
        failed ends twice."""
        if trial_id in self.resting:
            self.resting.discard(trial_id)
            return
        stack = self.training.pop(trial_id)
        try:
            self._ended(stack, result)
        except (StorageError, OSError) as unwritable:
            self.stopped = self._unwritable(unwritable)

    def _ended(self, stack: Stack, result: dict[str, Any] | Failure) -> None:
        self.last_unfit = None if isinstance(result, Failure) else result.get("unfit")
        self.served += not self.last_unfit
        if isinstance(result, Failure):
            self._failed(stack, result)
            return
        if self.last_unfit:
            self._came_back(stack, self.last_unfit)
            return
        for note in result.get("notes", ()):
            self.job.on_message(f"warning: {note}")
        if "stopped" in result:
            self.kept += result["stopped"] == "kept"
            self.dropped += result["stopped"] != "kept"
            return
        self.works.add(result.get("place", ""))
        model, seconds = stack.runs[0].model, result["seconds"] / len(stack.runs)
        self.seconds_of_run[model] = max(self.seconds_of_run.get(model, 0.0), seconds)
        if not stack.is_control:
            self.source.recorded(stack)
        self.job.on_trial_end(stack, {key: result[key] for key in ("runs", "diverged", "undertrained", "seconds")})
        if stack.is_control:
            self._control_done(stack)

    def _came_back(self, stack: Stack, reason: str) -> None:
        """A machine that joined the cluster cannot take part: that says nothing about the stack, nor of the study."""
        self.waiting.appendleft(stack)
        if reason not in self.unfit:
            self.unfit.add(reason)
            self.job.on_message(reason)

    def rests(self, trial_id: str, failure: Failure) -> None:
        """The trial has failed, and keeps its place for a while, so that nothing else is trained there."""
        self.ended(trial_id, failure)
        self.resting.add(trial_id)

    def _control_done(self, stack: Stack) -> None:
        model = stack.runs[0].model
        self.controls[model] -= 1
        if self.controls[model]:
            return
        try:
            self.job.references[model] = self.job.reference(model)
        except ValueError as error:
            self.stopped = StudyStoppedError(f"{model}: {error}")

    def _failed(self, stack: Stack, failure: Failure) -> None:
        half = len(stack.runs) // 2
        if failure.kind == "memory" and half:
            parts = [Stack(runs=stack.runs[:half]), Stack(runs=stack.runs[half:])]
            self.waiting.extendleft(reversed(parts))
            if stack.is_control:
                self.controls[stack.runs[0].model] += 1
            return
        if self._says_nothing(stack, failure):
            self.elsewhere[stack.name] += 1
            self.again.append(stack)
            return
        self.tries[stack.name] += 1
        tries_left = self.tries[stack.name] < TRIES
        same = self.failures.setdefault(failure.reason if failure.kind == "error" else failure.kind, set())
        # A machine in trouble ends all its workers at once, or lets them hang, and its memory may be taken by others:
        # that says nothing about their stacks.
        if not (failure.kind in ("worker", "machine", "hung", "memory") and tries_left):
            same.add(stack.name)
        if tries_left and len(same) < SAME_FAILURE_STOPS:
            self.again.append(stack)
            return
        write_failure(self.job.folder, stack.name, [run.id for run in stack.runs], failure.reason)
        if not stack.is_control:
            self.source.given_up(stack, failure.reason)
        self.job.on_trial_end(stack, failure.reason)
        if stack.is_control:
            self.stopped = StudyStoppedError(f"the control of {stack.runs[0].model} failed: {failure.reason}")
        elif len(same) >= SAME_FAILURE_STOPS:
            self.stopped = StudyStoppedError(f"{SAME_FAILURE_STOPS} stacks failed the same way: {failure.reason}")

    def _says_nothing(self, stack: Stack, failure: Failure) -> bool:
        """Whether the failure is of its place alone, as far as can be told: a machine went away, or a device failed
        that this stack has met before, or that is new to it while others work."""
        if failure.kind not in ("machine", "device"):
            return False
        may_go_on = self.elsewhere[stack.name] < MOST_TIMES_ELSEWHERE
        if failure.kind == "machine":
            return may_go_on
        self.works.discard(failure.place)
        places = self.failed_at.setdefault(stack.name, set())
        places.add(failure.place)
        others_work = bool(self.works or self.training)
        return may_go_on and others_work and len(places) < TRIES

    def _unwritable(self, error: StorageError | OSError) -> StudyStoppedError:
        """A record that can be neither written nor read ends the study: what trained on would be lost."""
        why = (
            str(error)
            if isinstance(error, StorageError)
            else f"{error.filename or 'the record'}: {error.strerror or error}"
        )
        return StudyStoppedError(f"{why}; what was recorded stays, and `{self.job.resume}` trains the rest")


def continued(stacks: Iterable[Stack], begun: Iterable[Sequence[str]]) -> list[Stack]:
    """The same runs in stacks of which the first are those that were begun, as far as all of their runs are there."""
    stacks = list(stacks)
    runs = {run.id: run for stack in stacks for run in stack.runs}
    first: list[Stack] = []
    for ids in begun:
        if ids and all(run in runs for run in ids):
            first.append(Stack(runs=tuple(runs.pop(run) for run in ids)))
    left = [tuple(run for run in stack.runs if run.id in runs) for stack in stacks]
    return [*first, *(Stack(runs=rest) for rest in left if rest)]


def packed(stack: Stack, reference: Reference | None) -> str:
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


def unpacked(text: str) -> tuple[str, tuple[Run, ...], Reference | None]:
    """The name of a stack, its runs, and the reference by which they are judged."""
    content = json.loads(text)
    runs = tuple(run_from_json(content["shared"] | own) for own in content["runs"])
    reference = content["reference"]
    if reference is not None:
        reference = Reference(**reference | {"task_gain": tuple(reference["task_gain"])})
    return content["name"], runs, reference

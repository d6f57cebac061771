"""The work queue of a study: chooses the stack to train next, and retries or gives up stacks that failed.

A stack waits until the control of its model is recorded, since outcomes are judged against it. A crash is not
divergence. A stack is halved if it ran out of memory, or if one of its runs raised; one that failed otherwise is tried
again. After three failures, or two of a run that raises alone, its runs are recorded as missing, with the reason. The
loss of a machine or a broken device does not count against a stack, as long as other devices work: the stack is trained
elsewhere.
"""

import json
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
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

MAX_TRIES = 3
MAX_RAISES = 2
"""A run that raises alone does so again: it has diverged then (`TrialOptions.raised`), or is missing."""
SAME_FAILURE_STOPS = 3
"""The study stops after this many stacks failed for the same reason, unless only some runs of an arm fail."""
MAX_RELOCATIONS = 20
"""Most times that a stack is trained again after failures that do not count against it."""

MIN_LIMIT_SECONDS = 600.0
FIRST_LIMIT_SECONDS = 1800.0
SHARE_OF_STACK = 0.25
"""A trial hangs if it makes no step for this share of the expected time of its stack."""

REST_SECONDS = 0.2
SHARE_OF_WAIT = 0.05
"""A rest takes this share of the wait so far, so that a long wait needs few rests and ends on time."""


class StudyStoppedError(ValueError):
    """A study that cannot continue. The message is for the user; recorded runs stay."""


class TrainingFailedError(StudyStoppedError):
    """The reason lies in what a study trains: another study on the same machines may succeed."""

    exit_code = 2


@dataclass(kw_only=True)
class Job:
    """The trials of a study, and the callbacks for their results.

    Attributes:
        control: Missing stacks of the control, trained before all others.
        source: Of all other stacks.
        references: By model; those known at the start.
        reference: Returns the reference of a model once its control is recorded. Its ValueError stops the study.
        further_control: Returns stacks by which a model's control grows, given its reference so far; often none.
        on_begin: Called when the first trial begins.
        on_trial_end: Called with a stack, and the counts of its runs or the reason of its failure.
        on_message: Called with a sentence for the user.
        on_check: Called every few seconds while trials run.
        checkpointed: Run ids of the stacks that have a checkpoint. These stacks are trained first, unchanged.
        seconds_of_run: By model, from recorded runs.
        trained: (model, method) of the recorded cells.
        trial_seconds: A trial without a step for so long hangs. None: depends on the expected time of its stack.
        checkpoint_seconds: Time between two checkpoints; 0 writes none.
        resume: The command that continues the study.
    """

    study: str
    folder: Path
    rule: Rule
    control: tuple[Stack, ...]
    source: Source
    references: dict[str, Reference]
    reference: Callable[[str], Reference]
    further_control: Callable[[str, Reference], Sequence[Stack]] = field(default=lambda model, reference: ())
    on_begin: Callable[[], None] = field(default=lambda: None)
    on_trial_end: Callable[[Stack, dict[str, float] | str], None] = field(default=lambda stack, result: None)
    on_message: Callable[[str], None] = field(default=lambda text: None)
    on_check: Callable[[], None] = field(default=lambda: None)
    checkpointed: Sequence[Sequence[str]] = ()
    seconds_of_run: Mapping[str, float] = field(default_factory=dict)
    trained: Collection[tuple[str, str]] = ()
    trial_seconds: float | None = None
    checkpoint_seconds: float = 0.0
    resume: str = "study resume"


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a trial failed.

    Attributes:
        kind: "error" (an exception), "run" (an exception of one of the runs, see `RunError`), "misuse" (`MisuseError`,
            which no try mends), "memory" (out of memory), "device" (a GPU that does not work), "hung" (no step within
            the limit), "worker" (its process died) or "machine" (its machine was lost).
        reason: For the user.
        place: The machine and device.
    """

    kind: str
    reason: str
    place: str = ""


class Queue:
    """Hands out stacks as configurations of trials.

    A worker without a stack to train rests, while the control or a search still trains. Otherwise Tune would keep one
    idle worker and end the others, and a new worker takes seconds to start.

    Attributes:
        training: Trial id -> its stack.
        resting: Ids of trials that rest.
        rejection: Why a machine returned the last stack that ended; None if another result has come since.
        served: Trials that a machine has accepted, whatever their result.
        kept: Stopped trials that have a checkpoint.
        dropped: Stopped trials that have none.
        interrupted: Set by a signal. No more stacks are handed out.
        stopped: The error that stopped the study.
    """

    def __init__(self, job: Job) -> None:
        self.job, self.source = job, job.source
        self.training: dict[str, Stack] = {}
        self.resting: set[str] = set()
        self.rejection: str | None = None
        self.served = self.kept = self.dropped = 0
        self.interrupted = False
        self.stopped: Exception | None = None
        self._before_growth: dict[str, Reference] = {}
        control = [*job.control, *(stack for model in list(job.references) for stack in self._further_control(model))]
        self._waiting = deque(with_checkpointed_first(control, job.checkpointed))
        self._retries: deque[Stack] = deque()
        self._controls_left = Counter(stack.runs[0].model for stack in self._waiting)
        self._waits_since: float | None = None
        self._seconds_of_run = dict(job.seconds_of_run)
        self._trained = set(job.trained)
        self._tries: Counter[str] = Counter()
        self._raises: Counter[str] = Counter()
        self._relocations: Counter[str] = Counter()
        self._stacks_of_failure: defaultdict[str, set[str]] = defaultdict(set)
        self._working_places: set[str] = set()
        self._failed_places: defaultdict[str, set[str]] = defaultdict(set)
        self._rejections: set[str] = set()
        if job.checkpointed:
            self._waiting.extend(with_checkpointed_first(iter(self.source.next, None), job.checkpointed))

    def suggest(self, trial_id: str, capacity: int | None = None, fitting: int | None = None) -> Any:
        """Return the configuration of a trial; None means wait, FINISHED the end.

        Args:
            trial_id: Of the trial.
            capacity: The most trials at a time; None is no limit.
            fitting: How many of them run now; the others wait for a machine. A trial that would rest does not wait.
        """
        if self.stopped or self.interrupted:
            return FINISHED
        if capacity is not None and len(self.training) + len(self.resting) >= capacity:
            return None
        try:
            return self._suggest(trial_id, fitting)
        except (StorageError, OSError) as error:
            self.stopped = self._storage_failed(error)
            return FINISHED

    def _suggest(self, trial_id: str, fitting: int | None) -> Any:
        if stack := self._next_stack():
            self.training[trial_id] = stack
            self._waits_since = None
            reference = None if stack.is_control else self.job.references[stack.runs[0].model]
            raised = bool(self._raises[stack.name])
            return {"stack": stack_to_json(stack, reference), "limit": self.limit_seconds(stack), "raised": raised}
        if self.source.ended and not self._waiting:
            return None if self.training else FINISHED
        assert self.training, "a source has neither ended nor a stack to train"
        if fitting is not None and len(self.training) + len(self.resting) >= fitting:
            return None
        self._waits_since = self._waits_since or time.monotonic()
        self.resting.add(trial_id)
        return {"rest": max(REST_SECONDS, SHARE_OF_WAIT * (time.monotonic() - self._waits_since))}

    def limit_seconds(self, stack: Stack) -> float:
        """Return the seconds without a step after which a trial of the stack hangs."""
        if self.job.trial_seconds is not None:
            return self.job.trial_seconds
        seconds = self._seconds_of_run.get(stack.runs[0].model)
        if seconds is None:
            return FIRST_LIMIT_SECONDS
        return max(MIN_LIMIT_SECONDS, SHARE_OF_STACK * seconds * len(stack.runs))

    def _next_stack(self) -> Stack | None:
        """The first stack whose reference is known. Retries come last."""
        for i, stack in enumerate(self._waiting):
            if self._can_train(stack):
                del self._waiting[i]
                return stack
        while stack := self.source.next():
            if self._can_train(stack):
                return stack
            self._waiting.append(stack)
        return self._retries.popleft() if self._retries else None

    def _can_train(self, stack: Stack) -> bool:
        return stack.is_control or stack.runs[0].model in self.job.references

    def rests(self, trial_id: str, failure: Failure) -> None:
        """Note that a trial failed, and that its process rests: nothing else is trained in its place meanwhile."""
        self.ended(trial_id, failure)
        self.resting.add(trial_id)

    def ended(self, trial_id: str, result: dict[str, Any] | Failure) -> None:
        """Take the result of a trial: its counts, that it was stopped or rejected, or why it failed."""
        if trial_id in self.resting:  # a trial that failed and then rested ends twice
            self.resting.discard(trial_id)
            return
        stack = self.training.pop(trial_id)
        try:
            self._ended(stack, result)
        except (StorageError, OSError) as error:
            self.stopped = self._storage_failed(error)

    def _ended(self, stack: Stack, result: dict[str, Any] | Failure) -> None:
        self.rejection = None if isinstance(result, Failure) else result.get("rejected")
        self.served += not self.rejection
        if isinstance(result, Failure):
            self._failed(stack, result)
            return
        if self.rejection:
            self._waiting.appendleft(stack)
            if self.rejection not in self._rejections:
                self._rejections.add(self.rejection)
                self.job.on_message(self.rejection)
            return
        for note in result.get("notes", ()):
            self.job.on_message(f"warning: {note}")
        if "stopped" in result:
            self.kept += result["stopped"] == "kept"
            self.dropped += result["stopped"] == "dropped"
            return
        self._working_places.add(result.get("place", ""))
        model, seconds = stack.runs[0].model, result["seconds"] / len(stack.runs)
        self._seconds_of_run[model] = max(self._seconds_of_run.get(model, 0.0), seconds)
        if not stack.is_control:
            self._trained.add(_arm_of(stack))
            self.source.recorded(stack)
        self.job.on_trial_end(stack, {key: result[key] for key in ("runs", "diverged", "undertrained", "seconds")})
        if stack.is_control:
            self._control_recorded(model)

    def _control_recorded(self, model: str) -> None:
        self._controls_left[model] -= 1
        if self._controls_left[model] or self._grows_no_more(model):
            return
        try:
            self.job.references[model] = self.job.reference(model)
        except ValueError as error:
            self.stopped = TrainingFailedError(
                f"{model}: {error}; a study keeps these, so choose another folder for the change"
            )
            return
        further = self._further_control(model)
        self._controls_left[model] = len(further)
        self._waiting.extendleft(reversed(further))

    def _further_control(self, model: str) -> Sequence[Stack]:
        """Stacks by which the control of a model grows. Its reference is not known until they are recorded."""
        further = self.job.further_control(model, self.job.references[model])
        if further:
            self._before_growth[model] = self.job.references.pop(model)
        return further

    def _grows_no_more(self, model: str) -> bool:
        return model in self._before_growth and model in self.job.references

    def _end_growth(self, model: str, reason: str) -> None:
        """Go on with the reference that the control had before an lr at which it cannot be trained."""
        self.job.references[model] = self._before_growth[model]
        for stacks in (self._waiting, self._retries):
            for stack in [one for one in stacks if one.is_control and one.runs[0].model == model]:
                stacks.remove(stack)
                self.job.on_trial_end(stack, reason)
        self.job.on_message(f"{model}: the control stays at lr {self._before_growth[model].lr:g}: {reason}")

    def _failed(self, stack: Stack, failure: Failure) -> None:
        if stack.is_control and self._grows_no_more(stack.runs[0].model):  # its lr was given up meanwhile
            self.job.on_trial_end(stack, failure.reason)
            return
        half = len(stack.runs) // 2
        if failure.kind in ("memory", "run") and half:
            self._waiting.extendleft([Stack(runs=stack.runs[half:]), Stack(runs=stack.runs[:half])])
            if stack.is_control:
                self._controls_left[stack.runs[0].model] += 1
            return
        if self._may_relocate(stack, failure):
            self._relocations[stack.name] += 1
            self._retries.append(stack)
            return
        self._tries[stack.name] += 1
        self._raises[stack.name] += failure.kind == "run"
        may_retry = self._tries[stack.name] < MAX_TRIES and self._raises[stack.name] < MAX_RAISES
        may_retry = may_retry and failure.kind != "misuse"
        alike = self._stacks_of_failure[failure.reason if failure.kind in ("error", "misuse") else failure.kind]
        # A machine in trouble ends all of its workers at once, and other programs may take its memory. So these kinds
        # count for the study only once a stack has no tries left.
        if failure.kind in ("error", "device") or not (may_retry or failure.kind == "run"):
            alike.add(stack.name)
        stops = len(alike) >= SAME_FAILURE_STOPS and not self._may_be_its_lr(stack, failure)
        if may_retry and not stops:
            self._retries.append(stack)
            return
        write_failure(self.job.folder, stack.name, stack.runs, failure.reason)
        if not stack.is_control:
            self.source.given_up(stack, failure.reason)
        self.job.on_trial_end(stack, failure.reason)
        stopped = StudyStoppedError if failure.kind == "device" else TrainingFailedError
        if stack.is_control and stack.runs[0].model in self._before_growth:
            self._end_growth(stack.runs[0].model, failure.reason)
        elif stack.is_control:
            self.stopped = stopped(f"the control of {stack.runs[0].model} failed: {failure.reason}")
        elif stops:
            self.stopped = stopped(f"{SAME_FAILURE_STOPS} stacks failed the same way: {failure.reason}")

    def _may_be_its_lr(self, stack: Stack, failure: Failure) -> bool:
        """Whether a stack failed due to the lr or seed of its only run, since others of the same arm were trained.

        A loop may fail at each high lr in the same way. These runs are missing, and the study goes on.
        """
        return len(stack.runs) == 1 and failure.kind != "device" and _arm_of(stack) in self._trained

    def _may_relocate(self, stack: Stack, failure: Failure) -> bool:
        """Whether the failure is due to its place: a lost machine, or a device, while others work, unless the stack has
        failed on MAX_TRIES of them."""
        may_relocate = self._relocations[stack.name] < MAX_RELOCATIONS
        if failure.kind != "device":
            return failure.kind == "machine" and may_relocate
        self._working_places.discard(failure.place)
        places = self._failed_places[stack.name]
        places.add(failure.place)
        others_work = bool(self._working_places or self.training)
        return may_relocate and others_work and len(places) < MAX_TRIES

    def _storage_failed(self, error: StorageError | OSError) -> StudyStoppedError:
        why = str(error)
        if not isinstance(error, StorageError):
            why = f"{error.filename or 'the record'}: {error.strerror or error}"
        return StudyStoppedError(f"{why}; what was recorded stays, and `{self.job.resume}` trains the rest")


def _arm_of(stack: Stack) -> tuple[str, str]:
    return stack.runs[0].model, stack.runs[0].method


def with_checkpointed_first(stacks: Iterable[Stack], checkpointed: Iterable[Sequence[str]]) -> list[Stack]:
    """Return the same runs in other stacks: first those that have a checkpoint, if all of their runs are there.

    Args:
        stacks: Planned now, perhaps for another number of workers.
        checkpointed: Run ids of each stack that has a checkpoint.
    """
    stacks = list(stacks)
    runs = {run.id: run for stack in stacks for run in stack.runs}
    first = [
        Stack(runs=tuple(runs.pop(run) for run in ids))
        for ids in checkpointed
        if ids and all(run in runs for run in ids)
    ]
    rest = [tuple(run for run in stack.runs if run.id in runs) for stack in stacks]
    return [*first, *(Stack(runs=own) for own in rest if own)]


def stack_to_json(stack: Stack, reference: Reference | None) -> str:
    """Return a stack as JSON that holds the shared fields of its runs once: Tune copies it with every result."""
    first = to_json(stack.runs[0])
    shared = {key: first[key] for key in ("data", "model", "method", "recipe")}
    # read from each run: as JSON values its recipe alone would take most of the queue's time
    own = [key for key in first if key not in shared]
    return canonical_json(
        {
            "name": stack.name,
            "shared": shared,
            "runs": [{key: getattr(run, key) for key in own} for run in stack.runs],
            "reference": None if reference is None else vars(reference),
        }
    )


def stack_from_json(text: str) -> tuple[str, tuple[Run, ...], Reference | None]:
    """Return the name of a stack, its runs, and the reference that judges them."""
    content = json.loads(text)
    runs = tuple(run_from_json(content["shared"] | own) for own in content["runs"])
    reference = content["reference"]
    if reference is not None:
        reference = Reference(**reference | {"task_gain": tuple(reference["task_gain"])})
    return content["name"], runs, reference

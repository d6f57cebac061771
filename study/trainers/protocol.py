"""What a study asks of a trainer, and what it gets back: the only thing that the rest of `study` knows of training.

A trainer is one file: `study/trainers/mine.py`, or any dotted module, that defines a class `Trainer`, a subclass of the
class below. Only `description` and `train` must be written. A study names it: `Study(trainer="my_pkg.mine", ...)`.
"""

import functools
import platform
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import study as package
from study import plugins
from study.config import Arm, Run, Study, canonical_json
from study.definition import own_code
from study.training.checkpointer import Checkpointer


@dataclass(frozen=True, kw_only=True)
class TrainedRuns:
    """What training returns, in the order of its runs (R runs, S steps, T tasks).

    Args:
        loss: float32 (R, S, T), the loss of each task on each step's batch, before its update.
        baseline: float32 (R, S, T), the loss that `loss` is paired with, such as that of the best constant predictor
            on the same batch. Runs of one seed share it. None is the loss at initialization, the median over the
            control's seeds.
        steps: int64 (S,), numbers of the logged steps, increasing; None is every step.
        finite: bool (R,), whether all weights are finite at the end.
        declared: bool (R,), runs that diverged by the trainer's word, whatever their losses show; None is none.
        judged: column of the record -> float64 (R,), such as `auc_click`; NaN is missing.
        moved: float64 (R,), L2 distance of the weights from their start; NaN or None where it is unknown.
        counts: column of the record -> int64 (R,), such as `rollbacks`.
        seconds: wall time per run.
        raised: what ended a run that was alone, for the record; None is nothing.
        notes: sentences for the user, each shown as a warning.
    """

    loss: np.ndarray
    baseline: np.ndarray | None
    finite: np.ndarray
    steps: np.ndarray | None = None
    declared: np.ndarray | None = None
    judged: Mapping[str, np.ndarray] = field(default_factory=dict)
    moved: np.ndarray | None = None
    counts: Mapping[str, np.ndarray] = field(default_factory=dict)
    seconds: float
    raised: str | None = None
    notes: tuple[str, ...] = ()


class RunError(Exception):
    """Runs raised because of what they are, such as their lr. The cause is what was raised.

    A stack is then halved, so that its other runs are trained. Anything else that `Trainer.train` raises is taken for a
    fault that other stacks have too.

    Args:
        trained: what a run that was alone leaves, if its losses or weights are not finite; else None.
    """

    def __init__(self, trained: TrainedRuns | None = None) -> None:
        super().__init__("a run raised")
        self.trained = trained


class MisuseError(ValueError):
    """What is trained ended well, but gave what cannot be judged, such as no loss. It is not tried again."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a plan needs to know of training, by model.

    Args:
        largest_stack: most runs in one trial.
        work_of_run: relative cost of a run, in any unit that is the same for all models.
        notes: sentences for the user, such as "runs of X train one by one".
        stackable: whether a trial can have several runs.
    """

    largest_stack: Mapping[str, int]
    work_of_run: Mapping[str, float]
    notes: tuple[str, ...] = ()
    stackable: bool = True


RangeTest = Callable[[Sequence[Run], Sequence[float], str, Path | str], TrainedRuns]
"""Trains runs for as many steps as there are lrs, and returns their losses, which may end early.

It takes the runs (of one model and kind, at most `Limits.largest_stack`; their own lr is the last one), the lr of each
step, increasing, and device and folder as `Trainer.train` does.
"""


class Trainer(ABC):
    """Trains the runs of a study. A subclass replaces what differs.

    Args:
        study: the study; `study.trainer_options` are the trainer's own.
        cache: a folder for files that can be made again.
        hints: what `hints()` of the driver's trainer returned, on another process; None in the driver.

    Attributes:
        cuda_graphs: whether a GPU may replay steps as CUDA graphs (`--cuda-graphs`); a trainer without them ignores it.
    """

    cuda_graphs = True

    def __init__(self, study: Study, cache: Path, hints: Mapping[str, Any] | None = None) -> None:
        self.study, self.cache = study, cache

    # The definition: called before any data is read.

    def validate(self, study: Study) -> Study:
        """Return the study in canonical form. Raises ValueError on unknown models, methods or options."""
        return study

    def canonical_options(self, method: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options of an arm that differ from their defaults. Raises ValueError on values out of range."""
        return dict(options)

    def thresholds_of(self, method: str) -> dict[str, float]:
        """Return the numeric options of a method that a search may vary, with their defaults."""
        arms = [arm for arm in self.study.arms if arm.method == method]
        return {name: value for arm in arms for name, value in arm.options.items() if is_number(value)}

    def option_values(self) -> dict[str, list[Any]]:
        """Return the values of each option in the study, defaults last. A value of `--set` must be of their kind."""
        found: dict[str, list[Any]] = {}
        for arm in self.study.arms:
            for name, value in arm.options.items():
                found.setdefault(name, []).append(value)
        return found

    def start_from(self, weights: str, *, accumulators: bool = False) -> Study:
        """Return the study whose runs start from a file of weights. Raises ValueError where they cannot."""
        raise ValueError(f"runs of the trainer {self.study.trainer} cannot start from weights (--init-from)")

    # What is trained on.

    @abstractmethod
    def description(self) -> dict[str, Any]:
        """Return what `study.json` keeps of the data, as JSON values.

        Returns:
            `content`: the hash of all that changes a run beside its own fields; it enters every run's id.
            `tasks`: one mapping per task with `name`, `kind` ("binary", "regression" or "loss") and `constant_loss`,
            the loss that a model without skill has. `source`: a name for reports. Other keys are shown in reports.
        """

    @property
    def content(self) -> str:
        return self.description()["content"]

    @property
    def tasks(self) -> list[dict[str, Any]]:
        return self.description()["tasks"]

    def summary(self) -> list[tuple[str, str]]:
        """Return what `study plan` says of the trainer: pairs of a word and a line."""
        return [("trainer", self.study.trainer)]

    # The plan.

    def kind_of(self, run: Run) -> str:
        """Return a key that is equal for runs of one model that can share a trial."""
        return canonical_json([run.method, run.options])

    def limits(self, study: Study, device_bytes: int | None = None) -> Limits:
        """Return the limits of the study's trials.

        Args:
            study: the study, or a part of it with fewer arms.
            device_bytes: GPU memory of one trial; None is a CPU.

        Raises:
            ValueError: the study cannot be trained on its data.
        """
        one = dict.fromkeys(study.models, 1)
        return Limits(largest_stack=one, work_of_run=dict.fromkeys(study.models, 1.0), stackable=False)

    def expected_seconds(self, limits: Limits) -> tuple[dict[str, float], str]:
        """Return the seconds of a run by model, and how they were estimated; nothing where nothing is known."""
        return {}, ""

    # Processes and machines.

    def resources(self) -> tuple[float, float] | None:
        """Return the CPUs and GPUs of a trial; None is a share of a GPU where there are GPUs, else one CPU."""
        return None

    def hints(self) -> dict[str, Any]:
        """Return JSON values that help other processes to open the same trainer."""
        return {}

    def check_device(self, device: str) -> None:  # noqa: B027 - a loop may use any library
        """Raise ValueError if this machine cannot train on "cpu" or "cuda". The message follows the machine's name."""

    def check_folder(self, folder: Path) -> None:  # noqa: B027 - most trainers need nothing there
        """Raise ValueError where the study's folder lacks something that its runs need."""

    def write_folder(self, folder: Path) -> None:  # noqa: B027 - most trainers write nothing there
        """Write into the study's folder what its runs need from there."""

    def device_name(self, device: str) -> str:
        """Return the name of the device "cpu" or "cuda" for the record."""
        if device.startswith("cuda"):
            import torch

            return torch.cuda.get_device_name(device)
        return processor_name()

    def made_by(self, device: str) -> dict[str, str]:
        """Return what a run's bits depend on beside its id: versions, and the kind of device.

        A checkpoint is used only where this is equal.
        """
        return {"study": package.__version__, "device": self.device_name(device)}

    # The user's own code.

    def own_modules(self, model: str, arm: Arm) -> list[str]:
        """Return the user's own modules that a run's bits depend on: dotted names, or scripts (`own_code.digest`)."""
        return [*own_names("study.trainers", self.study.trainer)]

    def own_code(self, model: str, arm: Arm) -> dict[str, str]:
        """Return own module -> hash of the code that a run of a model and arm is trained with in this process."""
        return {name: found for name in self.own_modules(model, arm) if (found := own_code.digest(name))}

    def own_code_of(self, study: Study) -> dict[str, str]:
        """Return the same for all runs of a study, or of a part of it."""
        codes = (self.own_code(model, arm) for model in study.models for arm in study.arms)
        return {name: found for code in codes for name, found in code.items()}

    # Training.

    def steps_of(self, run: Run) -> int | None:
        """Return the steps of a run, if they are known beforehand."""
        return None

    @abstractmethod
    def train(
        self,
        runs: Sequence[Run],
        *,
        device: str,
        folder: Path | str,
        on_step: Callable[[int], None],
        checkpointer: Checkpointer,
    ) -> TrainedRuns:
        """Train runs of one model and kind.

        Args:
            runs: at most `Limits.largest_stack` of them.
            device: "cpu" or "cuda".
            folder: the study's folder, or its URL.
            on_step: to be called after each step with its number, from 0; a trial without a call for long is ended.
            checkpointer: may be ignored by a trainer that keeps no checkpoints.

        Raises:
            RunError: some of the runs cannot be trained, and others may be.
            MisuseError: the runs were trained, and cannot be judged.
        """

    def range_test(self, study: Study) -> RangeTest:
        """Return the function that trains runs of the study whose lr rises from step to step.

        Raises:
            ValueError: they cannot have another lr at each step.
        """
        raise ValueError(f"a run of the trainer {study.trainer} has one lr for all of its steps: it has no range test")

    def columns(self, run: Run) -> tuple[dict[str, float], dict[str, Any]]:
        """Return the thresholds of a run, defaults included, and its other options, as the record keeps them."""
        thresholds = {name: value for name, value in run.options.items() if is_number(value)}
        return thresholds, {name: value for name, value in run.options.items() if name not in thresholds}

    @property
    def version(self) -> str:
        """What trained a run, for the record."""
        return f"study {package.__version__}"


def open_trainer(study: Study, cache: Path, hints: Mapping[str, Any] | None = None) -> Trainer:
    """Return the trainer of a study.

    Raises:
        ValueError: there is no such trainer (the message lists the right names), or it lacks a required method.
    """
    trainer = plugins.load("study.trainers", study.trainer, "trainer", "Trainer").Trainer
    if missing := sorted(getattr(trainer, "__abstractmethods__", ())):
        raise ValueError(f"the trainer {study.trainer!r} does not define {', '.join(missing)}")
    return trainer(study, cache, hints)


@functools.cache  # a study may have thousands of arms
def own_names(package: str, name: str) -> tuple[str, ...]:
    """Return the module of a plugin that is the user's own, or nothing: a built-in one has a version."""
    if name in plugins.names(package):
        return ()
    return (plugins.module_of(package, name),)


def processor_name() -> str:
    """Return the type of this machine's processor, such as `AMD EPYC 7B13`; its architecture where no name is known."""
    try:
        found = re.search(r"^model name\s*:\s*(\S.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    name = found.group(1) if found else platform.processor()
    return " ".join(name.split()) or platform.machine()


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)

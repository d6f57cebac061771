"""`Loop`: a user's own training, as the trainer of a study."""

import inspect
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

RUN_FIELDS = ("lr", "seed", "arm", "model", "folder", "device")
"""Placeholders of a command beside the options of its arm."""


@dataclass(frozen=True)
class Loop:
    """A user's own training loop: a function, a command, or a Ray Tune trainable.

        study = Study(trainer=Loop(train), arms=(Arm("plain"), Arm("warm", warmup=100)), ...)

    Args:
        function: `train(run, watch)`, or its name as "my_pkg.my_module:train". It calls `watch(loss)` at each step and
            may return a dict of metrics. Keyword-only arguments of it are options of the arms, with their defaults.
        command: in place of a function, a command line with placeholders: `{lr}`, `{seed}`, `{folder}`, `{arm}`,
            `{model}`, `{device}`, and the options of the arms. No shell is started.
        losses: the file that the command writes, with placeholders: CSV or JSON lines with the columns `step` and
            `loss`, or one column a task in place of `loss`.
        tasks: names of the losses. Several are summed to the training loss.
        quality: metric by which runs are judged, "accuracy", or "-val_loss" where less is better.
        metrics: a JSON file of metrics that a command leaves, with placeholders.
        baseline: loss of a model without skill, a number, or one for each task. None: that of the best constant
            predictor, if the loop gives `watch` the targets; otherwise the loss at initialization, which is weaker.
        cpus: CPUs of one run.
        gpus: GPUs of one run, such as 1 or 0.25.
        version: changes the ids of all runs. Raise it when the loop's code gives other results than before.

    Raises:
        ValueError: arguments that do not fit together.
    """

    function: Callable[..., Any] | str | None = None
    command: str | None = None
    losses: str | None = None
    tasks: tuple[str, ...] = ("loss",)
    quality: str | None = None
    metrics: str | None = None
    baseline: float | Mapping[str, float] | None = None
    cpus: float = 1
    gpus: float = 0
    version: str = ""

    def __post_init__(self) -> None:
        if (self.function is None) == (self.command is None):
            raise ValueError("a Loop needs either a function or a command")
        if self.command is not None and self.losses is None:
            raise ValueError('a Loop with a command needs losses="FILE": the file of losses that the command writes')
        if self.function is not None and (self.losses or self.metrics):
            raise ValueError("losses and metrics are files of a command; a function calls watch and returns metrics")
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise ValueError(f"a Loop needs different names of tasks, got {self.tasks}")
        if self.cpus < 0 or self.gpus < 0 or not (self.cpus or self.gpus):
            raise ValueError(f"a Loop needs CPUs or GPUs, got cpus={self.cpus:g}, gpus={self.gpus:g}")
        if isinstance(self.baseline, Mapping) and set(self.baseline) != set(self.tasks):
            raise ValueError(f"baseline needs a number for each of {', '.join(self.tasks)}; got {dict(self.baseline)}")

    trainer = "loop"

    def name(self) -> str:
        """Return the name of the model: that of the function's module, or `command`."""
        return function_name(self.function).partition(":")[0].rpartition(".")[2] if self.function else "command"

    def options(self, arms: Any) -> dict[str, Any]:
        """Return `Study.trainer_options`: this loop in JSON values.

        Args:
            arms: of the study; the names of their options are those that the loop knows.
        """
        known = sorted({name for arm in arms for name in arm.options})
        baseline = self.baseline
        if isinstance(baseline, int | float):
            baseline = {task: float(baseline) for task in self.tasks} if len(self.tasks) == 1 else None
            if baseline is None:
                raise ValueError(f"baseline needs a number for each of {', '.join(self.tasks)}")
        found = {
            "function": function_name(self.function) if self.function else None,
            "command": self.command,
            "losses": self.losses,
            "metrics": self.metrics,
            "tasks": list(self.tasks),
            "quality": self.quality,
            "baseline": dict(baseline) if baseline else None,
            "cpus": self.cpus,
            "gpus": self.gpus,
            "version": self.version,
            "options": known,
        }
        return {name: value for name, value in found.items() if value not in (None, "")}


def function_name(function: Callable[..., Any] | str) -> str:
    """Return `module:name` of a function. Raises ValueError where no other process could import it."""
    if isinstance(function, str):
        if not all(function.partition(":")):
            raise ValueError(f'a function is named as "my_module:train", got {function!r}')
        return function
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
    if not module or module == "__main__" or "<" in name or not name:
        raise ValueError(
            f"the loop {name or function!r} must be a function at the top of a module, so that workers find it"
        )
    return f"{module}:{name}"


def keyword_options(function: Callable[..., Any]) -> dict[str, Any] | None:
    """Return the keyword-only arguments of a loop with their defaults; None where it takes only (run, watch).

    Raises:
        ValueError: it cannot be called as `train(run, watch)`.
    """
    parameters = inspect.signature(function).parameters
    try:
        inspect.signature(function).bind(None, None)
    except TypeError:
        raise ValueError(
            f"a loop takes (run, watch), but {function.__name__} takes ({', '.join(parameters)})"
        ) from None
    named = {n: p.default for n, p in parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}
    return named or None


def placeholders(text: str) -> set[str]:
    """Return the names in braces. Raises ValueError for braces that are no placeholder."""
    try:
        found = {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}
    except ValueError as error:
        raise ValueError(f"{text!r} has a brace that is no placeholder ({error}); write {{{{ for a brace") from None
    if wrong := sorted(name for name in found if not name.isidentifier()):
        raise ValueError(f"{text!r} has a placeholder without a name: {{{wrong[0]}}}; write {{{{ for a brace")
    return found

"""`Loop`: a user's own training, as the trainer of a study."""

import inspect
import math
import os
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
            may return a dict of metrics. Its further arguments are options of the arms, with their defaults.
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
    losses: str | os.PathLike[str] | None = None
    tasks: tuple[str, ...] = ("loss",)
    quality: str | None = None
    metrics: str | os.PathLike[str] | None = None
    baseline: float | Mapping[str, float] | None = None
    cpus: float = 1
    gpus: float = 0
    version: str = ""

    def __post_init__(self) -> None:
        for name in ("losses", "metrics"):
            if isinstance(path := getattr(self, name), os.PathLike):
                object.__setattr__(self, name, os.fspath(path))
        if (self.function is None) == (self.command is None):
            raise ValueError("a Loop needs either a function or a command")
        if self.command is not None and self.losses is None:
            raise ValueError('a Loop with a command needs losses="FILE": the file of losses that the command writes')
        if self.function is not None and (self.losses or self.metrics):
            raise ValueError("losses and metrics are files of a command; a function calls watch and returns metrics")
        self._check_types()
        if self.command is not None and self.quality and not self.metrics:
            raise ValueError('quality of a command needs metrics="FILE": the JSON file of metrics that it leaves')
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise ValueError(f"a Loop needs different names of tasks, got {self.tasks}")
        if not (0 <= self.cpus < math.inf and 0 <= self.gpus < math.inf and self.cpus + self.gpus):
            raise ValueError(f"a Loop needs CPUs or GPUs, got cpus={self.cpus:g}, gpus={self.gpus:g}")
        if isinstance(self.baseline, Mapping) and set(self.baseline) != set(self.tasks):
            raise ValueError(f"baseline needs a number for each of {', '.join(self.tasks)}; got {dict(self.baseline)}")
        given = [] if self.baseline is None else [self.baseline]
        numbers: list[Any] = [*self.baseline.values()] if isinstance(self.baseline, Mapping) else given
        if wrong := [value for value in numbers if not (_is_number(value) and 0 < value < math.inf)]:
            raise ValueError(f"need baseline > 0, got {wrong[0]!r}")
        if self.quality is not None and not self.quality.removeprefix("-"):
            raise ValueError(f'quality needs the name of a metric, such as "-val_loss"; got {self.quality!r}')

    def _check_types(self) -> None:
        if not (self.function is None or isinstance(self.function, str) or callable(self.function)):
            raise ValueError(f"a Loop needs a function train(run, watch), got {self.function!r}")
        for name in ("command", "losses", "metrics", "quality"):
            if not isinstance(value := getattr(self, name), str | None):
                raise ValueError(f"{name} needs a text, got {value!r}")
        if isinstance(self.tasks, str) or not all(isinstance(n, str) and n and n.isprintable() for n in self.tasks):
            raise ValueError(f"tasks needs a tuple of names, got {self.tasks!r}")
        for name in ("cpus", "gpus"):
            if not _is_number(value := getattr(self, name)):
                raise ValueError(f"{name} needs a number, got {value!r}")

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
        module, _, name = function.partition(":")
        if not all(part.isidentifier() for part in (*module.split("."), *name.split("."))):
            raise ValueError(f'a function is named as "my_module:train", got {function!r}')
        return function
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
    if not module or module == "__main__" or "<" in name or not name:
        raise ValueError(
            f"the loop {name or function!r} must be a function at the top of a module, so that workers find it"
        )
    return f"{module}:{name}"


def keyword_options(function: Callable[..., Any]) -> dict[str, Any] | None:
    """Return the arguments of a loop after (run, watch) with their defaults; None where it names no others.

    Raises:
        ValueError: it cannot be called as `train(run, watch)`.
    """
    name = getattr(function, "__qualname__", repr(function))
    if inspect.isclass(function) or inspect.isgeneratorfunction(function) or inspect.iscoroutinefunction(function):
        raise ValueError(f"a loop is a plain function, but {name} is a class, a generator or async")
    parameters = inspect.signature(function).parameters
    positional = [n for n, p in parameters.items() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    named = {
        n: p.default
        for n, p in parameters.items()
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and n not in positional[:2]
    }
    if without := [n for n, default in named.items() if default is inspect.Parameter.empty]:
        raise ValueError(f"a loop takes (run, watch) and options with defaults, but {without[0]} of {name} has none")
    try:
        inspect.signature(function).bind(None, None)
    except TypeError:
        raise ValueError(f"a loop takes (run, watch), but {name} takes ({', '.join(parameters)})") from None
    return named or None


def takes_any_option(function: Callable[..., Any]) -> bool:
    """Return whether a loop ends with `**options`."""
    return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(function).parameters.values())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def placeholders(text: str) -> set[str]:
    """Return the names in braces. Raises ValueError for braces that are no placeholder."""
    try:
        found = {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}
    except ValueError as error:
        raise ValueError(f"{text!r} has a brace that is no placeholder ({error}); write {{{{ for a brace") from None
    if special := [n for _, n, spec, how in string.Formatter().parse(text) if n is not None and (spec or how)]:
        raise ValueError(f"{text!r} gives {{{special[0]}}} a format, which is not supported; write {{{special[0]}}}")
    if wrong := sorted(name for name in found if not name.isidentifier()):
        raise ValueError(f"{text!r} has a placeholder without a name: {{{wrong[0]}}}; write {{{{ for a brace")
    return found

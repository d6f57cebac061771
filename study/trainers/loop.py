"""The trainer of loops: a user's function or command (`study.loops`), one run a trial."""

import contextlib
import functools
import hashlib
import math
import os
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from study import plugins
from study.config import Arm, Recipe, Run, Study, canonical_json, united_arms
from study.loops import command, loss_file, process_state
from study.loops.definition import keyword_options, takes_any_option
from study.loops.loss_file import Losses
from study.loops.range_test import LrRamp, RampedWatch
from study.loops.run import LoopRun
from study.loops.watch import RunEnded, Watch
from study.outcomes.judge import exploded_steps
from study.storage import stores
from study.storage.scratch import scratch_folder
from study.storage.untrusted_input import inside
from study.text import own_errors
from study.trainers import protocol
from study.trainers.protocol import MisuseError, TrainedRuns
from study.training.checkpointer import Checkpointer

FOLDER = "loops"
"""Folder of the runs' own folders in the study's folder."""

TRIES = "tries"
"""File in a run's folder, one byte for each try."""

NOT_IN_IDS = ("cpus", "gpus", "options")
"""Options of the trainer that change no run."""


class Trainer(protocol.Trainer):
    """Trains a user's loop."""

    # The definition -------------------------------------------------------------------------------------------------

    @property
    def loop(self) -> dict[str, Any]:
        return self.study.trainer_options

    @functools.cached_property
    def function(self) -> Callable[..., Any] | None:
        """The user's function; None for a command. Raises ValueError where it cannot be imported."""
        name = self.loop.get("function")
        if name is None:
            return None
        module, _, attribute = name.partition(":")
        if plugins.only_ours:
            raise ValueError(f"the loop {name} is the user's own code, which a command that only reads does not import")
        try:
            found = functools.reduce(getattr, attribute.split("."), plugins.import_module(module))
        except ModuleNotFoundError as error:
            where = "" if plugins.is_missing(error, module) else own_errors.place(error, module)
            lacks = f"the loop {name} cannot be imported: there is no module {error.name!r}"
            raise ValueError(": ".join(filter(None, (where, lacks)))) from error
        except AttributeError:
            raise ValueError(f"the module {module} has no function {attribute!r}") from None
        if not callable(found):
            raise ValueError(f"{name} is no function, but {type(found).__name__}")
        return found

    def validate(self, study: Study) -> Study:
        if study.recipe != Recipe():
            raise ValueError("a loop has no recipe: batch, steps and so on are its own; make them options of the loop")
        if study.data_options or study.data != Study.data:
            raise ValueError("a loop has no --data and --data-dir: it reads its own data")
        for arm in study.arms:
            _check_arm(arm)
        names = {arm.method: sorted(arm.options) for arm in study.arms}
        if self.function is None:
            files = [self.loop[name] for name in ("losses", "metrics") if name in self.loop]
            command.check(self.loop["command"], files, names)
        canonical = self.canonical_options
        arms = [(replace(arm, options=canonical(arm.method, arm.options)), study.lrs_of(arm)) for arm in study.arms]
        return replace(study, arms=united_arms(arms, study.lrs))

    @functools.cached_property
    def defaults(self) -> dict[str, Any] | None:
        """The options of the function with their defaults; None where it does not name them."""
        return keyword_options(self.function) if self.function else None

    def canonical_options(self, method: str, options: Mapping[str, Any]) -> dict[str, Any]:
        defaults = self.defaults
        known = list(defaults or {})
        if defaults is None or (self.function and takes_any_option(self.function)):
            known += self.loop.get("options", [])
        if optimizer := self._optimizer(options):  # `run.optimizer` takes the options of this method
            from study import methods

            of_method = methods.signature(optimizer).defaults
            known += of_method
            methods.check(optimizer, {name: value for name, value in options.items() if name in of_method})
        if unknown := [name for name in options if name not in known]:
            some = f"it has {', '.join(dict.fromkeys(known))}" if known else "it has no options"
            raise ValueError(f"the loop has no option {unknown[0]!r}; {some}")
        return {name: value for name, value in options.items() if (defaults or {}).get(name, math.nan) != value}

    def option_values(self) -> dict[str, list[Any]]:
        found = super().option_values()
        defaults = [self.defaults or {}]
        for optimizer in {name for arm in self.study.arms if (name := self._optimizer(arm.options))}:
            from study import methods

            defaults.append(methods.signature(optimizer).defaults)
        for name, value in (item for of_one in defaults for item in of_one.items()):
            found.setdefault(name, []).append(value)
        return found

    def _optimizer(self, options: Mapping[str, Any]) -> str | None:
        """Return the method that an arm names for `run.optimizer`, if it does.

        An option `optimizer` of a command, or one whose default is no method, is the loop's own.
        """
        default = (self.defaults or {}).get("optimizer")
        if self.function is None or "optimizer" not in {**options, **(self.defaults or {})}:
            return None
        if default is not None:
            from study import methods

            if "." not in str(default) and default not in methods.names():
                return None
        return options.get("optimizer", default)

    def start_from(self, weights: str, *, accumulators: bool = False) -> Study:
        raise ValueError("--init-from is for rankers; a loop reads the weights that it starts from itself")

    # What is trained ------------------------------------------------------------------------------------------------

    def description(self) -> dict[str, Any]:
        baseline = self.loop.get("baseline") or {}
        tasks = [
            {"name": task, "kind": "loss", "constant_loss": baseline.get(task, 1.0)} for task in self.loop["tasks"]
        ]
        same_runs = {name: value for name, value in self.loop.items() if name not in NOT_IN_IDS}
        content = hashlib.sha256(canonical_json(same_runs).encode()).hexdigest()
        found = {"source": self._source(), "content": content, "tasks": tasks}
        quality = self.loop.get("quality")
        numbers = {n: v for n, v in (self.defaults or {}).items() if protocol.is_number(v) and math.isfinite(v)}
        found |= {"defaults": numbers}  # of options that an arm's runs do not name; they are in no id
        return found | ({"quality": self._quality_column(quality)} if quality else {})

    def _source(self) -> str:
        return self.loop.get("function") or self.loop["command"]

    def summary(self) -> list[tuple[str, str]]:
        return [("loop", self._source()), ("baseline", self._baseline_in_words())]

    def _baseline_in_words(self) -> str:
        if baseline := self.loop.get("baseline"):
            return ", ".join(f"{value:g} for {task}" for task, value in baseline.items())
        if self.function is None:
            return "the loss at initialization"
        return "the best constant predictor, if the loop gives `watch` its targets; else the loss at initialization"

    def resources(self) -> tuple[float, float]:
        return self.loop["cpus"], self.loop["gpus"]

    def own_modules(self, model: str, arm: Arm) -> list[str]:
        found = super().own_modules(model, arm)
        if self.function is None:
            return found + command.own_modules(self.loop["command"])
        optimizer = self._optimizer(arm.options)
        of_method = protocol.own_names("study.methods", optimizer) if optimizer else ()
        return [*found, self.loop["function"].partition(":")[0], *of_method]

    # Training -------------------------------------------------------------------------------------------------------

    def train(
        self,
        runs: Sequence[Run],
        *,
        device: str,
        folder: Path | str,
        on_step: Callable[[int], None],
        checkpointer: Checkpointer,
    ) -> TrainedRuns:
        (run,) = runs
        started = time.perf_counter()
        own = self._folder_of(run, folder)
        own.mkdir(parents=True, exist_ok=True)
        tries = _count_try(own)
        earlier = loss_file.read(own / loss_file.NAME, self.loop["tasks"])
        if len(earlier.step) and (not np.isfinite(earlier.loss).all() or (tries > 2 and self._exploded(earlier))):
            # The process of an earlier try ended with losses from which no run recovers.
            trained = self._result(earlier, {}, declared=True, seconds=0.0)
        else:
            watch = Watch(own, self.loop["tasks"], on_step, lambda done: checkpointer.after(done, None))
            metrics, losses = self._metrics_and_losses(run, own, device, watch)
            if not (metrics is None or watch.reason or self._shows_divergence(losses)):
                self._check_quality(metrics)
            declared = bool(watch.reason) or metrics is None
            trained = self._result(losses, metrics or {}, declared=declared, seconds=time.perf_counter() - started)
        _tidy(own)
        return trained

    def range_test(self, study: Study) -> protocol.RangeTest:
        if self.function is None:
            raise ValueError(
                "a command takes the lr of its run once, so it cannot rise; a range test needs a function as loop"
            )
        return self._train_ramp

    def _train_ramp(self, runs: Sequence[Run], lrs: Sequence[float], device: str, folder: Path | str) -> TrainedRuns:
        (run,), ramp, started = runs, LrRamp(lrs), time.perf_counter()
        with scratch_folder("study-range-test-") as own:
            watch = RampedWatch(own, self.loop["tasks"], lambda _step: None, ramp)
            _, losses = self._metrics_and_losses(replace(run, lr=lrs[0]), own, device, watch, ramp)
        return self._result(losses, {}, declared=bool(watch.reason), seconds=time.perf_counter() - started)

    def _metrics_and_losses(
        self, run: Run, own: Path, device: str, watch: Watch, ramp: LrRamp | None = None
    ) -> tuple[dict[str, Any] | None, Losses]:
        try:
            metrics = self._call(run, own, device, watch, ramp)
            watch.flush()
            if watch.step < 0:
                raise MisuseError(f"{self._source()} ended without a call of watch")
            return metrics, watch.file.read()
        finally:
            watch.close()

    def _call(self, run: Run, own: Path, device: str, watch: Watch, ramp: LrRamp | None) -> dict[str, Any] | None:
        """Call the loop; return its metrics, or None where it ended itself and its losses show why."""
        options = (self.defaults or {}) | run.options
        about = LoopRun(
            lr=run.lr,
            seed=run.seed,
            arm=run.method,
            options=options,
            model=run.model,
            folder=own,
            device=device,
            ramp=ramp,
        )
        process = os.getpid()
        try:
            with process_state.restored():
                if plugins.user_folder and Path(plugins.user_folder).is_dir():
                    os.chdir(plugins.user_folder)
                if self.function is None:
                    files = self.loop["losses"], self.loop.get("metrics")
                    return command.train(self.loop["command"], *files, about, watch)
                _seed_everything(run.seed)
                named = options if takes_any_option(self.function) else self.defaults or {}
                returned = self.function(about, watch, **{name: options[name] for name in named})
                return _metrics(returned, self._source())
        except RunEnded:
            if watch.error is not None:
                (own / TRIES).unlink(missing_ok=True)  # it was stopped, and did not die
                raise watch.error from None
            return {}
        except BaseException as error:  # also SystemExit and, where no signal reaches the loop, KeyboardInterrupt
            if ramp and isinstance(error, KeyboardInterrupt):
                raise
            watch.flush()
            losses = watch.file.read()
            if len(losses.step) and self._shows_divergence(losses):
                return None
            raise
        finally:
            if os.getpid() != process:  # a child that the loop forked came back from it
                os._exit(0)

    def _shows_divergence(self, losses: Losses) -> bool:
        return not np.isfinite(losses.loss).all() or self._exploded(losses)

    def _exploded(self, losses: Losses) -> bool:
        """Whether the trailing median of the loss lies above `slow_loss` times the first loss."""
        total = losses.loss.astype(np.float64).sum(axis=1)
        return bool(exploded_steps(total, self.study.rule, step_T=losses.step)[-1])

    def _result(self, losses: Losses, metrics: Mapping[str, Any], *, declared: bool, seconds: float) -> TrainedRuns:
        loss, baseline = losses.loss[None], losses.baseline[None]
        given = self.loop.get("baseline")
        if given:
            baseline = np.broadcast_to(np.array([given[t] for t in self.loop["tasks"]], np.float32), loss.shape)
        unknown = bool(np.isnan(baseline).any())
        return TrainedRuns(
            loss=loss,
            baseline=None if unknown else baseline,
            finite=np.array([np.isfinite(loss).all()]),
            steps=losses.step if (np.diff(losses.step, prepend=-1) != 1).any() else None,
            declared=np.array([declared]),
            judged={"initial_loss": losses.loss[:1].astype(np.float64).sum(axis=1)} | self._judged(metrics),
            seconds=seconds,
        )

    def _check_quality(self, metrics: Mapping[str, Any]) -> None:
        """Raise MisuseError where a healthy run has no metric by which to judge it."""
        name = self.loop.get("quality", "").removeprefix("-")
        if name and name not in metrics:
            found = ", ".join(map(str, metrics)) or "none"
            raise MisuseError(
                f"{self._source()} returned no metric {name!r}, which is its quality; it returned {found}"
            )
        if name and _number(metrics[name]) is None:
            raise MisuseError(f"the metric {name!r} of {self._source()} is {metrics[name]!r}, not a number")

    def _judged(self, metrics: Mapping[str, Any]) -> dict[str, np.ndarray]:
        quality = self.loop.get("quality")
        if quality is None:
            return {}
        name = quality.removeprefix("-")
        value = _number(metrics.get(name))
        return {self._quality_column(quality): np.array([math.nan if value is None else value])}

    @staticmethod
    def _quality_column(quality: str) -> str:
        return f"error_{quality[1:]}" if quality.startswith("-") else f"score_{quality}"

    def _folder_of(self, run: Run, folder: Path | str) -> Path:
        """The run's folder: in the study's, or in the cache where that is an object store."""
        store = stores.store_for(folder)
        at = (
            store.folder
            if isinstance(store, stores.LocalStore)
            else self.cache / hashlib.sha256(str(folder).encode()).hexdigest()[:16]
        )
        return inside(Path(at), f"{FOLDER}/{run.id}")


def _check_arm(arm: Arm) -> None:
    """Raise ValueError where the record could not hold the arm."""
    if not (isinstance(arm.method, str) and arm.method and arm.method.isprintable()):
        raise ValueError(f"an arm needs a name without control characters, got {arm.method!r}")
    for name, value in arm.options.items():
        if not isinstance(value, bool | int | float | str | None):
            raise ValueError(
                f"the option {name} of the arm {arm.method} needs a number, a text or a bool, got {value!r}"
            )


def _metrics(returned: Any, source: str) -> dict[str, Any]:
    if returned is None:
        return {}
    if not isinstance(returned, Mapping):
        raise MisuseError(f"{source} returned {type(returned).__name__}; a loop returns a dict of metrics, or nothing")
    return dict(returned)


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _count_try(folder: Path) -> int:
    with (folder / TRIES).open("ab") as file:
        file.write(b"x")
        return file.tell()


def _tidy(folder: Path) -> None:
    """Remove our files from a run's folder, and the folder if the loop left nothing in it."""
    for name in (loss_file.NAME, TRIES):
        (folder / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


def _seed_everything(seed: int) -> None:
    """Seed the global generators, so that a run does not depend on what its worker trained before."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    if torch := sys.modules.get("torch"):
        # torch's `manual_seed` also notes a stack trace for each kind of accelerator that may be used later.
        set_seed = torch.manual_seed if _has_accelerator() else torch.default_generator.manual_seed
        set_seed(seed)


@functools.cache
def _has_accelerator() -> bool:
    import torch

    return torch.accelerator.is_available()

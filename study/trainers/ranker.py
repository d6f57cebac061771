"""The built-in trainer: stacks of rankers on a time-ordered log (`study.training`, `study.data`).

Planning needs no torch once its answers are cached (`study.trainers._plan_cache`), so torch is imported where it is
needed and not before.
"""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import study as package
from study import data
from study.config import Arm, Recipe, Run, Study, canonical_json, steps_of, to_json, united_arms
from study.data._dataset import Log
from study.definition import model_options
from study.trainers import protocol
from study.trainers._model_size import MOST_EMBEDDINGS, ModelSize, expected_seconds
from study.trainers._plan_cache import cached_call, is_built_in
from study.trainers.protocol import Limits, RunError, TrainedRuns
from study.training.checkpointer import Checkpointer

if TYPE_CHECKING:
    from study.training.trainer import Trained
    from study.training.weights import Weights

CACHED_ARMS = 100
"""Most arms whose options are looked up in the cache, where each is a file read or written. More import torch."""

OTHERS = (
    "window",
    "embedding_dim",
    "embedding_std",
    "initial_accumulator",
    "eps",
    "embeddings",
    "embeddings_lr",
    "precision",
)
"""Settings of the recipe that a plan shows where they are changed, in one line."""


class Trainer(protocol.Trainer):
    """Trains stacks of rankers.

    Args:
        study: the study; its models, recipe, data and data options are the ranker's.
        cache: where converted data and sizes of models are kept.
        hints: content of the data, the folder of their arrays on the driver, and whether steps may be CUDA graphs.
        log: the data, where they are loaded already.
        start: the weights that the recipe's runs start from, where the study's folder may lack them.
    """

    def __init__(
        self,
        study: Study,
        cache: Path,
        hints: Mapping[str, Any] | None = None,
        *,
        log: Log | None = None,
        start: "Weights | None" = None,
    ) -> None:
        super().__init__(study, cache, hints)
        self._hints, self._start = hints, start
        if hints:
            self.cuda_graphs = hints["cuda_graphs"]
        if log is not None:
            self.log = log

    # The definition -------------------------------------------------------------------------------------------------

    def validate(self, study: Study) -> Study:
        if study.trainer_options:
            raise ValueError(f"the ranker has no option {next(iter(study.trainer_options))!r}")
        if not study.models:
            raise ValueError("need at least one of models")
        models = [self._canonical_model(model) for model in study.models]
        canonical = self.canonical_options
        if len(study.arms) > CACHED_ARMS:
            from study import methods

            canonical = methods.check
        arms = [(replace(arm, options=canonical(arm.method, arm.options)), study.lrs_of(arm)) for arm in study.arms]
        return replace(study, models=tuple(dict.fromkeys(models)), arms=united_arms(arms, study.lrs))

    def _canonical_model(self, model: str) -> str:
        find = functools.partial(model_options.canonical, model)
        return cached_call(self.cache, ["model", model], find, built_in=_is_built_in_model(model))

    def canonical_options(self, method: str, options: Mapping[str, Any]) -> dict[str, Any]:
        def find() -> dict[str, Any]:
            from study import methods

            return methods.check(method, options)

        return self._cached(method, ["options", method, repr(sorted(options.items()))], find)

    def thresholds_of(self, method: str) -> dict[str, float]:
        def find() -> dict[str, float]:
            from study import methods

            return methods.signature(method).thresholds

        return self._cached(method, ["thresholds of", method], find)

    def start_from(self, weights: str, *, accumulators: bool = False) -> Study:
        from study.trainers import warm_start

        self.study, self._start = warm_start.starting_from(weights, self.study, self.cache, accumulators=accumulators)
        return self.study

    # The data -------------------------------------------------------------------------------------------------------

    @functools.cached_property
    def log(self) -> Log:
        """The study's data, memory-mapped: the driver's arrays where this machine sees them, or its own."""
        if self._hints:
            converted = Path(self._hints["converted"])
            for folder in (converted, self.cache / converted.name):
                if (log := data.open_cached(folder, self._hints["content"])) is not None:
                    return log
        return data.load(self.study.data, self.study.data_options, self.cache)

    @functools.cached_property
    def _description(self) -> dict[str, Any]:
        return data.describe(self.study.data, self.log)

    def description(self) -> dict[str, Any]:
        return self._description

    def summary(self) -> list[tuple[str, str]]:
        log = self.log
        rows = f"{log.train_rows:,} training rows, {len(log.labels) - log.train_rows:,} held out"
        lines = [("data", f"{self.study.data}: {rows}"), ("models", ", ".join(self.study.models))]
        recipe = self.study.recipe
        steps = steps_of(recipe, log.train_rows)
        warmup = f", with a warm-up of {recipe.warmup}" if recipe.warmup else ""
        reached = ""
        if steps < recipe.warmup:
            share = f"{steps / recipe.warmup:.0%} of its peak"
            reached = f": the lr reaches {share}; set more steps or a shorter warmup"
        lines.append(("steps", f"{steps} of {recipe.batch} rows{warmup}{reached}"))
        if recipe.schedule != "constant":
            from study.training import lr_schedule

            lines.append(("schedule", f"{lr_schedule.words(recipe, steps)}; a run's lr is its peak"))
        if changed := [f"{key}={value}" for key in OTHERS if (value := getattr(recipe, key)) != getattr(Recipe, key)]:
            lines.append(("recipe", ", ".join(changed)))
        if self._start:
            from study.trainers import warm_start

            how = "as they were left" if self.study.recipe.init_accumulators else "fresh"
            lines.append(("weights", f"of {warm_start.words(self._start.about)}, accumulators {how}"))
        return lines

    # The plan -------------------------------------------------------------------------------------------------------

    def kind_of(self, run: Run) -> str:
        options = self._options_of(run.method)
        return canonical_json([run.method, {k: v for k, v in run.options.items() if k in options}])

    def limits(self, study: Study, device_bytes: int | None = None) -> Limits:
        sizes = {model: self.size_of(model) for model in study.models}
        for arm in study.arms:
            self._try_own(arm)
        acts_on = {method: self._acts_on(method) for method in dict.fromkeys(arm.method for arm in study.arms)}
        bare = [model for model, size in sizes.items() if not size.clampable]
        for method, acts in acts_on.items():
            if bare and "unit_limit" in acts:
                raise ValueError(f"{method} limits the outputs of activation functions, and {bare[0]} has none")
        # One size for all methods of a study: where one of them keeps snapshots, room is left for them.
        if any("rollback_options" in acts for acts in acts_on.values()):
            sizes = {model: size.with_snapshots() for model, size in sizes.items()}
        return Limits(
            largest_stack={model: size.largest_stack(device_bytes) for model, size in sizes.items()},
            work_of_run={model: size.work for model, size in sizes.items()},
            notes=tuple(f"warning: {warning}" for warning in self.log.facts.get("warnings", []))
            + _one_by_one([model for model, size in sizes.items() if not size.stackable]),
        )

    def size_of(self, model: str) -> ModelSize:
        """Return the size of a model. Raises ValueError if the data fill no batch, or it cannot be trained."""
        recipe, log, ours = self.study.recipe, self.log, _is_built_in_model(model)
        if (rows := sum(log.vocabulary)) * recipe.embedding_dim > MOST_EMBEDDINGS:
            raise ValueError(
                f"{rows:,} embedding rows of embedding_dim={recipe.embedding_dim} are more than the "
                f"{MOST_EMBEDDINGS:,} numbers that a run may have"
            )

        def find() -> dict[str, Any]:
            from study.training import own_model, sizing
            from study.training.model_check import has_hidden_units, stackable
            from study.training.networks import spec_of

            if not ours:
                own_model.check(model, recipe, log)
            spec = spec_of(log, recipe)
            return {
                "run_bytes": sizing.bytes_of_run(model, recipe, log),
                "run_bytes_gpu": sizing.bytes_of_run(model, recipe, log, gpu=True),
                "snapshot_bytes": sizing.bytes_of_snapshots(model, recipe, log),
                "work": sizing.work_of_run(model, recipe, log),
                "stackable": stackable(model, spec),
                "clampable": has_hidden_units(model, spec, recipe.precision),
            }

        question = ["size", model, to_json(recipe), log.content]
        return ModelSize(**cached_call(self.cache, question, find, built_in=ours))

    def expected_seconds(self, limits: Limits) -> tuple[dict[str, float], str]:
        return expected_seconds(limits.work_of_run)

    @functools.cache  # noqa: B019 - a trainer lives as long as its process
    def _options_of(self, method: str) -> list[str]:
        def find() -> list[str]:
            from study import methods

            return list(methods.signature(method).agreed)

        return self._cached(method, ["options of", method], find)

    def _try_own(self, arm: Arm) -> None:
        """Raise ValueError if a user's own method cannot be trained, or mixes runs. Ours are tried by the tests."""
        if not is_built_in("study.methods", arm.method):
            from study.methods import _own

            _own.check(arm.method, self.canonical_options(arm.method, arm.options))

    def _acts_on(self, method: str) -> list[str]:
        """What the method changes beside the update."""

        def find() -> list[str]:
            from study import methods

            return methods.acts_on(method)

        return self._cached(method, ["acts on", method], find)

    def _cached(self, method: str, question: Sequence[Any], find: Callable[[], Any]) -> Any:
        return cached_call(self.cache, question, find, built_in=is_built_in("study.methods", method))

    # Processes and machines -----------------------------------------------------------------------------------------

    def hints(self) -> dict[str, Any]:
        converted = data.folder_of_log(self.log)
        assert converted, "data.load maps its arrays"
        return {"content": self.log.content, "converted": str(converted), "cuda_graphs": self.cuda_graphs}

    def check_device(self, device: str) -> None:
        import torch

        if device != "cpu" and not torch.backends.cuda.is_built():
            version = torch.__version__
            raise ValueError(f"cannot train on {device}: its torch {version} is built for CPUs (--device cpu)")

    def check_folder(self, folder: Path) -> None:
        if self.study.recipe.init_from and not self._start:
            from study.trainers import warm_start

            self._start = warm_start.kept(folder, self.study.recipe)

    def write_folder(self, folder: Path) -> None:
        if self._start:
            from study.trainers import warm_start

            warm_start.keep(folder, self._start)

    def made_by(self, device: str) -> dict[str, str]:
        import torch

        cuda = device.startswith("cuda")
        kind = torch.cuda.get_device_name(device) if cuda else torch.backends.cpu.get_cpu_capability()
        return {"study": package.__version__, "torch": torch.__version__, "numpy": np.__version__, "device": kind}

    def own_modules(self, model: str, arm: Arm) -> list[str]:
        return [
            *super().own_modules(model, arm),
            *protocol.own_names("models", model_options.parse(model)[0]),
            *protocol.own_names("study.methods", arm.method),
            *protocol.own_names("study.data", self.study.data),
        ]

    # Training -------------------------------------------------------------------------------------------------------

    def steps_of(self, run: Run) -> int:
        return steps_of(run.recipe, self.log.train_rows)

    def train(
        self,
        runs: Sequence[Run],
        *,
        device: str,
        folder: Path | str,
        on_step: Callable[[int], None],
        checkpointer: Checkpointer,
    ) -> TrainedRuns:
        from study.trainers import warm_start
        from study.training.trainer import StepError, train

        start = warm_start.kept(folder, runs[0].recipe)
        try:
            trained = train(
                runs, self.log, device, on_step, checkpointer=checkpointer, start=start, cuda_graphs=self.cuda_graphs
            )
        except StepError as error:
            raise RunError(error.trained and _trained_runs(error.trained)) from error.__cause__
        return _trained_runs(trained)

    def range_test(self, study: Study) -> protocol.RangeTest:
        for method in dict.fromkeys(arm.method for arm in study.arms):
            if "rollback_options" in self._acts_on(method):
                raise ValueError(
                    f"{method} goes back to an earlier step, and to its lr: it has no range test; name the other "
                    "methods, as in --set methods=none,clippy"
                )
        return self._train_ramp

    def _train_ramp(self, runs: Sequence[Run], lrs: Sequence[float], device: str, folder: Path | str) -> TrainedRuns:
        from study.trainers import warm_start
        from study.training.range_test import range_test

        started = time.perf_counter()
        start = self._start or warm_start.kept(folder, runs[0].recipe)
        loss = range_test(runs, self.log, lrs, device, start)
        seconds = (time.perf_counter() - started) / len(runs)
        return TrainedRuns(
            loss=loss, baseline=None, finite=np.asarray(np.isfinite(loss).all(axis=(1, 2))), seconds=seconds
        )

    def columns(self, run: Run) -> tuple[dict[str, float], dict[str, Any]]:
        from study import methods

        signature = methods.signature(run.method)
        thresholds = {
            name: run.options.get(name, default)
            for name, default in signature.thresholds.items()
            if name in run.options or name not in methods.COMMON
        }
        return thresholds, {name: value for name, value in run.options.items() if name in signature.agreed}

    @property
    def version(self) -> str:
        import torch

        return f"study {package.__version__}, torch {torch.__version__}"


def _trained_runs(trained: "Trained") -> TrainedRuns:
    values = dict(vars(trained))
    return TrainedRuns(baseline=values.pop("constant"), **values)


def _one_by_one(models: Sequence[str]) -> tuple[str, ...]:
    """One note for all models that cannot be stacked."""
    whose = "its" if len(models) == 1 else "their"
    why = f"cannot be computed as a stack (vmap); {whose} runs train one by one inside their trials"
    return (f"note: {', '.join(models)} {why}",) if models else ()


def _is_built_in_model(model: str) -> bool:
    return is_built_in("models", model_options.parse(model)[0])

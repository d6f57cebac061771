"""The values that define a study: recipe, rule, arms, runs and searches. All are frozen and JSON-able.

The id of a `Run` is the SHA-256 of the canonical JSON of everything that changes its bits. Fields at their default are
left out of that JSON, so a new option keeps the ids of old runs.
"""

import dataclasses
import functools
import hashlib
import json
import math
import numbers
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

RESULTS_VERSION = 2
"""Increase it when the same run gives other numbers than before: then it gets another id."""

CONTROL_SEEDS = tuple(range(10**9, 10**9 + 4))
"""Seeds reserved for the control. A study's own seeds are smaller."""

CONTROL_LRS = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16)
"""Learning rates of a ranker's control."""

RANKER = "ranker"
"""The built-in trainer."""

IMPORTED = "imported"
"""The trainer of runs that were not trained here (`study import`)."""

SCHEDULES = ("constant", "linear", "cosine", "step")
OF_SCHEDULES = {"final_factor": ("linear", "cosine"), "decay_steps": ("step",), "decay_factor": ("step",)}
"""Field of a recipe -> the schedules that use it."""

MAX_LR = 1e4
MAX_COUNT = 10**9
MAX_NAMED = 10**7
"""Most runs that the axes of a study make."""


def _need(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How every run of a study is trained. A study has one recipe.

    Args:
        batch: rows a step, a multiple of 32. (Vectorized CPU kernels use other instructions for the last few elements
            of a tensor. Runs that end at a vector's boundary have the same bits in every stack.)
        steps: optimizer steps; None is one pass over the training rows.
        warmup: steps of linear warm-up, to the run's lr.
        schedule: of the lr after the warm-up, one of `SCHEDULES`. The lr of a run is its peak
            (`study.training.lr_schedule`).
        final_factor: of "linear" and "cosine": the share of the peak that the lr falls to.
        decay_steps, decay_factor: of "step": the lr is multiplied by the factor after each so many steps; None is a
            third of the steps after the warm-up.
        window: rows of the time-ordered log inside which a batch order is shuffled.
        embedding_dim, embedding_std: width and standard deviation of the embedding rows.
        initial_accumulator, eps: Adagrad's `G0` and `eps` (inside the root), for network and embeddings.
        embeddings: "adagrad" (plain Adagrad, as in the paper) or "method" (the run's method acts on them too).
        embeddings_lr: peak lr of the embeddings in every run; None is that of the run. Warm-up and schedule act on it.
        precision: "float32" or "float64".
        init_from: content hash of the weights that every run starts from (`study.training.weights`); empty draws them
            by seed.
        init_accumulators: content hash of the Adagrad accumulators that are restored with them; empty starts fresh.
    """

    batch: int = 512
    steps: int | None = None
    warmup: int = 20
    schedule: str = "constant"
    final_factor: float = 0.0
    decay_steps: int | None = None
    decay_factor: float = 0.1
    window: int = 20_000
    embedding_dim: int = 4
    embedding_std: float = 0.05
    initial_accumulator: float = 0.1
    eps: float = 1e-7
    embeddings: str = "adagrad"
    embeddings_lr: float | None = None
    precision: str = "float32"
    init_from: str = ""
    init_accumulators: str = ""

    def __post_init__(self) -> None:
        _need(
            self.batch >= 32 and self.batch % 32 == 0, f"need a batch that is a multiple of 32, got batch={self.batch}"
        )
        _need(self.batch <= MAX_COUNT, f"need batch <= {MAX_COUNT:,}, got batch={self.batch}")
        least = {"steps": 1, "warmup": 0, "decay_steps": 1, "window": 1, "embedding_dim": 1}
        for name, low in (least | {"embedding_std": 0, "initial_accumulator": 0, "eps": 0}).items():
            value = getattr(self, name)
            if value is not None:
                _need(low <= value < math.inf, f"need {name} >= {low}, got {name}={value}")
                _need(name not in least or value <= MAX_COUNT, f"need {name} <= {MAX_COUNT:,}, got {name}={value}")
        words = {"schedule": SCHEDULES, "embeddings": ("adagrad", "method"), "precision": ("float32", "float64")}
        for name, known in words.items():
            value = getattr(self, name)
            _need(value in known, f"{name} is one of {', '.join(known)}; got {value!r}")
        _need(0 <= self.final_factor < 1, f"need 0 <= final_factor < 1, got final_factor={self.final_factor:g}")
        _need(0 < self.decay_factor < 1, f"need 0 < decay_factor < 1, got decay_factor={self.decay_factor:g}")
        for name, schedules in OF_SCHEDULES.items():
            used = self.schedule in schedules or getattr(self, name) == getattr(Recipe, name)
            _need(used, f"{name} needs schedule={' or '.join(schedules)}, got schedule={self.schedule}")
        if self.embeddings_lr is not None:
            check_lr(self.embeddings_lr, "embeddings_lr")
            _need(
                self.embeddings == "adagrad",
                f"embeddings_lr needs embeddings=adagrad, got embeddings={self.embeddings}",
            )
        for name, what in (("init_from", "weights"), ("init_accumulators", "accumulators")):
            value = getattr(self, name)
            is_hash = len(value) == 64 and set(value) <= set("0123456789abcdef")
            _need(value == "" or is_hash, f"{name} is the SHA-256 of {what}, got {value!r}")

    @cached_property
    def _identity(self) -> dict[str, Any]:
        """Its part of a run's id; the runs of a study share it."""
        return _as_one_number(_without_defaults(self))


@dataclass(frozen=True, kw_only=True)
class Rule:
    """The numbers in the definition of divergence (`study.outcomes.judge`).

    Most are shares of the reference gain G. `slow_rise_steps` is a share of the run's steps, and `median_steps` counts
    steps.
    """

    kept: float = 0.25
    once_had: float = 0.5
    slow_fall: float = 0.25
    slow_rise: float = 0.05
    slow_rise_steps: float = 0.25
    slow_loss: float = 2.0
    slow_moved: float = 0.5
    micro_fall: float = 0.5
    micro_recovery: float = 0.25
    spike: float = 1.0
    median_steps: int = 25
    control_fall: float = 0.25
    control_noise: float = 6.0
    learnable_errors: float = 3.0

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            _need(math.isfinite(value) and value > 0, f"need {name} > 0, got {name}={value}")
        _need(self.kept < 1, f"need kept < 1, got kept={self.kept}")
        _need(self.median_steps % 2 == 1, f"need an odd median_steps, got median_steps={self.median_steps}")


@dataclass(frozen=True, init=False)
class Arm:
    """A method with its thresholds and options, such as `Arm("clippy", rel=0.5)`.

    Of a loop, it is what the loop is told to do differently, under any name.

    Args:
        method: its name.
        options: thresholds and options; also as keywords.
        lrs: learning rates of this arm, in place of `Study.lrs`: the edge of another optimizer may lie far from the
            others'. Empty takes the study's.
    """

    method: str
    options: dict[str, Any] = field(default_factory=dict)
    lrs: tuple[float, ...] = ()

    def __init__(
        self, method: str, options: Mapping[str, Any] | None = None, *, lrs: Iterable[float] = (), **more: Any
    ) -> None:
        object.__setattr__(self, "method", method)
        object.__setattr__(self, "options", {**(options or {}), **more})
        what = f"lrs of the arm {method}"
        _need(isinstance(lrs, Iterable) and not isinstance(lrs, str), f"{what} needs a tuple, got {lrs!r}")
        lrs = tuple(lrs)
        for lr in lrs:
            check_lr(lr)
        object.__setattr__(self, "lrs", tuple(sorted(set(lrs))))
        twice = [f"{lr:g}" for lr, n in Counter(lrs).items() if n > 1]
        _need(not twice, f"{what} names {', '.join(twice)} twice")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training of one model, with one method, learning rate, thresholds and seed.

    Args:
        data: content hash of the data.
        options: the method's thresholds and options that differ from its defaults.
    """

    data: str
    model: str
    method: str
    lr: float
    seed: int
    options: dict[str, Any] = field(default_factory=dict)
    recipe: Recipe = Recipe()
    trainer: str = RANKER

    def __post_init__(self) -> None:
        check_lr(self.lr)
        _need(
            0 <= self.seed < CONTROL_SEEDS[0] or self.seed in CONTROL_SEEDS,
            f"need 0 <= seed < {CONTROL_SEEDS[0]}, got seed={self.seed}",
        )

    @cached_property
    def id(self) -> str:
        content = _as_one_number(_without_defaults(self) | {"results": RESULTS_VERSION})
        return hashlib.sha256(canonical_json(content).encode()).hexdigest()

    @property
    def role(self) -> str:
        return "control" if self.seed in CONTROL_SEEDS else "cell"


@dataclass(frozen=True, kw_only=True)
class EdgeSearch:
    """Find the edge of each curve (model and arm) by training where it is uncertain: `study.search.edge_search`.

    Each curve starts on the ladder `Study.lrs`. Its runs take one seed each, from the first of `Study.seeds` upward.

    Args:
        level: P(divergence) at the edge.
        precision: stop when the upper end of the 95% interval is at most this times its lower end.
        budget: most runs of a curve.
    """

    kind: ClassVar[str] = "edges"

    level: float = 0.5
    precision: float = 1.25
    budget: int = 320

    def __post_init__(self) -> None:
        _need(0 < self.level < 1, f"need 0 < level < 1, got level={self.level:g}")
        _need(1.02 <= self.precision < math.inf, f"need precision >= 1.02, got precision={self.precision:g}")
        _need(self.budget >= 1, f"need budget >= 1, got budget={self.budget}")


JUDGED_FROM = 10**6
"""A search for the best quality tunes on smaller seeds, and judges its winners on seeds from here on."""


@dataclass(frozen=True, kw_only=True)
class QualitySearch:
    """Find each arm's best quality where P(divergence) <= risk: `study.search.quality_search`.

    `Study.lrs` span the range of the lr. `Study.seeds` are those that a proposal is first trained with. Ranges are
    searched on a logarithmic scale.

    Args:
        ranges: method -> threshold -> (low, high). Equal ends fix a threshold; one without a range keeps its value.
        risk: largest share of a cell's runs that may diverge.
        task: the task whose gain is maximized; None is the first.
        budget: runs that tune an arm, the same for each.
        batch: cells of a round. A search spends its budget in whole rounds.
        judged: fresh seeds of each winner.
    """

    kind: ClassVar[str] = "quality"

    ranges: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)
    risk: float = 0.05
    task: str | None = None
    budget: int = 320
    batch: int = 8
    judged: int = 32

    def __post_init__(self) -> None:
        _need(0 <= self.risk < 1, f"need 0 <= risk < 1, got risk={self.risk:g}")
        _need(self.batch >= 2, f"need batch >= 2, got batch={self.batch}")
        _need(self.budget >= 1, f"need budget >= 1, got budget={self.budget}")
        _need(self.judged >= 2, f"need judged >= 2, got judged={self.judged}")
        for method, ranges in self.ranges.items():
            for name, ends in ranges.items():
                low, high = ends
                said = f"{method}.{name}={low:g},{high:g}"
                _need(0 < low <= high and math.isfinite(high), f"need 0 < low <= high, got {said}")
        pairs = {m: {name: (float(a), float(b)) for name, (a, b) in own.items()} for m, own in self.ranges.items()}
        object.__setattr__(self, "ranges", pairs)  # JSON has lists, and whole numbers


Search = EdgeSearch | QualitySearch
SEARCHES: dict[str, type[Search]] = {search.kind: search for search in (EdgeSearch, QualitySearch)}


@dataclass(frozen=True, kw_only=True)
class Study:
    """A search space: every combination of models, arms, lrs and seeds, or what a search draws from them.

    Args:
        name: of the study.
        data: a data source of `study.data`.
        data_options: options of the source, such as a folder or a size.
        models: names of models. A trainer without models of its own counts as one.
        arms, lrs, seeds: the other axes. An arm may have its own lrs (`Arm.lrs`).
        recipe: how runs are trained.
        rule: how runs are judged.
        search: None trains every combination.
        trainer: a `Loop`, a module of `study.trainers`, or a dotted name.
        trainer_options: options of the trainer.
        control_lrs: learning rates of the control. If empty, `CONTROL_LRS` for rankers; for any other trainer six
            rates, from the lowest of `lrs` downward by factors of 2.
        compare: methods that every other method is compared with; the plan names these contrasts before the run. If
            empty, the method `none` for rankers, and the first arm's for any other trainer.
    """

    name: str
    data: str = "synthetic"
    data_options: dict[str, Any] = field(default_factory=dict)
    models: tuple[str, ...] = ()
    arms: tuple[Arm, ...]
    lrs: tuple[float, ...]
    seeds: Sequence[int] = tuple(range(8))
    recipe: Recipe = Recipe()
    rule: Rule = Rule()
    search: Search | None = None
    trainer: Any = RANKER
    trainer_options: dict[str, Any] = field(default_factory=dict)
    control_lrs: tuple[float, ...] = ()
    compare: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for axis in ("models", "arms", "lrs", "seeds", "control_lrs", "compare"):
            values = getattr(self, axis)
            is_tuple = isinstance(values, Iterable) and not isinstance(values, str)
            kind = "a tuple or a range" if axis == "seeds" else "a tuple"
            _need(is_tuple, f"{axis} needs {kind}, got {values!r}")
            values = tuple(int(v) if isinstance(v, numbers.Integral) else v for v in values)  # also of numpy
            object.__setattr__(self, axis, values)
        for name, kind in (("recipe", Recipe), ("rule", Rule)):
            value = getattr(self, name)
            _need(isinstance(value, kind), f"{name} is made by {kind.__name__}(...), got {value!r}")
        for arm in self.arms:
            _need(isinstance(arm, Arm), f'arms are made by Arm("name"), got {arm!r}')
        for lr in (*self.lrs, *self.control_lrs):
            check_lr(lr)
        if not isinstance(self.trainer, str):  # a `Loop`: a study holds JSON values alone
            _need(hasattr(self.trainer, "options"), f"trainer needs a Loop(...) or a name, got {self.trainer!r}")
            object.__setattr__(self, "models", self.models or (self.trainer.name(),))
            object.__setattr__(self, "trainer_options", self.trainer.options(self.arms))
            object.__setattr__(self, "trainer", self.trainer.trainer)
        if self.trainer != RANKER and not self.models:
            object.__setattr__(self, "models", (self.trainer.rpartition(".")[2],))
        if self.trainer != RANKER and not self.control_lrs and self.lrs:
            lowest = min(self.lrs_of(self.arms[0]) if self.arms else self.lrs)
            ladder = tuple(float(f"{lowest / 2**k:.6g}") for k in reversed(range(6)))
            object.__setattr__(self, "control_lrs", ladder)  # written down: a study's lrs may grow
        for axis in ("models", "arms", "lrs", "seeds"):
            _need(len(getattr(self, axis)) > 0, f"need at least one of {axis}")
        runs = self.cells * len(self.seeds)
        _need(runs <= MAX_NAMED, f"a study has at most {MAX_NAMED:,} runs, and these are {runs:,}")
        for seed in self.seeds:
            if not isinstance(seed, int):
                raise ValueError(f"need a whole number as seed, got seed={seed!r}")
            if not 0 <= seed < CONTROL_SEEDS[0]:
                raise ValueError(f"need 0 <= seed < {CONTROL_SEEDS[0]}, got seed={seed}")
        for axis in ("models", "arms", "lrs", "seeds"):
            values = getattr(self, axis)
            if {*map(type, values)} <= {int, float, str} and len(set(values)) == len(values):
                continue
            values = [_json_of_value(v, axis) for v in values]
            twice = sorted(v for v, n in Counter(values).items() if n > 1)
            more = f" and {len(twice) - 5:,} more" if len(twice) > 5 else ""
            _need(not twice, f"{axis} names {', '.join(twice[:5])}{more} twice")
        methods = list(dict.fromkeys(arm.method for arm in self.arms))
        for name in self.compare:
            _need(name in methods, f"compare names {name!r}, but the study's methods are {', '.join(methods)}")
        _need(len(set(self.compare)) == len(self.compare), f"compare names a method twice: {', '.join(self.compare)}")

    @property
    def cells(self) -> int:
        """The cells that the axes make."""
        return len(self.models) * sum(len(self.lrs_of(arm)) for arm in self.arms)

    def lrs_of(self, arm: Arm) -> tuple[float, ...]:
        """Return the learning rates of an arm: its own, or else those that arms share."""
        return arm.lrs or self.lrs

    def run(self, data: str, model: str, arm: Arm, lr: float, seed: int) -> Run:
        """Return one run of this study. `data` is the content hash of the data."""
        return Run(
            data=data,
            model=model,
            method=arm.method,
            options=arm.options,
            lr=lr,
            seed=seed,
            recipe=self.recipe,
            trainer=self.trainer,
        )


def steps_of(recipe: Recipe, train_rows: int) -> int:
    """Return the optimizer steps of a run: those of the recipe, or one pass over the training rows.

    Raises:
        ValueError: If the rows do not fill one batch.
    """
    if train_rows < recipe.batch:
        raise ValueError(f"{train_rows} training rows do not fill one batch of {recipe.batch}")
    return recipe.steps or train_rows // recipe.batch


def united_arms(arms: Iterable[tuple[Arm, Iterable[float]]], shared: Iterable[float]) -> tuple[Arm, ...]:
    """Return each arm once. If one of equal arms has lrs of its own, they have the lrs of all.

    Args:
        arms: Arm, and the lrs that it has (`Study.lrs_of`).
        shared: The lrs of arms without their own.
    """
    alike: dict[str, list[tuple[Arm, set[float]]]] = {}
    for arm, lrs in arms:
        alike.setdefault(canonical_json([arm.method, arm.options]), []).append((arm, set(lrs)))
    shared, united = set(shared), []
    for same in alike.values():
        lrs = set[float]().union(*(of_arm for _, of_arm in same))
        own = any(arm.lrs for arm, _ in same) and lrs != shared
        united.append(dataclasses.replace(same[0][0], lrs=lrs if own else ()))
    return tuple(united)


def runs_of(study: Study, data: str) -> list[Run]:
    """Return every run of the study's cells, curve by curve. `data` is the content hash of the data."""
    return [
        study.run(data, model, arm, lr, seed)
        for model in study.models
        for arm in study.arms
        for seed in study.seeds
        for lr in study.lrs_of(arm)
    ]


def untreated(study: Study) -> Arm:
    """Return the arm of the control: the method `none` for rankers, else the study's first arm."""
    return Arm("none") if study.trainer == RANKER else study.arms[0]


def comparators(study: Study) -> tuple[str, ...]:
    """Return the methods that the others are compared with: `compare`, or else the untreated one."""
    return study.compare or (untreated(study).method,)


def planned_contrasts(study: Study) -> list[tuple[Arm, str]]:
    """Return (arm, comparator) of each contrast that the study plans, for one model.

    Two comparators are compared once. A search for the best quality measures no edges, and plans none.
    """
    methods, before, planned = {arm.method for arm in study.arms}, set(), []
    for comparator in comparators(study):
        before.add(comparator)
        if comparator in methods and not isinstance(study.search, QualitySearch):
            planned += [(arm, comparator) for arm in study.arms if arm.method not in before]
    return planned


def nominates_only(study: Study) -> bool:
    """Return whether outcomes may have decided which runs there are, so that they can claim nothing.

    True of a search for edges, and of imported runs unless they were planned beforehand.
    """
    imported = study.trainer == IMPORTED and not study.trainer_options.get("planned")
    return imported or isinstance(study.search, EdgeSearch)


def has_grid(study: Study) -> bool:
    """Return whether every combination of the study's axes is one of its runs."""
    return study.search is None and study.trainer != IMPORTED


def control_of(study: Study, data: str, models: Sequence[str] | None = None) -> list[Run]:
    """Return the control's runs, for each model: the untreated arm at low learning rates, with reserved seeds.

    An imported record may have fewer of these seeds (`control_seeds` of its options).

    Args:
        study: The study.
        data: Content hash of the data.
        models: Some of the study's models; None is all of them.
    """
    arm = untreated(study)
    seeds = study.trainer_options.get("control_seeds") if study.trainer == IMPORTED else None
    return [
        study.run(data, model, arm, lr, seed)
        for model in (study.models if models is None else models)
        for seed in CONTROL_SEEDS[:seeds]
        for lr in study.control_lrs or CONTROL_LRS
    ]


def log_grid(low: float, high: float, count: int) -> tuple[float, ...]:
    """Return `count` values that are evenly spaced in the logarithm, rounded to two digits.

    Args:
        low, high: The first and the last value, above 0.
        count: How many, before equal values are merged. One value is `low`.

    Raises:
        ValueError: Unless 0 < low <= high and count >= 1.
    """
    _need(0 < low <= high, f"need 0 < low <= high, got low={low:g}, high={high:g}")
    _need(count >= 1, f"need count >= 1, got count={count}")
    ratio = 0.0 if count == 1 else math.log(high / low) / (count - 1)
    return tuple(dict.fromkeys(float(f"{low * math.exp(ratio * i):.2g}") for i in range(count)))


def check_lr(lr: float, name: str = "lr") -> None:
    """Raise ValueError for a learning rate that cannot be trained."""
    text = "; YAML reads 1e-3 as text and 1.0e-3 as a number" if isinstance(lr, str) else ""
    _need(
        isinstance(lr, numbers.Real) and not isinstance(lr, bool), f"need a number as {name}, got {name}={lr!r}{text}"
    )
    _need(math.isfinite(lr) and 0 < lr <= MAX_LR, f"need 0 < {name} <= {MAX_LR:g}, got {name}={lr:g}")


def canonical_json(value: Any) -> str:
    """Return the shortest JSON of a value, with sorted keys. Equal values give equal text."""
    return _CANONICAL.encode(value)


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


NEWER: dict[str, Any] = {"search": None, "trainer": RANKER, "trainer_options": {}, "control_lrs": (), "compare": ()}
NEWER_OF_RECIPE = ("schedule", "final_factor", "decay_steps", "decay_factor", "embeddings_lr")
"""Fields that JSON leaves out at their default, so that older versions can read it, and plans keep their hash."""


def to_json(value: Any) -> dict[str, Any]:
    """Return a dataclass of this module as JSON values.

    Defaults are included, except those of fields that older versions do not know.
    """
    content = dataclasses.asdict(value)
    for name, default in NEWER.items():
        if name in content and content[name] == default:
            del content[name]
    if isinstance(value, Study):
        content["arms"] = [arm_to_json(arm) for arm in value.arms]
    recipe = content if isinstance(value, Recipe) else content.get("recipe", {})
    for name in NEWER_OF_RECIPE:
        if name in recipe and recipe[name] == getattr(Recipe, name):
            del recipe[name]
    if isinstance(value, Study) and value.search:
        content["search"] = {"kind": value.search.kind} | dataclasses.asdict(value.search)
    return json.loads(canonical_json(content))


def study_from_json(values: dict[str, Any]) -> Study:
    """Return a `Study` from its JSON values. Raises ValueError or TypeError for other values."""
    known = {f.name for f in dataclasses.fields(Study)}
    _need(set(values) <= known, f"unknown fields in a study: {', '.join(sorted(set(values) - known))}")
    return Study(
        **values
        | {
            "models": tuple(values["models"]),
            "arms": tuple(_arm_from_json(arm) for arm in values["arms"]),
            "lrs": tuple(values["lrs"]),
            "seeds": tuple(values["seeds"]),
            "recipe": Recipe(**values["recipe"]),
            "rule": Rule(**values["rule"]),
            "search": _search_from_json(values.get("search")),
            "control_lrs": tuple(values.get("control_lrs", ())),
            "compare": tuple(values.get("compare", ())),
        }
    )


def arm_to_json(arm: Arm) -> dict[str, Any]:
    """Return an arm as JSON values, without `lrs` if it has none of its own."""
    return {"method": arm.method, "options": arm.options} | ({"lrs": list(arm.lrs)} if arm.lrs else {})


def _arm_from_json(values: dict[str, Any]) -> Arm:
    _need(set(values) <= {"method", "options", "lrs"}, f"unknown fields in an arm: {', '.join(sorted(values))}")
    return Arm(method=values["method"], options=values.get("options"), lrs=values.get("lrs", ()))


def _search_from_json(values: dict[str, Any] | None) -> Search | None:
    if values is None:
        return None
    kind = values.get("kind")
    _need(kind in SEARCHES, f"a search is one of {', '.join(SEARCHES)}; got {kind!r}")
    return SEARCHES[str(kind)](**{key: value for key, value in values.items() if key != "kind"})


def run_from_json(values: dict[str, Any]) -> Run:
    """Return a `Run` from its JSON values. Raises ValueError or TypeError for other values."""
    content: dict[str, Any] = values | {"recipe": Recipe(**values["recipe"])}
    return Run(**content)


def _without_defaults(value: Any) -> dict[str, Any]:
    content = {}
    for name, default in _defaults(type(value)):
        item = getattr(value, name)
        if item is not default and item != default:
            content[name] = item._identity if isinstance(item, Recipe) else item
    return content


@functools.cache
def _defaults(kind: Any) -> tuple[tuple[str, Any], ...]:
    return tuple(
        (f.name, f.default if f.default_factory is dataclasses.MISSING else f.default_factory())
        for f in dataclasses.fields(kind)
    )


def _as_one_number(value: Any) -> Any:
    # 1 and 1.0 are the same lr, but not the same JSON.
    if isinstance(value, dict):
        return {key: _as_one_number(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_as_one_number(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _json_of_value(value: Any, axis: str) -> str:
    try:
        return canonical_json(_as_one_number(_plain(value)))
    except (TypeError, ValueError):
        raise ValueError(f"{axis} needs finite numbers, texts and lists of them, got {value!r}") from None


def _plain(value: Any) -> Any:
    if isinstance(value, Arm):
        return {"method": value.method, "options": value.options}
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value

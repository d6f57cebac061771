"""What a study is made of: frozen, JSON-able values whose identity is their content.

A `Run` is one training; its id is the SHA-256 of the canonical JSON of everything that changes its bits. Fields at
their default are left out of that JSON, so a new option keeps the ids of old runs.
"""

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

RESULTS_VERSION = 2
"""Raised when the same run would give other numbers than before: a new meaning gets new ids."""

CONTROL_SEEDS = tuple(range(10**9, 10**9 + 4))
"""Seeds reserved for the control; a study's own seeds lie below them."""

CONTROL_LRS = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16)
"""Learning rates of a ranker's control."""

RANKER = "ranker"
"""The built-in trainer."""

MAX_LR = 1e4
MAX_COUNT = 10**9


# Ahead of the values that they check: a default such as `Recipe()` is made while this module is read.
def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    _need(value in known, f"{name} is one of {', '.join(known)}; got {value!r}")


def _need(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How every run of a study is trained. Nothing here is an axis: another recipe is another study.

    batch: rows a step, a multiple of 32. (Vectorized CPU kernels compute the last few elements of a tensor with other
        instructions; runs that end on a vector's boundary keep their bits in every stack.)
    steps: optimizer steps; None is one pass over the training rows. warmup: steps of linear warm-up.
    window: rows of the time-ordered log inside which a batch order is shuffled.
    embedding_dim, embedding_std: width and standard deviation of the embedding rows.
    initial_accumulator, eps: Adagrad's `G0` and `eps` (inside the root), for network and embeddings.
    embeddings: "adagrad" (plain Adagrad, as in the paper) or "method" (the run's method acts on them too).
    precision: "float32" or "float64".
    init_from: content of the weights that every run starts from (`study.training.weights`); empty is random ones, by
    seed. init_accumulators: content of Adagrad's accumulators that are handed on with them; empty is fresh ones.
    """

    batch: int = 512
    steps: int | None = None
    warmup: int = 20
    window: int = 20_000
    embedding_dim: int = 4
    embedding_std: float = 0.05
    initial_accumulator: float = 0.1
    eps: float = 1e-7
    embeddings: str = "adagrad"
    precision: str = "float32"
    init_from: str = ""
    init_accumulators: str = ""

    def __post_init__(self) -> None:
        _need(
            self.batch >= 32 and self.batch % 32 == 0, f"need a batch that is a multiple of 32, got batch={self.batch}"
        )
        _need(self.steps is None or self.steps >= 1, f"need steps >= 1, got steps={self.steps}")
        _need(self.warmup >= 0, f"need warmup >= 0, got warmup={self.warmup}")
        _need(self.window >= 1, f"need window >= 1, got window={self.window}")
        _need(self.embedding_dim >= 1, f"need embedding_dim >= 1, got embedding_dim={self.embedding_dim}")
        _need(
            math.isfinite(self.embedding_std) and self.embedding_std >= 0,
            f"need embedding_std >= 0, got embedding_std={self.embedding_std}",
        )
        _need(
            math.isfinite(self.initial_accumulator) and self.initial_accumulator >= 0,
            f"need initial_accumulator >= 0, got initial_accumulator={self.initial_accumulator}",
        )
        _need(math.isfinite(self.eps) and self.eps >= 0, f"need eps >= 0, got eps={self.eps}")
        for name in ("batch", "steps", "warmup", "window", "embedding_dim"):
            value = getattr(self, name)
            _need(value is None or value <= MAX_COUNT, f"need {name} <= {MAX_COUNT:,}, got {name}={value}")
        _one_of("embeddings", self.embeddings, ("adagrad", "method"))
        _one_of("precision", self.precision, ("float32", "float64"))
        for name, what in (("init_from", "weights"), ("init_accumulators", "accumulators")):
            value = getattr(self, name)
            is_hash = len(value) == 64 and set(value) <= set("0123456789abcdef")
            _need(value == "" or is_hash, f"{name} is the SHA-256 of {what}, got {value!r}")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """The numbers of the definition of divergence (`study.outcomes.judge`); all but `median_steps` are shares of the
    reference gain G, and `slow_rise_steps` is a share of the run's steps."""

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


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A method with its thresholds and options, e.g. `Arm(method="clippy", options={"rel": 0.5})`."""

    method: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training of one model, with one method, learning rate, thresholds and seed.

    data: the content hash of the data. options: the method's thresholds and options that differ from its defaults.
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

    level: of P(divergence), at which the edge is sought. precision: the search of a curve ends once the 95% interval's
    upper end is at most this times its lower end. budget: or once this many runs of the curve were tried.

    Of such a study, `lrs` are the ladder on which each curve begins, and the runs of a curve take one seed each, from
    the first of `seeds` upward.
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
"""A search for the best quality tunes on seeds below this, and judges its winners on seeds from here on."""


@dataclass(frozen=True, kw_only=True)
class QualitySearch:
    """The lr and thresholds of best quality, for each arm of a study, where P(divergence) <= risk
    (`study.search.quality_search`).

    The study's lrs span the range of the lr, its seeds are those that a proposal is first trained with. Ranges are
    searched on a logarithmic scale; one whose ends are equal is a threshold held fixed.

    ranges: method -> threshold -> (low, high). A threshold without one stays at its arm's value.
    risk: the share of a cell's runs that may diverge. task: whose gain is maximized; None is the data's first.
    budget: runs of an arm's tuning, the same for each. batch: cells of a round; `budget` is whole rounds.
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
    """A search space: every combination of models, arms, lrs and seeds, trained by one recipe on one data source; or
    what a search draws from it.

    data: name of a source in `study.data`. data_options: what that source is asked for (a folder, a size).
    trainer: what trains the runs: a module of `study.trainers`, or a dotted name. trainer_options: its own options.
    models: names of the models; a trainer that has no models of its own is one.
    control_lrs: learning rates of the control; empty is the trainer's choice: `CONTROL_LRS` for rankers, and six rates
    from the lowest of `lrs` downward, each half of the one above, for any other trainer.
    """

    name: str
    data: str = "synthetic"
    data_options: dict[str, Any] = field(default_factory=dict)
    models: tuple[str, ...] = ()
    arms: tuple[Arm, ...]
    lrs: tuple[float, ...]
    seeds: tuple[int, ...] = tuple(range(8))
    recipe: Recipe = Recipe()
    rule: Rule = Rule()
    search: Search | None = None
    trainer: str = RANKER
    trainer_options: dict[str, Any] = field(default_factory=dict)
    control_lrs: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.trainer != RANKER and not self.models:
            object.__setattr__(self, "models", (self.trainer.rpartition(".")[2],))
        if self.trainer != RANKER and not self.control_lrs and self.lrs:
            ladder = tuple(float(f"{min(self.lrs) / 2**k:.6g}") for k in reversed(range(6)))
            object.__setattr__(self, "control_lrs", ladder)  # written down: a study's lrs may grow
        for axis in ("models", "arms", "lrs", "seeds"):
            values = [canonical_json(_as_one_number(_plain(v))) for v in getattr(self, axis)]
            _need(len(values) > 0, f"need at least one of {axis}")
            twice = sorted({v for v in values if values.count(v) > 1})
            _need(not twice, f"{axis} names {', '.join(twice)} twice")
        for lr in (*self.lrs, *self.control_lrs):
            check_lr(lr)
        for seed in self.seeds:
            _need(0 <= seed < CONTROL_SEEDS[0], f"need 0 <= seed < {CONTROL_SEEDS[0]}, got seed={seed}")

    def run(self, data: str, model: str, arm: Arm, lr: float, seed: int) -> Run:
        """Return one run of this study. data: the content hash of the data."""
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


def runs_of(study: Study, data: str) -> list[Run]:
    """Return every run of the study's cells, curve by curve. data: the content hash of the data."""
    return [
        study.run(data, model, arm, lr, seed)
        for model in study.models
        for arm in study.arms
        for seed in study.seeds
        for lr in study.lrs
    ]


def control_of(study: Study, data: str) -> list[Run]:
    """Return the control's runs, for each model: low learning rates, reserved seeds, and no treatment.

    No treatment is the method `none` for rankers, and the first arm for any other trainer.
    """
    arm = Arm(method="none") if study.trainer == RANKER else study.arms[0]
    return [
        study.run(data, model, arm, lr, seed)
        for model in study.models
        for seed in CONTROL_SEEDS
        for lr in study.control_lrs or CONTROL_LRS
    ]


@dataclass(frozen=True, kw_only=True)
class WeightsOf:
    """The weights that a run of another member of the family left: of its first arm, as that is, at this lr, or,
    without an lr, of its control at the lr that is its reference.

    seed: of the run, which is trained for its weights alone where the member's record lacks it; None is the lowest that
    was recorded at this lr. accumulators: whether Adagrad's are handed on too; not, they start fresh.
    """

    member: str
    lr: float | None = None
    seed: int | None = None
    accumulators: bool = False

    def __post_init__(self) -> None:
        if self.lr is not None:
            check_lr(self.lr)
        if self.seed is not None:
            _need(self.lr is not None, f"weights of seed {self.seed} of {self.member} need an lr beside it")
            _need(0 <= self.seed < CONTROL_SEEDS[0], f"need 0 <= seed < {CONTROL_SEEDS[0]}, got seed={self.seed}")


@dataclass(frozen=True, kw_only=True)
class Member:
    """A study of a family. label: names its folder. words: what it changes, for people. against: the label of the
    member that it is held against; empty is the first. init_from: the weights that its runs start from; None is random
    ones."""

    label: str
    words: str
    study: Study
    against: str = ""
    init_from: WeightsOf | None = None

    def __post_init__(self) -> None:
        _need(
            self.label.replace("_", "").isalnum() and self.label.isascii(),
            f"a member's label names a folder: letters, digits and underscores; got {self.label!r}",
        )


@dataclass(frozen=True, kw_only=True)
class Family:
    """Studies that differ in what one study does not vary: a change each of the recipe, the data or the model."""

    name: str
    members: tuple[Member, ...]

    def __post_init__(self) -> None:
        labels = [member.label for member in self.members]
        _need(len(labels) > 0, "need at least one member of a family")
        twice = sorted({label for label in labels if labels.count(label) > 1})
        _need(not twice, f"a family names {', '.join(twice)} twice")
        unknown = sorted({m.against for m in self.members if m.against} - set(labels))
        _need(not unknown, f"members of {self.name} are held against {', '.join(unknown)}, which it does not have")
        for i, member in enumerate(self.members):
            of = member.init_from
            _need(
                of is None or of.member in labels[:i],
                f"{member.label} starts from the weights of {of and of.member!r}, which is no member before it",
            )


def search_changed(old: Study, new: Study) -> str:
    """Why a search cannot go on as another: what says where it trains has changed. Empty where it can.

    Where it ends is free: the precision and budget of a search of edges, the budget and judged seeds of one for the
    best quality. More models and arms have searches of their own.
    """
    parts = [("lrs", ", ".join(f"{lr:g}" for lr in old.lrs), ", ".join(f"{lr:g}" for lr in new.lrs))]
    if isinstance(old.search, EdgeSearch) and isinstance(new.search, EdgeSearch):
        parts += [
            ("level", f"{old.search.level:g}", f"{new.search.level:g}"),
            ("first seed", str(min(old.seeds)), str(min(new.seeds))),
        ]
    elif isinstance(old.search, QualitySearch) and isinstance(new.search, QualitySearch):
        before, after = dataclasses.asdict(old.search), dataclasses.asdict(new.search)
        parts += [(name, str(before[name]), str(after[name])) for name in ("risk", "task", "batch")]
        parts += [("seeds", str(sorted(old.seeds)), str(sorted(new.seeds)))]
        for method in dict.fromkeys(arm.method for arm in old.arms):
            was, now = (search.ranges.get(method, {}) for search in (old.search, new.search))
            parts += [(f"range of {method}", str(was), str(now))] if was != now else []
    else:
        return ""
    return "; ".join(f"another {name} (was {was}, is {now})" for name, was, now in parts if was != now)


def log_grid(low: float, high: float, count: int) -> tuple[float, ...]:
    """`count` values evenly spaced in the logarithm, rounded to two digits, as people say them."""
    _need(0 < low <= high, f"need 0 < low <= high, got low={low:g}, high={high:g}")
    _need(count >= 1, f"need count >= 1, got count={count}")
    ratio = 0.0 if count == 1 else math.log(high / low) / (count - 1)
    return tuple(dict.fromkeys(float(f"{low * math.exp(ratio * i):.2g}") for i in range(count)))


def check_lr(lr: float) -> None:
    _need(math.isfinite(lr) and 0 < lr <= MAX_LR, f"need 0 < lr <= {MAX_LR:g}, got lr={lr:g}")


def canonical_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


NEWER: dict[str, Any] = {"search": None, "trainer": RANKER, "trainer_options": {}, "control_lrs": ()}
"""Fields that are left out of JSON at their default, so that older versions read it."""


def to_json(value: Any) -> dict[str, Any]:
    """Return a dataclass of this module as JSON values.

    Defaults are included, except those of fields that older versions do not know.
    """
    content = dataclasses.asdict(value)
    for name, default in NEWER.items():
        if name in content and content[name] == default:
            del content[name]
    if isinstance(value, Study) and value.search:
        content["search"] = {"kind": value.search.kind} | dataclasses.asdict(value.search)
    return json.loads(canonical_json(content))


def study_from_json(values: dict[str, Any]) -> Study:
    """The inverse of `to_json` for a `Study`. Raises ValueError or TypeError on values that are none."""
    known = {f.name for f in dataclasses.fields(Study)}
    _need(set(values) <= known, f"unknown fields in a study: {', '.join(sorted(set(values) - known))}")
    return Study(
        **values
        | {
            "models": tuple(values["models"]),
            "arms": tuple(Arm(**arm) for arm in values["arms"]),
            "lrs": tuple(values["lrs"]),
            "seeds": tuple(values["seeds"]),
            "recipe": Recipe(**values["recipe"]),
            "rule": Rule(**values["rule"]),
            "search": _search_from_json(values.get("search")),
            "control_lrs": tuple(values.get("control_lrs", ())),
        }
    )


def _search_from_json(values: dict[str, Any] | None) -> Search | None:
    if values is None:
        return None
    kind = values.get("kind")
    _need(kind in SEARCHES, f"a search is one of {', '.join(SEARCHES)}; got {kind!r}")
    return SEARCHES[str(kind)](**{key: value for key, value in values.items() if key != "kind"})


def run_from_json(values: dict[str, Any]) -> Run:
    """The inverse of `to_json` for a `Run`. Raises ValueError or TypeError on values that are none."""
    content: dict[str, Any] = values | {"recipe": Recipe(**values["recipe"])}
    return Run(**content)


def _without_defaults(value: Any) -> dict[str, Any]:
    content = {}
    for f in dataclasses.fields(value):
        item = getattr(value, f.name)
        default = f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default
        if item == default:
            continue
        content[f.name] = _without_defaults(item) if dataclasses.is_dataclass(item) else item
    return content


def _as_one_number(value: Any) -> Any:
    # 1 and 1.0 are the same lr, but not the same JSON.
    if isinstance(value, dict):
        return {key: _as_one_number(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_as_one_number(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _plain(value: Any) -> Any:
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value

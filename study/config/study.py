"""A search space: models, arms, learning rates and seeds, with the recipe and the rule that they share."""

import dataclasses
import math
import numbers
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from study.config.checks import check_lr, check_number, json_value, need, whole
from study.config.identity import RANKER, as_one_number, canonical_json
from study.config.recipe import Recipe
from study.config.rule import Rule
from study.config.runs import CONTROL_SEEDS, Arm, Run
from study.config.searches import EdgeSearch, Search
from study.config.shown import study_html, study_text

IMPORTED = "imported"
"""The trainer of runs that were not trained here (`study import`)."""

MAX_NAMED = 10**7
"""Most runs that the axes of a study make. A search, or an import, holds a small part of them."""

MAX_GRID, MAX_CELLS = 10**6, 500_000
"""Most runs and cells of a study that holds all that its axes make. Merged studies have more runs than one that is
trained: that has 500,000 at most, perhaps each a cell."""

MAX_CURVES, MAX_CONTROL = 20_000, 2_000
"""Most curves of a study, and most models times learning rates of the control."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """A search space: every combination of models, arms, lrs and seeds, or what a search draws from them.

    Args:
        name: of the study.
        data: a data source of `study.data`.
        data_options: options of the source, such as a folder or a size.
        models: names of models. A trainer without models of its own counts as one.
        arms, lrs, seeds: the other axes. An arm may have its own lrs (`Arm.lrs`). A search of edges needs no lrs: range
            tests find where it begins.
        recipe: how runs are trained.
        rule: how runs are judged.
        search: None trains every combination.
        trainer: a `Loop`, a module of `study.trainers`, or a dotted name.
        trainer_options: options of the trainer.
        control_lrs: learning rates of the control. If empty, `CONTROL_LRS` for rankers, and higher ones while its gain
            still rises; for any other trainer six rates, from the lowest of `lrs` downward by factors of 2.
        compare: methods that every other method is compared with; the plan names these contrasts before the run. If
            empty, the method `none` for rankers, and the first arm's for any other trainer.
    """

    name: str
    data: str = "synthetic"
    data_options: dict[str, Any] = field(default_factory=dict)
    models: tuple[str, ...] = ()
    arms: tuple[Arm, ...]
    lrs: tuple[float, ...] = ()
    seeds: Sequence[int] = tuple(range(8))
    recipe: Recipe = Recipe()
    rule: Rule = Rule()
    search: Search | None = None
    trainer: Any = RANKER
    trainer_options: dict[str, Any] = field(default_factory=dict)
    control_lrs: tuple[float, ...] = ()
    compare: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("name", "data"):
            need(isinstance(value := getattr(self, name), str), f"{name} needs a text, got {value!r}")
        for axis in ("models", "arms", "lrs", "seeds", "control_lrs", "compare"):
            values = getattr(self, axis)
            is_tuple = isinstance(values, Iterable) and not isinstance(values, str)
            kind = "a tuple or a range" if axis == "seeds" else "a tuple"
            need(is_tuple, f"{axis} needs {kind}, got {values!r}")
            values = tuple(int(v) if isinstance(v, numbers.Integral) else v for v in values)  # also of numpy
            object.__setattr__(self, axis, values)
        for name, kind in (("recipe", Recipe), ("rule", Rule)):
            value = getattr(self, name)
            need(isinstance(value, kind), f"{name} is made by {kind.__name__}(...), got {value!r}")
        made = "search is made by EdgeSearch(...) or QualitySearch(...)"
        need(isinstance(self.search, Search | None), f"{made}, got {self.search!r}")
        for model in self.models:
            need(isinstance(model, str), f"models are names, got {model!r}")
        for arm in self.arms:
            need(isinstance(arm, Arm), f'arms are made by Arm("name"), got {arm!r}')
        for lr in (*self.lrs, *self.control_lrs):
            check_lr(lr)
        if not isinstance(self.trainer, str):  # a `Loop`: a study holds JSON values alone
            need(hasattr(self.trainer, "options"), f"trainer needs a Loop(...) or a name, got {self.trainer!r}")
            object.__setattr__(self, "models", self.models or (self.trainer.name(),))
            object.__setattr__(self, "trainer_options", self.trainer.options(self.arms))
            object.__setattr__(self, "trainer", self.trainer.trainer)
        for name in ("data_options", "trainer_options"):
            options = getattr(self, name)
            need(isinstance(options, Mapping), f"{name} needs a dict, got {options!r}")
            object.__setattr__(self, name, json_value({**options}, name))
        if self.trainer != RANKER and not self.models:
            object.__setattr__(self, "models", (self.trainer.rpartition(".")[2],))
        if not self.lrs and isinstance(self.search, EdgeSearch) and self.arms and self.has_lrs:
            object.__setattr__(self, "lrs", self.arms[0].lrs)
        if self.trainer != RANKER and not self.control_lrs and self.lrs:
            lowest = min(self.lrs_of(self.arms[0]) if self.arms else self.lrs)
            ladder = tuple(float(f"{lowest / 2**k:.6g}") for k in reversed(range(6)))
            object.__setattr__(self, "control_lrs", ladder)  # written down: a study's lrs may grow
        for axis in ("models", "arms", "seeds", *(() if isinstance(self.search, EdgeSearch) else ("lrs",))):
            need(len(getattr(self, axis)) > 0, f"need at least one of {axis}")
        check_size(
            models=len(self.models),
            arms=[len(self.lrs_of(arm)) for arm in self.arms],
            seeds=len(self.seeds),
            control_lrs=len(self.control_lrs),
            grid=self.search is None and self.trainer != IMPORTED,
        )
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
            need(not twice, f"{axis} names {', '.join(twice[:5])}{more} twice")
        methods = list(dict.fromkeys(arm.method for arm in self.arms))
        for name in self.compare:
            need(name in methods, f"compare names {name!r}, but the study's methods are {', '.join(methods)}")
        need(len(set(self.compare)) == len(self.compare), f"compare names a method twice: {', '.join(self.compare)}")

    def __repr__(self) -> str:
        return study_text(self)

    def _repr_html_(self) -> str:
        return study_html(self)

    @property
    def cells(self) -> int:
        """The cells that the axes make."""
        return len(self.models) * sum(len(self.lrs_of(arm)) for arm in self.arms)

    def lrs_of(self, arm: Arm) -> tuple[float, ...]:
        """Return the learning rates of an arm: its own, or else those that arms share."""
        return arm.lrs or self.lrs

    @property
    def has_lrs(self) -> bool:
        """Whether every arm has lrs. A search of edges without them takes them from range tests."""
        return all(self.lrs_of(arm) for arm in self.arms)

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


def check_size(*, models: int, arms: Sequence[int], seeds: int, control_lrs: int, grid: bool) -> None:
    """Raise ValueError for a study that is too large to be read in seconds.

    Args:
        models, seeds, control_lrs: how many there are.
        arms: how many learning rates each has.
        grid: whether the study holds all runs that its axes make.
    """
    cells = models * sum(arms)
    for what, n, most in (
        ("runs", cells * seeds, MAX_GRID if grid else MAX_NAMED),
        ("cells", cells, MAX_CELLS if grid else MAX_NAMED),
        ("curves", models * len(arms), MAX_CURVES),
        ("models and lrs of the control", models * max(1, control_lrs), MAX_CONTROL),
    ):
        need(n <= most, f"a study has at most {most:,} {what}, and these are {n:,}")


def log_grid(low: float, high: float, count: int) -> tuple[float, ...]:
    """Return `count` values that are evenly spaced in the logarithm, rounded to two digits.

    Args:
        low, high: The first and the last value, above 0.
        count: How many, before equal values are merged. One value is `low`.

    Raises:
        ValueError: Unless 0 < low <= high and count >= 1.
    """
    for name, value in (("low", low), ("high", high)):
        check_number(value, name)
    count = whole(count, "count")
    need(0 < low <= high, f"need 0 < low <= high, got low={low:g}, high={high:g}")
    need(count >= 1, f"need count >= 1, got count={count}")
    ratio = 0.0 if count == 1 else math.log(high / low) / (count - 1)
    return tuple(dict.fromkeys(float(f"{low * math.exp(ratio * i):.2g}") for i in range(count)))


def _json_of_value(value: Any, axis: str) -> str:
    try:
        return canonical_json(as_one_number(_plain(value)))
    except (TypeError, ValueError):
        raise ValueError(f"{axis} needs finite numbers, texts and lists of them, got {value!r}") from None


def _plain(value: Any) -> Any:
    if isinstance(value, Arm):
        return {"method": value.method, "options": value.options}
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value

"""An arm, and one run of it, whose id is the SHA-256 of the canonical JSON of everything that changes its bits.

Fields at their default are left out of that JSON, so a new option keeps the ids of old runs.
"""

import dataclasses
import functools
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from study.config.checks import check_lr, json_value, need
from study.config.identity import RANKER, as_one_number, canonical_json, without_defaults
from study.config.recipe import Recipe
from study.config.shown import arm_text, code_html

RESULTS_VERSION = 2
"""Increase it when the same run gives other numbers than before: then it gets another id."""

CONTROL_SEEDS = tuple(range(10**9, 10**9 + 4))
"""Seeds reserved for the control. A study's own seeds are smaller."""


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
        need(isinstance(method, str), f"an arm needs the name of its method, got {method!r}")
        need(isinstance(options, Mapping | None), f"options of the arm {method} needs a dict, got {options!r}")
        object.__setattr__(self, "method", method)
        named = json_value({**(options or {}), **more}, f"options of the arm {method}")
        object.__setattr__(self, "options", named)
        what = f"lrs of the arm {method}"
        need(isinstance(lrs, Iterable) and not isinstance(lrs, str), f"{what} needs a tuple, got {lrs!r}")
        lrs = tuple(lrs)
        for lr in lrs:
            check_lr(lr)
        object.__setattr__(self, "lrs", tuple(sorted(set(lrs))))
        twice = [f"{lr:g}" for lr, n in Counter(lrs).items() if n > 1]
        need(not twice, f"{what} names {', '.join(twice)} twice")

    def __repr__(self) -> str:
        return arm_text(self)

    _repr_html_ = code_html


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
        if not 0 <= self.seed < CONTROL_SEEDS[0] and self.seed not in CONTROL_SEEDS:
            raise ValueError(f"need 0 <= seed < {CONTROL_SEEDS[0]}, got seed={self.seed}")

    @cached_property
    def id(self) -> str:
        return _hash(canonical_json(self._content(RESULTS_VERSION)))

    def _content(self, results: int) -> dict[str, Any]:
        """What its id is the hash of. results: the `RESULTS_VERSION` of its time."""
        content = as_one_number(without_defaults(self)) | {"results": results}
        if "recipe" in content:
            content["recipe"] = self.recipe.identity
        return content

    def ids_like(self, results: int = RESULTS_VERSION) -> Callable[[float, int], str]:
        """Return the function of (lr, seed) to the id of a run that differs from this one in these alone.

        It takes a microsecond, a tenth of what a `Run` and its id take.

        Args:
            results: the `RESULTS_VERSION` of the runs.
        """
        content = self._content(results)
        names = sorted(content)
        at_lr, at_seed = names.index("lr"), names.index("seed")

        def text(part: Sequence[str]) -> str:
            return canonical_json({name: content[name] for name in part})[1:-1]

        first, middle, last = text(names[:at_lr]), text(names[at_lr + 1 : at_seed]), text(names[at_seed + 1 :])
        start, middle, end = f'{{{first},"lr":', f',{middle},"seed":', f",{last}}}" if last else "}"
        return lambda lr, seed: _hash(f"{start}{_number(lr)}{middle}{seed}{end}")

    @property
    def role(self) -> str:
        return "control" if self.seed in CONTROL_SEEDS else "cell"


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


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@functools.lru_cache(maxsize=4096)
def _number(value: float) -> str:
    return canonical_json(as_one_number(value))

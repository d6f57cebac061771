"""The rules of range tests give the libraries' own numbers.

`range_rules.json` was made by the libraries themselves, run once on each stored curve: `Tuner.lr_find` of Lightning
2.6.6 and `Learner.lr_find` of fastai 2.8.12, with their defaults but for the range and the steps, on a module whose
loss at each step is that of the curve. `null` is no suggestion (Lightning), or an IndexError (fastai). `steps` is where
the library ended the test.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.stats import range_rules

STORED = json.loads(Path(__file__).with_name("range_rules.json").read_text())
CURVES = {curve["name"]: curve for curve in STORED["curves"]}


def losses_of(curve: dict[str, Any]) -> np.ndarray:
    return np.array([math.nan if loss is None else float(loss) for loss in curve["loss"]], np.float32)


def lrs_of_lightning(curve: dict[str, Any]) -> list[float]:
    """As its scheduler rises: from the second step on, step s has the exponent (s + 1) / N."""
    library, steps = curve["lightning"], len(curve["loss"])
    exponents = [0.0, *((step + 1) / steps for step in range(1, steps))]
    return [library["low"] * (library["high"] / library["low"]) ** exponent for exponent in exponents]


def lrs_of_fastai(curve: dict[str, Any]) -> list[float]:
    library, steps = curve["fastai"], len(curve["loss"])
    return [library["low"] * (library["high"] / library["low"]) ** (step / steps) for step in range(steps)]


def test_there_are_curves_of_every_kind() -> None:
    assert len(CURVES) >= 20
    assert STORED["made_by"]["lightning"] == "2.6.6"
    assert STORED["made_by"]["fastai"] == "2.8.12"


@pytest.mark.parametrize("name", CURVES)
def test_lightning(name: str) -> None:
    curve = CURVES[name]
    lrs, stored = lrs_of_lightning(curve), curve["lightning"]
    assert lrs[stored["steps"] - 1] == pytest.approx(stored["last_lr"], rel=1e-9)
    found = range_rules.lightning(lrs, losses_of(curve))
    expected = math.nan if stored["suggestion"] is None else stored["suggestion"]
    assert found == pytest.approx(expected, rel=1e-6, nan_ok=True)


@pytest.mark.parametrize("rule", ["valley", "steep", "minimum"])
@pytest.mark.parametrize("name", CURVES)
def test_fastai(name: str, rule: str) -> None:
    curve = CURVES[name]
    lrs, stored = lrs_of_fastai(curve), curve["fastai"]
    assert lrs[stored["steps"] - 1] == pytest.approx(stored["last_lr"], rel=1e-9)
    found = getattr(range_rules, rule)(lrs, losses_of(curve))
    expected = math.nan if stored[rule] is None else stored[rule]
    assert found == pytest.approx(expected, rel=1e-6, nan_ok=True)


@pytest.mark.parametrize("name", CURVES)
def test_the_loss_explodes_where_fastai_ends_the_test(name: str) -> None:
    curve = CURVES[name]
    losses, steps = losses_of(curve), curve["fastai"]["steps"]
    lrs = np.geomspace(1e-3, 10, len(losses))
    missing = np.flatnonzero(~np.isfinite(losses))
    ends = [steps] if steps < len(losses) else []
    ends += [int(missing[0]) + 1] if len(missing) else []  # fastai goes on after a NaN
    expected = lrs[min(ends) - 1] if ends else math.inf
    assert range_rules.explosion(lrs, losses) == expected


def fall_by_loops(values: np.ndarray) -> tuple[int, int]:
    """The start and the end of the longest fall, in fastai's own loops."""
    lengths, start, end = [1] * len(values), 0, 0
    for i in range(1, len(values)):
        for j in range(i):
            if values[i] < values[j] and lengths[i] < lengths[j] + 1:
                lengths[i] = lengths[j] + 1
            if lengths[end] < lengths[i]:
                end, start = i, i - lengths[i]
    return start, end


@pytest.mark.parametrize("levels", [2, 5, 30, 1000])
def test_the_valley_of_any_curve_is_that_of_fastais_loops(levels: int) -> None:
    draws = np.random.default_rng(levels)
    for steps in range(1, 60):
        walk = draws.integers(-levels, levels // 2, steps).cumsum() if steps % 2 else draws.integers(0, levels, steps)
        values, at = walk.astype(np.float32), np.arange(steps, dtype=np.float32)
        start, end = fall_by_loops(values)
        third = (end - start) / 3
        assert range_rules._valley(at, values) == at[start + int(third) + int(third / 2)]


@pytest.mark.parametrize("rule", range_rules.RULES)
def test_the_largest_losses_warn_of_nothing(rule: str) -> None:
    """Single precision overflows, here as in both libraries; warnings are errors in these tests."""
    losses = [*np.geomspace(3e38, 1, 30), *np.geomspace(1, 3e38, 30)]
    assert not math.isnan(range_rules.RULES[rule](np.geomspace(1e-3, 10, 60).tolist(), losses))


def test_explosion_by_pencil() -> None:
    # the weights of three losses are 0.98^2, 0.98 and 1: 1, 1, x have the mean (1.9404 + x) / 2.9404 > 4 from 9.8212 on
    assert range_rules.explosion([1, 2, 3], [1, 1, 9.82]) == math.inf
    assert range_rules.explosion([1, 2, 3], [1, 1, 9.83]) == 3
    assert range_rules.explosion([1, 2, 3], [1, math.nan, 1]) == 2
    assert range_rules.explosion([1, 2, 3], [math.inf, 1, 1]) == 1


def test_every_rule_takes_a_curve_that_ended_early() -> None:
    for rule in range_rules.RULES.values():
        assert not math.isfinite(rule([], []))
        assert not math.isfinite(rule([1e-3], [1.0]))
        assert rule(np.geomspace(1e-3, 1, 30)[:20], np.linspace(2, 1, 20)) > 0

"""A Ray Tune function trainable as a loop."""

from types import SimpleNamespace
from typing import Any

import pytest
from ray import train, tune

from study.tune.from_trainable import loop_from_trainable

RUN = SimpleNamespace(lr=0.5, seed=3, options={"width": 8})


def watched(trainable: Any, **keys: Any) -> tuple[list[tuple[Any, Any]], dict[str, Any]]:
    calls: list[tuple[Any, Any]] = []
    metrics = loop_from_trainable(trainable, **keys)(RUN, lambda loss, step: calls.append((loss, step)))
    return calls, metrics


@pytest.mark.parametrize("api", [tune, train])
def test_each_report_is_watched_and_the_last_one_are_the_metrics(api: Any) -> None:
    def trainable(config: dict[str, Any]) -> None:
        assert config == {"rate": 0.5, "seed": 3, "width": 8, "depth": 2}
        for i in range(3):
            api.report({"loss": float(i), "accuracy": i / 10})

    before = api.report
    calls, metrics = watched(trainable, lr="rate", config={"depth": 2, "width": 4})
    assert calls == [(0.0, None), (1.0, None), (2.0, None)]
    assert metrics == {"loss": 2.0, "accuracy": 0.2}
    assert api.report is before


def test_several_losses_and_steps() -> None:
    calls, _ = watched(lambda config: tune.report({"a": 1.0, "b": 2.0, "i": 40}), loss=("a", "b"), step="i")
    assert calls == [({"a": 1.0, "b": 2.0}, 40)]


def test_a_loss_that_is_not_reported_is_named() -> None:
    with pytest.raises(ValueError, match="does not report 'loss'; it reports train_loss"):
        watched(lambda config: tune.report({"train_loss": 1.0}))

"""`Run.ids_like` gives the id that `Run.id` gives, for any run."""

import dataclasses

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from study.config import RANKER, Recipe, Run

runs = st.builds(
    Run,
    data=st.text(max_size=8),
    model=st.text(max_size=8),
    method=st.text(max_size=8),
    lr=st.floats(1e-9, 1e4) | st.integers(1, 100),
    seed=st.integers(0, 10**9 - 1),
    options=st.dictionaries(st.text(max_size=4), st.floats(-10, 10) | st.text(max_size=4) | st.booleans(), max_size=3),
    recipe=st.sampled_from([Recipe(), Recipe(steps=100), Recipe(schedule="cosine")]),
    trainer=st.sampled_from([RANKER, "loop"]),
)


@settings(suppress_health_check=[HealthCheck.too_slow])  # the first draw imports for seconds
@given(runs, st.floats(1e-9, 1e4) | st.integers(1, 100), st.integers(0, 10**9 - 1))
def test_ids_of_runs_that_differ_in_lr_and_seed(run: Run, lr: float, seed: int) -> None:
    assert run.ids_like()(lr, seed) == dataclasses.replace(run, lr=lr, seed=seed).id


def test_ids_of_an_older_version(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(data="d", model="small", method="none", lr=0.1, seed=3)
    older = run.ids_like(1)(0.1, 3)
    assert older != run.id
    monkeypatch.setattr("study.config.runs.RESULTS_VERSION", 1)
    assert dataclasses.replace(run).id == older

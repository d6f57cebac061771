"""Two trainers, one answer: the ranker `small` as a plain PyTorch loop, and as stacks, on the same runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import ranker_loop
import trained_study

from study import Arm, Loop, Study, log_grid
from study.config import CONTROL_LRS
from study.outcomes.judge import judge
from study.outcomes.recorded import losses_by_run
from study.outcomes.reference import Reference
from study.record import tables
from study.record.definition import read_definition
from study.record.references import references

pytestmark = pytest.mark.slow

LRS = log_grid(0.1, 3.2, 10)
ACROSS_THE_EDGE: Mapping[str, Any] = {"name": "s", "lrs": LRS, "seeds": range(8), "control_lrs": CONTROL_LRS}


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """A recorded study: the runs of its cells by lr and seed, and what they are judged against."""

    runs: pd.DataFrame
    losses: Mapping[str, Any]
    reference: Reference
    study: Study

    def loss(self, lr: float, seed: int) -> np.ndarray:
        return self.losses[self.runs.loc[(lr, seed), "run_id"]].loss


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recorded, Recorded]:
    """The stacked ranker's record, and the loop's."""
    folder = tmp_path_factory.mktemp("two_trainers")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("STUDY_CACHE", str(folder / "cache"))
        stacked = Study(models=("small",), arms=(Arm("none"),), **ACROSS_THE_EDGE)
        loop = Loop("ranker_loop:train", tasks=ranker_loop.TASKS)
        in_loop = Study(trainer=loop, arms=(Arm("none"),), **ACROSS_THE_EDGE)
        return recorded(stacked, folder / "stacked", folder / "cache"), recorded(
            in_loop, folder / "loop", folder / "cache"
        )


def recorded(study: Study, folder: Path, cache: Path) -> Recorded:
    trained_study.record(study, folder, cache)
    definition, runs = read_definition(folder), tables.read_runs(folder)
    return Recorded(
        runs=runs[runs["role"] != "control"].set_index(["lr", "seed"]).sort_index(),
        losses=losses_by_run(tables.read_losses(folder), [task["name"] for task in definition.data["tasks"]]),
        reference=references(study, definition.data, folder, study.models)[study.models[0]],
        study=study,
    )


def test_both_have_the_same_losses_until_they_part(both: tuple[Recorded, Recorded]) -> None:
    stacked, loop = both
    for lr, seed in stacked.runs.index:
        # Rounding differs, and near the edge the difference grows by half in a step.
        steps = 20 if lr < 0.3 else 5
        ours, theirs = stacked.loss(lr, seed)[:steps], loop.loss(lr, seed)[:steps]
        np.testing.assert_allclose(theirs, ours, rtol=2e-6, err_msg=f"lr {lr:g}, seed {seed}")


def test_both_have_the_same_outcomes(both: tuple[Recorded, Recorded]) -> None:
    stacked, loop = both
    assert len(stacked.runs) == len(loop.runs) == 80
    assert set(stacked.runs["outcome"]) >= {"completed", "diverged"}
    same = stacked.runs["outcome"] == loop.runs["outcome"]
    assert same.sum() >= 0.95 * len(same), stacked.runs.loc[~same, ["outcome", "kept"]]


def test_both_controls_find_the_same_reference(both: tuple[Recorded, Recorded]) -> None:
    """In nats: the loop's baseline is the best constant of each batch, a little better than that of the log."""
    stacked, loop = both
    constant_losses = [task.constant_loss for task in ranker_loop.load().tasks]
    assert loop.reference.lr == stacked.reference.lr
    assert loop.reference.gain * len(constant_losses) == pytest.approx(
        stacked.reference.gain * sum(constant_losses), rel=0.05
    )


def test_equal_losses_have_equal_outcomes_by_the_rule_of_either(both: tuple[Recorded, Recorded]) -> None:
    """A loop has another baseline and no distance of the weights; the stacked trainer's losses are judged alike."""
    stacked, loop = both
    for (lr, seed), row in stacked.runs.iterrows():
        run = loop.losses[loop.runs.loc[(LRS[0], seed), "run_id"]]
        loss = stacked.loss(lr, seed)
        (outcome,) = judge(
            loss[None],
            run.constant[None],
            np.ones(loss.shape[1]),
            [bool(np.isfinite(loss).all())],
            loop.reference,
            loop.study.rule,
            lr_R=[lr],
        )
        assert outcome.outcome == row["outcome"], f"lr {lr:g}, seed {seed}"

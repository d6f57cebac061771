"""Range tests of loops: who follows the lr, where the run ends, and what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from study import Arm, Loop, Study
from study.trainers.protocol import TrainedRuns, open_trainer

LRS = [0.1, 0.2, 0.4, 0.8]

TORCH = """
import torch

def train(run, watch):
    weight = torch.nn.Parameter(torch.ones(()))
    optimizer = {optimizer}
    for step in range(100):
        loss = weight ** 2 / 2
        watch(loss)
        {before}
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        {after}
"""

Tested = Callable[..., TrainedRuns]


@pytest.fixture
def tested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tested:
    """Return the range test of a loop whose module is given as text."""
    monkeypatch.syspath_prepend(tmp_path)

    def run(text: str, name: str, lrs: list[float] = LRS, **loop: Any) -> TrainedRuns:
        (tmp_path / f"{name}.py").write_text(text)
        arms = (Arm("plain", optimizer="none"),) if "optimizer(" in text else (Arm("plain"),)
        study = Study(name="s", trainer=Loop(f"{name}:train", **loop), arms=arms, lrs=(0.1, 1.0), seeds=range(2))
        trainer = open_trainer(study, tmp_path / "cache")
        one = study.run(trainer.content, study.models[0], study.arms[0], lrs[-1], 0)
        return trainer.range_test(study)([one], lrs, "cpu", tmp_path)

    return run


def by_pencil() -> np.ndarray:
    """Half the square of a weight that is multiplied by 1 - lr after each step."""
    weights = np.cumprod([1.0, *(1 - lr for lr in LRS[:-1])])
    return weights**2 / 2


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("asks", "optimizer.param_groups[0]['lr'] = run.lr_at(step)", ""),
        ("own_schedule", "optimizer.param_groups[0]['lr'] = run.lr_at(step)", "optimizer.param_groups[0]['lr'] = 9.0"),
    ],
)
def test_a_loop_that_asks_for_the_lr_of_each_step(tested: Tested, name: str, before: str, after: str) -> None:
    text = TORCH.format(optimizer="torch.optim.SGD([weight], lr=run.lr)", before=before, after=after)
    found = tested(text, f"loop_{name}")
    np.testing.assert_allclose(found.loss[0, :, 0], by_pencil(), rtol=1e-6)
    assert found.steps is None


@pytest.mark.parametrize("after", ["", "optimizer.param_groups[0]['lr'] = 9.0"])
def test_an_optimizer_of_the_run_follows(tested: Tested, after: str) -> None:
    text = TORCH.format(optimizer="run.optimizer([weight])", before="", after=after).replace(
        "(run, watch)", "(run, watch, optimizer='none')"
    )
    name = f"loop_of_run_{bool(after)}"
    found = tested(text, name).loss[0, :, 0]
    weight, accumulator, expected = 1.0, 0.1, []
    for lr in LRS:
        expected.append(weight**2 / 2)
        accumulator += weight**2
        weight -= lr * weight / np.sqrt(accumulator + 1e-7)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "lr", "before", "step"),
    [
        ("never_asks", "run.lr", "", 0),
        ("asks_once", "run.lr_at(0)", "", 1),
        ("asks_at_first", "run.lr", "run.lr_at(min(step, 1))", 2),
        ("asks_for_the_step_before", "run.lr", "run.lr_at(step - 1)", 0),
    ],
)
def test_a_loop_that_does_not_ask_for_the_lr_of_each_step_is_refused(
    tested: Tested, name: str, lr: str, before: str, step: int
) -> None:
    text = TORCH.format(optimizer=f"torch.optim.SGD([weight], lr={lr})", before=before, after="")
    with pytest.raises(ValueError, match=f"did not take the lr of step {step}, so its lr does not rise"):
        tested(text, f"loop_{name}")


def test_an_optimizer_that_is_made_later_has_the_lr_of_its_step(tested: Tested) -> None:
    text = TORCH.format(optimizer="None", before="optimizer = run.optimizer([weight])", after="").replace(
        "(run, watch)", "(run, watch, optimizer='none')"
    )
    weight, expected = 1.0, []
    for lr in LRS:
        expected.append(weight**2 / 2)
        weight -= lr * weight / np.sqrt(0.1 + weight**2 + 1e-7)
    np.testing.assert_allclose(tested(text, "loop_of_new_ones").loss[0, :, 0], expected, rtol=1e-5)


def test_a_loop_that_ends_early_or_is_no_number_leaves_its_losses(tested: Tested) -> None:
    short = "def train(run, watch):\n    for step in range(3):\n        run.lr_at(step)\n        watch(1.0)\n"
    assert tested(short, "loop_short").loss.shape == (1, 3, 1)
    nan = short.replace("watch(1.0)", "watch(1.0 if step < 1 else float('nan'))")
    np.testing.assert_array_equal(tested(nan, "loop_nan").loss[0, :, 0], [1.0, np.nan])


def test_steps_that_are_not_watched_take_the_lr_of_their_number(tested: Tested) -> None:
    text = "def train(run, watch):\n    for step in range(0, 100, 2):\n        watch(run.lr_at(step), step=step)\n"
    found = tested(text, "loop_sparse", [0.1, 0.2, 0.4, 0.8, 1.6])
    np.testing.assert_allclose(found.loss[0, :, 0], [0.1, 0.4, 1.6], rtol=1e-6)
    assert found.steps is not None
    assert found.steps.tolist() == [0, 2, 4]


def test_a_command_is_refused(tmp_path: Path) -> None:
    loop = Loop(command="python train.py --lr {lr}", losses="{folder}/losses.csv")
    study = Study(name="s", trainer=loop, arms=(Arm("plain"),), lrs=(0.1,))
    with pytest.raises(ValueError, match="a range test needs a function"):
        open_trainer(study, tmp_path).range_test(study)


def test_a_run_without_a_range_test_has_one_lr(tmp_path: Path) -> None:
    from study.loops.run import LoopRun

    run = LoopRun(lr=0.3, seed=1, arm="plain", folder=tmp_path)
    assert [run.lr_at(step) for step in (0, 1, 1000)] == [0.3] * 3

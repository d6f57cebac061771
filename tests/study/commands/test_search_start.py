"""A search of edges without lrs begins where range tests explode."""

import dataclasses
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from analysis.stats.range_rules import explosion
from study.cli.main import main
from study.commands import search_start
from study.commands.range_test import ShortLoopError, train_range_tests
from study.commands.recorded_lrs import recorded_lrs
from study.commands.request import RunRequest, study_and_trainer
from study.config import Arm, EdgeSearch, Study
from study.loops.definition import Loop
from study.record.definition import Definition, open_study
from study.record.range_tests import Ramp, read_range_tests
from study.storage.stores import cache_folder
from study.trainers.protocol import Trainer, open_trainer

REQUEST = RunRequest(space="", workers=1)
STEPS = 60


def quadratic(run, watch, *, curvature=1.0):
    """Diverges above lr 2 / curvature."""
    weight = torch.ones(3)
    for step in range(STEPS):
        loss = curvature * (weight**2).sum() / 2 + 1e-3
        watch(loss)
        weight = weight * (1 - run.lr_at(step) * curvature)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STUDY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(search_start, "RAMP", Ramp(low=1e-3, high=100.0, steps=100))


def study_of(*arms: Arm) -> tuple[Study, Trainer]:
    made = Study(name="s", trainer=Loop(quadratic), arms=arms, search=EdgeSearch())
    return made, open_trainer(made, cache_folder())


def test_a_loop_begins_below_where_its_range_tests_explode(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain, sharp = Arm("plain"), Arm("sharp", curvature=10.0)
    made, trainer = study_of(plain, sharp)
    assert not made.has_lrs
    found = search_start.with_lrs(made, trainer, tmp_path, REQUEST)
    assert found.has_lrs
    tests = read_range_tests(tmp_path)
    assert set(tests["lr_steps"]) == {STEPS}, "the loop ends after 60 steps"
    for arm in found.arms:
        own = tests.loc[(tests["method"] == arm.method) & (tests["lr_steps"] == STEPS) & (tests["lr_from"] > 1e-3)]
        assert own["seed"].tolist() == [0, 1, 2, 3]
        at = np.median([explosion(row.step_lr, row.loss, 0.98 ** (100 / STEPS)) for row in own.itertuples()])
        assert found.lrs_of(arm) == pytest.approx([at / 4, at / 2, at], rel=0.05)
        edge = 2 / (arm.options or {}).get("curvature", 1.0)
        assert edge < at < 10 * edge
    assert found.control_lrs[-1] == found.lrs_of(found.arms[0])[0], "the control is trained below"

    capsys.readouterr()
    assert search_start.with_lrs(made, trainer, tmp_path, REQUEST) == found
    assert "; 0 runs to train" in capsys.readouterr().out


def lost_above_one(run, watch):
    for step in range(40):
        watch(1.0 if run.lr_at(step) < 1 else 8.0)


def test_a_short_loop_begins_near_the_lr_at_which_its_loss_jumps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_start, "RAMP", Ramp(low=1e-3, high=100.0, steps=400))
    made = Study(name="s", trainer=Loop(lost_above_one), arms=(Arm("a"),), search=EdgeSearch())
    found = search_start.with_lrs(made, open_trainer(made, cache_folder()), tmp_path, REQUEST)
    assert 0.9 < found.lrs_of(found.arms[0])[-1] < 2


def test_a_loop_that_ends_before_its_lr_is_high_is_refused(tmp_path: Path) -> None:
    """Its curve once said that the loss explodes above the end of the ramp."""
    made, trainer = study_of(Arm("plain"))
    with pytest.raises(ShortLoopError, match="ended after 60 of 100 steps of its range test; give --steps 60"):
        train_range_tests(made, trainer, tmp_path, lambda _model, _arm: search_start.RAMP, (0,), REQUEST)
    assert read_range_tests(tmp_path).empty
    early = Ramp(low=1.5, high=1e4, steps=100)  # it explodes before the loop ends
    train_range_tests(made, trainer, tmp_path, lambda _model, _arm: early, (0,), REQUEST)
    assert len(read_range_tests(tmp_path)) == 1
    assert pickle.loads(pickle.dumps(ShortLoopError(60, 100))).steps == 60, "it comes from another process"


def test_recorded_lrs_stay_and_only_new_arms_are_tested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made, trainer = study_of(Arm("plain"))
    found = search_start.with_lrs(made, trainer, tmp_path, REQUEST)
    open_study(tmp_path, Definition(study=found, data=trainer.description(), versions={}))
    monkeypatch.setattr(search_start, "RUNGS", (0.1,))  # as another version might begin
    assert search_start.with_lrs(made, trainer, tmp_path, REQUEST).lrs == found.lrs
    assert recorded_lrs(made, tmp_path).control_lrs == found.control_lrs

    capsys.readouterr()
    more, trainer = study_of(Arm("plain"), Arm("sharp", curvature=10.0))
    assert recorded_lrs(more, tmp_path) == more
    grown = search_start.with_lrs(more, trainer, tmp_path, REQUEST)
    assert "plain" not in capsys.readouterr().out
    assert grown.lrs_of(grown.arms[0]) == found.lrs_of(found.arms[0])
    assert len(grown.lrs_of(grown.arms[1])) == 1
    assert grown.control_lrs == found.control_lrs


def test_a_comparator_and_an_arm_that_is_tested_alone_go_together(tmp_path: Path) -> None:
    arms = (Arm("plain"), Arm("sharp", curvature=10.0))
    made = Study(name="s", trainer=Loop(quadratic), arms=arms, search=EdgeSearch(), compare=("sharp",))
    found = search_start.with_lrs(made, open_trainer(made, cache_folder()), tmp_path, REQUEST)
    assert found.has_lrs
    assert found.compare == ("sharp",)


def test_arms_that_all_have_lrs_need_no_shared_ones(tmp_path: Path) -> None:
    made, trainer = study_of(Arm("plain", lrs=(0.5, 2.0)), Arm("sharp", curvature=10.0, lrs=(0.1,)))
    assert made.lrs == (0.5, 2.0)
    assert made.control_lrs[-1] == 0.5
    assert search_start.with_lrs(made, trainer, tmp_path, REQUEST) is made


def test_other_lrs_of_the_control_stay_the_users(tmp_path: Path) -> None:
    """The record then refuses them, as it does where lrs are given."""
    made, trainer = study_of(Arm("plain"))
    found = search_start.with_lrs(made, trainer, tmp_path, REQUEST)
    open_study(tmp_path, Definition(study=found, data=trainer.description(), versions={}))
    asked = dataclasses.replace(made, control_lrs=(0.001, 0.002))
    assert search_start.with_lrs(asked, trainer, tmp_path, REQUEST).control_lrs == (0.001, 0.002)


def test_what_never_explodes_begins_at_the_top(tmp_path: Path) -> None:
    made, trainer = study_of(Arm("plain"), Arm("flat", curvature=1e-4))
    found = search_start.with_lrs(made, trainer, tmp_path, REQUEST)
    assert found.lrs_of(found.arms[1]) == (25.0, 50.0, 100.0)


def test_a_ranker_begins_with_lrs_for_each_arm(tmp_path: Path) -> None:
    options = {"rows": 6000}
    made = Study(
        name="s", data_options=options, models=("small",), arms=(Arm("none"), Arm("clippy")), search=EdgeSearch()
    )
    made = dataclasses.replace(made, recipe=dataclasses.replace(made.recipe, batch=64, window=500))
    trainer = open_trainer(made, cache_folder())
    found = search_start.with_lrs(made, trainer, tmp_path, REQUEST)
    none, clippy = (found.lrs_of(arm) for arm in found.arms)
    assert 0.01 < none[0] < none[-1] < clippy[-1] <= 100
    assert found.control_lrs == (), "a ranker's control has its own ladder"


def ignores(run, watch):
    for _ in range(STEPS):
        watch(1.0 + run.lr)


def interrupted(run, watch):
    for step in range(STEPS):
        if step == STEPS - 1:
            raise KeyboardInterrupt
        run.lr_at(step)
        watch(1e6 if step > STEPS / 2 else 1.0)


def test_an_interrupt_stays_one_where_the_loss_has_exploded(tmp_path: Path) -> None:
    """The range test was recorded as one that ended by itself, and the next began."""
    made = Study(name="s", trainer=Loop(interrupted), arms=(Arm("a"),), search=EdgeSearch())
    with pytest.raises(KeyboardInterrupt):
        search_start.with_lrs(made, open_trainer(made, cache_folder()), tmp_path / "out", REQUEST)
    assert read_range_tests(tmp_path / "out").empty


def few_steps(run, watch):
    for step in range(10):
        watch(1.0 + run.lr_at(step))


def test_what_has_no_range_test_needs_lrs(tmp_path: Path) -> None:
    made = Study(name="s", trainer=Loop(command="train {lr}", losses="x.csv"), arms=(Arm("a"),), search=EdgeSearch())
    with pytest.raises(ValueError, match="the study needs lrs, as range tests cannot find them: a command takes"):
        search_start.with_lrs(made, open_trainer(made, cache_folder()), tmp_path / "out", REQUEST)
    made = Study(name="s", trainer=Loop(few_steps), arms=(Arm("a"),), search=EdgeSearch())
    with pytest.raises(
        ValueError, match="the study needs lrs, as range tests cannot find them: 10 steps of its loop are too few"
    ):
        search_start.with_lrs(made, open_trainer(made, cache_folder()), tmp_path / "few", REQUEST)
    made = Study(name="s", trainer=Loop(ignores), arms=(Arm("a"),), search=EdgeSearch())
    with pytest.raises(ValueError, match="the study needs lrs, as range tests cannot find them: the loop did not take"):
        search_start.with_lrs(made, open_trainer(made, cache_folder()), tmp_path / "ignores", REQUEST)
    assert not [path for path in tmp_path.iterdir() if path.name != "cache"], "nothing was recorded"
    with pytest.raises(ValueError, match="need at least one of lrs"):
        Study(name="s", models=("small",), arms=(Arm("none"),))


OWN = """
from study import Arm, EdgeSearch, Study
study = Study(name="own", models=("small",), arms=(Arm("none"), Arm("agc")), search=EdgeSearch(),
              data_options={"rows": 6000})
"""


@pytest.fixture
def own_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A space without lrs in the current folder; another name for each test, as modules stay imported."""
    name = f"space_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_what_stops_a_run_is_said_before_range_tests(own_space: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", own_space, "--out", "out", "--tracking-uri", "nosuch://x"]) == 2
    assert "range tests" not in capsys.readouterr().out
    assert not Path("out").exists()


def test_the_plan_says_what_finds_the_lrs(own_space: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", own_space, "--out", "out"]) == 0
    said = capsys.readouterr().out
    assert "range tests of 2 curves on this machine: 1 seed, 100 steps, lr 0.001 to 100, then 4 seeds" in said
    assert "fixed once range tests have set its lrs" in said
    assert not Path("out").exists()


def test_a_range_test_without_lrs_is_around_those_of_the_record_or_wide(
    own_space: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was once refused, although the record had lrs."""
    words = ["range-test", own_space, "--out", "out", "--steps", "20", "--seeds", "1", "--workers", "1"]
    assert main(words) == 0
    assert "20 steps from lr 1e-06 to 100; 2 runs to train" in capsys.readouterr().out
    study, trainer = study_and_trainer(RunRequest(space=own_space))
    arms = tuple(dataclasses.replace(arm, lrs=(0.1, 0.4)) for arm in study.arms)
    found = dataclasses.replace(study, arms=arms)
    open_study(Path("out"), Definition(study=found, data=trainer.description(), versions={}))
    assert main(words) == 0
    assert "20 steps from lr 0.001 to 4; 2 runs to train" in capsys.readouterr().out

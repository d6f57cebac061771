"""A trainer that knows nothing of rankers goes through the whole study."""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest

import analysis
from study.cli.main import main
from study.config import Arm, Run, Study, control_of, run_from_json, study_from_json, to_json
from study.trainers.protocol import open_trainer

SPACE = """
from study.config import Arm, Study, log_grid

study = Study(
    name="quadratic",
    trainer="quadratic",
    trainer_options={"curvature": 4.0},
    arms=(Arm(method="descent"),),
    lrs=(0.2, 0.4, 0.48, 0.52, 0.6),
    seeds=(0, 1, 2, 3),
)
"""
STUDY = Study(name="q", trainer="quadratic", trainer_options={"curvature": 4.0}, arms=(Arm(method="a"),), lrs=(0.4,))


def test_trainer_is_part_of_ids_and_definitions_unless_it_is_the_ranker() -> None:
    run = STUDY.run("d" * 64, "quadratic", STUDY.arms[0], 0.4, 0)
    assert run.id != dataclasses.replace(run, trainer="ranker").id
    assert run_from_json(to_json(run)) == run
    assert study_from_json(to_json(STUDY)) == STUDY
    ranker = Study(name="r", models=("small",), arms=(Arm(method="none"),), lrs=(0.1,))
    assert not {"trainer", "trainer_options", "control_lrs"} & set(to_json(ranker))
    assert "trainer" not in to_json(Run(data="d", model="small", method="none", lr=0.1, seed=0))


def test_control_of_another_trainer_is_its_first_arm_below_the_lowest_lr() -> None:
    control = control_of(STUDY, "d" * 64)
    assert {run.method for run in control} == {"a"}
    assert sorted({run.lr for run in control}) == [0.0125, 0.025, 0.05, 0.1, 0.2, 0.4]
    wider = dataclasses.replace(STUDY, lrs=(0.1, 0.4))
    assert wider.control_lrs == STUDY.control_lrs, "more lrs leave the control as it is"


def test_unknown_trainer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown trainer 'rankr'; there are .*loop, ranker, or"):
        open_trainer(dataclasses.replace(STUDY, trainer="rankr"), tmp_path)


def test_trainer_without_a_required_method_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_trainers").mkdir()
    (tmp_path / "my_trainers" / "half.py").write_text(
        "from study.trainers import protocol\n\n\nclass Trainer(protocol.Trainer):\n"
        "    def description(self):\n        return {'source': 'x', 'content': 'c', 'tasks': []}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"'my_trainers.half' does not define train$"):
        open_trainer(dataclasses.replace(STUDY, trainer="my_trainers.half"), tmp_path)


@pytest.mark.slow
def test_quadratic_diverges_at_two_over_its_curvature(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Through plan, Ray Tune, record, status, resume and report: edge at 2 / 4 = 0.5."""
    (tmp_path / "my_space.py").write_text(SPACE)
    helpers = Path(__file__).parents[2] / "helpers"
    (tmp_path / "quadratic.py").write_text((helpers / "quadratic.py").read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STUDY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    space = tmp_path / "mine"
    space.mkdir()
    (space / "__init__.py").write_text("")
    (space / "my_space.py").write_text(SPACE.replace('trainer="quadratic"', 'trainer="mine.quadratic"'))
    (space / "quadratic.py").write_text((helpers / "quadratic.py").read_text())

    assert main(["plan", "mine.my_space"]) == 0
    assert "20, of which 0 are recorded" in capsys.readouterr().out
    assert main(["run", "mine.my_space", "--out", "out", "--workers", "2"]) == 0
    runs = analysis.load(Path("out"))
    diverged = (runs["outcome"] == "diverged").groupby(runs["lr"]).mean()
    np.testing.assert_array_equal(diverged.index[diverged == 0], [0.2, 0.4, 0.48])
    np.testing.assert_array_equal(diverged.index[diverged == 1], [0.52, 0.6])
    capsys.readouterr()

    assert main(["status", "out", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["total"]["done"] == 20
    for path in sorted(Path("out/runs").iterdir())[:3]:
        path.unlink()
    assert main(["resume", "out", "--workers", "2"]) == 0
    assert set(analysis.load(Path("out"))["run_id"]) == set(runs["run_id"])
    assert main(["report", "out"]) == 0
    assert Path("out/report.html").is_file()

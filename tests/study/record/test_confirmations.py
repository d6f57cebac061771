"""A confirmation is a part of its study: some arms, at one lr, on fresh seeds."""

import json
from pathlib import Path

import pandas as pd
from records import make_definition

from study.config import Arm, runs_of
from study.record.confirmations import Confirmation, read_confirmations, write_confirmation
from study.search import confirmation as confirmations

ARMS = (Arm("none"), Arm("agc"), Arm("clippy", {"rel": 0.5}, lrs=(0.8, 1.6)))


def test_a_confirmation_may_leave_out_the_comparators_of_its_study() -> None:
    definition = make_definition(arms=ARMS, compare=("agc",))
    wanted = Confirmation(lr=0.4, seeds=(7,), models=("small",), arms=ARMS[2:], number=0, study_seeds=2)
    part = wanted.part_of(definition.study)
    assert part.compare == ()
    (run,) = wanted.runs(definition)
    assert (run.method, run.lr, run.seed) == ("clippy", 0.4, 7)


def test_an_arm_with_lrs_of_its_own_is_confirmed_at_the_one_named(tmp_path: Path) -> None:
    definition = make_definition(arms=ARMS)
    runs = pd.DataFrame({"curve": [], "data": [], "model": [], "lr": [], "seed": [], "run_id": []})
    (arm,) = confirmations._arms(definition, runs, "clippy")
    wanted = Confirmation(lr=0.4, seeds=(7,), models=("small",), arms=(arm,), number=0, study_seeds=2)
    assert [run.lr for run in runs_of(wanted.part_of(definition.study), "d" * 64)] == [0.4]
    write_confirmation(tmp_path, wanted)
    (path,) = (tmp_path / "confirm").iterdir()
    assert json.loads(path.read_text())["arms"] == [{"method": "clippy", "options": {"rel": 0.5}}]
    assert read_confirmations(tmp_path) == [wanted]

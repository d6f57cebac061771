"""`study.json` holds when a plan was fixed, and a hash that anyone can check."""

import dataclasses
import hashlib
import json
from pathlib import Path

import pytest
from records import make_definition

from study.config import IMPORTED, Arm, EdgeSearch
from study.record.definition import RecordError, open_study, plan_hash, read_definition, write_definition


def test_a_plan_is_fixed_when_a_study_is_made_and_each_time_it_grows(tmp_path: Path) -> None:
    open_study(tmp_path, make_definition())
    (first,) = read_definition(tmp_path).plans
    open_study(tmp_path, make_definition())
    open_study(tmp_path, make_definition(seeds=(1, 0)))
    open_study(tmp_path, make_definition(seeds=(0,)))
    assert read_definition(tmp_path).plans == (first,), "nothing was added"
    open_study(tmp_path, make_definition(seeds=(0, 1, 2)))
    plans = read_definition(tmp_path).plans
    assert plans[0] == first
    assert len({digest for _, digest in plans}) == len(plans) == 2


def test_anyone_can_compute_the_hash_from_study_json(tmp_path: Path) -> None:
    open_study(tmp_path, make_definition(data_options={"rows": 1000, "dir": str(tmp_path)}, lrs=(0.1, 0.01, 1)))
    content = json.loads((tmp_path / "study.json").read_text())
    del content["study"]["data_options"]["dir"]
    content["study"]["lrs"].sort()
    plan = {"study": content["study"], "data": content["data"]["content"]}
    text = json.dumps(plan, sort_keys=True, separators=(",", ":"))
    assert content["plans"][-1][1] == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("change", [{"lrs": (0.1, 0.3)}, {"seeds": (0, 2)}, {"name": "other"}])
def test_another_plan_has_another_hash(change: dict) -> None:
    one, other = make_definition(), make_definition(**change)
    assert plan_hash(one.study, one.data) != plan_hash(other.study, other.data)


def test_a_record_of_an_older_version_gets_no_time_afterwards(tmp_path: Path) -> None:
    old = open_study(tmp_path, make_definition())
    write_definition(tmp_path, dataclasses.replace(old, plans=()))
    open_study(tmp_path, make_definition())
    assert read_definition(tmp_path).plans == ()


def test_runs_that_existed_before_have_no_plan(tmp_path: Path) -> None:
    open_study(tmp_path, make_definition(trainer=IMPORTED))
    assert read_definition(tmp_path).plans == ()


TWO = (Arm("none"), Arm("clippy"))


def test_a_plan_without_comparators_has_the_hash_that_it_always_had() -> None:
    one = make_definition()
    assert plan_hash(one.study, one.data) == "416d0253fee99aac6b275f5934f277a70ff4af8e15267c4a6946ef2d96309c24"
    plain, compared = make_definition(arms=TWO), make_definition(arms=TWO, compare=("clippy",))
    assert plan_hash(plain.study, plain.data) != plan_hash(compared.study, compared.data)


def test_the_comparator_that_a_record_has_without_naming_it_may_be_named(tmp_path: Path) -> None:
    before = open_study(tmp_path, make_definition(arms=TWO))
    assert open_study(tmp_path, make_definition(arms=TWO, compare=("none",))) == before


def test_comparators_are_named_before_the_run_and_cannot_be_changed_later(tmp_path: Path) -> None:
    open_study(tmp_path, make_definition(arms=TWO, compare=("clippy",)))
    assert json.loads((tmp_path / "study.json").read_text())["study"]["compare"] == ["clippy"]
    open_study(tmp_path, make_definition(arms=(*TWO, Arm("agc")), compare=("clippy",)))
    assert read_definition(tmp_path).study.compare == ("clippy",)
    message = "holds this study, which plans to compare methods with clippy, not with none; choose another folder"
    with pytest.raises(RecordError, match=message):
        open_study(tmp_path, make_definition(arms=TWO))


def grids(folder: Path) -> list[tuple[float, ...]]:
    study = read_definition(folder).study
    return [study.lrs_of(arm) for arm in study.arms]


def test_the_grid_of_an_arm_grows_as_the_shared_one_does(tmp_path: Path) -> None:
    own = (Arm("none"), Arm("clippy", lrs=(0.4, 0.8)))
    open_study(tmp_path, make_definition(arms=TWO))
    open_study(tmp_path, make_definition(arms=own))
    assert grids(tmp_path) == [(0.1, 0.2), (0.1, 0.2, 0.4, 0.8)]
    open_study(tmp_path, make_definition(arms=TWO, lrs=(0.05, 0.4, 0.8)))
    assert grids(tmp_path) == [(0.05, 0.1, 0.2, 0.4, 0.8)] * 2
    open_study(tmp_path, make_definition(arms=(Arm("none"), Arm("clippy", lrs=(1.6,))), lrs=(0.05,)))
    assert grids(tmp_path) == [(0.05, 0.1, 0.2, 0.4, 0.8), (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)]


def test_a_search_with_another_ladder_of_an_arm_is_another_search(tmp_path: Path) -> None:
    own = (Arm("none"), Arm("clippy", lrs=(0.4, 0.8)))
    open_study(tmp_path, make_definition(arms=own, search=EdgeSearch()))
    open_study(tmp_path, make_definition(arms=(*own, Arm("lion", lrs=(0.01,))), search=EdgeSearch(budget=400)))
    assert grids(tmp_path) == [(0.1, 0.2), (0.4, 0.8), (0.01,)]
    with pytest.raises(
        RecordError, match=r"another lrs of clippy \(was 0.4, 0.8, is 0.1, 0.2\); choose another folder"
    ):
        open_study(tmp_path, make_definition(arms=TWO, search=EdgeSearch()))


def test_a_record_of_an_older_version_gets_what_is_new_in_the_description(tmp_path: Path) -> None:
    old = make_definition()
    open_study(tmp_path, old)
    new = dataclasses.replace(old, data=old.data | {"source": "mine:train", "defaults": {"width": 32}})
    open_study(tmp_path, new)
    again = dataclasses.replace(old, data=old.data | {"defaults": {"width": 48}})
    assert open_study(tmp_path, again).data == new.data
    assert read_definition(tmp_path).plans == open_study(tmp_path, old).plans

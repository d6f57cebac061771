"""Plans: exactly what is missing, once, in even stacks of whole seeds; the control first, and only where needed."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from plans import LOG, make_study, planned_of, validated

from study.config import CONTROL_LRS, CONTROL_SEEDS, Arm, Run, control_of, runs_of
from study.execution import planner
from study.execution.planner import Plan, Stack
from study.trainers._model_size import STACK_RUNS_CPU


def ids(runs: Any) -> list[str]:
    return [run.id for run in runs]


def stacked(planned: Plan) -> list[Run]:
    return [run for stack in (*planned.control, *planned.stacks) for run in stack.runs]


# --- what is planned ----------------------------------------------------------------------------------------------


def test_runs_are_every_combination_once() -> None:
    study = make_study(
        models=("small", "small_dcn"), arms=(Arm(method="none"), Arm(method="clippy", options={"rel": 0.1}))
    )
    runs = runs_of(study, LOG.content)
    assert len(runs) == len(set(ids(runs))) == 2 * 2 * 3 * 4
    assert {(r.model, r.method, r.lr, r.seed) for r in runs} == {
        (model, method, lr, seed)
        for model in study.models
        for method in ("none", "clippy")
        for lr in study.lrs
        for seed in study.seeds
    }
    assert {run.options.get("rel") for run in runs if run.method == "clippy"} == {0.1}
    assert {run.data for run in runs} == {LOG.content}
    assert {run.recipe for run in runs} == {study.recipe}


def test_the_control_is_none_on_the_ladder_with_its_own_seeds_for_each_model() -> None:
    study = make_study(models=("small", "small_dcn"), arms=(Arm(method="clippy"),))
    control = control_of(study, LOG.content)
    assert Counter((r.model, r.lr, r.seed) for r in control) == {
        (model, lr, seed): 1 for model in study.models for lr in CONTROL_LRS for seed in CONTROL_SEEDS
    }
    assert {(run.method, run.role) for run in control} == {("none", "control")}
    assert all(run.options == {} for run in control)


@pytest.mark.parametrize("recorded", [0, 5])
def test_no_run_of_a_cell_computes_its_id(recorded: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes ten times as long as those of a curve together: seconds, for a large grid."""
    study = make_study()
    done, of_run, asked = ids(runs_of(study, LOG.content))[:recorded], Run.__dict__["id"].func, []
    monkeypatch.setattr(Run, "id", property(lambda run: asked.append(run) or of_run(run)))
    assert planned_of(study, done, workers=2).recorded == recorded
    assert {run.role for run in asked} == {"control"}


def test_the_same_run_has_the_same_id_in_another_study() -> None:
    other = make_study(name="other", arms=(Arm(method="clippy"),), lrs=(0.2,), seeds=(3,))
    assert set(ids(runs_of(other, LOG.content))) < set(ids(runs_of(make_study(), LOG.content)))
    assert not set(ids(runs_of(make_study(), "d" * 64))) & set(ids(runs_of(make_study(), LOG.content)))


def test_golden_ids() -> None:
    """Where this fails, records of before are no longer resumed: their runs would be trained again.

    If the bits of a run did change, raise `study.config.runs.RESULTS_VERSION` and write the new values here. If not,
    give the new field a default that means what was meant before, and leave these as they are.
    """
    runs = runs_of(make_study(arms=(Arm(method="clippy", options={"rel": 0.1}),), seeds=(7,)), "c" * 64)
    assert [run.id[:16] for run in runs] == ["7c145d09755110e4", "75ce32395c858379", "dd29299c0cb885eb"]
    assert Stack(runs=tuple(runs)).name == "a5cc00524ba1b3f88e1b15155293895c"


@hypothesis_settings(max_examples=40)
@given(
    st.sets(st.integers(0, 47)),
    st.sets(st.integers(0, 23)),
    st.integers(1, 9),
    st.one_of(st.none(), st.integers(1, 40)),
)
def test_stacks_cover_exactly_what_is_missing(done: set[int], control_done: set[int], workers: int, size: int) -> None:
    study = make_study(lrs=(0.1, 0.2, 0.4, 0.8, 1.6, 3.2))
    runs, control = runs_of(study, LOG.content), control_of(study, LOG.content)
    recorded = {runs[i].id for i in done} | {control[i].id for i in control_done}
    planned = planned_of(study, recorded, workers=workers, stack=size)

    wanted = [run for run in runs if run.id not in recorded]
    wanted += [run for run in control if run.id not in recorded] if wanted else []
    assert Counter(ids(stacked(planned))) == Counter(ids(wanted))
    assert planned.missing == len(wanted)
    assert planned.recorded == len(done)
    assert (planned.runs, planned.control_runs, planned.cells) == (48, 24, 12)
    assert all(stack.is_control for stack in planned.control)
    assert not any(stack.is_control for stack in planned.stacks)
    for stack in (*planned.control, *planned.stacks):
        assert len(stack.runs) <= (size or STACK_RUNS_CPU)
        assert len({(run.model, run.method, run.role) for run in stack.runs}) == 1
        assert len(set(Counter(run.seed for run in stack.runs).values())) == 1, (
            "seeds of a stack have equal numbers of runs"
        )
    assert len({stack.name for stack in planned.stacks}) == len(planned.stacks)


def test_nothing_is_planned_for_a_complete_study() -> None:
    study = make_study()
    planned = planned_of(study, set(ids(runs_of(study, LOG.content))), workers=2)
    assert (planned.control, planned.stacks, planned.missing, planned.recorded) == ((), (), 0, 24)


def test_more_seeds_plan_only_the_new_ones_and_no_control_again() -> None:
    before = make_study()
    recorded = set(ids(runs_of(before, LOG.content))) | set(ids(control_of(before, LOG.content)))
    planned = planned_of(make_study(seeds=tuple(range(6))), recorded, workers=2)
    assert {run.seed for run in stacked(planned)} == {4, 5}
    assert planned.missing == 2 * 2 * 3
    assert not planned.control


def test_only_models_that_need_a_control_train_one() -> None:
    study = make_study(models=("small", "small_dcn"))
    done = {run.id for run in runs_of(study, LOG.content) if run.model == "small"}
    control = planned_of(study, done, workers=2).control
    assert {run.model for stack in control for run in stack.runs} == {"small_dcn"}
    assert sum(len(stack.runs) for stack in control) == 24


# --- how it is stacked --------------------------------------------------------------------------------------------


def test_whole_seeds_stay_together_and_all_workers_have_work() -> None:
    study = make_study(seeds=tuple(range(8)))  # 24 runs an arm
    for workers, sizes in ((2, [24, 24]), (4, [12, 12, 12, 12])):
        planned = planned_of(study, workers=workers)
        assert [len(stack.runs) for stack in planned.stacks] == sizes
        assert all(set(Counter(run.seed for run in stack.runs).values()) == {3} for stack in planned.stacks)
    assert [len(stack.runs) for stack in planned_of(study, workers=2).control] == [12, 12]


def test_the_last_round_leaves_no_worker_without_work() -> None:
    one = make_study(arms=(Arm(method="none"),), lrs=(0.1, 0.2, 0.4, 0.8), seeds=tuple(range(24)))
    assert [len(stack.runs) for stack in planned_of(one, workers=2).stacks] == [24] * 4, "not three of 32"
    five = make_study(
        arms=tuple(Arm(method=m) for m in ("none", "layer_clip", "agc", "lamb", "clippy")), lrs=(0.1, 0.2), seeds=(0, 1)
    )
    assert [len(stack.runs) for stack in planned_of(five, workers=2).stacks] == [4, 4, 4, 4, 2, 2]
    assert [len(stack.runs) for stack in planned_of(five, workers=1).stacks] == [4] * 5


def test_many_workers_do_not_cut_stacks_finer_than_their_work() -> None:
    study = make_study(lrs=(0.1, 0.2, 0.4, 0.8), seeds=tuple(range(32)))  # 256 runs of two methods
    assert [len(stack.runs) for stack in planned_of(study, workers=16).stacks] == [16] * 16


def test_large_stacks_come_first() -> None:
    study = make_study(models=("small", "large"), arms=(Arm(method="none"),))
    planned = planned_of(study, workers=2).stacks
    assert [stack.runs[0].model for stack in planned] == ["large", "large", "small", "small"]


def test_a_seed_that_does_not_fit_is_cut_evenly() -> None:
    lrs = tuple(0.01 * (1 + i) for i in range(10))
    planned = planned_of(make_study(arms=(Arm(method="none"),), lrs=lrs, seeds=(0,)), workers=1, stack=4)
    assert sorted(len(stack.runs) for stack in planned.stacks) == [3, 3, 4]


def test_thresholds_share_a_stack_and_options_do_not() -> None:
    arms = tuple(Arm(method="clippy", options={"rel": rel}) for rel in (0.1, 0.3))
    arms += (Arm(method="clippy", options={"delayed": True}),)
    stacks = planned_of(make_study(arms=arms), workers=1).stacks
    assert sorted(len(stack.runs) for stack in stacks) == [12, 24]
    assert {run.options.get("delayed", False) for run in stacks[0].runs} == {False}
    assert {run.options["rel"] for run in stacks[0].runs} == {0.1, 0.3}


def test_control_and_cells_of_none_are_not_mixed() -> None:
    planned = planned_of(make_study(arms=(Arm(method="none"),)), workers=1)
    assert {len({run.role for run in stack.runs}) for stack in (*planned.control, *planned.stacks)} == {1}


def test_the_name_of_a_stack_is_its_content() -> None:
    stacks = planned_of(make_study(), workers=2).stacks
    assert [stack.name for stack in planned_of(make_study(name="again"), workers=2).stacks] == [s.name for s in stacks]
    assert Stack(runs=stacks[0].runs[:-1]).name != stacks[0].name


def test_a_plan_is_the_same_each_time() -> None:
    study = dataclasses.replace(make_study(), seeds=(3, 0, 2, 1))
    assert planned_of(study, workers=3) == planned_of(study, workers=3)


def test_more_workers_than_runs_plan_as_many_as_there_are_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    study = make_study()
    as_many = planned_of(study, workers=len(runs_of(study, LOG.content)))
    rounds = []
    monkeypatch.setattr(planner, "_rounds", lambda cut, workers: rounds.append(workers) or 0.0)
    planned_of(study, workers=99_999_999)
    assert max(rounds) <= len(runs_of(study, LOG.content))
    monkeypatch.undo()
    assert planned_of(study, workers=99_999_999).stacks == as_many.stacks


def test_a_plan_is_cut_finer_a_limited_number_of_times(monkeypatch: pytest.MonkeyPatch) -> None:
    cuts, rounds = [], planner._rounds
    monkeypatch.setattr(planner, "_rounds", lambda cut, workers: cuts.append(1) or rounds(cut, workers))
    planned_of(make_study(seeds=range(200)), workers=1_000)
    assert len(cuts) <= 2 * planner.MOST_CUTS + 2  # the control has a plan of its own


def test_stacks_are_made_once_however_many_plans_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    made, cut = [], planner._cut
    monkeypatch.setattr(planner, "_cut", lambda runs, size: made.append(len(runs)) or cut(runs, size))
    study = make_study(seeds=range(200))
    planned = planned_of(study, workers=300)
    assert sum(made) == planned.missing


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 40])
@pytest.mark.parametrize("of_seed", [(1,), (4,) * 7, (1, 2, 2, 5, 5, 5, 12), range(1, 14)])
def test_sizes_are_those_of_the_stacks_that_are_cut(of_seed: Sequence[int], size: int) -> None:
    run = runs_of(make_study(), LOG.content)[0]
    runs = [dataclasses.replace(run, seed=seed) for seed, count in enumerate(of_seed) for _ in range(count)]
    sizes = Counter(len(stack.runs) for stack in planner._cut(runs, size))
    assert planner._sizes(Counter(of_seed), size) == sizes


def test_a_grid_of_an_arm_makes_its_own_cells() -> None:
    study = make_study(arms=(Arm(method="none"), Arm(method="clippy", lrs=(1.6,))))
    planned = planned_of(validated(study), workers=1)
    assert (planned.cells, planned.runs) == (4, 16)
    assert {run.lr for run in stacked(planned) if run.method == "clippy"} == {1.6}

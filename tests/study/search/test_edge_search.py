"""The search for edges: where it trains, when it ends, that no kill and no order changes it, and what it saves."""

import dataclasses
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from shapes import Shape, logistic
from simulated_record import TASKS, simulated_definition, write_simulated_study
from simulated_search import LADDER, Found, Trainer, grid_width, make_study, run, search
from simulation import CURVES, LRS
from simulation_claims import search_differences

from analysis.report import terminal
from analysis.report.tables import report_tables
from study.config import Arm, EdgeSearch, study_from_json, to_json
from study.execution.planner import Stack
from study.record.definition import Definition, RecordError, open_study
from study.search import edge_search
from study.search.edge_search import source
from study.search.placement import BATCH_SHARE, LOWEST, SMALLEST_BATCH, curve_posterior, first_batch, next_batch

STEEP = CURVES["steep"]


def tried(trainer: Trainer, source: edge_search.EdgeSource, method: str = "none") -> list[tuple[int, float]]:
    """The runs of a curve in the order in which they were proposed: (seed, lr)."""
    (curve,) = [c for c in source.curves if c.arm.method == method]
    return [(run.seed, run.lr) for run in curve.tried]


def drain(source: edge_search.EdgeSource) -> list[Stack]:
    """All that it hands out while nothing ends."""
    stacks = []
    while stack := source.next():
        stacks.append(stack)
    return stacks


# --- where it trains ----------------------------------------------------------------------------------------------


def test_a_curve_begins_with_its_ladder_and_every_run_has_a_seed_of_its_own() -> None:
    trainer = Trainer({"none": STEEP, "clippy": STEEP.at(0.3)})
    study = make_study(["none", "clippy"], seed=100)
    source = trainer.source(study)
    run(trainer, source)
    for method in ("none", "clippy"):
        seeds, lrs = zip(*tried(trainer, source, method), strict=True)
        assert lrs[: len(LADDER)] == LADDER
        assert seeds == tuple(range(100, 100 + len(seeds))), "the same seeds, whatever the method"


def test_a_short_ladder_is_repeated_until_it_makes_a_batch() -> None:
    assert first_batch([0.1]) == [0.1] * 6
    assert first_batch([0.1, 0.2, 0.4]) == [0.1] * 2 + [0.2] * 2 + [0.4] * 2
    assert first_batch(LADDER) == list(LADDER)


def placed(level: float, batches: int = 30) -> np.ndarray:
    """log10 of the distance to the edge of what is proposed after 80 runs of the steep curve, several batches."""
    rng = np.random.default_rng(2)
    lrs = [*LADDER, *(10 ** rng.normal(-1, 0.1, 80))]
    now = curve_posterior(lrs, list(rng.random(len(lrs)) < STEEP.rate(lrs)), level)
    proposed = [next_batch(now, len(lrs), level, np.random.default_rng(i)) for i in range(batches)]
    return np.log10(np.concatenate(proposed) / STEEP.edge(level))


def test_runs_go_where_the_outcome_tells_most_and_a_tenth_goes_anywhere() -> None:
    for level in (0.5, 0.05):
        distance = placed(level)
        # Chance puts 0.4 of 1.8 decades here, and the guard alone nothing but that.
        near = np.mean(np.abs(distance) < 0.2)
        assert 0.8 < near < 0.97
    far = np.abs(placed(0.5)) > 0.3
    assert 0.03 < far.mean() < 0.12, "a tenth, less what falls near the edge by chance"
    assert np.median(placed(0.05)) < 0.2, "LR05 is not sought where half of the runs diverge"
    assert all(LADDER[0] <= lr <= LADDER[-1] for lr in STEEP.edge() * 10 ** placed(0.5))


def test_what_is_proposed_has_three_digits() -> None:
    now = curve_posterior(LADDER, [False] * 4 + [True] * 3, 0.5)
    batch = next_batch(now, 7, 0.5, np.random.default_rng(0))
    assert batch == [float(f"{lr:.3g}") for lr in batch]
    assert len(set(batch)) > 4, "runs of a batch are spread: each is placed as if those before it had ended"


# --- when it ends -------------------------------------------------------------------------------------------------


def test_it_ends_once_the_edge_is_known_to_the_precision() -> None:
    for precision in (1.5, 1.2):
        found = search(STEEP.at(0.13), 3, precision=precision, budget=1000)
        assert found.end == "known"
        assert 10 ** (found.high - found.low) <= precision
        assert found.low <= found.edge <= found.high
    few, many = (search(STEEP.at(0.13), 3, precision=p, budget=1000).runs for p in (1.5, 1.2))
    assert few < many < 1000


@pytest.mark.parametrize("seed", range(4))
def test_it_is_known_only_when_a_further_batch_leaves_it_so(seed: int) -> None:
    trainer, study = Trainer({"none": STEEP.at(0.13)}, seed=seed), make_study(seed=1000 * seed, precision=1.4)
    source = trainer.source(study, workers=1)
    run(trainer, source, workers=1)
    (curve,) = source.curves
    lrs, outcomes = [r.lr for r in curve.tried], [curve.diverged[r.id] for r in curve.tried]
    ends = [len(first_batch(LADDER))]
    while ends[-1] < len(lrs):
        ends.append(ends[-1] + max(SMALLEST_BATCH, round(BATCH_SHARE * ends[-1])))
    assert ends[-1] == len(lrs)
    narrow = [curve_posterior(lrs[:n], outcomes[:n], 0.5).end(curve.search) == "known" for n in ends]
    assert narrow[-2:] == [True, True]
    assert (True, True) not in itertools.pairwise(narrow[:-1])


def test_a_curve_that_never_diverges_grows_by_factors_of_2_to_lr_100_and_says_so() -> None:
    trainer = Trainer({"none": CURVES["never"]})
    source = trainer.source(make_study())
    run(trainer, source)
    lrs = sorted({lr for _, lr in tried(trainer, source)})
    assert lrs == [*LADDER, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 100.0]
    assert source.outline()[-1].endswith("0 diverged; edge > 100, censored: not reached up to lr 100")
    assert trainer.trained < 40
    assert source.state == "0 of 1 edges found, 1 censored"


def test_a_curve_that_always_diverges_grows_downward_to_its_floor_and_says_so() -> None:
    trainer = Trainer({"none": logistic(floor=1.0)})
    source = trainer.source(make_study())
    run(trainer, source)
    lrs = sorted({lr for _, lr in tried(trainer, source)})
    assert lrs[0] == LOWEST
    assert lrs[1:7] == pytest.approx([0.0125 / 2**i for i in range(6, 0, -1)], rel=0.01)
    assert "censored: already below lr 0.0001" in source.outline()[-1]


def test_an_edge_that_only_probably_lies_beyond_the_tried_lrs_is_shown_with_its_interval() -> None:
    source = Trainer({"none": CURVES["never"]}).source(make_study(budget=7))
    (curve,) = source.curves
    curve.now = curve_posterior(LADDER, [False] * len(LADDER), 0.5)
    assert curve.now.lowest < curve.now.low < curve.now.highest < curve.now.edge
    assert str(curve) == f"> 0.8 ({10**curve.now.low:.2g} to ?)"


@pytest.mark.parametrize("lr50", [0.004, 6.0])
def test_an_edge_beyond_the_ladder_is_found(lr50: float) -> None:
    found = search(STEEP.at(lr50), 1)
    assert found.end == "known"
    assert abs(found.edge - math.log10(lr50)) < 0.1


def test_a_plateau_under_the_level_is_censored_and_one_above_it_is_not() -> None:
    under = search(logistic(lr50=0.1, slope=20, lapse=0.85), 2)
    assert under.end in ("above", "spent")
    assert under.edge == math.inf
    over = [search(logistic(lr50=0.1, slope=20, lapse=0.15), seed).end for seed in range(2, 7)]
    assert over.count("known") >= 3  # 8 of 10 are; the others spend their budget of 320 runs


def test_the_budget_ends_it_and_a_larger_one_goes_on_with_the_same_runs() -> None:
    trainer = Trainer({"none": CURVES["shallow"]})
    study = make_study(budget=50, precision=1.1)
    source = trainer.source(study)
    run(trainer, source)
    assert trainer.trained == 50
    assert "its budget is spent" in source.outline()[-1]
    assert source.state == "0 of 1 edges found, 1 out of budget"
    before = tried(trainer, source)
    more = trainer.source(make_study(budget=90, precision=1.1))
    run(trainer, more)
    assert trainer.trained == 90
    assert tried(trainer, more)[:50] == before


def test_a_finer_precision_goes_on_with_the_same_runs() -> None:
    trainer = Trainer({"none": STEEP})
    source = trainer.source(make_study(precision=1.5))
    run(trainer, source)
    before = tried(trainer, source)
    finer = trainer.source(make_study(precision=1.2))
    run(trainer, finer)
    assert tried(trainer, finer)[: len(before)] == before
    assert trainer.trained == len(tried(trainer, finer)) > len(before)
    coarse = trainer.source(make_study(precision=1.5))
    assert coarse.ended, "a coarser one has nothing to do"
    assert tried(trainer, coarse) == tried(trainer, finer), "and counts all runs that there are"


# --- order, kills and failures ------------------------------------------------------------------------------------

TWO = {"none": STEEP, "clippy": STEEP.at(0.4)}
OPTIONS = {"precision": 1.5, "budget": 60}


@pytest.fixture(scope="module")
def undisturbed() -> dict[str, bool]:
    trainer = Trainer(TWO)
    run(trainer, trainer.source(make_study(list(TWO), **OPTIONS), workers=1), workers=1)
    return trainer.recorded


def test_searches_of_curves_with_the_same_edge_are_not_said_to_differ():
    (row,) = search_differences("uniform", "cliff", 12)
    assert row["wrong"] <= 3 / 12, "once in five hundred at 5%"


@hypothesis_settings(max_examples=12)
@given(st.lists(st.integers(0, 6), max_size=3), st.integers(1, 5), st.integers(1, 32), st.integers(1, 99))
def test_killed_anywhere_in_any_order_on_any_machine_it_ends_where_an_undisturbed_one_does(
    undisturbed: dict[str, bool], kills: list[int], workers: int, largest: int, order: int
) -> None:
    trainer = Trainer(TWO)
    study = make_study(list(TWO), **OPTIONS)
    for i, stacks in enumerate(kills):
        run(
            trainer,
            trainer.source(study, workers=workers, largest=largest),
            workers=workers,
            order=order + i,
            stacks=stacks,
        )
    source = trainer.source(study, workers=workers, largest=largest)
    run(trainer, source, workers=workers, order=order - 1)
    assert trainer.recorded == undisturbed
    assert trainer.trained == len(undisturbed), "nothing that was recorded was trained again"
    assert source.ended
    assert source.next() is None
    assert sum(source.left.values()) == 0


def test_a_curve_does_not_depend_on_the_others(undisturbed: dict[str, bool]) -> None:
    trainer = Trainer(TWO)
    run(trainer, trainer.source(make_study(["clippy"], **OPTIONS)))
    assert 0 < trainer.trained < len(undisturbed)
    assert trainer.recorded.items() <= undisturbed.items()


def test_runs_that_were_lost_from_the_record_are_trained_again_and_change_nothing(undisturbed: dict[str, bool]) -> None:
    trainer = Trainer(TWO)
    study = make_study(list(TWO), **OPTIONS)
    run(trainer, trainer.source(study))
    for lost in list(trainer.recorded)[3:25:4]:
        del trainer.recorded[lost]
    source = trainer.source(study)
    assert not source.ended
    run(trainer, source)
    assert trainer.recorded == undisturbed


def test_failed_runs_stay_missing_count_as_tried_and_do_not_stop_the_search() -> None:
    trainer = Trainer({"none": STEEP}, fails=lambda run: run.seed in (2, 12))
    study = make_study(precision=1.5)
    source = trainer.source(study, largest=1)
    run(trainer, source)
    found = tried(trainer, source)
    assert [seed for seed, _ in found] == list(range(len(found)))
    assert len(trainer.recorded) == len(found) - 2
    assert ", 2 missing; " in source.outline()[-1]
    # What came after them was recorded without them: they are not tried again, and nothing changes.
    again = trainer.source(study, largest=1)
    assert again.ended
    assert tried(trainer, again) == found


def test_what_failed_last_is_tried_again_by_a_resume() -> None:
    trouble = [True]
    trainer = Trainer({"none": STEEP}, fails=lambda run: trouble[0] and run.seed >= 7)
    study = make_study(precision=1.5)
    source = trainer.source(study)
    run(trainer, source, stacks=3)
    assert trainer.failed
    assert len(trainer.recorded) == 7
    trouble[0] = False
    source = trainer.source(study)
    run(trainer, source)
    fresh = Trainer({"none": STEEP})
    run(fresh, fresh.source(study))
    assert trainer.recorded == fresh.recorded


# --- stacks -------------------------------------------------------------------------------------------------------


def test_one_curve_alone_gives_every_worker_work() -> None:
    trainer = Trainer({"none": STEEP})
    source = trainer.source(make_study(lrs=LRS), workers=2)
    assert [len(stack.runs) for stack in drain(source)] == [6, 6]
    source = trainer.source(make_study(lrs=LRS), workers=5)
    assert [len(stack.runs) for stack in drain(source)] == [3, 3, 2, 2, 2]


def test_with_more_curves_than_workers_each_has_a_stack_and_none_waits_for_another() -> None:
    methods = ["none", "clippy", "agc"]
    trainer = Trainer(dict.fromkeys(methods, STEEP))
    source = trainer.source(make_study(methods), workers=2)
    stacks = drain(source)
    assert [stack.runs[0].method for stack in stacks] == methods
    assert {len(stack.runs) for stack in stacks} == {len(LADDER)}
    trainer.end(source, stacks[1])
    (more,) = drain(source)
    assert more.runs[0].method == "clippy", "its next batch is there while the others still train"
    assert source.left["small"] >= 3 * len(LADDER)
    assert not source.ended


def test_curves_that_may_share_a_stack_do() -> None:
    arms = tuple(Arm(method="clippy", options={"rel": rel}) for rel in (0.1, 0.3, 1.0))
    study = dataclasses.replace(make_study(), arms=(*arms, Arm(method="none")))
    trainer = Trainer({"clippy": STEEP, "none": STEEP})
    assert [len(s.runs) for s in drain(trainer.source(study, workers=1))] == [21, 7]
    assert [len(s.runs) for s in drain(trainer.source(study, workers=1, largest=16))] == [16, 5, 7]
    source = trainer.source(study)
    run(trainer, source)
    assert source.ended
    names = [line.split(":")[0] for line in source.outline()[3:]]
    assert names == ["clippy rel=0.1", "clippy rel=0.3", "clippy rel=1", "none"]


# --- the record ---------------------------------------------------------------------------------------------------


def test_a_search_is_part_of_a_study_and_old_studies_have_none() -> None:
    study = make_study(level=0.05)
    assert to_json(study)["search"] == {"kind": "edges", "level": 0.05, "precision": 1.25, "budget": 320}
    assert study_from_json(to_json(study)) == study
    assert "search" not in to_json(dataclasses.replace(study, search=None))
    with pytest.raises(ValueError, match="a search is one of edges"):
        study_from_json(to_json(study) | {"search": {"kind": "luck"}})


def test_a_folder_goes_on_with_another_end_but_not_with_another_search(tmp_path: Path) -> None:
    def opened(**changes) -> Definition:
        study = make_study(**changes)
        return open_study(
            tmp_path, Definition(study=study, data={"content": "c" * 64, "tasks": list(TASKS)}, versions={})
        )

    opened()
    assert opened(precision=1.1, budget=500).study.search == EdgeSearch(precision=1.1, budget=500)
    with pytest.raises(RecordError, match=r"holds this search with another level \(was 0.5, is 0.05\)"):
        opened(level=0.05)
    with pytest.raises(RecordError, match=r"another lrs \(was .*0.8, is 0.1, 0.2\); choose another folder"):
        opened(lrs=(0.1, 0.2))
    with pytest.raises(RecordError, match=r"another first seed \(was 0, is 5\)"):
        opened(seed=5)


def test_a_search_without_a_record_has_everything_to_do(tmp_path: Path) -> None:
    found = source(make_study(["none", "agc"]), "c" * 64, tmp_path / "none", workers=2, largest_stack={"small": 32})
    assert len(drain(found)) == 2
    assert found.outline()[0].startswith("search    of 2 curves, the lr at which half of the runs diverge")
    assert found.state == "0 of 2 edges found"


def test_the_report_tells_the_edge_that_was_sought(tmp_path: Path) -> None:
    definition = simulated_definition()
    study = dataclasses.replace(definition.study, search=EdgeSearch(level=0.1))
    write_simulated_study(tmp_path, dataclasses.replace(definition, study=study), with_losses=False)
    found = report_tables(tmp_path)
    assert "none: 10% of the runs diverge within 200 steps at lr 0." in terminal.text(found)
    assert set(found.edges) == {0.5, 0.05, 0.1}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"level": 0.0}, "need 0 < level < 1, got level=0"),
        ({"precision": 1.0}, "need precision >= 1.02, got precision=1"),
        ({"budget": 0}, "need budget >= 1, got budget=0"),
        ({"seed": 10**9 - 5}, "320 seeds from 999999995 on reach those of the control"),
        ({"lrs": (0.1, 200.0)}, "begins within lr 0.0001 to 100, got 200"),
    ],
)
def test_a_search_that_cannot_be_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Trainer({"none": STEEP}).source(make_study(**changes))


def test_no_outcome_at_all_is_no_reason_to_stop() -> None:
    trainer = Trainer({"none": STEEP}, fails=lambda run: run.seed < 20)
    source = trainer.source(make_study(precision=1.5))
    run(trainer, source)
    assert source.ended
    assert source.outline()[-1].endswith("known")


# --- what it saves, by simulation ---------------------------------------------------------------------------------


def searches(name: str, count: int, **options) -> tuple[list[Shape], list[Found]]:
    rng = np.random.default_rng(7)
    curves = [CURVES[name].at(10 ** rng.uniform(-1.7, -0.5)) for _ in range(count)]
    return curves, [search(curve, 50 + i, **options) for i, curve in enumerate(curves)]


@pytest.fixture(scope="module")
def steep() -> tuple[list[Shape], list[Found]]:
    return searches("steep", 50, precision=1.15)


@pytest.fixture(scope="module")
def shallow() -> tuple[list[Shape], list[Found]]:
    return searches("shallow", 6, budget=600)


@pytest.mark.parametrize(("name", "saves"), [("steep", 3), ("shallow", 2)])
def test_a_grid_of_the_same_precision_takes_several_times_as_many_runs(
    name: str, saves: float, request: pytest.FixtureRequest
) -> None:
    """The same mean width of the interval, that is; docs/statistics.md has the long table. The grid is 12 lrs over two
    decades, its runs all independent. Its intervals are those of the logistic alone, which hold for few other shapes;
    those of a search hold for all. Still it takes 4.2 times as many runs on a steep curve, 3.5 times on a shallow one.
    """
    curves, found = request.getfixturevalue(name)
    width = np.mean([f.high - f.low for f in found])
    runs = np.mean([f.runs for f in found])
    seeds = math.floor(saves * runs / len(LRS))
    assert grid_width(curves * (50 // len(curves)), seeds, np.random.default_rng(1)) > width


def test_its_interval_covers_though_the_data_chose_when_to_stop_and_its_middle_is_not_biased(
    steep: tuple[list[Shape], list[Found]],
) -> None:
    edges = [math.log10(curve.edge()) for curve in steep[0]]
    covered = sum(f.low <= edge <= f.high for f, edge in zip(steep[1], edges, strict=True))
    # Binomial(50, 0.95) lies below 43 with probability 0.3%.
    assert covered >= 43
    error = np.mean([(f.edge - edge) / (f.high - f.low) for f, edge in zip(steep[1], edges, strict=True)])
    # In the long run under a tenth; of 50 searches the mean has a standard error of 0.035.
    assert abs(error) < 0.2


def test_an_arm_begins_with_a_ladder_of_its_own() -> None:
    trainer = Trainer({"none": STEEP, "lion": STEEP.at(0.002)})
    study = make_study(["none"])
    own = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016)
    study = dataclasses.replace(study, arms=(*study.arms, Arm("lion", lrs=own)))
    source = trainer.source(study)
    outline = "\n".join(source.outline())
    assert (
        "begin     7 runs a curve at lrs 0.0125, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8; seeds from 0 on, one a run" in outline
    )
    assert "          lion: 6 runs at lrs 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016" in outline
    run(trainer, source)
    assert tuple(lr for _, lr in tried(trainer, source, "lion"))[: len(own)] == own
    (curve,) = [curve for curve in source.curves if curve.arm.method == "lion"]
    assert curve.now is not None
    assert 0.0015 < 10**curve.now.edge < 0.0027


def test_the_outline_names_lrs_where_a_curve_begins_there() -> None:
    """It once named those of the first arm for every curve."""
    trainer, study = Trainer({"none": STEEP, "lion": STEEP}), make_study(["none"])
    arms = (Arm("none", lrs=(1.2, 2.4, 4.9)), Arm("lion", lrs=(0.1, 0.2)))
    lines = trainer.source(dataclasses.replace(study, lrs=arms[0].lrs, arms=arms)).outline()
    assert lines[1:4] == [
        "begin     each curve at lrs of its own; seeds from 0 on, one a run",
        "          none: 6 runs at lrs 1.2, 2.4, 4.9",
        "          lion: 6 runs at lrs 0.1, 0.2",
    ]
    lines = trainer.source(dataclasses.replace(study, arms=arms[:1])).outline()
    assert lines[1] == "begin     6 runs a curve at lrs 1.2, 2.4, 4.9; seeds from 0 on, one a run"
    assert lines[2].startswith("budget")


def test_a_ladder_of_an_arm_outside_the_allowed_lrs_is_refused() -> None:
    study = dataclasses.replace(make_study(["none"]), arms=(Arm("none", lrs=(1e-9,)),))
    with pytest.raises(ValueError, match=r"a search of edges begins within lr .* got 1e-09"):
        Trainer({"none": STEEP}).source(study)

"""The search for the best quality: on simulated runs of a known best and a known edge, and as a source of stacks."""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from scipy import special
from simulated_tuning import DATA, STEPS, Trainer, Truth, opened

from analysis.stats import best
from analysis.text import best as best_text
from study.commands.request import validate_study
from study.config import JUDGED_FROM, Arm, QualitySearch, Recipe, Run, Study, study_from_json, to_json
from study.definition import overrides
from study.execution.planner import Stack
from study.record import tables
from study.record.definition import Definition, RecordError, read_definition
from study.record.failures import write_failure
from study.search import optuna_tpe, quality_search, validation
from study.search.cells import Scored, leaders, spread
from study.trainers.protocol import open_trainer

THRESHOLDS = {"none": {}, "clippy": {"rel": 0.5, "abs": 0.01}}
RANGES = {"clippy": {"rel": (0.03, 1.0), "abs": (0.001, 0.1)}}
SPREAD = 0.1


def rising(lr: float, _thresholds: Mapping[str, float]) -> tuple[float, float]:
    """More lr is better, up to the edge and beyond: only the risk holds the search back."""
    return 0.1 + 0.03 * math.log10(lr), 0.5


def peaked(lr: float, thresholds: Mapping[str, float]) -> tuple[float, float]:
    """Best at lr 3, rel 0.3, abs 0.02, below an edge that a larger rel lowers."""
    away = [math.log10(lr / 3), math.log10(thresholds["rel"] / 0.3), math.log10(thresholds["abs"] / 0.02)]
    return 0.12 - 0.02 * sum(a * a for a in away), 6 * math.sqrt(0.3 / thresholds["rel"])


TRUTH: dict[str, Truth] = {"none": rising, "clippy": peaked}


def study_of(**changes: Any) -> Study:
    first = changes.pop("first_seed", 0)
    search = {"ranges": RANGES, "budget": 48, "batch": 4, "judged": 6} | changes.pop("search", {})
    made: dict[str, Any] = {
        "name": "simulated",
        "models": ("small",),
        "arms": (Arm(method="none"), Arm(method="clippy")),
        "lrs": (0.02, 20.0),
        "seeds": (first, first + 1),
        "recipe": Recipe(steps=STEPS),
        "search": QualitySearch(**search),
    }
    return Study(**made | changes)


def source_of(study: Study, folder: Path, *, workers: int = 1, largest: int = 32) -> quality_search.QualitySource:
    return quality_search.QualitySource(
        study,
        DATA,
        folder,
        workers=workers,
        largest_stack=dict.fromkeys(study.models, largest),
        trainer=open_trainer(study, folder / "cache"),
    )


def finish(study: Study, folder: Path, truth: Mapping[str, Truth] = TRUTH, **options: Any) -> Trainer:
    """Search to the end, one stack at a time. Returns who trained."""
    opened(folder, study)
    train = Trainer(folder, truth, THRESHOLDS, spread=SPREAD)
    source = source_of(study, folder, **options)
    while stack := source.next():
        train(stack)
        source.recorded(stack)
    assert source.ended
    assert set(source.left.values()) == {0}
    return train


def train_next(source: quality_search.QualitySource, train: Trainer) -> None:
    stack = source.next()
    assert stack is not None
    train(stack)
    source.recorded(stack)


def found(folder: Path) -> dict[str, dict[str, Any]]:
    """method -> its row of `best`."""
    definition = read_definition(folder)
    runs = tables.read_runs(folder)
    table = best.best(runs, best.gains(runs, tables.read_losses(folder), definition), definition)
    return {row["method"]: row for row in table.to_dict("records")}


def p_diverged(lr: float, edge: float) -> float:
    return float(special.ndtr(math.log10(lr / edge) / SPREAD))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Trainer]:
    """A search of the size that people run."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, finish(study_of(seeds=(0, 1, 2, 3), search={"budget": 320, "batch": 8, "judged": 32}), folder)


# --- what it finds -------------------------------------------------------------------------------------------------


def test_it_finds_the_known_best_below_the_known_edge(whole: tuple[Path, Trainer]) -> None:
    rows = found(whole[0])
    held_back, free = rows["none"], rows["clippy"]
    highest = 0.5 * 10 ** (SPREAD * float(special.ndtri(0.05)))  # P(divergence) is 0.05 there
    assert 0.6 * highest < held_back["lr"] < 1.15 * highest
    gain, edge = peaked(free["lr"], free)
    assert gain > 0.116
    assert p_diverged(free["lr"], edge) < 0.1


def test_few_lucky_seeds_make_no_winner(whole: tuple[Path, Trainer]) -> None:
    """Most cells at twice the risk have 4 seeds of 4 that hold, and a higher gain than any cell within it."""
    folder, _ = whole
    definition = read_definition(folder)
    runs = tables.read_runs(folder)
    cells = best.tuned_cells(runs, best.gains(runs, tables.read_losses(folder), definition), definition)
    cells = cells.loc[cells["method"] == "none"]
    winner = cells.loc[cells["best"]].iloc[0]
    lucky = cells.loc[cells["within_risk"] & (cells["lr"] > winner["lr"])]
    assert (lucky["n"] < winner["n"] / 2).all() or lucky.empty
    assert winner["n"] >= 12
    failed = cells.loc[~cells["within_risk"] & (cells["n"] > 4)]
    assert len(failed) > 0, "no leader was ever tested and fell back"


def test_leaders_are_within_the_risk() -> None:
    scored = [
        Scored(cell=(("lr", lr),), n=n, k=k, gain=gain)
        for lr, n, k, gain in [
            (0.1, 4, 0, 0.1),
            (0.2, 20, 1, 0.3),
            (0.3, 4, 1, 0.5),
            (0.4, 20, 2, 0.4),
            (0.5, 4, 0, 0.2),
        ]
    ]
    assert [dict(cell)["lr"] for cell in leaders(scored, 0.05, 2)] == [0.2, 0.5]
    assert len(leaders(scored, 0.05, 9)) == 3


def test_every_arm_has_the_same_budget_and_the_winner_fresh_seeds(whole: tuple[Path, Trainer]) -> None:
    folder, train = whole
    tuned = Counter(run.method for run in train.trained if run.seed < JUDGED_FROM)
    judged = Counter(run.method for run in train.trained if run.seed >= JUDGED_FROM)
    assert tuned == {"none": 320, "clippy": 320}
    assert judged == {"none": 32, "clippy": 32}
    assert len({run.id for run in train.trained}) == len(train.trained)
    assert len(train.trained) == validation.runs_at_most(read_definition(folder).study)
    rows = found(folder)
    for run in train.trained:
        if run.seed >= JUDGED_FROM:
            assert run.lr == rows[run.method]["lr"]
            assert run.options.get("rel", 0.5) == rows[run.method].get("rel", 0.5) or run.method == "none"


def test_leaders_share_the_seeds_on_which_they_are_tested(whole: tuple[Path, Trainer]) -> None:
    _, train = whole
    runs = [run for run in train.trained if run.method == "clippy" and 4 <= run.seed < JUDGED_FROM]
    of_seed = Counter(run.seed for run in runs)
    assert set(of_seed) == set(range(4, 4 + 8 * 4))
    assert set(of_seed.values()) == {4}


def test_an_arm_that_always_diverges_has_no_best(tmp_path: Path) -> None:
    hopeless: dict[str, Truth] = {"none": lambda lr, _: (0.1, 1e-6), "clippy": peaked}
    train = finish(study_of(), tmp_path, hopeless)
    assert Counter(run.method for run in train.trained) == {"none": 48, "clippy": 48 + 6}
    row = found(tmp_path)["none"]
    assert math.isnan(row["lr"])
    assert (row["n"], row["cells"]) == (0, 24)
    said = best_text.sentence(row, read_definition(tmp_path))
    assert said.startswith("none: 0 of 24 cells")


# --- resuming ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    return {run.id for run in finish(study_of(), tmp_path_factory.mktemp("undisturbed")).trained}


@pytest.mark.parametrize("killed_after", [0, 3, 8, 13])
def test_a_killed_search_ends_where_an_undisturbed_one_does(
    tmp_path: Path, undisturbed: set[str], killed_after: int
) -> None:
    """Nothing is left but the record, and of stacks in training not even that."""
    study = study_of()
    opened(tmp_path, study)
    train = Trainer(tmp_path, TRUTH, THRESHOLDS, spread=SPREAD)
    source = source_of(study, tmp_path, workers=4)
    source.next()  # one stack is never heard of again
    for _ in range(killed_after):
        if stack := source.next():
            train(stack)
            source.recorded(stack)
    (tmp_path / optuna_tpe.JOURNAL).write_text("{not a line of Optuna's\n")
    resumed = finish(study_from_json(to_json(study)), tmp_path, workers=3)
    assert {run.id for run in [*train.trained, *resumed.trained]} == undisturbed
    assert not {run.id for run in train.trained} & {run.id for run in resumed.trained}
    assert finish(study, tmp_path).trained == []


def test_neither_workers_nor_the_order_of_stacks_change_what_is_tried(tmp_path: Path, undisturbed: set[str]) -> None:
    study, rng = study_of(), np.random.default_rng(0)
    opened(tmp_path, study)
    train, training = Trainer(tmp_path, TRUTH, THRESHOLDS, spread=SPREAD), []
    source = source_of(study, tmp_path, workers=8, largest=5)
    while not source.ended or training:
        while len(training) < 5 and (stack := source.next()):
            training.append(stack)
        stack = training.pop(rng.integers(len(training)))
        half = len(stack.runs) // 2  # in two parts, as after out of memory
        for part in (stack.runs[:half], stack.runs[half:]):
            if part:
                train(Stack(runs=part))
                source.recorded(Stack(runs=part))
    assert {run.id for run in train.trained} == undisturbed


def test_arms_do_not_wait_for_each_other(tmp_path: Path) -> None:
    study = study_of()
    opened(tmp_path, study)
    train = Trainer(tmp_path, TRUTH, THRESHOLDS)
    source = source_of(study, tmp_path)
    stuck = source.next()
    assert stuck is not None
    while stack := source.next():
        assert stack.runs[0].method != stuck.runs[0].method
        train(stack)
        source.recorded(stack)
    assert len(train.trained) == 48 + 6
    assert not source.ended


def test_a_larger_budget_goes_on_from_the_smaller(tmp_path: Path) -> None:
    first = finish(study_of(), tmp_path)
    more = finish(study_of(search={"budget": 64}), tmp_path)
    tuned = [run for run in [*first.trained, *more.trained] if run.seed < JUDGED_FROM]
    assert Counter(run.method for run in tuned) == {"none": 64, "clippy": 64}


def test_failed_runs_are_tried_again_unless_others_were_built_on_them(tmp_path: Path) -> None:
    study = study_of(arms=(Arm(method="none"),))
    opened(tmp_path, study)
    train = Trainer(tmp_path, TRUTH, THRESHOLDS)

    def fail(source: quality_search.QualitySource) -> tuple[Run, ...]:
        stack = source.next()
        assert stack is not None
        write_failure(tmp_path, stack.name, [run.id for run in stack.runs], "lost")
        source.given_up(stack, "lost")
        return stack.runs

    source = source_of(study, tmp_path)
    lost = fail(source)
    # Nothing came of it yet: at a resume the round is as it was.
    again = source_of(study, tmp_path).next()
    assert again is not None
    assert again.runs == lost
    # The search goes on without them; at a resume what it tried since stands, and the lost runs stay missing.
    for _ in range(2):
        train_next(source, train)
    following = source.next()
    resumed = source_of(study, tmp_path).next()
    assert following is not None
    assert resumed is not None
    assert resumed.runs == following.runs
    train(following)
    source.recorded(following)
    while not source.ended:
        train_next(source, train)
    assert len(train.trained) == 48 - len(lost) + 6


# --- Optuna --------------------------------------------------------------------------------------------------------


def trials_of(folder: Path) -> dict[str, list[optuna.trial.FrozenTrial]]:
    storage = JournalStorage(JournalFileBackend(str(folder / optuna_tpe.JOURNAL)))
    summaries = optuna.get_all_study_summaries(storage=storage)
    return {s.study_name: optuna.load_study(study_name=s.study_name, storage=storage).trials for s in summaries}


def test_optunas_storage_holds_what_was_recorded(whole: tuple[Path, Trainer]) -> None:
    folder, train = whole
    trials = trials_of(folder)
    assert list(trials) == ["small none", "small clippy"]
    outcome = tables.read_runs(folder).set_index("run_id")["outcome"]
    for name, of_arm in trials.items():
        method = name.split()[1]
        assert sum(trial.user_attrs["n"] for trial in of_arm) == 320
        for trial in of_arm:
            assert trial.value is not None
            assert math.isfinite(trial.value)
            same = [
                run
                for run in train.trained
                if run.method == method
                and {"lr": run.lr, **{k: run.options.get(k, THRESHOLDS[method][k]) for k in THRESHOLDS[method]}}
                == trial.params
                and run.seed in trial.user_attrs["seeds"]
            ]
            k = sum(outcome[run.id] == "diverged" for run in same)
            assert (len(same), k) == (trial.user_attrs["n"], trial.user_attrs["diverged"])
            assert trial.constraints["divergence"] == pytest.approx(k / len(same) - 0.05)
            if k == len(same):
                assert trial.value == 0


def test_the_view_is_rebuilt_at_a_resume(tmp_path: Path) -> None:
    study = study_of()
    opened(tmp_path, study)
    train = Trainer(tmp_path, TRUTH, THRESHOLDS)
    source = source_of(study, tmp_path)
    for _ in range(8):
        train_next(source, train)
    before = trials_of(tmp_path)
    (tmp_path / optuna_tpe.JOURNAL).unlink()
    resumed = source_of(study, tmp_path)
    assert not (tmp_path / optuna_tpe.JOURNAL).exists()  # a plan writes nothing
    resumed.next()
    after = trials_of(tmp_path)
    assert {name: [(t.params, t.value) for t in of_arm] for name, of_arm in after.items()} == {
        name: [(t.params, t.value) for t in of_arm] for name, of_arm in before.items()
    }


def test_proposals_are_new_within_their_ranges_and_as_people_say_them() -> None:
    ranges = {"lr": (0.02, 20.0), "rel": (0.3, 0.3)}
    tried = [Scored(cell=cell, n=4, k=4 * (dict(cell)["lr"] > 1), gain=0.1) for cell in spread(ranges, 12, seed=5)]
    new = optuna_tpe.propose(tried, ranges, 0.05, 6, seed=7)
    assert new == optuna_tpe.propose(tried, ranges, 0.05, 6, seed=7)
    assert new != optuna_tpe.propose(tried, ranges, 0.05, 6, seed=8)
    assert len({one.cell for one in tried} | set(new)) == 12 + 6
    for cell in new:
        assert 0.02 <= dict(cell)["lr"] <= 20
        assert dict(cell)["rel"] == 0.3
        assert float(f"{dict(cell)['lr']:.2g}") == dict(cell)["lr"]
    # Nothing is left to be proposed where everything is fixed.
    fixed = {"lr": (1.0, 1.0)}
    assert optuna_tpe.propose([Scored(cell=(("lr", 1.0),), n=1, k=0, gain=0.0)], fixed, 0.05, 2, seed=1) == []


def test_proposals_keep_away_from_where_runs_diverge() -> None:
    ranges = {"lr": (0.01, 100.0)}
    scored = [
        Scored(cell=cell, n=4, k=4 * (dict(cell)["lr"] > 1), gain=0.1 + 0.05 * math.log10(dict(cell)["lr"]))
        for cell in spread(ranges, 16, seed=0)
    ]
    lrs = [dict(cell)["lr"] for seed in range(5) for cell in optuna_tpe.propose(scored, ranges, 0.05, 4, seed)]
    assert np.mean(np.array(lrs) <= 1) >= 0.6, "Optuna does not see the constraint"


def test_the_spread_is_even() -> None:
    cells = spread({"abs": (0.001, 0.1), "lr": (0.01, 100.0)}, 16, seed=3)
    decades = Counter(math.floor(math.log10(dict(cell)["lr"]) + 1e-9) for cell in cells)
    assert set(decades) >= {-2, -1, 0, 1}
    assert max(decades.values()) <= 6
    assert 6 <= sum(dict(cell)["abs"] < 0.01 for cell in cells) <= 10


# --- wrong input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: QualitySearch(risk=1.5), "need 0 <= risk < 1, got risk=1.5"),
        (lambda: QualitySearch(batch=1), "need batch >= 2"),
        (lambda: QualitySearch(judged=0), "need judged >= 2"),
        (lambda: QualitySearch(ranges={"clippy": {"rel": (0.0, 1.0)}}), "need 0 < low <= high, got clippy.rel=0,1"),
        (lambda: QualitySearch(ranges={"clippy": {"rel": (2.0, 1.0)}}), "need 0 < low <= high, got clippy.rel=2,1"),
        (
            lambda: validate_study(study_of(search={"budget": 7})),
            "a budget of 7 runs fills no round of 4 cells of 2 seeds",
        ),
        (lambda: validate_study(study_of(search={"ranges": {"clipy": {"rel": (1, 2)}}})), "clipy"),
        (lambda: validate_study(study_of(search={"ranges": {"clippy": {"rol": (1, 2)}}})), "no threshold 'rol'"),
        (lambda: validate_study(study_of(search={"ranges": {"clippy": {"momentum": (0.1, 1)}}})), "momentum"),
        (
            lambda: validate_study(study_of(arms=(Arm(method="clippy", options={"rel": 0.2}),))),
            "clippy.rel is tuned, and cannot be 0.2 as well",
        ),
        (lambda: validate_study(study_of(first_seed=JUDGED_FROM - 4)), f"seeds from {JUDGED_FROM} on are for judging"),
    ],
)
def test_what_cannot_be_searched_is_said_before_anything_is_trained(make: Callable[[], Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        make()


def test_an_unknown_task_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the data have no task 'buy'; there are click, play"):
        source_of(study_of(search={"task": "buy"}), tmp_path)


def test_a_study_that_searches_for_nothing_has_no_best(whole: tuple[Path, Trainer]) -> None:
    definition = Definition(study=study_of(search={}), data=DATA, versions={})
    plain = Definition(study=Study(**{**vars(definition.study), "search": None}), data=DATA, versions={})
    with pytest.raises(ValueError, match="simulated is no search for the best quality"):
        best.best(tables.read_runs(whole[0]), {}, plain)


# --- the folder ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"search": {"risk": 0.2}}, r"another risk \(was 0.05, is 0.2\)"),
        ({"search": {"task": "play"}}, "another task"),
        ({"search": {"batch": 6}}, "another batch"),
        ({"search": {"ranges": {"clippy": {"rel": (0.03, 1.0)}}}}, "another range of clippy"),
        ({"lrs": (0.02, 40.0)}, r"another lrs \(was 0.02, 20, is 0.02, 40\)"),
        ({"seeds": (0, 1, 2)}, "another seeds"),
    ],
)
def test_a_search_goes_on_as_it_began(tmp_path: Path, changes: dict[str, Any], word: str) -> None:
    opened(tmp_path, study_of())
    opened(tmp_path, study_of(search={"budget": 400, "judged": 59}))
    assert read_definition(tmp_path).study.search == study_of(search={"budget": 400, "judged": 59}).search
    with pytest.raises(RecordError, match=word):
        opened(tmp_path, study_of(**changes))


# --- the command ---------------------------------------------------------------------------------------------------


def test_settings_narrow_a_search() -> None:
    words = [
        "clippy.rel=0.1,0.2",
        "clippy.abs=0.01",
        "search.risk=0.1",
        "search.task=play",
        "search.budget=80",
        "lr=1,2",
    ]
    study = overrides.apply(study_of(), words)
    expected = {
        "ranges": {"clippy": {"rel": (0.1, 0.2), "abs": (0.01, 0.01)}},
        "risk": 0.1,
        "task": "play",
        "budget": 80,
    }
    assert study == study_of(lrs=(1.0, 2.0), search=expected)
    assert overrides.apply(study_of(), ["search.risk=0.05"]) == study_of()


def test_options_that_are_no_thresholds_are_set_and_not_tuned() -> None:
    words = ["clippy.norm=rms", "clippy.base=adamw", "clippy.beta1=0.8", "clippy.rel=0.1,0.2"]
    study = validate_study(overrides.apply(study_of(), words))
    [arm] = [arm for arm in study.arms if arm.method == "clippy"]
    assert arm.options == {"norm": "rms", "base": "adamw", "beta1": 0.8}
    search, before = study.search, study_of().search
    assert isinstance(search, QualitySearch)
    assert isinstance(before, QualitySearch)
    assert search.ranges["clippy"] == before.ranges["clippy"] | {"rel": (0.1, 0.2)}
    assert overrides.apply(study_of(), ["clippy.norm=rms"]).search == before
    with pytest.raises(ValueError, match="clippy has no threshold 'beta1' to be tuned"):
        validate_study(overrides.apply(study_of(), ["clippy.base=adamw", "clippy.beta1=0.8,0.9"]))


@pytest.mark.parametrize(
    ("setting", "word"),
    [
        ("clippy.norm=max,rms", "clippy.norm takes one value here: a search tunes thresholds alone"),
        ("search.ranges=1", "unknown key 'search.ranges'; the search has risk, task, budget, batch, judged"),
        ("search.budget=1.5", "need a whole number, got budget=1.5"),
        ("clippy.rel=0.1,0.2,0.3", "clippy.rel is tuned: it takes a range, such as clippy.rel=0.1,1"),
        ("clippy.rel=high", "clippy.rel is tuned: it takes a range"),
        ("clippy.rel=0.3,0.1", "need 0 < low <= high, got clippy.rel=0.3,0.1"),
        ("agc.max_ratio=0.3", "agc is not among the study's methods"),
    ],
)
def test_wrong_settings_of_a_search_are_said(setting: str, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        overrides.apply(study_of(), [setting])


def test_an_arm_is_tuned_over_the_lrs_of_its_own(tmp_path: Path) -> None:
    study = study_of(arms=(Arm(method="none"), Arm(method="clippy", lrs=(0.001, 0.01, 0.004))))
    source = source_of(study, tmp_path)
    lrs: dict[str, list[float]] = {"none": [], "clippy": []}
    while stack := source.next():
        for run in stack.runs:
            lrs[run.method].append(run.lr)
    assert 0.001 <= min(lrs["clippy"]) < max(lrs["clippy"]) <= 0.01
    assert max(lrs["none"]) > 0.1


class _Own:
    """A trainer whose method `own` has the threshold `rel` and the fixed option `window`."""

    def thresholds_of(self, method: str) -> dict[str, float]:
        return {"rel": 0.5}

    def canonical_options(self, method: str, options: Mapping[str, Any]) -> dict[str, Any]:
        if unknown := set(options) - {"rel", "window"}:
            raise ValueError(f"{method} has no option {unknown.pop()!r}")
        return dict(options)


def fixed(arm: Arm, **ranges: tuple[float, float]) -> Study:
    study = study_of(arms=(Arm("none"), arm), search={"ranges": {"own": ranges}})
    return validation.with_fixed_options(study, _Own())  # pyright: ignore[reportArgumentType]


def test_an_arm_and_a_range_may_not_fix_an_option_at_two_values() -> None:
    for options in ({}, {"window": 10}):
        assert fixed(Arm("own", options), window=(10.0, 10.0)).arms[1].options == {"window": 10}
    with pytest.raises(ValueError, match=r"own\.window is fixed at 10, and cannot be 5 as well"):
        fixed(Arm("own", {"window": 5}), window=(10.0, 10.0))


def test_a_misspelt_fixed_option_of_a_method_that_is_no_arm_is_refused() -> None:
    assert fixed(Arm("clippy"), window=(10.0, 10.0))
    with pytest.raises(ValueError, match="own has no option 'windw'"):
        fixed(Arm("clippy"), windw=(10.0, 10.0))

"""`study confirm`: fresh seeds at one lr, named before they train, through the normal path, and found again."""

import dataclasses
import json
import re
from pathlib import Path

import pandas as pd
import pytest
from simulated_record import simulated_definition, write_simulated_study
from studies import Studies

import analysis
from study import data
from study.cli.main import main
from study.commands.request import RunRequest, requested_study
from study.config import CONTROL_SEEDS, Arm, EdgeSearch, QualitySearch
from study.execution.planner import plan
from study.execution.work_source import CombinedSource, Planned
from study.record.confirmations import Confirmation, read_confirmations, write_confirmation
from study.record.definition import Definition, RecordError, open_study, read_definition
from study.search import confirmation
from study.search.confirmation import ConfirmRequest
from study.trainers.ranker import Trainer

ARMS = [Arm(method="none"), Arm(method="clippy"), Arm(method="clippy", options={"rel": 0.1})]
DEFINITION = simulated_definition(models=("small", "large_dcn"), arms=ARMS, lrs=(0.1, 0.4, 1.6), seeds=range(4))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_simulated_study(tmp_path, DEFINITION, with_losses=False)
    return tmp_path


def named(folder: Path, definition: Definition = DEFINITION, **wish) -> Confirmation:
    return confirmation.named(folder, definition, ConfirmRequest(**{"lr": 0.4} | wish), risk=0.05, confidence=0.95)


# --- what is named ------------------------------------------------------------------------------------------------


def test_by_default_as_many_fresh_seeds_as_the_claim_needs_for_every_curve(folder: Path) -> None:
    found = named(folder)
    assert found.seeds == tuple(range(4, 63))
    assert (found.models, found.arms) == (DEFINITION.study.models, DEFINITION.study.arms)
    assert (found.number, found.study_seeds) == (0, 4)
    assert len(found.runs(DEFINITION)) == 59 * 2 * 3
    assert {run.seed for run in found.runs(DEFINITION)} == set(range(4, 63))
    assert confirmation.named(folder, DEFINITION, ConfirmRequest(lr=0.4), risk=0.01, confidence=0.95).seeds[-1] == 302
    assert confirmation.too_few(found, 0.05, 0.95) is None
    said = confirmation.too_few(dataclasses.replace(found, seeds=(9,)), 0.05, 0.95)
    assert said == "note: 1 seed cannot claim a risk of 5%: even if none diverges, they bound it at 95%; 59 would do"


def test_methods_models_and_curves_can_be_chosen(folder: Path) -> None:
    found = named(folder, seeds="100-103", methods="clippy", models="small")
    assert (found.models, [arm.options for arm in found.arms]) == (("small",), [{}, {"rel": 0.1}])
    assert [arm.options for arm in named(folder, methods="clippy rel=0.1,none").arms] == [{}, {"rel": 0.1}]
    assert [arm.method for arm in named(folder, methods="clippy rel=0.5").arms] == ["clippy"]
    assert named(folder, methods="clippy rel=0.5").arms[0].options == {}


def test_an_lr_above_those_of_the_study_is_noted(folder: Path) -> None:
    assert confirmation.above_all(folder, DEFINITION, named(folder, lr=1.6)) is None
    said = confirmation.above_all(folder, DEFINITION, named(folder, lr=9, methods="none"))
    assert said == "note: lr 9 lies above the highest lr of the study, 1.6"
    own = dataclasses.replace(DEFINITION.study, arms=(Arm("none"), Arm("clippy", lrs=(0.1, 20))))
    definition = dataclasses.replace(DEFINITION, study=own)
    assert confirmation.above_all(folder, definition, named(folder, definition, lr=9, methods="none")) == said
    assert confirmation.above_all(folder, definition, named(folder, definition, lr=9, methods="clippy")) is None


def test_its_name_is_the_hash_of_what_is_named(folder: Path) -> None:
    one, same = named(folder, seeds="100-103"), named(folder, seeds="102,100,101,103")
    assert one.name == same.name
    others = [{"seeds": "100-104"}, {"seeds": "100-103", "lr": 0.2}, {"seeds": "100-103", "methods": "none"}]
    assert len({one.name, *(named(folder, **other).name for other in others)}) == 4


def test_what_was_named_is_read_as_it_was_written_and_never_changed(folder: Path) -> None:
    one = named(folder, seeds="100-103")
    write_confirmation(folder, one)
    (path,) = (folder / "confirm").iterdir()
    before = path.read_bytes()
    write_confirmation(folder, dataclasses.replace(one, number=7))
    assert path.read_bytes() == before
    two = named(folder, seeds="200-203")
    assert two.number == 1
    write_confirmation(folder, two)
    assert read_confirmations(folder) == [one, two]
    path.write_text(before.decode()[:-20])
    with pytest.raises(RecordError, match="cannot be read"):
        read_confirmations(folder)


def test_seeds_of_a_confirmation_are_used_as_soon_as_they_are_named(folder: Path) -> None:
    one = named(folder, seeds="100-103", methods="none")
    write_confirmation(folder, one)
    with pytest.raises(ValueError, match="the study has used seeds 102 to 103; a confirmation needs fresh seeds, from"):
        named(folder, seeds="102-110", methods="none")
    assert named(folder, seeds="100-103", methods="none") == one, "the same again is the same confirmation"
    assert named(folder, methods="none") == one, "and without seeds, the one that is not complete"
    assert named(folder, methods="clippy").seeds[0] == 104
    assert named(folder, methods="none", lr=0.1).seeds[0] == 104


def test_seeds_that_a_search_may_still_take_are_left_to_it(folder: Path) -> None:
    searched = dataclasses.replace(
        DEFINITION, study=dataclasses.replace(DEFINITION.study, search=EdgeSearch(budget=320))
    )
    assert named(folder, searched).seeds[0] == 320
    judges = dataclasses.replace(DEFINITION, study=dataclasses.replace(DEFINITION.study, search=QualitySearch()))
    with pytest.raises(
        ValueError, match="simulated judges its own winners on fresh seeds; there is nothing to confirm"
    ):
        named(folder, judges)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seeds", "2-9"], "the study has used seeds 2 to 3; a confirmation needs fresh seeds, from 4 upward"),
        (["--seeds", "3"], "the study has used seed 3; a confirmation needs fresh seeds, from 4 upward"),
        (["--seeds", "x"], "seeds are numbers and ranges such as 0-7 or 0-3,8; got 'x'"),
        (["--seeds", str(CONTROL_SEEDS[0])], "need 0 <= seed < 1000000000, got seed=1000000000"),
        (["--seeds", "2000000000"], "need 0 <= seed < 1000000000"),
        (
            ["--method", "lamb"],
            "no method 'lamb'; it has 'none', 'clippy', 'clippy rel=0.1', 'clippy rel=0.5'",
        ),
        (["--model", "large"], "the study has no model 'large'; it has 'small', 'large_dcn'"),
        (["--lr", "0"], "need 0 < lr <= 10000, got lr=0"),
        (["--lr", "much"], "argument --lr: invalid float value: 'much'"),
        (["--risk", "2"], "need 0 < risk < 1, got risk=2"),
        (["--seeds", "100", "--confidence", "0"], "need 0 < confidence < 1, got confidence=0"),
        (["--seeds", "100", "--quality", "auc"], "unknown quality 'auc'; there are auc_click, auc_like, rmse_play"),
        (["--risk", "1e-9"], "no number of seeds up to 100,000 claims a risk of 1e-09"),
    ],
)
def test_what_cannot_be_confirmed_is_refused_before_anything_is_written(
    folder: Path, words: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("study.commands.confirm.train", lambda *_a, **_k: pytest.fail("it would have trained"))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    try:
        code = main(["confirm", str(folder), "--lr", "0.4", *words])
    except SystemExit as end:  # argparse
        code = end.code
    said = capsys.readouterr()
    assert (code, said.out) == (2, "")
    assert message in said.err
    assert said.err.startswith("study: ")
    assert said.err.count("\n") == 1
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_there_is_nothing_to_confirm_without_a_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["confirm", str(tmp_path), "--lr", "1"], ["recommend", str(tmp_path)]):
        assert main(words) == 2
        assert capsys.readouterr().err == f"study: {tmp_path} holds no study (no study.json)\n"


# --- what a user sees of it ---------------------------------------------------------------------------------------


def test_status_counts_confirmations_beside_the_study(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = named(folder, seeds="100-103", methods="none", models="small", lr=0.4)
    write_confirmation(folder, one)
    study = dataclasses.replace(DEFINITION.study, models=("small",), arms=ARMS[:1], lrs=(0.4,), seeds=(100, 101, 102))
    _add_runs(folder, dataclasses.replace(DEFINITION, study=study))
    assert main(["status", str(folder)]) == 0
    said = capsys.readouterr().out
    assert f"simulated: 72 of 72 runs recorded, 0 failed, in {folder}" in said
    small = said.partition("small: runs done of those planned")[2].splitlines()
    assert [line.split()[:2] for line in small[2:5]] == [["0.1", "4/4"], ["0.4", "4/4"], ["1.6", "4/4"]]
    assert "  confirmation at lr 0.4 of none, 4 seeds (100 to 103): 3 of 4 done" in said
    rates = analysis.divergence_rates(analysis.load(folder))
    cell = rates[(rates["model"] == "small") & (rates["curve"] == "none") & (rates["lr"] == 0.4)]
    assert cell["n"].tolist() == [7], "they are draws like any other, and in the cell of their lr"


def _add_runs(folder: Path, definition: Definition) -> None:
    """Simulated runs of another definition, added to a record."""
    aside = folder / "aside"
    write_simulated_study(aside, definition, with_losses=False)
    for kind in ("losses", "runs"):
        (aside / kind / "small-00.parquet").rename(folder / kind / "added.parquet")


def test_recommend_prints_sentences_or_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recommend", str(folder)]) == 0
    said = capsys.readouterr().out
    for part in ("small:\n  none: cannot say with 4 seeds: 0 of 4", "up to 53%"):
        assert part in said
    assert re.search(rf"confirm \S*{folder.name} --lr ", said), "a path as it is typed from here"
    assert main(["recommend", str(folder), "--json", "--risk", "0.2", "--quality", "rmse_play"]) == 0
    rows = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert len(rows) == 6
    assert {(row["risk"], row["quality"]) for row in rows} == {(0.2, "rmse_play")}
    assert {row["more_if_clean"] for row in rows} == {14}


def test_recommend_of_a_study_without_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    open_study(tmp_path, DEFINITION)
    assert main(["recommend", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "no runs recorded yet\n"
    assert main(["recommend", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


# --- training it --------------------------------------------------------------------------------------------------

SETTINGS = ("data.rows=5000", "batch=64", "window=500", "models=small", "methods=none,clippy", "lr=0.05", "seeds=0-1")


@pytest.fixture(scope="module")
def confirmed(studies: Studies) -> tuple[Path, str]:
    """A study that trained nothing but a confirmation, and what was printed."""
    folder, cache = studies.folder / "out", studies.folder / "cache"
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("STUDY_CACHE", str(cache))
        study = requested_study(RunRequest(space="quick", settings=SETTINGS))
        log = data.load(study.data, study.data_options, cache)
    open_study(folder, Definition(study=study, data=data.describe(study.data, log), versions={}))
    words = ["--lr", "3.2", "--seeds", "100-102", "--method", "clippy", "--workers", "2", "--quality", "auc_like"]
    return folder, studies("confirm", folder, *words)


def test_a_confirmation_above_the_lrs_of_the_study_says_so(confirmed: tuple[Path, str]) -> None:
    assert "note: lr 3.2 lies above the highest lr of the study, 0.05\n" in confirmed[1]


def test_a_confirmation_trains_what_it_names_and_nothing_else(confirmed: tuple[Path, str]) -> None:
    folder, printed = confirmed
    runs, definition = analysis.load(folder), read_definition(folder)
    (named_one,) = read_confirmations(folder)
    assert sorted(runs["run_id"]) == sorted(run.id for run in named_one.runs(definition))
    assert runs[["method", "lr", "seed"]].drop_duplicates().to_numpy().tolist() == [
        ["clippy", 3.2, seed] for seed in (100, 101, 102)
    ]
    assert (definition.study.seeds, definition.study.lrs) == ((0, 1), (0.05,)), "the study's axes stay as they were"
    (path,) = (folder / "confirm").iterdir()
    assert all(path.stat().st_mtime_ns <= trial.stat().st_mtime_ns for trial in (folder / "runs").iterdir())
    assert (
        "note: 3 seeds cannot claim a risk of 5%: even if none diverges, they bound it at 63%; 59 would do" in printed
    )
    assert "27 to train (control included)" in printed
    assert printed.rstrip().splitlines()[-1].startswith("  clippy: cannot say with 3 seeds")


@pytest.mark.slow
def test_a_resume_trains_what_is_missing_of_a_confirmation_too(confirmed: tuple[Path, str], studies: Studies) -> None:
    folder, _ = confirmed
    before = analysis.load(folder)
    for path in (folder / "runs").iterdir():
        if (pd.read_parquet(path, columns=["role"])["role"] == "cell").any():
            path.unlink()
    printed = studies("resume", folder)
    assert "3 runs of confirmations" in printed
    after = analysis.load(folder)
    assert sorted(after["seed"]) == [0, 0, 1, 1, 100, 101, 102]
    again = after[after["seed"] >= 100].reset_index(drop=True)
    promised = ["run_id", "lr", "seed", "outcome", "kept", "auc_like", "auc_click"]
    pd.testing.assert_frame_equal(again[promised], before[promised], check_exact=True)
    assert "0 to train" in studies("confirm", folder, "--lr", "3.2", "--method", "clippy", "--seeds", "100-102")


# --- sources, together --------------------------------------------------------------------------------------------


def test_sources_together_are_one_source(tmp_path: Path) -> None:
    study = dataclasses.replace(DEFINITION.study, models=("small",), arms=tuple(ARMS[:1]), lrs=(0.1,), seeds=(0, 1))
    log = data.load("synthetic", {"rows": 2000}, tmp_path)
    small = dataclasses.replace(study, recipe=dataclasses.replace(study.recipe, batch=64))
    trainer = Trainer(small, tmp_path, log=log)
    parts = (small, dataclasses.replace(small, seeds=(7,)))
    plans = [plan(part, trainer, workers=1, stack=1) for part in parts]
    first, second = (Planned(p.stacks) for p in plans)
    both = CombinedSource([first, second])
    assert (both.left, both.ended, both.state, both.outline()) == ({"small": 3}, False, "", [])
    taken = [both.next() for _ in range(3)]
    assert [stack.runs[0].seed for stack in taken if stack] == [0, 1, 7]
    assert both.next() is None
    assert both.ended
    assert taken[0]
    assert taken[2]
    both.recorded(taken[0])
    both.given_up(taken[2], "disk is full")
    assert (first.left, second.left, both.left) == ({"small": 1}, {"small": 0}, {"small": 1})

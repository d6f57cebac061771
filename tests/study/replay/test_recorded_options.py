"""Schedules, embeddings' lrs and options of a base from `--set` to the record, a replay and the names of curves."""

import json
from pathlib import Path

import pytest
import trained_study

import analysis
from study.cli.main import main
from study.record.definition import read_definition
from study.record.tables import read_runs
from study.replay.recorded_study import run_of

SETTINGS = (
    *("data.rows=20000", "data.only_days=1-4", "batch=64", "models=small", "seeds=0-1", "lr=0.01,0.1", "methods=none"),
    *("schedule=cosine", "final_factor=0.1", "embeddings_lr=0.1"),
    *("none.base=adamw", "none.beta2=0.9,0.999", "none.eps=1e-4"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("options") / "study"
    trained_study.train(found, trained_study.cache(tmp_path_factory), SETTINGS)
    return found


def test_the_record_has_the_recipe_and_names_the_curves(folder: Path) -> None:
    definition = json.loads((folder / "study.json").read_text())["study"]
    recipe = {"schedule": "cosine", "final_factor": 0.1, "embeddings_lr": 0.1}
    assert {name: definition["recipe"][name] for name in recipe} == recipe
    assert "decay_steps" not in definition["recipe"]
    runs = analysis.load(folder)
    assert set(runs["curve"]) == {"none", "none beta2=0.9"}
    assert {frozenset(json.loads(text)) for text in runs["options"]} == {
        frozenset({"base", "beta2", "eps"}),
        frozenset({"base", "eps"}),
    }
    every = read_runs(folder)
    assert set(every.loc[every["role"] == "control", "options"]) == {"{}"}, "the control is on Adagrad"


def test_each_run_is_restored_from_its_row(folder: Path) -> None:
    study = read_definition(folder).study
    for row in read_runs(folder).to_dict("records"):
        run = run_of(row, study)
        assert run.id == row["run_id"]
        assert (run.recipe.schedule, run.recipe.embeddings_lr) == ("cosine", 0.1)


def test_a_replay_repeats_the_bits(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setenv("STUDY_CACHE", str(trained_study.cache(tmp_path_factory)))
    run = analysis.load(folder).query("options.str.contains('beta2')")["run_id"].iloc[0]
    assert main(["replay", str(folder), run[:10], "--sharpness-every", "100"]) == 0
    assert "bit for bit" in capsys.readouterr().out

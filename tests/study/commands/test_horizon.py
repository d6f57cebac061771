"""`study scale --over steps`: runs judged anew after fewer steps of their recorded losses."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from simulated_record import simulated_definition, write_simulated_study

import analysis
from study.cli.main import main
from study.commands.horizon import _cut, _known_by, doubling_of, outcomes_at
from study.config import Arm
from study.record import tables
from study.record.definition import Definition, read_definition

STEPS = 160


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recorded")
    definition = simulated_definition(
        models=("small",), arms=[Arm("none")], lrs=(0.1, 0.2, 0.4, 0.6, 0.9), seeds=range(4), steps=STEPS
    )
    write_simulated_study(folder, definition)
    return folder


@pytest.fixture
def record(recorded: Path) -> tuple[Path, Definition, pd.DataFrame, pd.DataFrame]:
    return recorded, read_definition(recorded), tables.read_runs(recorded), tables.read_losses(recorded)


def test_the_longest_horizon_is_the_record(record):
    judged = outcomes_at(*record)
    assert list(judged) == [40, 59, 80, 120, 160]  # 24 steps are too few for a median of 25
    pd.testing.assert_frame_equal(judged[STEPS], analysis.load(record[0]))
    assert all(set(runs["steps"]) == {steps} for steps, runs in judged.items())


def test_runs_that_diverge_later_have_not_diverged_at_a_shorter_horizon(record):
    judged = outcomes_at(*record)
    own = judged[STEPS].set_index("run_id")
    early = judged[80].set_index("run_id")
    late = own.index[(own["diverged_at_step"] > 82).to_numpy(dtype=bool, na_value=False)]
    soon = own.index[(own["diverged_at_step"] < 50).to_numpy(dtype=bool, na_value=False)]
    assert len(late)
    assert len(soon)
    assert set(early.loc[late, "outcome"]) == {"completed"}
    assert set(early.loc[soon, "outcome"]) == {"diverged"}


def with_recipe(definition: Definition, **changes: Any) -> Definition:
    study = definition.study
    recipe = dataclasses.replace(study.recipe, **changes)
    return dataclasses.replace(definition, study=dataclasses.replace(study, recipe=recipe))


@pytest.mark.parametrize("schedule", ["linear", "cosine", "step"])
def test_runs_whose_lr_falls_until_their_end_are_not_judged_earlier(record, schedule):
    folder, definition, every, losses = record
    with pytest.raises(ValueError, match=rf"falls until their last step \(schedule={schedule}\)"):
        outcomes_at(folder, with_recipe(definition, schedule=schedule), every, losses)


def test_steps_of_the_lr_at_fixed_places_allow_a_shorter_horizon(tmp_path):
    """The first steps are those of a shorter training."""
    definition = simulated_definition(
        models=("small",), arms=[Arm("none")], lrs=(0.1, 0.2, 0.4), seeds=range(2), steps=STEPS
    )
    definition = with_recipe(definition, schedule="step", decay_steps=50)
    write_simulated_study(tmp_path, definition)
    judged = outcomes_at(tmp_path, definition, tables.read_runs(tmp_path), tables.read_losses(tmp_path))
    assert list(judged) == [40, 59, 80, 120, 160]


def test_runs_that_were_cut_while_healthy_are_left_out_beyond_their_end(record):
    folder, definition, every, losses = record
    own = analysis.load(folder)
    cut = own.loc[own["outcome"] == "completed", "run_id"].iloc[0]
    every = every.assign(steps=every["steps"].mask(every["run_id"] == cut, 90))
    short = [v[:90] if run == cut else v for run, v in zip(losses["run_id"], losses["loss"], strict=True)]
    judged = outcomes_at(folder, definition, every, losses.assign(loss=short), shares=(0.5, 0.75, 1.0))
    longest = max(judged)
    assert longest in (90, STEPS)
    lost = [steps for steps, runs in judged.items() if cut not in set(runs["run_id"])]
    assert lost == [steps for steps in judged if steps > 90]


def test_a_model_whose_control_learns_late_is_left_out_of_short_horizons_alone(tmp_path):
    definition = simulated_definition(
        models=("small", "large"), arms=[Arm("none")], lrs=(0.1, 0.2, 0.4, 0.6, 0.9), seeds=range(4), steps=STEPS
    )
    write_simulated_study(tmp_path, definition)
    every, losses = tables.read_runs(tmp_path), tables.read_losses(tmp_path)
    late = set(every.loc[(every["model"] == "large") & (every["role"] == "control"), "run_id"])
    rows = zip(losses["run_id"], losses["loss"], losses["constant"], strict=True)
    held = [np.concatenate([c[:90], v[90:]]) if run in late else v for run, v, c in rows]
    judged = outcomes_at(tmp_path, definition, every, losses.assign(loss=held))
    models = {steps: set(runs["model"]) for steps, runs in judged.items()}
    assert models[80] == {"small"}
    assert models[120] == models[STEPS] == {"small", "large"}
    doubling = doubling_of(judged)
    assert [*doubling["model"]] == ["small"]
    assert [*doubling["steps_half"]] == [80]
    del judged[80]
    assert doubling_of(judged).empty


def test_what_happens_later_is_not_known_earlier():
    runs = pd.DataFrame(
        {
            "run_id": ["a", "b", "c"],
            "moved": [1.0, 2.0, 3.0],
            "reason": ["nonfinite", "nonfinite", None],
            "diverged_at_step": [10, 90, None],
            "declared": [False, False, True],
        }
    )
    known = _known_by(runs, {"a": 11, "b": 91, "c": 60}, 50)
    assert known["reason"].fillna("").tolist() == ["nonfinite", "", ""]
    assert known["declared"].tolist() == [False, False, False]
    assert known["moved"].isna().all()
    assert _known_by(runs, {"a": 11, "b": 91, "c": 60}, 60)["declared"].tolist() == [False, False, True]


def test_losses_are_cut_by_the_numbers_of_their_steps():
    values = np.arange(5, dtype=np.float32)
    losses = pd.DataFrame(
        {
            "run_id": ["a", "b"],
            "loss": [values, values],
            "constant": [values, values],
            "step": [None, np.arange(5) * 10],
        }
    )
    cut = _cut(losses, 3)
    assert cut["loss"].map(len).tolist() == [3, 1]
    assert cut["constant"].map(len).tolist() == [3, 1]
    assert cut["step"].iloc[1].tolist() == [0]


def test_edges_by_horizon_are_printed_and_predicted(recorded, capsys):
    assert main(["scale", str(recorded), "--over", "steps", "--at", "steps=320"]) == 0
    printed = capsys.readouterr().out
    assert "edges against steps, 5 sizes from 40 to 160" in printed
    assert "last doubling" in printed
    assert "predicted from steps below 320" in printed
    assert (recorded / "tables" / "edges_over_steps.csv").is_file()
    assert (recorded / "figures" / "edges_over_steps.png").is_file()
    assert main(["scale", str(recorded), "--over", "steps", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["last_doubling"][0]["steps_half"] == 80


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--at", "steps=320"], "add --over steps"),
        (["--over", "steps", "--at", "ranker.depth=12"], "predicts at steps"),
        (["--over", "steps", "--at", "steps=20"], "above the smallest"),
    ],
)
def test_invalid_horizons_are_refused_in_one_line(recorded, capsys, words, said):
    assert main(["scale", str(recorded), *words]) == 2
    printed = capsys.readouterr().err
    assert said in printed
    assert printed.count("\n") == 1


def test_a_record_with_too_few_steps_is_refused(tmp_path, capsys):
    definition = simulated_definition(models=("small",), arms=[Arm("none")], lrs=(0.1, 0.9), seeds=(0, 1), steps=40)
    write_simulated_study(tmp_path, definition)
    assert main(["scale", str(tmp_path), "--over", "steps"]) == 2
    printed = capsys.readouterr().err
    assert "judged at 2 horizons, and a fit needs 3" in printed
    assert printed.count("\n") == 1


def test_a_record_without_losses_is_refused(tmp_path, capsys):
    definition = simulated_definition(models=("small",), arms=[Arm("none")], lrs=(0.1, 0.9), seeds=(0, 1), steps=60)
    write_simulated_study(tmp_path, definition, with_losses=False)
    assert main(["scale", str(tmp_path), "--over", "steps"]) == 2
    assert "losses of" in capsys.readouterr().err

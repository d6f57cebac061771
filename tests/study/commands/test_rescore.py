"""`study rescore`: other outcome rules from recorded losses; the study itself is left as it is."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from simulated_record import simulated_definition, write_simulated_study
from weight_files import of_random

import analysis
from study.cli.main import main
from study.commands import rescore as rescoring
from study.commands.request import RunRequest, requested_study
from study.commands.rescore import rescore, rule_influence, rule_of
from study.config import Arm, Rule
from study.execution.planner import plan
from study.execution.trial import Trial, execute
from study.outcomes.judge import judge
from study.outcomes.recorded import stack_losses
from study.outcomes.reference import control_reference
from study.record import tables
from study.record.definition import Definition, RecordError, open_study, read_definition
from study.record.references import references
from study.storage import stores, untrusted_input
from study.trainers import warm_start
from study.trainers.protocol import open_trainer

SETTINGS = ("data.rows=20000", "batch=128", "models=small", "methods=none", "lr=0.0005,0.1,0.6,1.2", "seeds=0-3")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study as it is trained: the control first, then runs of which some diverge."""
    folder, cache = tmp_path_factory.mktemp("trained") / "out", tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("STUDY_CACHE", str(cache))
        study = requested_study(RunRequest(space="quick", settings=SETTINGS))
        trainer = open_trainer(study, cache)
        described = trainer.description()
        open_study(folder, Definition(study=study, data=described, versions={}))
        planned = plan(study, trainer, workers=1)
    of_model = None
    for stack in (*planned.control, *planned.stacks):
        if not stack.is_control and of_model is None:
            of_model = references(study, described, folder, ["small"])["small"]
        reference = None if stack.is_control else of_model
        trial = Trial(study=study.name, runs=stack.runs, rule=study.rule, reference=reference)
        execute(trial, folder, trainer, stack.name)
    return folder


@pytest.fixture
def simulated(tmp_path: Path) -> Path:
    arms = [Arm(method=name) for name in ("none", "agc", "clippy")]
    definition = simulated_definition(models=("small",), arms=arms, lrs=(0.05, 0.3, 0.6, 1.2), seeds=range(6))
    write_simulated_study(tmp_path, definition)
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a study, those of its views left out."""
    paths = [path for path in folder.rglob("*") if path.is_file() and "rescored" not in path.parts]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


# --- outcomes -----------------------------------------------------------------------------------------------------


def test_the_studys_own_rule_gives_the_record_again_bit_for_bit(trained: Path) -> None:
    before = contents(trained)
    view = rescore(trained, read_definition(trained).study.rule)
    pd.testing.assert_frame_equal(tables.read_runs(view), tables.read_runs(trained), check_exact=True)
    runs = analysis.load(trained)
    assert set(runs["outcome"]) == {"completed", "diverged", "undertrained"}
    assert set(runs.loc[runs["lr"] == 0.0005, "outcome"]) == {"undertrained"}, "only how far it came can tell"
    assert contents(trained) == before


@pytest.mark.parametrize("changed", [{"kept": 0.5}, {"kept": 0.01}, {"median_steps": 5}, {"spike": 0.2}])
def test_another_rule_judges_again_with_the_reference_of_that_rule(trained: Path, changed: dict) -> None:
    definition = read_definition(trained)
    rule = dataclasses.replace(definition.study.rule, **changed)
    view = rescore(trained, rule)
    assert read_definition(view).study == dataclasses.replace(definition.study, rule=rule)
    runs = tables.read_runs(trained)
    tasks = [task["name"] for task in definition.data["tasks"]]
    constant_K = np.array([task["constant_loss"] for task in definition.data["tasks"]])
    losses = tables.read_losses(trained)
    own = {role: runs.loc[runs["role"] == role].set_index("run_id") for role in ("control", "cell")}
    ids, loss, constant, _ = stack_losses(losses[losses["run_id"].isin(list(own["control"].index))], tasks)
    control = own["control"].loc[ids]
    reference = control_reference(
        control["lr"], control["seed"], loss, constant, constant_K, rule, control["moved"].to_numpy()
    )
    ids, loss, constant, _ = stack_losses(losses[losses["run_id"].isin(list(own["cell"].index))], tasks)
    moved = own["cell"].loc[ids, "moved"].to_numpy()
    expected = judge(loss, constant, constant_K, np.ones(len(ids), bool), reference, rule, moved)
    after = tables.read_runs(view).set_index("run_id").loc[ids]
    assert after["outcome"].tolist() == [outcome.outcome for outcome in expected]
    assert after["spikes"].tolist() == [outcome.spikes for outcome in expected]
    np.testing.assert_array_equal(after["kept"], [outcome.kept for outcome in expected])
    of_click = np.array([outcome.task_kept[0] for outcome in expected], dtype=float)
    np.testing.assert_array_equal(after["kept_click"], of_click)
    if "median_steps" in changed:
        before = own["cell"].loc[ids]
        assert not np.array_equal(after["kept"], before["kept"])
        assert not np.array_equal(after["final_loss"], before["final_loss"])
        final = tables.read_runs(view).set_index("run_id").loc[control.index, "final_loss"]
        assert not np.array_equal(final, control["final_loss"])
        assert references(read_definition(view).study, definition.data, view, ["small"])["small"] == reference


def test_runs_that_lost_their_weights_stay_diverged(simulated: Path) -> None:
    before = analysis.load(simulated).set_index("run_id")
    lost = before.index[before["reason"] == "nonfinite"]
    assert len(lost)
    (path, *_) = sorted((simulated / "runs").iterdir())
    rows = pq.read_table(path).to_pylist()
    # Its losses are finite to the last; only the weights after them were not.
    unlucky = next(row for row in rows if row["outcome"] == "completed")
    unlucky |= {"outcome": "diverged", "reason": "nonfinite", "kept": None, "diverged_at_step": 199}
    pq.write_table(pa.Table.from_pylist(rows, schema=pq.read_schema(path)), path)
    lost = [*lost, unlucky["run_id"]]
    after = analysis.load(rescore(simulated, Rule(kept=0.001))).set_index("run_id").loc[lost]
    assert set(after["reason"]) == {"nonfinite"}
    assert after["kept"].isna().all()


# --- the folder ---------------------------------------------------------------------------------------------------


def test_a_view_reads_as_a_study_and_holds_no_losses_of_its_own(
    simulated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(simulated)
    assert main(["rescore", str(simulated), "--rule", "kept=0.5", "once_had=0.6"]) == 0
    said = capsys.readouterr().out
    (view,) = (simulated / "rescored").iterdir()
    assert said.startswith("kept=0.5, once_had=0.6: ")
    assert "small · none: " in said
    assert " diverged, LR50 " in said
    assert f"rescored: {view}\n" in said
    assert contents(simulated) == before
    assert sorted(path.name for path in view.iterdir()) == ["runs", "study.json"]
    assert read_definition(view).study.rule == Rule(kept=0.5, once_had=0.6)
    pd.testing.assert_frame_equal(tables.read_losses(view), tables.read_losses(simulated))
    for command in ("status", "report", "recommend"):
        assert main([command, str(view)]) == 0
    assert "72 of 72 runs recorded" in capsys.readouterr().out
    assert (view / "report.html").exists()
    assert contents(simulated) == before


def test_to_rescore_again_changes_nothing_and_follows_a_study_that_grew(simulated: Path) -> None:
    rule = Rule(kept=0.5)
    view = rescore(simulated, rule)
    before = {path: path.read_bytes() for path in (*(view / "runs").iterdir(), view / "study.json")}
    assert rescore(simulated, rule) == view
    assert {path: path.read_bytes() for path in (*(view / "runs").iterdir(), view / "study.json")} == before
    definition = read_definition(simulated)
    more = dataclasses.replace(
        definition, study=dataclasses.replace(definition.study, seeds=(6, 7), arms=(Arm(method="lamb"),))
    )
    write_simulated_study(simulated / "aside", more)
    for kind in ("losses", "runs"):
        (simulated / "aside" / kind / "small-00.parquet").rename(simulated / kind / "more.parquet")
    (simulated / "runs" / "small-02.parquet").unlink()
    open_study(simulated, more)
    assert rescore(simulated, rule) == view
    runs = analysis.load(view)
    assert sorted(runs["method"].unique()) == ["agc", "lamb", "none"]
    assert set(read_definition(view).study.seeds) == set(range(8))
    assert rescore(simulated, Rule(kept=0.4)) != view


def test_a_view_with_the_links_of_an_earlier_version_reads_and_with_others_does_not(
    simulated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    view = rescore(simulated, Rule(kept=0.5))
    for name in ("losses", "failures", "confirm", "init"):
        (view / name).symlink_to(Path("..", "..", name))
    for folder in (simulated, view):
        assert main(["status", str(folder)]) == 0
    pd.testing.assert_frame_equal(tables.read_losses(view), tables.read_losses(simulated))
    (view / "failures").unlink()
    (view / "failures").symlink_to(Path("..", "..", "..", "failures"))
    capsys.readouterr()
    for folder in (simulated, view):
        assert main(["status", str(folder)]) == 2
        assert "failures is a link, and no study makes one there" in capsys.readouterr().err


def test_no_view_is_written_through_a_link(simulated: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    mine = tmp_path_factory.mktemp("mine")
    (mine / "x.parquet").write_text("precious")
    view = rescore(simulated, Rule(kept=0.5))
    for path in (view / "runs", view, simulated / "rescored"):
        shutil.rmtree(path)
        path.symlink_to(mine)
        with pytest.raises(stores.StorageError, match="is a link"):
            rescore(simulated, Rule(kept=0.5))
        assert [(path.name, path.read_text()) for path in mine.iterdir()] == [("x.parquet", "precious")]
        path.unlink()
        rescore(simulated, Rule(kept=0.5))


@pytest.mark.parametrize("where", ["folder", "store"])
def test_runs_that_start_from_weights_find_them_in_the_view(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUDY_CACHE", str(tmp_path / "cache"))
    url = f"memory://rescored/{tmp_path.name}" if where == "store" else str(tmp_path / "warm")
    folder, start = stores.folder_of(url), of_random()
    definition = simulated_definition(models=("small",), arms=[Arm(method="none")], lrs=(0.1,), seeds=(0, 1))
    write_simulated_study(folder, dataclasses.replace(definition, study=warm_start.of(definition.study, start)))
    warm_start.keep(folder, start)
    warm_start._kept.cache_clear()
    view = rescore(folder, Rule(kept=0.5))
    untrusted_input.refuse_links(view)
    found = warm_start.kept(view, read_definition(view).study.recipe)
    assert found is not None
    assert found.content == start.content
    assert not (view / "init").exists()


@pytest.mark.parametrize("words", [["resume"], ["confirm", "--lr", "0.3", "--seeds", "100-158"], ["rescore"]])
def test_nothing_is_trained_in_a_view_and_no_view_is_judged_again(
    simulated: Path, words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from study.tune import cluster

    monkeypatch.setattr(cluster, "_init", lambda *_a, **_k: pytest.fail("Ray was started"))
    view = rescore(simulated, Rule(kept=0.5))
    rule = ["--rule", "kept=0.3"] if words[0] == "rescore" else []
    assert main([words[0], str(view), *words[1:], *rule]) == 2
    said = capsys.readouterr().err
    assert f"{view} is {simulated} judged by another rule" in said
    assert said.count("\n") == 1
    with pytest.raises(RecordError, match="judged by another rule"):
        open_study(view, read_definition(view))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["kpt=1"], "the rule has kept, once_had, slow_fall"),
        (["kept"], "--rule takes key=value, got 'kept'; the study's rule is kept=0.25, once_had=0.5"),
        (["kept=0.5", "=2"], "--rule takes key=value, got '=2'"),
        (["kept=much"], "need a number, got kept=much"),
        (["kept=nan"], "need a finite number, got kept=nan"),
        (["kept=1"], "need kept < 1, got kept=1"),
        (["kept=-0.1"], "need kept > 0, got kept=-0.1"),
        (["median_steps=24"], "need an odd median_steps, got median_steps=24"),
        (["median_steps=2.5"], "need a whole number, got median_steps=2.5"),
        (["learnable_errors=1e6"], "the training loss is not learnable here"),
    ],
)
def test_a_rule_that_cannot_be_is_refused(
    simulated: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rescore", str(simulated), "--rule", *words]) == 2
    said = capsys.readouterr()
    assert (message in said.err, said.out, said.err.count("\n")) == (True, "", 1), said.err
    assert not (simulated / "rescored").exists()


def test_rules_are_read_in_order() -> None:
    study = simulated_definition().study
    assert rule_of(study, ["kept=0.5", "median_steps=5", "kept=0.4"]) == Rule(kept=0.4, median_steps=5)
    assert isinstance(rule_of(study, ["median_steps=5"]).median_steps, int)
    assert rule_of(dataclasses.replace(study, rule=Rule(spike=3.0)), ["kept=0.5"]) == Rule(kept=0.5, spike=3.0)


def test_losses_that_are_missing_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_simulated_study(tmp_path, simulated_definition(models=("small",), seeds=(0,)), with_losses=False)
    assert main(["rescore", str(tmp_path), "--rule", "kept=0.5"]) == 2
    assert capsys.readouterr().err == f"study: the losses of 74 runs in {tmp_path} are missing\n"
    assert rule_influence(tmp_path).empty
    assert main(["rescore", str(tmp_path / "none"), "--rule", "kept=0.5"]) == 2
    assert "holds no study" in capsys.readouterr().err


# --- how far an edge moves ----------------------------------------------------------------------------------------


def test_the_influence_of_a_rule_is_that_of_a_study_under_it(trained: Path) -> None:
    table = rule_influence(trained)
    assert table["rule"].tolist() == ["own", "stricter", "looser"]
    assert table["settings"].tolist() == ["", "kept=0.5", "kept=0.1"]
    own, stricter, looser = table.to_dict("records")
    assert stricter["k"] >= own["k"] >= looser["k"]
    assert (own["changed"], own["n"], own["ratio"]) == (0, 16, 1.0)
    for row, kept in ((stricter, 0.5), (looser, 0.1)):
        runs = analysis.load(rescore(trained, Rule(kept=kept)))
        (edge,) = analysis.edges(runs).to_dict("records")
        assert row["k"] == (runs["outcome"] == "diverged").sum()
        np.testing.assert_equal([row[c] for c in rescoring.EDGE], [edge[c] for c in rescoring.EDGE])
        np.testing.assert_equal(row["ratio"], edge["edge"] / own["edge"])
    assert stricter["changed"] == stricter["k"] - own["k"] > 0, "this study has runs between the rules"


def test_every_curve_has_its_rows_and_a_censored_edge_no_ratio(simulated: Path) -> None:
    table = rule_influence(simulated, {"far": {"kept": 0.9}}, level=0.3)
    assert table[["curve", "rule"]].to_numpy().tolist() == [
        [curve, rule] for curve in ("none", "agc", "clippy") for rule in ("own", "far")
    ]
    never = table[(table["curve"] == "clippy") & (table["rule"] == "own")]
    assert never["status"].tolist() == ["not reached"]
    assert never["ratio"].isna().all()

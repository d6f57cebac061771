"""The record: what is written reads back, and half-written files never count as runs."""

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from records import A0, B0, B1, STEPS, TASKS, make_definition, make_losses, make_row, row_id, write_two_trials

from study.config import Arm, Recipe, Rule
from study.record import failures, tables
from study.record.definition import Definition, RecordError, open_study, read_definition
from study.record.failures import read_failures, write_failure
from study.record.repair import set_bad_files_aside
from study.record.schema import COLUMNS, PER_TASK
from study.record.tables import read_losses, read_runs, recorded_ids, write_trial
from study.storage.stores import StorageError


def test_an_older_records_distance_of_a_rolled_back_run_is_ignored(tmp_path: Path) -> None:
    open_study(tmp_path, make_definition())
    rows = [make_row(0.1, i) | {"rollbacks": i} for i in range(2)]
    write_trial(tmp_path, "a", rows, make_losses({B0: 0, B1: 1}))
    write_trial(tmp_path, "b", [make_row(0.2, 0)], make_losses({A0: 0}))
    moved = read_runs(tmp_path).set_index("run_id")["moved"]
    assert moved.dropna().to_dict() == {B0: 3.4, A0: 3.4}


def test_rows_are_sorted_with_a_column_for_each_threshold(tmp_path: Path) -> None:
    write_two_trials(tmp_path)
    runs = read_runs(tmp_path)
    assert runs["run_id"].tolist() == [B0, B1, A0]
    assert runs["lr"].tolist() == [0.1, 0.1, 0.2]
    assert runs["rel"].tolist() == [0.5] * 3
    assert runs["abs"].tolist() == [0.01] * 3
    assert "thresholds" not in runs
    assert runs["diverged_at_step"].fillna(-1).tolist() == [-1, -1, 3]
    assert runs["reason"].isna().tolist() == [True, True, False]
    assert runs["kept"].isna().tolist() == [False, False, True]
    assert runs["diverged_click"].tolist() == [False] * 3
    assert runs["diverged_time"].isna().tolist() == [True] * 3
    assert runs["rmse_time"].tolist() == [1.25] * 3
    assert json.loads(str(runs["episodes"][0])) == [[2, 0.6, 3]]
    assert recorded_ids(tmp_path) == {A0, B0, B1}


def test_the_table_does_not_depend_on_how_runs_were_split_into_trials(tmp_path: Path) -> None:
    write_two_trials(tmp_path / "one")
    other = tmp_path / "other"
    open_study(other, make_definition())
    rows = {row["run_id"]: row for row in (make_row(0.1, 0), make_row(0.1, 1))}
    write_trial(other, "z", [rows[B1]], make_losses({B1: 1}))
    write_trial(other, "y", [rows[B0]], make_losses({B0: 0}))
    lost = make_row(0.2, 0, outcome="diverged", reason="nonfinite", diverged_at_step=3, kept=None, final_loss=None)
    write_trial(other, "x", [lost], make_losses({A0: 0}))
    pd.testing.assert_frame_equal(read_runs(tmp_path / "one"), read_runs(other))


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")])
def test_the_order_of_columns_does_not_depend_on_the_order_of_files(tmp_path: Path, names: tuple[str, str]) -> None:
    """The control is not judged: its files lack `kept_` and `diverged_`."""
    open_study(tmp_path, make_definition())
    control = {k: v for k, v in make_row(role="control").items() if not k.startswith(("kept_", "diverged_"))}
    write_trial(tmp_path, names[0], [control], make_losses({B0: 0}))
    write_trial(tmp_path, names[1], [make_row(0.1, 1)], make_losses({B1: 1}))
    assert list(read_runs(tmp_path))[-8:] == [
        *("device", "version", "auc_click", "diverged_click", "diverged_time", "kept_click", "kept_time", "rmse_time")
    ]


def test_column_types_do_not_depend_on_the_values(tmp_path: Path) -> None:
    open_study(tmp_path, make_definition())
    empty = read_runs(tmp_path)
    assert len(empty) == 0
    nothing = dict.fromkeys(("outcome", "reason", "final_loss", "kept", "micro_episodes", "spikes"))
    write_trial(tmp_path, "a", [make_row(**nothing, thresholds='{"mu": 1}')], make_losses({B0: 0}))
    nulls = read_runs(tmp_path)
    write_trial(tmp_path, "b", [make_row(0.1, 1)], make_losses({B1: 1}))
    full = read_runs(tmp_path)
    for column in empty:
        assert str(empty[column].dtype) == str(nulls[column].dtype) == str(full[column].dtype), column
    assert str(full["mu"].dtype) == str(nulls["mu"].dtype) == "float64"
    assert str(full["seed"].dtype) == "Int64"
    assert str(full["diverged_click"].dtype) == "boolean"


def test_losses_are_read_with_the_constants_losses(tmp_path: Path) -> None:
    write_two_trials(tmp_path)
    losses = read_losses(tmp_path).set_index(["run_id", "task"])
    assert len(losses) == 6
    loss, constant = losses.loc[(B1, "time"), ["loss", "constant"]]
    assert loss.dtype == np.float32
    np.testing.assert_array_equal(loss, np.arange(STEPS) + 11)
    np.testing.assert_array_equal(constant, -np.arange(STEPS) - 11)
    np.testing.assert_array_equal(losses.loc[(A0, "click"), "loss"], [0, 1, 2, np.nan, np.inf, np.nan])
    assert set(read_losses(tmp_path, [B0])["run_id"]) == {B0}
    assert len(read_losses(tmp_path, [])) == 0


def test_a_run_that_was_recorded_twice_is_one_row(tmp_path: Path) -> None:
    write_two_trials(tmp_path)
    before = read_runs(tmp_path)
    write_trial(tmp_path, "b", [make_row(0.1, 0), make_row(0.1, 1)], make_losses({B0: 0, B1: 1}))
    write_trial(tmp_path, "c", [make_row(0.1, 1, seconds=9.0)], make_losses({B1: 1}))
    pd.testing.assert_frame_equal(read_runs(tmp_path), before)
    assert len(read_losses(tmp_path)) == 6


@pytest.mark.parametrize("kind", ["runs", "losses"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.99, 1.0])
def test_a_truncated_file_is_set_aside_by_who_holds_the_lock_alone(tmp_path: Path, kind: str, share: float) -> None:
    write_two_trials(tmp_path)
    path = tmp_path / kind / "b.parquet"
    whole = path.read_bytes()
    torn = whole[: min(int(len(whole) * share), len(whole) - 1)]
    path.write_bytes(torn)
    with pytest.warns(RuntimeWarning, match=r"b\.parquet cannot be read .*its runs count as missing") as said:
        assert recorded_ids(tmp_path) == {A0}
    assert len(said) == 1
    assert "\n" not in str(said[0].message)
    assert path.read_bytes() == torn, "reading moves nothing"
    assert not (tmp_path / "set_aside").exists()
    with pytest.warns(RuntimeWarning, match="set aside as "):
        set_bad_files_aside(tmp_path)
    assert read_runs(tmp_path)["run_id"].tolist() == [A0], "no second warning"
    assert torn in [aside.read_bytes() for aside in (tmp_path / "set_aside").iterdir()]
    assert not (tmp_path / "runs" / "b.parquet").exists(), "runs without losses are trained again"
    write_trial(tmp_path, "b", [make_row(0.1, 0), make_row(0.1, 1)], make_losses({B0: 0, B1: 1}))
    assert recorded_ids(tmp_path) == {A0, B0, B1}
    assert set(read_losses(tmp_path)["run_id"]) == {A0, B0, B1}


def test_damaged_losses_are_reported(tmp_path: Path) -> None:
    write_two_trials(tmp_path)
    path = tmp_path / "losses" / "b.parquet"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.warns(RuntimeWarning, match=r"b\.parquet cannot be read"):
        assert set(read_losses(tmp_path)["run_id"]) == {A0}
    with pytest.warns(RuntimeWarning, match=r"losses/b\.parquet cannot be read"):
        assert recorded_ids(tmp_path) == {A0}
    path.unlink()
    with pytest.warns(RuntimeWarning, match="losses of its runs are missing"):
        assert recorded_ids(tmp_path) == {A0}


def test_a_parquet_file_of_another_kind_is_ignored(tmp_path: Path) -> None:
    write_two_trials(tmp_path)
    pd.DataFrame({"run_id": ["x"], "lr": ["high"]}).to_parquet(tmp_path / "runs" / "b.parquet")
    with pytest.warns(RuntimeWarning, match="not a file of a record: columns run_id, study, data"):
        assert recorded_ids(tmp_path) == {A0}


def test_losses_without_their_constant_are_ignored(tmp_path: Path) -> None:
    write_two_trials(tmp_path)
    only_the_run = [row for row in make_losses({B0: 0}) if row["run_id"]]
    write_trial(tmp_path, "b", [make_row()], only_the_run)
    with pytest.warns(RuntimeWarning, match="the constant predictor's losses are missing"):
        assert set(read_losses(tmp_path)["run_id"]) == {A0}


@pytest.mark.parametrize("at", ["before the losses stand", "between losses and rows"])
def test_a_kill_leaves_no_half_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    open_study(tmp_path, make_definition())
    replace = Path.replace

    def killed(self: Path, target: Path) -> Path:
        assert not self.match("*.parquet"), "a kill that cleans nothing up would leave this as a record's file"
        if target.parent.name == ("losses" if at == "before the losses stand" else "runs"):
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_trial(tmp_path, "t", [make_row()], make_losses({B0: 0}))
    monkeypatch.undo()
    assert recorded_ids(tmp_path) == set()
    assert len(read_runs(tmp_path)) == 0
    assert not (tmp_path / "set_aside").exists()
    assert [p for p in tmp_path.rglob("*") if p.name.startswith(".")] == []
    write_trial(tmp_path, "t", [make_row()], make_losses({B0: 0}))
    assert recorded_ids(tmp_path) == {B0}
    assert len(read_losses(tmp_path)) == len(TASKS)


def test_temporary_files_of_killed_writers_are_ignored(tmp_path: Path) -> None:
    write_two_trials(tmp_path)
    (tmp_path / "runs" / ".t.parquet.0123abcd").write_bytes(b"PAR1 half")
    assert recorded_ids(tmp_path) == {A0, B0, B1}


def test_a_definition_reads_back(tmp_path: Path) -> None:
    definition = make_definition(recipe=Recipe(steps=STEPS), rule=Rule(kept=0.5), data_options={"rows": 10})
    written = open_study(tmp_path, definition)
    assert read_definition(tmp_path) == written
    assert dataclasses.replace(written, plans=()) == definition


def test_axes_grow(tmp_path: Path) -> None:
    open_study(tmp_path, make_definition())
    new = make_definition(
        models=("large", "small"), arms=(Arm(method="clippy", options={"rel": 0.5}),), lrs=(0.4, 0.1), seeds=(7,)
    )
    grown = open_study(tmp_path, new)
    assert read_definition(tmp_path) == grown
    assert grown.study.models == ("small", "large")
    assert grown.study.arms == (Arm(method="none"), Arm(method="clippy", options={"rel": 0.5}))
    assert grown.study.lrs == (0.1, 0.2, 0.4)
    assert grown.study.seeds == (0, 1, 7)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (make_definition(name="mine"), "'edges', not 'mine'"),
        (make_definition(content="d" * 64), "other data (synthetic)"),
        (
            make_definition(recipe=Recipe(batch=256, warmup=5)),
            "recipe (batch was 512, is 256; warmup was 20, is 5)",
        ),
        (
            make_definition(rule=Rule(kept=0.5)),
            "rule (kept was 0.25, is 0.5)",
        ),
    ],
)
def test_another_study_is_refused_and_changes_nothing(tmp_path: Path, other: Definition, message: str) -> None:
    open_study(tmp_path, make_definition())
    before = (tmp_path / "study.json").read_bytes()
    with pytest.raises(RecordError, match=f"^{re.escape(str(tmp_path))} .*{re.escape(message)}.*another folder"):
        open_study(tmp_path, other)
    assert (tmp_path / "study.json").read_bytes() == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is not a study's definition"),
        ('{"format": 1, "study": {"na', "is not a study's definition"),
        ('{"format": 1, "study": {}, "data": {}, "versions": {}}', "is not a study's definition"),
        ("[]", "is not a study's definition"),
        ('{"format": 2}', "has format 2; this version reads format 1"),
    ],
)
def test_a_damaged_definition_is_refused_in_one_line(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "study.json").write_text(content)
    for ask in (lambda: read_runs(tmp_path), lambda: open_study(tmp_path, make_definition())):
        with pytest.raises(RecordError, match=f"^{re.escape(str(tmp_path / 'study.json'))} {message}") as error:
            ask()
        assert "\n" not in str(error.value)
    assert (tmp_path / "study.json").read_text() == content


def test_a_folder_without_a_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"no study\.json"):
        read_runs(tmp_path / "nowhere")


def test_a_read_only_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"file/study .*Not a directory"):
        open_study(tmp_path / "file" / "study", make_definition())


def test_a_failure_is_read_until_its_run_is_recorded(tmp_path: Path) -> None:
    open_study(tmp_path, make_definition())
    write_failure(tmp_path, "t", [B0, B1], "out of memory")
    assert read_failures(tmp_path) == {B0: "out of memory", B1: "out of memory"}
    write_trial(tmp_path, "u", [make_row()], make_losses({B0: 0}))
    assert read_failures(tmp_path) == {B1: "out of memory"}


def test_the_reason_of_many_failed_runs_is_shortened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reasons: list[str] = []
    monkeypatch.setattr(failures, "one_line", lambda reason: reasons.append(reason) or "shortened")
    write_failure(tmp_path, "t", [B0, B1], "out of\nmemory")
    assert read_failures(tmp_path, recorded=()) == {B0: "shortened", B1: "shortened"}
    assert reasons == ["out of\nmemory"]


def test_an_unknown_column_is_an_assertion_error(tmp_path: Path) -> None:
    open_study(tmp_path, make_definition())
    with pytest.raises(AssertionError, match="colour is not a column"):
        write_trial(tmp_path, "t", [make_row() | {"colour": "red"}], make_losses({B0: 0}))


def test_each_column_of_a_row_is_written(tmp_path: Path) -> None:
    row = make_row()
    per_task = {f"{kind}{task}" for kind in PER_TASK for task in TASKS}
    assert set(row) - per_task == set(COLUMNS.names)
    open_study(tmp_path, make_definition())
    write_trial(tmp_path, "t", [row], make_losses({B0: 0}))
    back = read_runs(tmp_path).iloc[0].to_dict()
    for name, value in row.items():
        if name != "thresholds":
            assert pd.isna(back[name]) if value is None else back[name] == value, name


def test_a_resume_reads_the_recorded_runs_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_two_trials(tmp_path)
    expected, parsed, parse = read_runs(tmp_path), [], tables._parse_runs
    monkeypatch.setattr(tables, "_parse_runs", lambda content: parsed.append(1) or parse(content))
    pd.testing.assert_frame_equal(set_bad_files_aside(tmp_path), expected)
    assert len(parsed) == 2


def test_a_bad_value_in_any_row_is_found(tmp_path: Path) -> None:
    open_study(tmp_path, make_definition())
    bad: dict[str, list[Any]] = {"run_id": ["a/b", ""], "lr": [0.0, math.nan], "seed": [-1], "steps": [0]}
    bad |= {"role": ["else"], "outcome": ["else"], "model": ["\x1b[2J", None], "thresholds": ['{"rel": NaN}', "[]"]}
    bad |= {"options": ["1"], "method": [""], "data": [None]}
    for name, values in bad.items():
        for value in values:
            rows = [make_row(seed=0), make_row(seed=1), make_row(seed=2) | {name: value}]
            write_trial(tmp_path, "t", rows, make_losses({B0: 0, B1: 1, row_id(seed=2): 2}))
            with pytest.warns(RuntimeWarning, match="cannot be read"):
                assert read_runs(tmp_path).empty, (name, value)


def test_runs_of_another_recipe_are_refused_by_every_reader(tmp_path: Path) -> None:
    """A file that was copied here, from a study whose runs have twice the steps."""
    ours, theirs = (make_definition(recipe=Recipe(steps=steps)) for steps in (100, 200))
    open_study(tmp_path, ours)
    for trial, definition, seed in (("a", ours, 0), ("b", theirs, 1)):
        run = definition.study.run("c" * 64, "small", Arm("clippy"), 0.1, seed)
        write_trial(tmp_path, trial, [make_row(0.1, seed, run_id=run.id)], make_losses({run.id: seed}))
    with pytest.warns(RuntimeWarning, match=r"b\.parquet .*1 of its 1 runs belong to another study"):
        assert read_runs(tmp_path)["seed"].tolist() == [0]
    with pytest.warns(RuntimeWarning):
        assert len(recorded_ids(tmp_path)) == 1
    with pytest.warns(RuntimeWarning):
        assert tables.diverged_in(tmp_path, "b") == {}
    with pytest.warns(RuntimeWarning, match="set aside"):
        assert len(set_bad_files_aside(tmp_path)) == 1
    (aside,) = (tmp_path / "set_aside").iterdir()
    assert pd.read_parquet(aside)["seed"].tolist() == [1], "nothing is lost"


def test_several_bad_files_are_one_warning(tmp_path: Path) -> None:
    open_study(tmp_path, make_definition())
    write_trial(tmp_path, "a", [make_row()], make_losses({B0: 0}))
    for name in "bcd":
        (tmp_path / "runs" / f"{name}.parquet").write_bytes(b"mine")
    with pytest.warns(RuntimeWarning, match=r"b\.parquet and 2 more files cannot be read") as said:
        assert len(read_runs(tmp_path)) == 1
    assert len(said) == 1


@pytest.mark.parametrize("options", [{}, {"rel": 0.5}, {"rel": 0.5, "abs": 0.01}, {"abs": 0.01}])
def test_an_id_may_have_written_out_a_default(tmp_path: Path, options: dict[str, float]) -> None:
    definition = open_study(tmp_path, make_definition())
    run = definition.study.run("c" * 64, "small", Arm("clippy", options), 0.1, 0)
    write_trial(tmp_path, "a", [make_row(run_id=run.id)], make_losses({run.id: 0}))
    assert recorded_ids(tmp_path) == {run.id}


@pytest.mark.parametrize("change", [{"lr": 0.2}, {"seed": 1}, {"model": "large"}, {"method": "none"}])
def test_a_row_that_was_changed_has_another_id(tmp_path: Path, change: dict[str, Any]) -> None:
    open_study(tmp_path, make_definition())
    write_trial(tmp_path, "a", [make_row() | change], make_losses({B0: 0}))
    with pytest.warns(RuntimeWarning, match="belong to another study"):
        assert read_runs(tmp_path).empty

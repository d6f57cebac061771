"""`study merge`: halves of a study, recorded in two folders, are the study that was recorded in one."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from simulated_record import simulated_definition, write_simulated_study
from text_checks import contains

import analysis
import study
from study.cli.main import main
from study.config import Arm, Rule
from study.record import checksums, tables
from study.record.confirmations import Confirmation, read_confirmations, write_confirmation
from study.record.definition import Definition, read_definition
from study.record.failures import read_failures, write_failure

ARMS = (Arm("none"), Arm("clippy"))
LRS = (0.1, 0.4, 0.8)


def part(folder: Path, **changes: Any) -> Definition:
    values: dict[str, Any] = {"models": ("small",), "arms": ARMS, "lrs": LRS, "seeds": range(4), "steps": 40}
    return write_simulated_study(folder, simulated_definition(**values | changes))


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> Path:
    """`whole`, and its halves by seeds and by lrs. Each has the control."""
    folder = tmp_path_factory.mktemp("records")
    part(folder / "whole", seeds=range(8))
    part(folder / "low", seeds=range(4))
    part(folder / "high", seeds=range(4, 8))
    part(folder / "lrs", seeds=range(8), lrs=(0.8, 1.2))
    part(folder / "methods", arms=(Arm("agc"),))
    return folder


def test_halves_are_the_whole_study(records: Path, tmp_path: Path, capsys) -> None:
    before = {name: content_of(records / name) for name in ("low", "high")}
    assert main(["merge", str(records / "low"), str(records / "high"), "--out", str(tmp_path / "both")]) == 0
    whole, both = records / "whole", tmp_path / "both"
    pd.testing.assert_frame_equal(tables.read_runs(both), tables.read_runs(whole))
    losses = [tables.read_losses(f).sort_values(["run_id", "task"], ignore_index=True) for f in (both, whole)]
    pd.testing.assert_frame_equal(*losses)
    assert read_definition(both).study == read_definition(whole).study
    pd.testing.assert_frame_equal(analysis.edges(analysis.load(both)), analysis.edges(analysis.load(whole)))
    assert before == {name: content_of(records / name) for name in before}, "the halves are as they were"
    said = capsys.readouterr().out
    contains(said, "simulated: 48 runs", "24 in", "24 of the control", "24 runs in several folders, and counted once")
    for command in ("status", "recommend"):
        assert main([command, str(both)]) == 0


def test_any_number_of_folders_and_other_axes(records: Path, tmp_path: Path) -> None:
    """An lr that two folders have counts once. Where the axes make cells that no folder has, these are missing."""
    folders = [records / name for name in ("high", "lrs", "methods", "low")]
    merged = study.merge(*folders, out=tmp_path / "all")
    assert merged.study.seeds == tuple(range(8))
    assert merged.study.lrs == (0.1, 0.4, 0.8, 1.2)
    assert [arm.method for arm in merged.study.arms] == ["none", "clippy", "agc"]
    expected = pd.concat([analysis.load(folder) for folder in folders]).drop_duplicates("run_id")
    assert set(merged.runs["run_id"]) == set(expected["run_id"])
    assert merged.rates()["n"].sum() == len(expected)
    assert len(merged.losses(method="agc", lr=0.1, seed=0)) > 0


def test_a_merge_can_be_interrupted_and_repeated(records: Path, tmp_path: Path, monkeypatch) -> None:
    folders, out = [records / "low", records / "high"], tmp_path / "out"
    from study.storage.local import LocalStore

    put, writes = LocalStore.put, []

    def stop(store: LocalStore, name: str, content: bytes, **how: Any) -> None:
        if name.startswith(("runs", "losses")):
            writes.append(name)
            if len(writes) == 4:
                raise KeyboardInterrupt
        put(store, name, content, **how)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "put", stop)
        with pytest.raises(KeyboardInterrupt):
            study.merge(*folders, out=out)
    assert 0 < len(tables.read_runs(out)) < 72
    merged = study.merge(*folders, out=out)
    pd.testing.assert_frame_equal(merged.runs, analysis.load(records / "whole"))
    again = content_of(out)
    study.merge(*folders, out=out)
    assert content_of(out) == again, "nothing is written twice"
    part(tmp_path / "more", seeds=range(8, 10))
    assert len(study.merge(out, tmp_path / "more", out=tmp_path / "larger").runs) == 60


def test_plans_keep_their_times_and_the_union_is_a_plan_of_its_own(records: Path, tmp_path: Path) -> None:
    parts = [read_definition(records / name).plans for name in ("low", "high")]
    merged = study.merge(records / "low", records / "high", out=tmp_path / "out")
    plans = read_definition(merged.folder).plans
    assert set(plans) > {plan for plans in parts for plan in plans}
    whole = read_definition(records / "whole").plans
    assert plans[-1][1] == whole[0][1]
    more = read_definition(study.merge(merged, records / "whole", out=tmp_path / "more").folder).plans
    assert set(more) == {*plans, *whole}, "times are in seconds: both may be of one"


def test_confirmations_and_failures_are_taken_along(records: Path, tmp_path: Path) -> None:
    halves = [tmp_path / name for name in ("a", "b")]
    for half, name in zip(halves, ("low", "high"), strict=True):
        shutil.copytree(records / name, half)
    common = Confirmation(lr=0.4, seeds=(20, 21), models=("small",), arms=ARMS[:1], number=0, study_seeds=4)
    for half in halves:
        write_confirmation(half, common)
    write_confirmation(halves[1], dataclasses.replace(common, seeds=(30, 31), number=1))
    write_failure(halves[0], "t", ["f" * 64], "out of memory")
    write_failure(halves[1], "t", ["e" * 64, analysis.load(halves[0])["run_id"].iloc[0]], "preempted")
    out = study.merge(*halves, out=tmp_path / "out").folder
    assert [confirmation.seeds for confirmation in read_confirmations(out)] == [(20, 21), (30, 31)]
    assert read_failures(out) == {"f" * 64: "out of memory", "e" * 64: "preempted"}, "one was recorded elsewhere"


def test_the_first_folder_counts_where_a_run_ended_in_two_ways(records: Path, tmp_path: Path, capsys) -> None:
    """As on two kinds of processors."""
    other = tmp_path / "other"
    shutil.copytree(records / "low", other)
    path = next(p for p in sorted((other / "runs").iterdir()) if "control" not in p.name)
    table = checksums.read_parquet(path.read_bytes())
    rows = [row | {"outcome": "diverged", "reason": "collapsed", "diverged_at_step": 3} for row in table.to_pylist()]
    path.write_bytes(checksums.parquet_bytes(type(table).from_pylist(rows, schema=table.schema)))
    differ = sum(row["outcome"] != "diverged" for row in table.to_pylist())
    assert main(["merge", str(records / "low"), str(other), "--out", str(tmp_path / "out")]) == 0
    contains(capsys.readouterr().out, f"{differ} runs of them ended otherwise in another folder")
    pd.testing.assert_frame_equal(tables.read_runs(tmp_path / "out"), tables.read_runs(records / "low"))


def test_a_file_with_some_new_runs_gives_these(records: Path, tmp_path: Path) -> None:
    part(tmp_path / "three", seeds=(3, 4))
    merged = study.merge(records / "low", tmp_path / "three", out=tmp_path / "out")
    assert len(merged.runs) == 5 * 6
    assert len(merged.losses(seed=4)) == 6 * 40 * 3
    assert merged.report().exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": 80}, "with another recipe (steps was 40, is 80)"),
        ({"name": "other"}, "the study 'simulated', not 'other'"),
        ({"rule": Rule(kept=0.5)}, "with another rule (kept was 0.25, is 0.5)"),
        ({"content": "6" * 64}, "this study on other data"),
    ],
)
def test_studies_that_differ_are_refused(records: Path, tmp_path: Path, change, words, capsys) -> None:
    definition = simulated_definition(models=("small",), arms=ARMS, lrs=LRS, steps=change.get("steps", 40))
    data = definition.data | ({"content": change["content"]} if "content" in change else {})
    named = {name: value for name, value in change.items() if name in ("name", "rule")}
    definition = dataclasses.replace(definition, study=dataclasses.replace(definition.study, **named), data=data)
    write_simulated_study(tmp_path / "b", definition)
    assert main(["merge", str(records / "low"), str(tmp_path / "b"), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    contains(error, words, f"{tmp_path / 'b'} cannot be merged with it")
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_control_that_learned_another_amount_is_refused(records: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(records / "high", other)
    path = other / "losses" / "small-control.parquet"
    table = checksums.read_parquet(path.read_bytes())
    rows = [
        row | {"loss": [0.95 * x for x in row["loss"]] if row["run_id"] else row["loss"]} for row in table.to_pylist()
    ]
    path.write_bytes(checksums.parquet_bytes(type(table).from_pylist(rows, schema=table.schema)))
    with pytest.raises(ValueError, match="the control of small learned other amounts"):
        study.merge(records / "low", other, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("names", "out", "words"),
    [
        (["low"], "out", "needs two folders or more"),
        (["low", "low"], "out", "is named twice"),
        (["low", "high"], "low", "is one of the folders, which stay as they are"),
        (["low", "nothing"], "out", "holds no study"),
        (["low", "published"], "out", "without their losses"),
    ],
)
def test_folders_that_cannot_be_merged(records: Path, tmp_path: Path, names, out, words) -> None:
    for name in ("low", "high"):
        shutil.copytree(records / name, tmp_path / name)
    (tmp_path / "nothing").mkdir()
    (tmp_path / "published").mkdir()
    assert main(["report", str(tmp_path / "high")]) == 0
    for name in ("study.json", "runs.parquet"):
        shutil.copy(tmp_path / "high" / name, tmp_path / "published")
    before = content_of(tmp_path)
    with pytest.raises(ValueError, match=words):
        study.merge(*(tmp_path / name for name in names), out=tmp_path / out)
    assert content_of(tmp_path) == before


def test_other_code_of_own_modules_is_refused_unless_it_is_accepted(records: Path, tmp_path: Path) -> None:
    for name, code in (("low", "a" * 64), ("high", "b" * 64)):
        shutil.copytree(records / name, tmp_path / name)
        for path in (tmp_path / name / "runs").iterdir():
            rows = [
                row | {"own_code": f'{{"mine":"{code}"}}'}
                for row in checksums.read_parquet(path.read_bytes()).to_pylist()
            ]
            losses = checksums.read_parquet((tmp_path / name / "losses" / path.name).read_bytes())
            tables.write_trial(tmp_path / name, path.stem, rows, losses.to_pylist())
    halves = [tmp_path / name for name in ("low", "high")]
    with pytest.raises(ValueError, match=r"mine has other code in .*/high than in .*/low; .*--accept-changed-code"):
        study.merge(*halves, out=tmp_path / "out")
    assert len(study.merge(*halves, out=tmp_path / "out", accept_changed_code=True).runs) == 48

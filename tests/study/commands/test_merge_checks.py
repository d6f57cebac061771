"""`study merge` of runs that cannot stand in the same cells, or whose files change meanwhile."""

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from simulated_record import simulated_definition, write_simulated_study

import study
from analysis.text.control import control_notes
from study.commands import merge as command
from study.config import Arm, EdgeSearch, QualitySearch, Rule, Run
from study.record import checksums, merging, tables
from study.record.confirmations import Confirmation, write_confirmation
from study.record.definition import Definition, open_study, read_definition
from study.storage import stores
from study.storage.local import LocalStore
from study.storage.object_store import ObjectStore

LRS = (0.1, 0.4, 0.8)


def definition(*, search: Any = None, trainer: str = "ranker", compare: Sequence[str] = (), **axes: Any) -> Definition:
    values: dict[str, Any] = {"models": ("small",), "arms": (Arm("none"),), "lrs": LRS, "seeds": range(2), "steps": 40}
    made = simulated_definition(**values | axes)
    changed = dataclasses.replace(made.study, search=search, trainer=trainer, compare=tuple(compare))
    return dataclasses.replace(made, study=changed)


@pytest.fixture(scope="module")
def halves(tmp_path_factory) -> Path:
    """`low` and `high`, by seeds. Nothing writes to them."""
    folder = tmp_path_factory.mktemp("halves")
    write_simulated_study(folder / "low", definition())
    write_simulated_study(folder / "high", definition(seeds=(2, 3)))
    return folder


def rewrite(source: Path, into: Path, change: Any) -> Path:
    """Copy a study. change: of (number of the row, row) to the row's new columns."""
    shutil.copytree(source, into)
    for path in (into / "runs").iterdir():
        rows = [row | change(i, row) for i, row in enumerate(checksums.read_parquet(path.read_bytes()).to_pylist())]
        old = [row["run_id"] for row in checksums.read_parquet(path.read_bytes()).to_pylist()]
        ids = dict(zip(old, (row["run_id"] for row in rows), strict=True))
        losses = checksums.read_parquet((into / "losses" / path.name).read_bytes()).to_pylist()
        losses = [loss | {"run_id": ids.get(loss["run_id"])} for loss in losses]
        tables.write_trial(into, path.stem, rows, losses)
    return into


# --- searches and arms --------------------------------------------------------------------------------------------


def quality(folder: Path, arms: Sequence[str], ranges: dict[str, Any], *, budget: int = 320) -> Path:
    search = QualitySearch(ranges=ranges, budget=budget)
    open_study(folder, definition(arms=[Arm(name) for name in arms], search=search))
    return folder


def test_ranges_of_searches_are_united(tmp_path: Path) -> None:
    clippy, agc = {"clippy": {"rel": (0.1, 1.0)}}, {"agc": {"clip": (0.01, 0.1)}}
    parts = [
        quality(tmp_path / "a", ["none"], {}, budget=160),
        quality(tmp_path / "b", ["none", "clippy"], clippy),
        quality(tmp_path / "c", ["none", "agc"], agc),
    ]
    for folders in (parts, [parts[0], parts[2], parts[1]]):
        out = tmp_path / f"out-{folders[1].name}"
        study.merge(*folders, out=out)
        assert read_definition(out).study.search == QualitySearch(ranges=clippy | agc, budget=160)


def test_other_ranges_of_one_method_are_refused(tmp_path: Path) -> None:
    parts = [
        quality(tmp_path / "a", ["none"], {}),
        quality(tmp_path / "b", ["clippy"], {"clippy": {"rel": (0.1, 1.0)}}),
        quality(tmp_path / "c", ["clippy"], {"clippy": {"rel": (0.1, 2.0)}}),
    ]
    with pytest.raises(ValueError, match="another range of clippy"):
        study.merge(*parts, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("first", "other", "compare"),
    [
        (Arm("sgd", m=0), Arm("sgd", m=0.9), ()),
        (Arm("sgd"), Arm("adam"), ("clip",)),
    ],
)
def test_loops_with_another_untreated_arm_are_refused(tmp_path: Path, first: Arm, other: Arm, compare) -> None:
    for name, arm in (("a", first), ("b", other)):
        arms = (arm, Arm("clip"))
        open_study(tmp_path / name, definition(arms=arms, trainer="mine.loop", compare=compare))
    with pytest.raises(ValueError, match="another untreated arm"):
        study.merge(tmp_path / "a", tmp_path / "b", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_confirmations_of_searches_are_merged(tmp_path: Path) -> None:
    """Both searches confirmed an lr on the same fresh seed."""
    of_search = definition(seeds=range(3), search=EdgeSearch())
    one_lr = [("small", "none", lr, seed) for seed in range(3) for lr in LRS if lr != LRS[seed]]
    for name, lr in (("a", 0.1), ("b", 0.4)):
        write_simulated_study(tmp_path / name, of_search, leave_out=one_lr)
        named = Confirmation(lr=lr, seeds=(20,), models=("small",), arms=(Arm("none"),), number=0, study_seeds=3)
        write_confirmation(tmp_path / name, named)
        write_simulated_study(tmp_path / f"{name}-confirmed", definition(seeds=(20,), lrs=(lr,)))
        for kind in ("losses", "runs"):
            path = tmp_path / f"{name}-confirmed" / kind / "small-00.parquet"
            shutil.copy(path, tmp_path / name / kind / f"confirm-{name}.parquet")
    merged = study.merge(tmp_path / "a", tmp_path / "b", out=tmp_path / "out")
    assert len(tables.read_runs(merged.folder).query("role == 'cell'")) == 3 + 2


def test_searches_that_placed_a_seed_at_several_lrs_are_refused(tmp_path: Path) -> None:
    for name, kept in (("a", 0.1), ("b", 0.4)):
        left_out = [("small", "none", lr, seed) for seed in range(2) for lr in LRS if lr != kept]
        write_simulated_study(tmp_path / name, definition(search=EdgeSearch()), leave_out=left_out)
    with pytest.raises(ValueError, match="placed seed 0 of none on small at several lrs"):
        study.merge(tmp_path / "a", tmp_path / "b", out=tmp_path / "out")


# --- code and versions --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("codes", "refused"),
    [
        (("", "a", "b"), True),
        (("a", "", "b"), True),
        (("ab", "a"), True),
        (("a", "ab"), True),
        (("a", "a", ""), False),
        (("ab", "ab"), False),
    ],
)
def test_code_of_own_modules_is_compared_with_that_of_every_folder(halves, tmp_path, codes, refused) -> None:
    folders = []
    for number, own in enumerate(codes):
        texts = [json.dumps({"mine": letter * 64}) for letter in own]
        source = halves / ("high" if number else "low")
        change = (lambda i, _, texts=texts: {"own_code": texts[i % len(texts)]}) if texts else lambda *_: {}
        folders.append(rewrite(source, tmp_path / str(number), change))
    if refused:
        with pytest.raises(ValueError, match=r"mine has other code in .*--accept-changed-code"):
            study.merge(*folders, out=tmp_path / "out")
        assert not (tmp_path / "out").exists()
    study.merge(*folders, out=tmp_path / "out", accept_changed_code=refused)


def test_runs_of_two_results_versions_are_refused(halves: Path, tmp_path: Path) -> None:
    recipe = definition().study.recipe

    def old_id(_: int, row: dict[str, Any]) -> dict[str, Any]:
        run = Run(data=row["data"], model="small", method=row["method"], lr=1.0, seed=0, recipe=recipe)
        return {"run_id": run.ids_like(1)(row["lr"], row["seed"])}

    old = rewrite(halves / "low", tmp_path / "old", old_id)
    assert len(tables.read_runs(old)) == len(tables.read_runs(halves / "low"))
    with pytest.raises(ValueError, match=r"seed \d+ of none on small at lr .* two ids.* count twice"):
        study.merge(halves / "low", old, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- files --------------------------------------------------------------------------------------------------------


def test_weights_in_an_object_store_are_merged(halves: Path, tmp_path: Path, monkeypatch) -> None:
    url = f"memory://merge/{tmp_path.name}"
    monkeypatch.setenv("STUDY_CACHE", str(tmp_path / "of another machine"))
    write_simulated_study(stores.folder_of(url), definition())
    stores.store_for(url).put("init/w.safetensors", b"weights")
    monkeypatch.setenv("STUDY_CACHE", str(tmp_path / "cache"))
    study.merge(halves / "high", url, out=tmp_path / "out")
    assert (tmp_path / "out" / "init" / "w.safetensors").read_bytes() == b"weights"


def test_weights_that_vanish_are_named_before_anything_is_written(halves: Path, tmp_path: Path, monkeypatch) -> None:
    names = LocalStore.names
    gone = {"init": ["w.safetensors"]}
    monkeypatch.setattr(LocalStore, "names", lambda store, kind: gone.get(kind) or names(store, kind))
    with pytest.raises(stores.StorageError, match=r"low/init/w\.safetensors is not there"):
        study.merge(halves / "low", halves / "high", out=tmp_path / "out")
    assert not (tmp_path / "out" / "study.json").exists()


def test_files_are_copied_to_an_object_store_without_asking_for_each(halves: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("STUDY_CACHE", str(tmp_path / "cache"))
    into, get, asked = stores.folder_of(f"memory://copied/{tmp_path.name}"), ObjectStore.get, []
    stores.store_for(into).put("study.json", (halves / "low" / "study.json").read_bytes())
    monkeypatch.setattr(ObjectStore, "get", lambda store, name, *more: asked.append(name) or get(store, name, *more))
    merging.copy_record(halves / "low", into)
    assert [name for name in asked if "/" in name] == []
    assert stores.store_for(into).names("runs") == sorted(path.name for path in (halves / "low" / "runs").iterdir())


def test_a_file_that_vanishes_is_named(halves: Path, tmp_path: Path, monkeypatch) -> None:
    shutil.copytree(halves / "low", tmp_path / "low")
    read = tables.read_run_files

    def vanishing(folder: Path, *more: Any) -> Iterator[Any]:
        for path, table in read(folder, *more):
            (folder / "losses" / path.name).unlink()
            yield path, table

    (tmp_path / "into").mkdir()
    shutil.copy(tmp_path / "low" / "study.json", tmp_path / "into")
    monkeypatch.setattr(tables, "read_run_files", vanishing)
    with pytest.raises(stores.StorageError, match=r"low/losses/small-.*parquet is not there"):
        merging.copy_record(tmp_path / "low", tmp_path / "into")


def test_the_losses_of_controls_are_read_once_a_folder(tmp_path: Path, monkeypatch) -> None:
    of_two: dict[str, Any] = {"models": ("small", "large_dcn")}
    write_simulated_study(tmp_path / "a", definition(**of_two))
    write_simulated_study(tmp_path / "b", definition(**of_two, seeds=(2, 3)))
    read, calls = tables.read_losses, []
    monkeypatch.setattr(tables, "read_losses", lambda folder, *more: calls.append(folder.name) or read(folder, *more))
    study.merge(tmp_path / "a", tmp_path / "b", out=tmp_path / "out")
    assert calls == ["a", "b"]
    calls.clear()
    stopped = definition(**of_two)
    stopped = dataclasses.replace(stopped, study=dataclasses.replace(stopped.study, rule=Rule(learnable_errors=1e6)))
    cells = tables.read_runs(tmp_path / "a").query("role == 'control'")
    assert len(control_notes(stopped, tmp_path / "a", cells)) == 3
    assert calls == ["a"]


@pytest.mark.parametrize("exists", [True, False])
def test_axes_that_another_process_wrote_before_the_lock_are_kept(halves, tmp_path, monkeypatch, exists) -> None:
    out, locked = tmp_path / "out", command.locked
    if exists:
        study.merge(halves / "low", halves / "high", out=out)

    @contextlib.contextmanager
    def after_another(folder: Path) -> Iterator[None]:
        open_study(folder, definition(seeds=(7,)))
        with locked(folder):
            yield

    monkeypatch.setattr(command, "locked", after_another)
    study.merge(halves / "low", halves / "high", out=out)
    assert read_definition(out).study.seeds == (0, 1, 2, 3, 7)

"""`study replay` and `study signals` repeat recorded runs bit for bit and write what they observe."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import trained_study

from study.cli.main import main
from study.record import tables
from study.record.definition import read_definition
from study.record.schema import LOSSES
from study.replay.recorded_study import find_run, first_difference, run_of
from study.replay.replay import replay
from study.replay.signals import observe_runs


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_study.cache(tmp_path_factory)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_study.once(tmp_path_factory)


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setenv("STUDY_CACHE", str(cache))


def run_id(folder: Path, **wanted) -> str:
    runs = tables.read_runs(folder)
    for column, value in wanted.items():
        runs = runs[runs[column] == value]
    return runs["run_id"].iloc[0]


def contents(folder: Path) -> dict[str, bytes]:
    paths = [p for p in folder.rglob("*") if p.is_file() and not {"replay", "signals"} & set(p.parts)]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def copy_of(study: Path, folder: Path) -> Path:
    """A copy of the record of a study, without its replays and signals."""
    for name, content in contents(study).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def test_replay_repeats_the_bits_and_writes_moments_and_figures(trained: Path, capsys) -> None:
    before = contents(trained)
    diverged = run_id(trained, method="none", lr=1.7, outcome="diverged")
    assert main(["replay", str(trained), diverged[:10], "--compare", "all", "--sharpness-every", "50"]) == 0
    said = capsys.readouterr().out
    assert said.count("bit for bit") == 3, said
    assert contents(trained) == before
    out = trained / "replay" / diverged
    about = json.loads((out / "moments.json").read_text())
    assert [run["method"] for run in about["runs"]] == ["none", "clippy", "agc"]
    moments = about["runs"][0]["moments"]
    assert moments["healthy"] <= moments["rising"] <= moments["gone"]
    trace = pd.read_parquet(out / "trace.parquet")
    assert not trace.duplicated(["run_id", "step", "layer"]).any()
    recorded = tables.read_losses(trained, [diverged]).set_index("task")["loss"]
    own = trace[(trace["run_id"] == diverged) & (trace["layer"] == "all")].sort_values("step")
    assert own["step"].tolist() == list(range(len(own)))
    for task, loss in recorded.items():
        assert np.array_equal(own[f"loss_{task}"].to_numpy("float32"), loss)
    taken = own.loc[own["sharpness"].notna(), "step"]
    assert {0, 50, moments["rising"]} <= set(taken)
    beside = trace[(trace["method"] == "clippy") & trace["sharpness"].notna()]
    assert moments["rising"] in set(beside["step"]), "observed closely where the first run diverged"
    assert set(beside["layer"]) == {"all"}
    clippy = trace[(trace["method"] == "clippy") & trace["factor"].notna()]
    assert (clippy["factor"] < 1).any()
    assert (trace.loc[trace["method"] == "none", "factor"].dropna() == 1).all()
    for name in ("course", "norms", "factors", "units", "sharpness"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_is_replayed_by_its_lr_method_and_seed(trained: Path, tmp_path: Path, capsys) -> None:
    clone = copy_of(trained, tmp_path / "clone")
    wanted = run_id(clone, method="clippy", lr=1.7, seed=1)
    words = ["--lr", "1.7", "--method", "clippy", "--seed", "1", "--sharpness-every", "1000"]
    assert main(["replay", str(clone), *words]) == 0
    said = capsys.readouterr().out
    assert said.startswith("clippy at lr 1.7")
    assert said.splitlines()[0].endswith("bit for bit")
    assert [path.name for path in (clone / "replay").iterdir()] == [wanted]


def test_a_method_with_a_base_of_its_own_has_no_figure_of_sharpness(
    trained: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("study.methods.uses_base", lambda name: False)
    clone = copy_of(trained, tmp_path / "clone")
    said = replay(clone, run_id(clone, method="clippy", lr=0.1), cache, sharpness_every=1000).splitlines()
    assert "  course.png" in said
    assert "  sharpness.png" not in said
    assert said[-1] == "  no sharpness.png: clippy has a base of its own, whose scale of each gradient is unknown"


def test_compare_trains_a_run_that_is_not_recorded(trained: Path, cache: Path, tmp_path: Path) -> None:
    clone = copy_of(trained, tmp_path / "clone")
    for path in (clone / "runs").glob("*.parquet"):
        if "agc" in pq.read_table(path)["method"].to_pylist():
            path.unlink()
            (clone / "losses" / path.name).unlink()
    said = replay(clone, run_id(clone, method="clippy", lr=0.1), cache, compare="agc", sharpness_every=1000)
    lines = said.splitlines()
    assert lines[0].startswith("clippy at lr 0.1")
    assert lines[0].endswith("bit for bit")
    assert lines[1].startswith("agc at lr 0.1")
    assert lines[1].endswith("not in the record")


def test_replay_names_the_first_step_that_differs_from_the_record(trained: Path, cache: Path, tmp_path: Path) -> None:
    clone = copy_of(trained, tmp_path / "clone")
    one = run_id(clone, method="none", lr=0.1)
    for path in (clone / "losses").glob("*.parquet"):
        rows = pq.read_table(path).to_pylist()
        for row in rows:
            if row["run_id"] == one:
                row["loss"][7] = float(np.nextafter(np.float32(row["loss"][7]), np.float32(9)))
        pq.write_table(pa.Table.from_pylist(rows, schema=LOSSES), path)
    said = replay(clone, one, cache, sharpness_every=1000)
    assert "NOT the recorded ones, from step 7 on" in said


@pytest.mark.parametrize(
    ("before", "after", "step"),
    [
        (np.zeros((300, 2)), np.zeros((300, 2)), None),
        (np.zeros((300, 2)), np.zeros((120, 2)), 120),
        (np.zeros((300, 2)), np.where(np.arange(120)[:, None] < 5, 0.0, [0.0, 1.0]), 5),
        (np.zeros((9, 1)), np.where(np.arange(9)[:, None] < 7, 0.0, -0.0), 7),
        (np.full((9, 1), np.nan), np.full((9, 1), -np.nan), None),
        (np.full((9, 1), np.nan), np.full((9, 1), np.inf), 0),
        (np.zeros((0, 1)), np.zeros((0, 1)), None),
    ],
)
def test_first_difference_is_the_first_step_with_other_bits(
    before: np.ndarray, after: np.ndarray, step: int | None
) -> None:
    assert first_difference(before, after) == first_difference(after, before) == step


def test_run_of_restores_every_recorded_run(trained: Path) -> None:
    study = read_definition(trained).study
    rows = tables.read_runs(trained).to_dict("records")
    assert len(rows) == 36
    assert [run_of(row, study).id for row in rows] == [row["run_id"] for row in rows]
    with pytest.raises(ValueError, match="another version"):
        run_of(rows[-1] | {"run_id": "f" * 64}, study)


def test_observe_runs_observes_each_run_once(trained: Path, cache: Path) -> None:
    told = []
    asked = {
        "only_methods": ["none"],
        "sharpness_every": 60,
        "on_progress": lambda done, every: told.append((done, every)),
    }
    assert observe_runs(trained, cache, seeds=[1], **asked) == 2
    assert observe_runs(trained, cache, **asked) == 4
    assert told == [(0, 2), (2, 2), (2, 4), (4, 4)]
    table = pd.concat(pd.read_parquet(path) for path in (trained / "signals").glob("*.parquet"))
    assert not table.duplicated(["run_id", "step"]).any()
    runs = tables.read_runs(trained).set_index("run_id")
    onset = table.groupby("run_id")["onset"].first()
    diverged = runs.loc[onset.index, "outcome"] == "diverged"
    assert diverged.any()
    assert not diverged.all()
    assert (onset.notna() == diverged).all()
    for run, own in table.groupby("run_id"):
        losses = tables.read_losses(trained, [str(run)])
        total = np.sum(np.stack(losses["loss"].to_list()), axis=0)
        assert np.allclose(own.sort_values("step")["loss"], total, rtol=1e-5, equal_nan=True)
    early = table[table["step"] < 40]
    assert (early.loc[early["step"] % 2 == 0, "sharpness_share"] > 0).mean() > 0.9


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["replay", "{}", "zz"], "no recorded run's id begins with 'zz'"),
        (["replay", "{}", ""], "no recorded run's id begins with ''"),
        (
            ["replay", "{}", "{one}", "--compare", "lamb"],
            "no method 'lamb'; it has 'none', 'clippy', 'agc'",
        ),
        (["replay", "{}", "{one}", "--sharpness-every", "0"], "need at least 1"),
        (["signals", "{}", "--method", "lamb"], "holds no such runs"),
    ],
)
def test_errors_are_one_line(trained: Path, words: list[str], message: str, capsys) -> None:
    one = run_id(trained, method="none", lr=0.1)
    try:
        code = main([word.replace("{}", str(trained)).replace("{one}", one) for word in words])
    except SystemExit as ended:
        code = ended.code
    said = capsys.readouterr().err
    assert code == 2
    assert message in said
    assert said.count("\n") == 1


def test_find_run_refuses_a_prefix_of_several_runs(trained: Path) -> None:
    ids = tables.read_runs(trained)["run_id"]
    twice = next(c for c in "0123456789abcdef" if sum(i.startswith(c) for i in ids) > 1)
    with pytest.raises(ValueError, match=f"'{twice}', such as"):
        find_run(trained, twice)

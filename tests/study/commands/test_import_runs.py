"""`study import`: runs of a table or an MLflow experiment become a record with the same answers."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from exported import TASK_NAMES, assert_same_answers, judged_record, long_table

import analysis
from analysis.stats.claims import CANNOT_SAY
from analysis.stats.recommend import recommend
from study.cli.main import main
from study.commands.import_request import ImportRequest
from study.commands.import_runs import import_runs
from study.commands.recommend import Claim
from study.commands.recommend import recommend as recommend_text
from study.commands.report import report
from study.commands.rescore import rescore_and_compare
from study.commands.status import read_status, status
from study.record import tables
from study.record.confirmations import read_confirmations
from study.record.definition import read_definition
from study.record.failures import read_failures

STEPS = 60


def loss_of(lr: float, seed: int, steps: int = STEPS, edge: float = 1.0) -> np.ndarray:
    """Return losses that fall from 2 to 1, or explode from step 30 on where the lr is above the edge."""
    noise = np.random.default_rng([seed, int(1e6 * lr)])
    loss = 1 + np.exp(-np.arange(steps) / 10) + 0.01 * noise.normal(size=steps)
    if lr > edge * (1 + 0.1 * (seed % 3)):
        loss[30:] = 9.0
    return loss


def table(
    lrs: tuple[float, ...] = (0.1, 0.2, 0.4, 0.8, 1.6),
    seeds: tuple[int, ...] = (0, 1, 2),
    optimizers: tuple[str, ...] = ("sgd", "adam"),
    **changed: Any,
) -> Any:
    rows = [
        pd.DataFrame({"optimizer": name, "lr": lr, "seed": seed, "step": np.arange(STEPS), "loss": loss_of(lr, seed)})
        for name in optimizers
        for lr in lrs
        for seed in seeds
    ]
    return pd.concat(rows, ignore_index=True).assign(**changed)


def asked(folder: Path, frame: pd.DataFrame | None, **changed: Any) -> ImportRequest:
    source = folder / "losses.csv"
    if frame is not None:
        frame.to_csv(source, index=False)
    values: dict[str, Any] = {"source": str(source), "lr": "lr", "seed": "seed", "curve": ("optimizer",)}
    return ImportRequest(**values | {"loss": ("loss",), "out": str(folder / "ours")} | changed)


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return judged_record(tmp_path_factory.mktemp("record") / "trained")


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_exported_runs_give_the_answers_of_their_record(judged: Path, tmp_path: Path, suffix: str) -> None:
    frame = long_table(judged)
    source = tmp_path / f"losses.{suffix}"
    frame.to_csv(source, index=False) if suffix == "csv" else frame.to_parquet(source)
    import_runs(
        ImportRequest(
            source=str(source),
            lr="lr",
            seed="seed",
            curve=("method",),
            loss=tuple(TASK_NAMES),
            baseline_column=tuple(f"constant_{name}" for name in TASK_NAMES),
            planned=True,
            out=str(tmp_path / "ours"),
        )
    )
    assert_same_answers(judged, tmp_path / "ours")


def test_commands_that_read_a_record_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = import_runs(asked(tmp_path, table()))
    folder = tmp_path / "ours"
    assert "30 runs imported" in text
    assert "0.1, 0.2, 0.4" in text
    assert read_status(folder).total["done"] == 30
    assert "30 runs recorded" in status(folder)
    assert "LR50" in report(folder)
    assert (folder / "report.html").exists()
    assert "imported runs can only nominate" in recommend_text(folder, Claim())
    assert "0 of 30 runs have another outcome" in rescore_and_compare(folder, ["kept=0.3"])
    assert main(["mlflow", str(folder)]) == 0
    capsys.readouterr()
    assert main(["resume", str(folder)]) == 2
    assert "cannot be trained" in capsys.readouterr().err


def test_planned_runs_claim_and_others_nominate(tmp_path: Path) -> None:
    frame = table(lrs=(0.1, 0.2, 1.6), seeds=tuple(range(60)), optimizers=("sgd",))
    for planned, out in ((True, "planned"), (False, "found")):
        import_runs(asked(tmp_path, frame, planned=planned, out=str(tmp_path / out)))
        folder = tmp_path / out
        (row,) = recommend(analysis.load(folder), read_definition(folder)).to_dict("records")
        assert (row["status"] == CANNOT_SAY) is not planned
        if planned:
            assert row["lr"] == 0.2


def test_import_completes_a_confirmation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import_runs(asked(tmp_path, table(optimizers=("sgd",))))
    folder = tmp_path / "ours"
    assert main(["confirm", str(folder), "--lr", "0.3"]) == 0
    said = capsys.readouterr().out
    assert "sgd: lr 0.3, seeds 3-61 (59 runs)" in said
    assert len(read_confirmations(folder)) == 1
    fresh = table(lrs=(0.3,), seeds=tuple(range(3, 62)), optimizers=("sgd",))
    import_runs(asked(tmp_path, fresh[fresh["seed"] < 61]))
    assert "1 run of a confirmation is missing: run study import" in recommend_text(folder, Claim())
    import_runs(asked(tmp_path, fresh))
    study = read_definition(folder).study
    assert study.lrs == (0.1, 0.2, 0.4, 0.8, 1.6)
    assert study.seeds == (0, 1, 2)
    assert "at lr 0.3, with 95% confidence (0 of 59 fresh seeds" in recommend_text(folder, Claim())
    assert "59 of 59 done" in status(folder)


def test_recommend_begins_with_a_confirmation_that_failed(tmp_path: Path) -> None:
    import_runs(asked(tmp_path, table(optimizers=("sgd",))))
    folder = tmp_path / "ours"
    assert main(["confirm", str(folder), "--lr", "1.6"]) == 0
    import_runs(asked(tmp_path, table(lrs=(1.6,), seeds=tuple(range(3, 62)), optimizers=("sgd",))))
    said = recommend_text(folder, Claim())
    assert said.startswith("A confirmation failed: sgd at lr 1.6 (59 of 59 diverged, 0 allowed).\n\n")


def test_more_runs_extend_the_record(tmp_path: Path) -> None:
    import_runs(asked(tmp_path, table()))
    folder = tmp_path / "ours"
    before = tables.read_runs(folder)
    text = import_runs(asked(tmp_path, table(seeds=(2, 3, 4))))
    after = tables.read_runs(folder)
    assert "20 runs imported" in text
    assert "10 runs recorded before" in text
    kept = after[after["run_id"].isin(before["run_id"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, before)
    assert read_definition(folder).study.seeds == (0, 1, 2, 3, 4)
    with pytest.raises(ValueError, match="planned"):
        import_runs(asked(tmp_path, table(seeds=(5,)), planned=True))


def test_runs_without_a_seed_have_seeds_of_their_own(tmp_path: Path) -> None:
    frame = table(optimizers=("sgd",))
    frame["id"] = frame["lr"].astype(str) + "/" + frame.pop("seed").astype(str)
    text = import_runs(asked(tmp_path, frame, seed=None, run="id"))
    assert "15 runs without a seed" in text
    cells = analysis.load(tmp_path / "ours")
    assert cells["seed"].nunique() == 15
    with pytest.raises(ValueError, match="without a seed"):
        import_runs(asked(tmp_path, frame, seed=None, run="id"))


def test_runs_cut_while_healthy_are_missing(tmp_path: Path) -> None:
    frame = table()
    short = (frame["lr"] == 0.2) & (frame["seed"] == 1) & (frame["step"] >= 30)
    gone = (frame["lr"] == 1.6) & (frame["seed"] == 1) & (frame["step"] >= 50)  # it exploded at step 30
    frame = frame[~short & ~gone]
    text = import_runs(asked(tmp_path, frame))
    assert "30 to 60 steps" in text
    assert "2 runs missing" in text
    folder = tmp_path / "ours"
    assert len(read_failures(folder)) == 2
    assert read_status(folder).total["failed"] == 2
    assert "2 missing" in status(folder)
    assert "resume" not in status(folder)
    assert "2 runs are missing and not counted in n" in report(folder)
    page = (folder / "report.html").read_text()
    assert "2 of the imported runs were cut while healthy" in page
    assert "not run yet" not in page
    cells = analysis.load(folder)
    assert len(cells) == 28
    exploded = cells[(cells["lr"] == 1.6) & (cells["seed"] == 1)]
    assert list(exploded["outcome"]) == ["diverged"] * 2
    assert list(exploded["steps"]) == [50] * 2
    import_runs(asked(tmp_path, frame, ended="completed", out=str(tmp_path / "all")))
    cells = analysis.load(tmp_path / "all")
    assert list(cells[(cells["lr"] == 0.2) & (cells["seed"] == 1)]["outcome"]) == ["completed"] * 2
    text = import_runs(asked(tmp_path, frame, horizon=30, out=str(tmp_path / "at_30")))
    cells = analysis.load(tmp_path / "at_30")
    assert len(cells) == 30
    assert set(cells["steps"]) == {30}
    assert "warning" not in text


def test_logged_steps_and_first_step_may_differ_from_zero(tmp_path: Path) -> None:
    frame = table()
    frame = frame[frame["step"] % 5 == 0].assign(step=lambda rows: rows["step"] + 1)
    import_runs(asked(tmp_path, frame))
    cells = analysis.load(tmp_path / "ours")
    assert set(cells["outcome"]) == {"completed", "diverged"}
    assert set(cells["steps"]) == {57}


def test_losses_that_are_not_finite_diverge(tmp_path: Path) -> None:
    """pandas writes NaN as an empty field; a row between losses, such as one of a validation, is skipped."""
    frame = table()
    at = (frame["lr"] == 0.1) & (frame["seed"] == 0)
    frame.loc[at & (frame["step"] >= 40), "loss"] = np.nan
    frame.loc[(frame["lr"] == 0.1) & (frame["seed"] == 1) & (frame["step"] == 20), "loss"] = np.nan
    import_runs(asked(tmp_path, frame))
    cells = analysis.load(tmp_path / "ours").set_index(["lr", "seed"]).sort_index()
    assert set(cells.loc[(0.1, 0), "reason"]) == {"nonfinite"}
    assert set(cells.loc[(0.1, 1), "outcome"]) == {"completed"}


def test_a_number_is_the_baseline(tmp_path: Path) -> None:
    flat = table(optimizers=("sgd",))
    flat.loc[flat["lr"] == 0.8, "loss"] = 1.7  # below the loss at initialization, but not below the constant
    for baseline, outcome in (((), "completed"), ((1.7,), "diverged")):
        out = tmp_path / f"by{len(baseline)}"
        import_runs(asked(tmp_path, flat, baseline=baseline, out=str(out)))
        cells = analysis.load(out)
        assert set(cells.loc[cells["lr"] == 0.8, "outcome"]) == {outcome}


def test_several_columns_distinguish_curves(tmp_path: Path) -> None:
    frame = pd.concat([table(qk_norm=0), table(qk_norm=1)])
    import_runs(asked(tmp_path, frame, curve=("optimizer", "qk_norm")))
    cells = analysis.load(tmp_path / "ours")
    assert set(zip(cells["method"], cells["qk_norm"], strict=True)) == {
        (method, value) for method in ("sgd", "adam") for value in (0, 1)
    }


def with_step(at: int, value: Any) -> Any:
    frame = table()
    frame["step"] = frame["step"].astype(object)
    frame.loc[at, "step"] = value
    return frame


@pytest.mark.parametrize(
    ("frame", "changed", "words"),
    [
        (table(), {"lr": "rate"}, ["no column 'rate'", "optimizer, lr, seed, step, loss"]),
        (table(lr="high"), {}, ["lr", "is not a number", "high"]),
        (table(lr=0.1)[:STEPS], {}, ["lr is constant (0.1)"]),
        (table(lr=-0.1), {}, ["need lr > 0"]),
        (pd.concat([table(), table()]), {}, ["same curve, lr and seed", "lr 0.1, seed 0"]),
        (table(), {"seed": None}, ["same curve, lr and seed", "--seed"]),
        (with_step(5, None), {}, ["row 6", "step"]),
        (with_step(5, 4.5), {}, ["row 6", "4.5"]),
        (with_step(5, 99), {}, ["go back from 99 to 6"]),
        (table(loss="low"), {}, ["loss", "is not a number"]),
        (table(loss=1.0), {}, ["not learnable"]),
        (table(loss=np.nan), {}, ["the run of optimizer sgd", "has no losses"]),
        (table(seed=-1), {}, ["seed -1"]),
        (table(seeds=(0,)), {}, ["two or more runs"]),
        (table()[:0], {}, ["no rows"]),
        (table(lr=np.inf), {}, ["need lr > 0", "inf"]),
        (table(lr=True), {}, ["lr", "is not a number", "True"]),
        (table(lr=0.1), {}, ["same curve, lr and seed", "lr is constant"]),
        (pd.concat([table(), table()[["loss"]]], axis=1), {}, ["several columns 'loss'"]),
        (table(), {"name": "a\nb"}, ["name holds control characters"]),
        (table(k=3), {"curve": ("optimizer", "k")}, ["option k", "rename"]),
        (table(), {"horizon": 100}, ["no run has 100 steps", "60"]),
        (table(), {"source": "missing.csv"}, ["cannot read missing.csv (No such file or directory)"]),
    ],
)
def test_wrong_tables_are_refused_in_one_line(
    frame: pd.DataFrame, changed: dict[str, Any], words: list[str], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=re.escape(words[0])) as raised:
        import_runs(asked(tmp_path, frame, **changed))
    assert all(word in str(raised.value) for word in words), raised.value
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize("content", [b"", b"\x00\x01\xff\xfe\n\x80", b"PAR1 but no more", b"lr,loss\n1,2,3\n"])
def test_a_file_that_is_no_table_is_refused(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "losses.csv").write_bytes(content)
    words = ["import", str(tmp_path / "losses.csv"), "--lr", "lr", "--loss", "loss", "--out", str(tmp_path / "ours")]
    assert main(words) == 2
    assert "is no table in CSV or Parquet" in capsys.readouterr().err
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"baseline": (1.0, 2.0)}, "--baseline"),
        ({"baseline": (0.0,)}, "--baseline > 0"),
        ({"baseline": (1.0,), "baseline_column": ("c",)}, "exclude"),
        ({"loss": ("loss", "loss")}, "twice"),
        ({"curve": ("lr",)}, "two of"),
        ({"loss": ("seed",)}, "two of"),
        ({"step": "lr"}, "two of"),
        ({"experiment": "gpt"}, "study import mlflow"),
        ({"source": "mlflow"}, "--experiment"),
    ],
)
def test_options_that_do_not_fit_together_are_refused(changed: dict[str, Any], word: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=word):
        asked(tmp_path, None, **changed)


def test_a_trained_study_is_not_imported_into(judged: Path, tmp_path: Path) -> None:
    folder = judged.parent.parent
    before = (folder / "study.json").read_bytes()
    with pytest.raises(ValueError, match="were trained"):
        import_runs(asked(tmp_path, table(), out=str(folder)))
    assert (folder / "study.json").read_bytes() == before


def test_the_definition_is_json_of_this_version(tmp_path: Path) -> None:
    import_runs(asked(tmp_path, table()))
    definition = read_definition(tmp_path / "ours")
    assert dataclasses.replace(definition.study, seeds=(0,)).trainer == "imported"
    assert json.loads((tmp_path / "ours" / "study.json").read_bytes())

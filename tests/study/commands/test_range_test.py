"""`study range-test` from the command line: bad input, what is recorded, and what a report says beside the edges."""

import dataclasses
import re
import shutil
from pathlib import Path

import pytest
import torch
import trained_study

from study.cli.main import main
from study.commands.range_test import RangeRequest
from study.commands.request import load_space
from study.config import MAX_LR
from study.record.range_tests import read_range_tests
from study.storage.lock import locked


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUDY_CACHE", str(trained_study.cache(tmp_path_factory)))


def words_of_the_study() -> list[str]:
    return [word for setting in trained_study.SETTINGS for word in ("--set", setting)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--from", "2", "--to", "1"], "--from 2 is not below --to 1"),
        (["--steps", "19"], "--steps needs at least 20, got 19"),
        (["--from", "0"], "--from needs a finite lr above 0, got 0"),
        (["--seeds", "0"], "--seeds needs at least 1"),
        (["--seeds", "x"], "seeds are numbers and ranges such as 0-7 or 0-3,8; got 'x'"),
        (["--set", "methods=none,rollback"], "rollback goes back to an earlier step"),
        (["--set", "models=nothing"], "nothing"),
        (["--device", "cuda"], "study: this machine cannot train on cuda: its torch "),
    ],
)
def test_bad_input_is_a_line_and_writes_nothing(
    words: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: False)
    out = tmp_path / "out"
    assert main(["range-test", "quick", "--set", "data.rows=20000", "--out", str(out), *words]) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert len(said.err.splitlines()) == 1
    assert not out.exists()


def test_range_tests_stand_beside_the_runs(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "study"
    shutil.copytree(trained_study.once(tmp_path_factory), folder)
    before = {path: path.read_bytes() for kind in ("runs", "losses") for path in (folder / kind).iterdir()}
    before[folder / "study.json"] = (folder / "study.json").read_bytes()
    words = ["range-test", "quick", *words_of_the_study(), "--out", str(folder), "--workers", "1"]
    words += ["--from", "0.01", "--to", "20", "--steps", "40", "--seeds", "2"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "6 runs to train" in said
    assert "lr 0.01 to 20 in 40 steps, 2 seeds" in said
    assert "At Lightning's suggestion" in said
    assert before == {path: path.read_bytes() for path in before}
    tests = read_range_tests(folder)
    assert sorted(tests["method"].unique()) == ["agc", "clippy", "none"]
    assert tests["seed"].tolist() == [0, 1] * 3
    assert {len(loss) for loss in tests["loss"]} == {40}

    assert main(words) == 0
    assert "0 runs to train" in capsys.readouterr().out
    assert main(["report", str(folder)]) == 0
    page = (folder / "report.html").read_text()
    assert "What a range test would suggest" in page
    assert "Lightning" in page
    assert (folder / "figures" / "range_tests.png").exists()
    assert (folder / "tables" / "range_tests_rules.csv").exists()

    assert main([*words, "--set", "batch=64"]) == 2
    assert "holds a study with other data, recipe or trainer" in capsys.readouterr().err


def test_a_folder_without_a_study_gets_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings, out = ("data.rows=20000", "methods=none", "models=small"), tmp_path / "out"
    words = [word for setting in settings for word in ("--set", setting)]
    assert main(["range-test", "quick", *words, "--seeds", "7-7", "--steps", "20", "--out", str(out)]) == 0
    assert "small, none" in capsys.readouterr().out
    assert read_range_tests(out)["seed"].tolist() == [7]
    assert not (out / "study.json").exists()
    assert main(["status", str(out)]) == 2
    assert capsys.readouterr().err == f"study: {out} holds no study yet: 1 range test is recorded there\n"
    with locked(out):
        assert main(["status", str(out)]) == 2
    assert re.search("1 range test is recorded there; .* is at work$", capsys.readouterr().err)


LOOP = """
from study import Arm, EdgeSearch, Loop, Study

def train(run, watch, *, curvature=1.0):
    weight = 1.0
    for step in range(20):
        watch(curvature * weight**2 / 2 + 1e-3)
        weight *= 1 - run.lr_at(step) * curvature

arms = (Arm("zero"), Arm("plain", curvature=2.0), Arm("after", curvature=3.0))
study = Study(name="own", trainer=Loop(train), arms=arms, search=EdgeSearch())
"""


def test_arms_of_a_loop_stand_in_the_order_of_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "loop_space.py").write_text(LOOP)
    monkeypatch.chdir(tmp_path)
    assert main(["range-test", "loop_space", "--out", "out", "--steps", "20", "--seeds", "1", "--workers", "1"]) == 0
    said = capsys.readouterr().out
    places = [said.index(f", {name}: lr") for name in ("zero", "plain", "after")]
    assert places == sorted(places)


def test_the_default_ramp_ends_at_the_highest_lr() -> None:
    assert RangeRequest().ramp(dataclasses.replace(load_space("quick"), lrs=(1.0, 0.9 * MAX_LR))).high == MAX_LR

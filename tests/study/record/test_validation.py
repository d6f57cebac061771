"""Untrusted input: records, command lines and settings.

A bad one gives one line on stderr and exit code 2, or its file is set aside with a warning. Nothing is executed.
"""

import ast
import errno
import functools
import html.parser
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from paths import ROOT
from simulated_record import simulated_definition, write_simulated_study

from analysis.stats import signals
from study import plugins
from study.cli.main import main
from study.cli.parser import build_parser
from study.cli.verbs import READING, VERBS
from study.config import Arm
from study.record import files, tables
from study.record.confirmations import read_confirmations
from study.record.definition import RecordError, open_study, read_definition
from study.record.failures import read_failures, write_failure
from study.record.repair import set_bad_files_aside
from study.replay.signals import observed
from study.storage import stores, untrusted_input
from study.text import console
from study.tracking.view import build_view


@pytest.fixture(autouse=True)
def _as_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STUDY_CACHE", str(tmp_path / "cache"))
    for name in ("RAY_ADDRESS", "STUDY_TRACEBACK", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    shown, path = warnings.showwarning, list(sys.path)
    yield
    warnings.showwarning, sys.path[:] = shown, path
    plugins.only_ours = False


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    written = tmp_path_factory.mktemp("template") / "theirs"
    arms = [Arm(method="none"), Arm(method="clippy")]
    write_simulated_study(written, simulated_definition(models=("small",), arms=arms, lrs=(0.1, 0.6), seeds=(0, 1)))
    return written


@pytest.fixture
def folder(tmp_path: Path, template: Path) -> Path:
    """A record of a few runs, as a study leaves it."""
    return Path(shutil.copytree(template, tmp_path / "theirs"))


def refused(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    """Run a command that must be refused. Returns its one line on stderr."""
    try:
        code = main([str(word) for word in words])
    except SystemExit as stop:
        code = stop.code
    said = capsys.readouterr()
    assert code == 2, (code, said)
    assert len(said.err.splitlines()) == 1, said.err
    assert said.err.isprintable() or said.err[:-1].isprintable()
    assert "Traceback" not in said.err
    return said.err


# --- study.json -------------------------------------------------------------------------------------------------------


def put(*path: str | int, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        at: Any = content
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = value

    return change


DEFINITIONS: dict[str, Callable[[dict[str, Any]], None]] = {
    "no study": lambda c: c.pop("study"),
    "study is a list": put("study", value=[]),
    "no data": lambda c: c.pop("data"),
    "no tasks": lambda c: c["data"].pop("tasks"),
    "tasks is a word": put("data", "tasks", value="click"),
    "no task": put("data", "tasks", value=[]),
    "a task is a number": put("data", "tasks", value=[3]),
    "a task of another kind": put("data", "tasks", 0, "kind", value="exec"),
    "a task's base is a word": put("data", "tasks", 0, "base", value="much"),
    "content is a number": put("data", "content", value=5),
    "versions is a list": put("versions", value=["torch"]),
    "a version is a list": put("versions", "torch", value=["2"]),
    "a name that colours": put("study", "name", value="x\x1b[31mred"),
    "a name that turns": put("study", "name", value="x\u202egnp"),
    "a name of two lines": put("study", "name", value="x\nstudy: all is well"),
    "a name that is a page": put("study", "name", value="x" * 10_000),
    "an empty name": put("study", "name", value=""),
    "a model is a number": put("study", "models", value=[1]),
    "models is a word": put("study", "models", value="small"),
    "no models": put("study", "models", value=[]),
    "a model with a NUL": put("study", "models", value=["sm\0all"]),
    "an arm is a word": put("study", "arms", value=["none"]),
    "an arm without a method": put("study", "arms", value=[{"options": {}}]),
    "options is a list": put("study", "arms", value=[{"method": "none", "options": []}]),
    "an option is a mapping": put("study", "arms", 0, "options", value={"rel": {"a": 1}}),
    "an arm with more": put("study", "arms", 0, value={"method": "none", "options": {}, "run": "rm"}),
    "lrs is a number": put("study", "lrs", value=0.1),
    "an lr is a word": put("study", "lrs", value=["0.1"]),
    "an lr is true": put("study", "lrs", value=[True]),
    "an lr below 0": put("study", "lrs", value=[-0.1]),
    "an lr of 1e999": put("study", "lrs", value=[1e300]),
    "a seed is a half": put("study", "seeds", value=[0.5]),
    "a seed below 0": put("study", "seeds", value=[-1]),
    "a seed beyond": put("study", "seeds", value=[10**30]),
    "a seed twice": put("study", "seeds", value=[1, 1]),
    "900,000 seeds of each cell": put("study", "seeds", value=list(range(900_000))),
    "200,000 models": put("study", "models", value=[f"m{i}" for i in range(200_000)]),
    "100,000 arms": put("study", "arms", value=[{"method": "none", "options": {"x": i}} for i in range(100_000)]),
    "900,000 lrs": put("study", "lrs", value=[1e-6 * (i + 1) for i in range(900_000)]),
    "a long control": put("study", "control_lrs", value=[1e-6 * (i + 1) for i in range(2_001)]),
    "two million seeds": put("study", "seeds", value=list(range(2_000_000))),
    "a batch is a word": put("study", "recipe", "batch", value="512"),
    "a batch is a list": put("study", "recipe", "batch", value=[512]),
    "steps below 0": put("study", "recipe", "steps", value=-5),
    "an unknown recipe": put("study", "recipe", "shell", value="rm"),
    "a rule is a word": put("study", "rule", "kept", value="most"),
    "an unknown field": put("study", "callback", value="os.system"),
    "another search": put("study", "search", value={"kind": "luck"}),
    "a search is a list": put("study", "search", value=[1]),
    "a search of words": put("study", "search", value={"kind": "edges", "level": "half"}),
    "another format": put("format", value=99),
    "format is a list": put("format", value=[1]),
}

TEXTS = {
    "empty": b"",
    "a list": b"[]",
    "torn": b'{"format": 1, "study": {"na',
    "not UTF-8": b"\xff\xfe\x00",
    "deep": b"[" * 200_000,
    "deep objects": b'{"study":' * 100_000,
    "NaN": b'{"format": 1, "study": {"lrs": [NaN]}}',
    "Infinity": b'{"format": Infinity}',
    "a number of 10,000 digits": b'{"format": ' + b"9" * 10_000 + b"}",
    "a pickle": b"cos\nsystem\n(S'touch pwned'\ntR.",
}


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None]) -> bytes:
    content = json.loads((folder / "study.json").read_text())
    content.pop("sha256", None)
    change(content)
    text = json.dumps(content).encode()
    (folder / "study.json").write_bytes(text)
    return text


@pytest.mark.parametrize("wrong", DEFINITIONS)
def test_a_bad_definition_is_refused(folder: Path, capsys: pytest.CaptureFixture[str], wrong: str) -> None:
    text = rewrite(folder, DEFINITIONS[wrong])
    for command in ("status", "recommend"):
        assert "study.json" in refused(capsys, command, folder)
    assert (folder / "study.json").read_bytes() == text
    assert len(list((folder / "runs").iterdir())) == 3


@pytest.mark.parametrize("wrong", TEXTS)
def test_a_definition_that_is_not_json_is_refused(folder: Path, capsys: pytest.CaptureFixture[str], wrong: str) -> None:
    (folder / "study.json").write_bytes(TEXTS[wrong])
    for command in ("status", "report", "resume", "mlflow"):
        assert "study.json" in refused(capsys, command, folder)
    assert (folder / "study.json").read_bytes() == TEXTS[wrong]
    assert not (folder / "pwned").exists()


def test_a_rewritten_definition_is_read(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(folder, lambda content: None)
    assert main(["status", str(folder)]) == 0
    assert "8 of 8 runs recorded" in capsys.readouterr().out


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
CONTENT = {"format": 1, "study": {}, "data": {}, "versions": {}}
PLACES: list[tuple[str | int, ...]] = [
    ("study",),
    ("data",),
    ("versions",),
    *(("study", name) for name in ("name", "models", "arms", "lrs", "seeds", "recipe", "rule", "search", "data")),
    *(("study", "arms", 0, name) for name in ("method", "options")),
    *(("study", "recipe", name) for name in ("batch", "steps", "precision", "eps")),
    *(("data", name) for name in ("content", "tasks")),
    ("data", "tasks", 0),
]


@hypothesis_settings(max_examples=150)
@given(place=st.sampled_from(PLACES), value=JSON)
def test_any_json_in_a_definition_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, place: tuple[str | int, ...], value: Any
) -> None:
    folder = tmp_path_factory.getbasetemp() / "any"
    if not folder.exists():
        open_study(folder, simulated_definition(models=("small",), lrs=(0.1,), seeds=(0,)))
        (folder / "good.json").write_bytes((folder / "study.json").read_bytes())
    (folder / "study.json").write_bytes((folder / "good.json").read_bytes())
    rewrite(folder, put(*place, value=value))
    found = said = None
    try:
        found = read_definition(folder)
    except RecordError as error:
        said = str(error)
    assert found.study.models if found else said and "study.json is not a study's definition" in said


# --- files of the record ----------------------------------------------------------------------------------------------


def column(name: str, value: Any, kind: pa.DataType | None = None) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        kept = pa.array([value] * len(table), kind or table.schema.field(name).type)
        at = table.column_names.index(name) if name in table.column_names else None
        return table.append_column(name, kept) if at is None else table.set_column(at, name, kept)

    return change


RUNS: dict[str, Callable[[pa.Table], pa.Table]] = {
    "an id is a path": column("run_id", "../../etc/passwd"),
    "an id is missing": column("run_id", None),
    "an id with an escape": column("run_id", "\x1b]0;title\x07"),
    "ids are numbers": column("run_id", 7, pa.int64()),
    "a method that colours": column("method", "\x1b[31mnone"),
    "a model is missing": column("model", None),
    "a model is a page": column("model", "x" * 10_000),
    "an lr is NaN": column("lr", float("nan")),
    "an lr is infinite": column("lr", float("inf")),
    "an lr below 0": column("lr", -0.1),
    "an lr is missing": column("lr", None),
    "lrs are words": column("lr", "0.1", pa.string()),
    "a seed is missing": column("seed", None),
    "a seed below 0": column("seed", -1),
    "another role": column("role", "root"),
    "another outcome": column("outcome", "won"),
    "steps below 0": column("steps", -5),
    "diverged before it began": column("diverged_at_step", -1),
    "episodes below 0": column("micro_episodes", -2),
    "kept is infinite": column("kept", float("-inf")),
    "seconds are infinite": column("seconds", float("inf")),
    "thresholds are a list": column("thresholds", "[1, 2]"),
    "a threshold is a word": column("thresholds", '{"rel": "much"}'),
    "a threshold is infinite": column("thresholds", '{"rel": Infinity}'),
    "thresholds are no JSON": column("thresholds", "{rel: 1}"),
    "thresholds are deep": column("thresholds", "[" * 100_000),
    "options are a number": column("options", "3"),
    "the own code is a list": column("own_code", "[1]", pa.string()),
    "the own code is a number": column("own_code", 3, pa.int64()),
    "a module that colours": column("own_code", '{"\\u001b[31mm": "a"}', pa.string()),
    "a module without a hash": column("own_code", '{"m": null}', pa.string()),
    "an auc is a word": column("auc_more", "high", pa.string()),
    "a diverged task is a number": column("diverged_more", 3, pa.int64()),
    "a column is missing": lambda table: table.drop_columns(["role"]),
    "a column with an escape": lambda table: table.append_column("kept_\x1b[2J", pa.array([1.0] * len(table))),
    "more rows than a trial has": lambda table: table.take([0] * 1_100_000),
}


@pytest.mark.parametrize("wrong", RUNS)
def test_a_bad_file_of_runs_is_set_aside(folder: Path, wrong: str) -> None:
    path = folder / "runs" / "small-01.parquet"
    before = tables.recorded_ids(folder)
    pq.write_table(RUNS[wrong](pq.read_table(path)), path)
    content = path.read_bytes()
    with pytest.warns(RuntimeWarning, match=r"small-01.parquet cannot be read .* count as missing"):
        set_bad_files_aside(folder)
    left = tables.recorded_ids(folder)
    assert left < before
    assert len(left) == len(before) - 4
    (aside,) = (folder / "set_aside").iterdir()
    assert aside.read_bytes() == content


LOSSES: dict[str, Callable[[pa.Table], pa.Table]] = {
    "losses are words": column("loss", "low", pa.string()),
    "a task is missing": lambda table: table.drop_columns(["task"]),
    "seeds are words": column("seed", "one", pa.string()),
}


@pytest.mark.parametrize("wrong", LOSSES)
def test_a_bad_file_of_losses_is_ignored(folder: Path, wrong: str) -> None:
    path = folder / "losses" / "small-01.parquet"
    pq.write_table(LOSSES[wrong](pq.read_table(path)), path)
    with pytest.warns(RuntimeWarning, match=r"losses/small-01.parquet cannot be read"):
        tables.read_losses(folder)


FAILURES = {
    "a list": b"[]",
    "no ids": b'{"reason": "x"}',
    "ids are a word": b'{"run_ids": "abc", "reason": "x"}',
    "an id is a path": b'{"run_ids": ["../x"], "reason": "x"}',
    "an id is a number": b'{"run_ids": [3], "reason": "x"}',
    "a reason is a list": b'{"run_ids": ["a"], "reason": [1]}',
    "a run is a number": b'{"run_ids": ["a"], "reason": "x", "runs": [1]}',
    "more ids than runs": b'{"run_ids": ["a"], "reason": "x", "runs": []}',
    "an lr is a word": b'{"run_ids": ["a"], "reason": "x", "runs": [{"model": "m", "method": "n", "options": {}, '
    b'"lr": "high", "seed": 1}]}',
    "deep": b"[" * 200_000,
    "not UTF-8": b"\xff\xfe",
}


@pytest.mark.parametrize("wrong", FAILURES)
def test_a_bad_failure_is_set_aside(folder: Path, wrong: str) -> None:
    (folder / "failures").mkdir(exist_ok=True)
    (folder / "failures" / "x.json").write_bytes(FAILURES[wrong])
    with pytest.warns(RuntimeWarning, match=r"failures/x.json cannot be read"):
        assert read_failures(folder) == {}
    with pytest.warns(RuntimeWarning, match=r"failures/x.json cannot be read .* set aside as"):
        set_bad_files_aside(folder)
    assert read_failures(folder) == {}, "no second warning"


CONFIRMATION = {
    "lr": 0.1,
    "seeds": [5, 6],
    "models": ["small"],
    "arms": [{"method": "none", "options": {}}],
    "number": 0,
    "study_seeds": 2,
}


@pytest.mark.parametrize(
    "wrong",
    [
        {"lr": "0.1"},
        {"seeds": "56"},
        {"seeds": [0.5]},
        {"seeds": []},
        {"models": [1]},
        {"arms": ["none"]},
        {"arms": [{"method": 3}]},
        {"number": "first"},
        {"more": 1},
    ],
)
def test_a_bad_confirmation_is_refused(folder: Path, capsys: pytest.CaptureFixture[str], wrong: dict[str, Any]) -> None:
    (folder / "confirm").mkdir()
    (folder / "confirm" / "x.json").write_text(json.dumps(CONFIRMATION | wrong))
    assert "confirm/x.json cannot be read" in refused(capsys, "recommend", folder)
    (folder / "confirm" / "x.json").write_text(json.dumps(CONFIRMATION))
    assert main(["recommend", str(folder)]) == 0


# --- links ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["report.html", "runs.parquet", "lock", "mlflow.db", "mlflow-id", "tables", "study.json"]
)
@pytest.mark.parametrize("command", ["report", "status", "mlflow", "resume"])
def test_links_in_a_record_are_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, name: str
) -> None:
    mine = tmp_path / "mine"
    mine.write_text("precious")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(mine)
    assert "is a link, and no study makes one there" in refused(capsys, command, folder)
    assert mine.read_text() == "precious"


PLACES = [
    *("runs", "losses", "failures", "confirm", "init", "rescored", "set_aside", "checkpoints", "training", "replay"),
    *("runs/small-00.parquet", "losses/small-00.parquet", "failures/x.json", "confirm/x.json", "tables/edges.csv"),
    *("rescored/0123456789ab/runs", "rescored/0123456789ab/losses", "study.json", "report.html"),
]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("command", ["report", "status", "recommend", "rescore", "mlflow", "resume"])
def test_no_command_follows_a_link_out_of_a_record(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, place: str
) -> None:
    mine = tmp_path / "mine"
    path, target = folder / place, mine / Path(place).name
    path.parent.mkdir(parents=True, exist_ok=True)
    mine.mkdir()
    if path.exists():
        path.rename(target)
    elif "." in path.name:
        target.write_text("precious")
    else:
        target.mkdir()
    (mine / "x.parquet").write_text("precious")
    path.symlink_to(target)
    before = contents(mine)
    words = ["--rule", "kept=0.5"] if command == "rescore" else []
    assert "is a link, and no study makes one there" in refused(capsys, command, folder, *words)
    assert contents(mine) == before
    assert not (folder / "set_aside").is_dir() or place == "set_aside"


@pytest.mark.parametrize("place", PLACES)
def test_no_link_is_followed_below_the_commands(folder: Path, tmp_path: Path, place: str) -> None:
    """Each way to a file, without the look at the whole folder that comes before a command."""
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "x.json").write_text("{}")
    path = folder / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.rename(mine / "own") if path.exists() else None
    path.symlink_to(mine)
    before = contents(mine)
    store, inner = stores.LocalStore(folder), f"{place}/x.json"
    for use in (
        lambda: store.get(inner),
        lambda: store.open(inner),
        lambda: store.put(inner, b""),
        lambda: store.create(inner, b""),
        lambda: store.delete(inner),
        lambda: store.move(inner, "set_aside/x"),
        lambda: store.move("study.json", inner),
        lambda: store.names(place),
        lambda: store.get(place),
    ):
        with pytest.raises(stores.StorageError, match="is a link"):
            use()
    (folder / "link.json").symlink_to(mine / "x.json")
    for use in (store.get, store.open):
        with pytest.raises(stores.StorageError, match="is a link"):
            use("link.json")
    assert contents(mine) == before


BESIDE = ["signals/x.parquet", "tables/x.csv", "figures/x.png"]


@pytest.mark.parametrize(
    ("place", "kind"),
    [*itertools.product(BESIDE, ["a link", "a pipe"]), *((Path(p).parent.name, "a link") for p in BESIDE)],
)
def test_what_lies_beside_a_record_is_read_without_following(
    folder: Path, tmp_path: Path, place: str, kind: str
) -> None:
    """Tables and figures go to MLflow, and signals into a report."""
    mine, path = tmp_path / "mine", folder / place
    shutil.rmtree(folder / place.partition("/")[0], ignore_errors=True)
    path.parent.mkdir(exist_ok=True)
    if kind == "a link":
        mine.write_text("precious") if path.suffix else mine.mkdir()
        path.symlink_to(mine)
    else:
        os.mkfifo(path)
    view = functools.partial(build_view, definition=read_definition(folder), finished=False)
    readers = [signals.watched, observed] if place.startswith("signals") else [view]
    for read in readers:
        with pytest.raises(stores.StorageError, match="no study makes one there"):
            read(folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("place", ["study.json", "runs/x.parquet", "losses/x.parquet", "failures/x.json", "lock"])
@pytest.mark.parametrize("kind", ["a pipe", "endless", "a giant"])
def test_what_is_no_file_is_refused_at_once(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, place: str, kind: str
) -> None:
    path = folder / place
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    if kind == "a giant":
        with path.open("wb") as file:
            file.truncate(1 << 43)
        expected = "8,796,093,022,208 bytes; the most is"
    else:
        os.mkfifo(path) if kind == "a pipe" else path.symlink_to("/dev/zero")
        expected = "no study makes one there"
    if kind != "a giant" or place not in ("lock", "losses/x.parquet"):  # `status` needs neither
        assert expected in refused(capsys, "status", folder)
    monkeypatch.setattr(untrusted_input, "refuse_links", lambda _folder: None)
    with pytest.raises(stores.StorageError, match=r"no study makes one there|the most is"):
        stores.LocalStore(folder).get(place)


def test_the_members_of_a_family_hold_no_links(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "all").mkdir()
    folder.rename(tmp_path / "all" / "one")
    member = {"label": "one", "words": "one", "against": "one"}
    content = {"format": 1, "name": "all", "members": [member]}
    (tmp_path / "all" / "family.json").write_text(json.dumps(content))
    assert main(["status", str(tmp_path / "all")]) == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "all" / "one" / "failures").symlink_to(tmp_path / "mine")
    for command in ("status", "report", "resume"):
        assert "failures is a link, and no study makes one there" in refused(capsys, command, tmp_path / "all")
    (tmp_path / "all" / "one").rename(tmp_path / "mine" / "one")
    (tmp_path / "all" / "one").symlink_to(tmp_path / "mine" / "one")
    assert "one is a link, and no study makes one there" in refused(capsys, "status", tmp_path / "all")


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ([{"label": 5, "words": "one", "against": ""}], "label of a member is 5"),
        ([{"label": None, "words": "one", "against": ""}], "label of a member is None"),
        ([{"label": "one", "words": None, "against": ""}], "words of a member is None"),
        ({}, "it has no members"),
        ([{"label": "one", "words": "one", "against": ""}] * 5, "it names a member twice"),
    ],
)
def test_a_bad_family_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], members: Any, why: str
) -> None:
    (tmp_path / "family.json").write_text(json.dumps({"format": 1, "name": "all", "members": members}))
    assert f"family.json is not a family's ({why})" in refused(capsys, "status", tmp_path)


def test_a_long_reason_of_a_failure_is_shown_cut(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_failure(folder, "long", ["f" * 64], "x" * 100_000)
    assert main(["status", str(folder)]) == 0
    assert "x" * 100 in (said := capsys.readouterr().out)
    assert len(said) < 5000
    assert len((folder / "failures" / "long.json").read_bytes()) > 100_000


# --- what cannot be read now ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.ESTALE, errno.EMFILE, errno.EINTR, errno.ENOMEM])
@pytest.mark.parametrize("name", ["runs", "losses", "failures", "confirm", "study.json", "small-01.parquet", "x.json"])
def test_what_cannot_be_read_now_stops_the_command_and_stays(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str, code: int
) -> None:
    for kind, content in (("failures", FAILURE), ("confirm", CONFIRMATION)):
        (folder / kind).mkdir()
        (folder / kind / "x.json").write_text(json.dumps(content))
    before = contents(folder)
    fail_to_open(monkeypatch, name, code)
    for command in ("status", "recommend", "report") if code == errno.EIO else ("status",):
        assert os.strerror(code) in refused(capsys, command, folder)
    read = {"study.json": read_definition, "confirm": read_confirmations, "x.json": read_confirmations}
    with pytest.raises(stores.StorageError, match=os.strerror(code)):
        read.get(name, set_bad_files_aside)(folder)
    monkeypatch.undo()
    assert contents(folder) == before
    assert main(["status", str(folder)]) == 0


def test_a_file_that_fails_while_it_is_read_is_not_bad() -> None:
    def fails(error: OSError) -> None:
        raise error

    with pytest.raises(stores.StorageError, match=os.strerror(errno.EIO)):
        files.parsed(fails, OSError(errno.EIO, os.strerror(errno.EIO)))
    with pytest.raises(files.BadFileError, match="Arrow"):
        files.parsed(fails, OSError("Arrow: the magic bytes are wrong"))


FAILURE = {"run_ids": ["a"], "reason": "x"}


def fail_to_open(monkeypatch: pytest.MonkeyPatch, name: str, code: int) -> None:
    """Let the system refuse to open every file, or to list every folder, of this name."""
    for function in ("open", "listdir", "scandir"):
        real = getattr(os, function)

        def refuse(path: Any, *args: Any, real: Any = real, **options: Any) -> Any:
            if isinstance(path, str | Path) and Path(path).name == name:
                raise OSError(code, os.strerror(code), name)
            return real(path, *args, **options)

        monkeypatch.setattr(os, function, refuse)


def test_a_command_that_reads_leaves_a_bad_file_where_it_is(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kind, name in (("runs", "small-00.parquet"), ("losses", "small-01.parquet"), ("failures", "x.json")):
        (folder / kind).mkdir(exist_ok=True)
        (folder / kind / name).write_bytes(b"bad")
    before = contents(folder)
    for command in ("status", "recommend", "report", "mlflow"):
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            assert main([command, str(folder)]) == 0
        said = capsys.readouterr().err.splitlines()
        assert "small-00.parquet and 1 more" in said[0]
        assert len(said) == len(set(said)), "each is said once"
    after = contents(folder)
    assert {path: after[path] for path in before} == before
    assert not (folder / "set_aside").exists()


# --- foreign code -----------------------------------------------------------------------------------------------------


EVIL = "from pathlib import Path\nPath(__file__).with_name('pwned').touch()\ndef build(*_, **__): raise SystemExit\n"


@pytest.mark.slow
def test_reading_a_record_imports_no_module_that_it_names(tmp_path: Path) -> None:
    """Runs in its folder, which also holds modules with the names of imported ones."""
    written = tmp_path / "theirs"
    arms = [Arm(method="none"), Arm(method="evil.method")]
    write_simulated_study(
        written, simulated_definition(models=("evil.model",), arms=arms, lrs=(0.1, 0.6), seeds=(0, 1))
    )
    rewrite(written, put("study", "data", value="evil.source"))
    (written / "evil").mkdir()
    for name in ("evil/__init__", "evil/method", "evil/model", "evil/source", "pandas", "colorsys"):
        (written / f"{name}.py").write_text(EVIL)
    for words in ("status .", "report .", "recommend . --json", "rescore . --rule kept=0.5", "mlflow ."):
        done = run_study(words.split(), cwd=written)
        assert "Traceback" not in done.stderr
        assert done.returncode == 0, (words, done.stderr)
    assert not list(written.rglob("pwned"))
    done = run_study(["resume", "."], cwd=written)  # training imports the modules, so the check can fail
    assert list(written.rglob("pwned"))


def run_study(words: list[str], cwd: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; sys.path[0] = sys.argv.pop(1); from study.cli.main import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", code, str(ROOT), *words],
        cwd=cwd,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | settings,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_every_command_states_whether_it_may_import_user_modules() -> None:
    commands = next(a for a in build_parser(VERBS)._actions if a.dest == "command" or a.choices).choices
    assert commands is not None
    trains = {"plan", "run", "resume", "confirm", "submit", "data", "range-test", "replay", "export-weights", "signals"}
    assert set(commands) - set(READING) <= trains


def test_no_module_reads_a_pickle_or_runs_text() -> None:
    found = []
    for package in ("study", "models", "search_spaces", "analysis"):
        for path in (ROOT / package).rglob("*.py"):
            found += [f"{path.name}: {what}" for what in unsafe(path.read_text())]
    assert found == []


def unsafe(source: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            named = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            found += [
                n for n in named if n.split(".")[0] in ("pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal")
            ]
        elif isinstance(node, ast.Call):
            name, words = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
            if name in ("eval", "exec", "os.system", "yaml.load", "pd.read_pickle", "pandas.read_pickle"):
                found.append(name)
            if name == "torch.load" and words.get("weights_only") != "True":
                found.append(name)
            if words.get("allow_pickle", "False") != "False" or words.get("shell", "False") != "False":
                found.append(name)
            if name == "np.load" and words.get("allow_pickle") != "False":
                found.append(name)
    return found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from cloudpickle import loads",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text)",
        "eval(text)",
        "subprocess.run(text, shell=True)",
    ],
)
def test_the_scan_finds_unsafe_code(source: str) -> None:
    assert unsafe(source)


# --- pages and terminals ----------------------------------------------------------------------------------------------


SCRIPT = "<script>alert(1)</script>"


def test_names_that_are_scripts_are_escaped_on_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Tags(html.parser.HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[tuple[str, dict[str, str | None]]] = []

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.seen.append((tag, dict(attrs)))

    def tags(name: str, model: str, arms: list[Arm]) -> list[tuple[str, dict[str, str | None]]]:
        written = tmp_path / re.sub(r"\W", "", name)
        one = simulated_definition(models=(model,), arms=arms, lrs=(0.1, 0.6), seeds=(0, 1), name=name)
        write_simulated_study(written, one)
        assert main(["report", str(written)]) == 0
        parser = Tags()
        parser.feed((written / "report.html").read_text())
        return parser.seen

    harmless = tags("plain", "plain", [Arm(method="none"), Arm(method="plain")])
    found = tags(
        f"{SCRIPT}' onload='x",
        "<img src=x onerror=alert(1)>",
        [Arm(method="none"), Arm(method=SCRIPT, options={"base": "<img src=x>"})],
    )
    assert SCRIPT in capsys.readouterr().out  # harmless in a terminal
    assert {tag for tag, _ in found} <= {tag for tag, _ in harmless}
    assert "script" not in {tag for tag, _ in found}
    assert not [name for _, attributes in found for name in attributes if name.startswith("on")]


@pytest.mark.parametrize("name", ["\x1b[2J", "a\x07b", "a\rb", "\u202etxt", "\x9b31m", "x\u200by"])
def test_control_characters_are_escaped(name: str) -> None:
    shown = console.printable(f"a {name} b")
    assert shown.isprintable()
    assert console.printable(shown) == shown


# --- command lines and settings ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["status", "\x1b[31m"],
        ["status", "x" * 5000],
        ["status", "a\0b"],
        ["report", "/dev/null"],
        ["recommend", "/proc/self/mem"],
        ["run", "quick", "--set", "\x1b]0;x\x07=1"],
        ["run", "__import__('os').system('id')"],
        ["run", "../../etc/passwd"],
        ["run", "quick", "--seeds", "0-99999999999999999999"],
        ["run", "quick", "--seeds", "9" * 5000],
        ["run", "quick", "--set", "lr=1e999"],
        ["run", "quick", "--set", "data.rows=" + "9" * 5000],
        ["run", "quick", "--set", "batch=" + "9" * 400],
        ["run", "quick", "--set", "steps=99999999999999999999999"],
        ["run", "quick", "--set", "steps=1e999"],
        ["run", "quick", "--set", "models=os.path"],
        ["run", "quick", "--set", "methods=..x"],
        ["run", "quick", "--data", "os"],
        ["run", "quick", "--out", "a\0b"],
        ["run", "quick", "--address", "127.0.0.1:99999", "--out", "/tmp/never"],
        ["run", "quick", "--address", "nowhere.invalid:1", "--out", "/tmp/never"],
        ["data", "fetch", "../x"],
        ["data", "check", "synthetic", "--data-dir", "a\0b"],
        ["rescore", ".", "--rule", "__class__=1"],
    ],
)
def test_bad_command_lines_are_refused(capsys: pytest.CaptureFixture[str], words: list[str], tmp_path: Path) -> None:
    refused(capsys, *words)
    assert not list(tmp_path.iterdir()) or {path.name for path in tmp_path.iterdir()} == {"cache"}


@pytest.mark.parametrize(
    "settings",
    [
        {"STUDY_CACHE": "/dev/null/x"},
        {"STUDY_CACHE": "/proc/nothing"},
        {"HOME": "/nonexistent", "STUDY_CACHE": ""},
        {"MLFLOW_TRACKING_URI": "\x1b[31m://x"},
        {"MLFLOW_TRACKING_URI": "nothing://user:hunter22@host/x"},
        {"COLUMNS": "many"},
    ],
)
def test_broken_settings_do_not_prevent_reading(folder: Path, tmp_path: Path, settings: dict[str, str]) -> None:
    """Commands that need a setting are refused in one line without its secrets; others work."""
    for command in ("status", "mlflow") if "MLFLOW_TRACKING_URI" in settings else ("status",):
        done = run_study([command, str(folder)], cwd=tmp_path, **settings)
        assert done.returncode == (0 if command == "status" else 2)
        assert len(done.stderr.splitlines()) == (1 if done.returncode else 0), done.stderr
        assert "hunter22" not in done.stderr + done.stdout
        assert (done.stderr + done.stdout).replace("\n", "").isprintable()

"""The command: bad input is one line on stderr and exit code 2, and nothing is trained, written or overwritten."""

import argparse
import dataclasses
import json
import os
import re
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from paths import ROOT

from study.cli.main import main
from study.cli.parser import OPTIONS, build_parser, current_words, run_words
from study.cli.verbs import VERBS
from study.commands import run
from study.commands.plan import preview
from study.commands.request import RunRequest, change_study, load_space, requested_study
from study.storage.stores import cache_folder

SMALL = ["--set", "data.rows=2000", "--set", "batch=64", "--set", "models=small"]


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An empty working folder, a cache elsewhere, and no Ray."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STUDY_CACHE", str(tmp_path_factory.getbasetemp() / "cli-cache"))
    for name in ("RAY_ADDRESS", "STUDY_TRACEBACK"):
        monkeypatch.delenv(name, raising=False)
    shown = warnings.showwarning
    yield
    warnings.showwarning = shown


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run a command that must fail and write nothing. Returns its one line."""

    def contents() -> dict[Path, bytes | None]:
        return {path: path.read_bytes() if path.is_file() else None for path in sorted(tmp_path.rglob("*"))}

    def refuse(*words: str | Path) -> str:
        from study.tune import cluster

        monkeypatch.setattr(cluster, "_init", lambda *_a, **_k: pytest.fail("Ray was started"))
        before = contents()
        try:
            code = main([str(word) for word in words])
        except SystemExit as stop:  # argparse
            code = stop.code
        said = capsys.readouterr()
        assert code == 2, said
        assert contents() == before, "something was written"
        lines = said.err.splitlines()
        if lines[0].startswith("usage:"):
            lines = lines[-1:]
        assert len(lines) == 1, said.err
        assert "Traceback" not in said.err
        assert said.out == ""
        return lines[0]

    return refuse


# --- arguments ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["run", "plan"])
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["quik"], "unknown study 'quik'; there are bases, best_quality, "),
        (["my_digit"], "or a file of the current folder"),
        (["my_pkg.my_space"], "unknown study 'my_pkg.my_space'"),
        (["..x"], "unknown study '..x'"),
        (["study.plugins"], "study.plugins defines no `study`"),
        (["quick", "--set", "methods=clip"], "unknown method 'clip'; there are activation_clip, adagc, agc, "),
        (["quick", "--set", "models=smal"], "unknown model 'smal'; there are "),
        (["quick", "--data", "kuairan"], "unknown data source 'kuairan'; there are kuairand, synthetic, table"),
        (["quick", "--set", "data.row=3"], "the data source 'synthetic' has no option row; its options are rows"),
        (["quick", "--set", "data.rows=3"], "need a whole number rows >= 100, got rows=3"),
        (["quick", "--data-dir", "x"], "the data source 'synthetic' has no option --data-dir; its options are rows, "),
        (
            ["lr_curve", "--data-dir", "s3://bucket/log"],
            "--data-dir must be a folder, got s3://bucket/log; copy or mount",
        ),
        (["quick", "--set", "clippy.relative=1"], "clippy has no option relative; it has rel, abs"),
        (["quick", "--set", "clippy.rel=-1"], "need rel >= 0, got rel=-1"),
        (["quick", "--set", "layer_clip.max_norm=0"], "need max_norm > 0, got max_norm=0"),
        (["quick", "--set", "clippy.rel=much"], "need a number as rel, got rel='much'"),
        (["quick", "--set", "clippy.norm=mean"], "norm is one of max, rms; got 'mean'"),
        (["quick", "--set", "steps"], "--set takes key=value, got 'steps'"),
        (["quick", "--seeds", "7-0"], "seeds are numbers and ranges such as 0-7 or 0-3,8; got '7-0'"),
        (["quick", *SMALL, "--set", "batch=4096"], "training rows do not fill one batch of 4096"),
        (["quick", "--workers", "0"], "need at least 1, got 0"),
        (["quick", "--workers", "two"], "invalid int value: 'two'"),
        (["quick", "--stack", "-1"], "need at least 1, got -1"),
        (["quick", "--sed", "1"], "unrecognized arguments: --sed 1"),
        ([], "the following arguments are required: SPACE"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(
    refused: Callable[..., str], command: str, words: list[str], message: str
) -> None:
    assert message in refused(command, *words)


@pytest.mark.parametrize("fraction", ["0.3", "2", "-1", "half", "nan", "2/3", "1/0", "-1/2", ""])
def test_a_gpu_share_that_is_not_one_over_n_is_refused(refused: Callable[..., str], fraction: str) -> None:
    assert "--gpu-fraction" in refused("run", "quick", "--gpu-fraction", fraction)


@pytest.mark.parametrize(
    ("fraction", "share"),
    [("1", 1.0), ("1/2", 0.5), ("0.25", 0.25), ("1/3", 1 / 3), (str(1 / 3), 1 / 3), ("0.1", 0.1), ("0", 0), ("0.0", 0)],
)
def test_a_gpu_share_is_a_fraction_or_a_decimal(fraction: str, share: float) -> None:
    assert build_parser(VERBS).parse_args(["run", "quick", "--gpu-fraction", fraction]).gpu_fraction == share


@pytest.mark.parametrize(
    ("words", "asked"), [([], True), (["--cuda-graphs", "on"], True), (["--cuda-graphs", "off"], False)]
)
def test_cuda_graphs_are_used_unless_switched_off(
    words: list[str], asked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainers: list[bool] = []

    def stop(_request: RunRequest, _study: object, trainer: Any, *_more: object, **_named: object) -> None:
        trainers.append(trainer.cuda_graphs)
        raise ValueError("enough")

    monkeypatch.setattr(run, "_check", stop)
    assert main(["run", "quick", *SMALL, *words]) == 2
    assert trainers == [asked]


@pytest.mark.parametrize(
    "words",
    [
        *(["--resources", text] for text in ("a100", "a100=0", "a100=much", "=1", "a100=nan")),
        *(["--label", text] for text in ("pool", "pool=", "=mine", "pool=!mine", "pool=in(a,b)")),
        ["--device", "tpu"],
    ],
)
def test_a_wrong_place_for_trials_is_refused(refused: Callable[..., str], words: list[str]) -> None:
    assert words[0] in refused("run", "quick", *words)


def test_an_unknown_command_is_refused(refused: Callable[..., str]) -> None:
    assert "invalid choice: 'train'" in refused("train")
    assert "required: COMMAND" in refused()


# --- folders ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["status", "report", "resume", "mlflow"])
def test_a_folder_without_a_study_is_named(refused: Callable[..., str], tmp_path: Path, command: str) -> None:
    assert refused(command, tmp_path / "nothing").endswith("nothing holds no study (no study.json)")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--latex"], "holds a family of studies; --latex takes one study"),
        (["--figures", "pdf"], "holds a family of studies; --figures takes one study"),
        (["--figures", ","], "--figures needs formats, such as pdf,svg"),
    ],
)
def test_a_family_has_no_table_or_figures_for_a_paper(
    refused: Callable[..., str], tmp_path: Path, words: list[str], message: str
) -> None:
    (tmp_path / "family.json").write_text("{}")
    assert refused("report", tmp_path, *words).endswith(message)


def test_figures_of_an_unknown_format_are_refused(refused: Callable[..., str], tmp_path: Path) -> None:
    _make_study(tmp_path)
    assert "formats are some of pdf, svg, png" in refused("report", tmp_path, "--figures", "pdf,gif")


def test_an_out_that_cannot_be_a_folder_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], no_ray: None
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["run", "quick", *SMALL, "--out", str(tmp_path / "file" / "out")]) == 2
    said = capsys.readouterr()
    assert said.err == f"study: {tmp_path / 'file'} is a file, and a record is a folder\n"
    assert said.out == ""


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["run", "quick", *SMALL, "--out"], "figures"),
        (["range-test", "quick", *SMALL, "--out"], "tables"),
        (["replay"], "replay"),
        (["signals"], "signals"),
        (["confirm", "--lr", "0.1"], "tables"),
    ],
)
def test_a_file_in_place_of_a_folder_is_named_before_anything_is_trained(
    refused: Callable[..., str], tmp_path: Path, no_ray: None, words: list[str], name: str
) -> None:
    (tmp_path / name).write_text("")
    said = refused(*words, tmp_path)
    assert said.endswith(f"{tmp_path / name} is a file, and no study makes one there: remove it first")
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("command", "option"),
    [
        (["scale", "D"], "at"),
        (["report", "D"], "figures"),
        (["run", "quick"], "seeds"),
        (["confirm", "D", "--lr", "0.1"], "seeds"),
        (["confirm", "D", "--lr", "0.1"], "method"),
        (["confirm", "D", "--lr", "0.1"], "model"),
        (["replay", "D"], "compare"),
        (["signals", "D"], "method"),
        (["signals", "D"], "model"),
        (["signals", "D"], "seeds"),
    ],
)
def test_a_list_that_is_given_twice_has_all_values(command: list[str], option: str) -> None:
    words = [*command, f"--{option}", "1,2", f"--{option}", "3"]
    assert getattr(build_parser(VERBS).parse_args(words), option) == "1,2,3"


def test_seeds_of_range_tests_given_twice_are_all_tested() -> None:
    words = ["range-test", "quick", "--seeds", "100-107", "--seeds", "200-207"]
    assert build_parser(VERBS).parse_args(words).range_seeds == "100-107,200-207"


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster on which nothing may be trained."""
    import contextlib

    from study.tune import cluster, node_check, runner

    @contextlib.contextmanager
    def connected(*_arguments: object, **_options: object) -> Iterator[cluster.Cluster]:
        yield cluster.Cluster(workers=1)

    monkeypatch.setattr(cluster, "connected", connected)
    monkeypatch.setattr(node_check, "check_nodes", lambda *_arguments: None)
    monkeypatch.setattr(runner, "run", lambda *_arguments: pytest.fail("something was trained"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "steps=7"], "holds this study with another recipe (steps was None, is 7)"),
        (["--set", "rule.kept=0.5"], "holds this study with another rule (kept was 0.25, is 0.5)"),
        (["--set", "data.rows=2100"], "holds this study on other data (synthetic; rows was 2000, is 2100)"),
        (["--set", "batch=128"], "holds this study with another recipe (batch was 64, is 128)"),
    ],
)
def test_another_study_is_not_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], no_ray: None, words: list[str], message: str
) -> None:
    definition = _make_study(tmp_path)
    assert main(["run", "quick", *SMALL, "--out", str(tmp_path), *words]) == 2
    said = capsys.readouterr()
    assert said.err == f"study: {tmp_path} {message}; choose another folder\n"
    assert (tmp_path / "study.json").read_bytes() == definition
    assert not (tmp_path / "runs").exists()


def test_waiting_is_said_and_the_clock_starts_with_the_first_trial(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], no_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from study.commands.progress import Progress
    from study.tune import runner

    begun: list[bool] = []

    def run(job: Any, *_arguments: object) -> None:
        assert not begun
        job.on_message("waits for CPUs in use by others")
        job.on_begin()
        raise ValueError("enough")

    monkeypatch.setattr(Progress, "begin", lambda self: begun.append(True))
    monkeypatch.setattr(runner, "run", run)
    assert main(["run", "quick", *SMALL, "--out", str(tmp_path)]) == 2
    assert begun == [True]
    assert "waits for CPUs in use by others\n" in capsys.readouterr().err


def test_a_study_in_use_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str], no_ray: None) -> None:
    from study.storage.lock import locked

    _make_study(tmp_path)
    with locked(tmp_path):
        assert main(["run", "quick", *SMALL, "--out", str(tmp_path)]) == 2
    holder = f"process {os.getpid()} on {socket.gethostname()}"
    assert re.fullmatch(rf"study: {tmp_path} is in use by \S+, {holder} since .*\n", capsys.readouterr().err)


def _make_study(folder: Path, *settings: str) -> bytes:
    from study import data
    from study.record.definition import Definition, open_study

    study = requested_study(RunRequest(space="quick", settings=(*SMALL[1::2], *settings)))
    log = data.load(study.data, study.data_options, cache_folder())
    facts = data.describe(study.data, log)
    open_study(folder, Definition(study=study, data=facts, versions={}))
    return (folder / "study.json").read_bytes()


NAMED = "on the cluster 10.0.0.1:6379, which RAY_ADDRESS names,"

# --- clusters -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("out", [[], ["--out", "results"], ["--out", "./here"]])
def test_a_cluster_needs_an_absolute_out(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, out: list[str]
) -> None:
    message = f"--out must be an absolute path or a URL, got {out[1] if out else 'none'}"
    on = "study: on a cluster"
    assert refused("run", "quick", *SMALL, *out, "--address", "10.0.0.1:6379") == f"{on} {message}"
    assert refused("submit", "quick", *SMALL, *out, "--address", "http://10.0.0.1:8265") == f"{on} {message}"
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert refused("run", "quick", *SMALL, *out) == f"study: {NAMED} {message}"


@pytest.mark.parametrize("command", [["submit", "--address", "http://10.0.0.1:8265"], ["run"]])
def test_a_job_needs_an_absolute_data_dir(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    if named := command == ["run"]:
        monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    words = [command[0], "quick", *command[1:], "--data", "kuairand", "--data-dir", "data", "--out", "/nowhere/x"]
    where = NAMED if named else "on a cluster"
    whole = f"study: {where} --data-dir must be an absolute path, got data"
    assert refused(*words) == whole
    assert refused(*[*words[: words.index("--data-dir")], "--set", "data.dir=data", "--out", "/nowhere/x"]) == whole


def test_a_data_dir_is_that_of_the_current_folder_however_it_is_set(tmp_path: Path) -> None:
    for request in ({"data_dir": "log"}, {"settings": ("data.dir=log",)}, {"settings": ("data.dir=./log",)}):
        study = change_study(load_space("quick"), RunRequest(space="quick", data="kuairand", **request))
        assert study.data_options["dir"] == str(tmp_path / "log")
    for value, found in (("2024", 2024), ("s3://bucket/log", "s3://bucket/log")):  # an own source may take these
        request = RunRequest(space="quick", data="kuairand", settings=(f"data.dir={value}",))
        assert change_study(load_space("quick"), request).data_options["dir"] == found


@pytest.mark.parametrize(
    "uri", ["mlruns", "./mlruns", "file:mlruns", "sqlite:///x.db", "sqlite+pysqlite:///x.db?timeout=3"]
)
@pytest.mark.parametrize("command", [["submit", "--address", "http://10.0.0.1:8265"], ["run"], ["resume"]])
def test_a_job_needs_an_absolute_tracking_uri(
    tmp_path: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, command: list[str], uri: str
) -> None:
    out = tmp_path / "out"
    if named := command[0] != "submit":
        monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    words = [command[0], "quick", *command[1:], *SMALL, "--out", str(out), "--tracking-uri", uri]
    if command == ["resume"]:
        out.mkdir()
        _make_study(out)
        words = ["resume", str(out), "--tracking-uri", uri]
    where = NAMED if named else "on a cluster"
    assert refused(*words) == f"study: {where} --tracking-uri must be an absolute path or a server, got {uri}"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "kuairand"], "study: the data source 'kuairand' needs --data-dir"),
        (["--data", "kuairand", "--set", "batch=64,128"], "study: batch_64: the data source 'kuairand' needs"),
        (["--data-dir", "/shared/log"], "study: the data source 'synthetic' has no option --data-dir"),
    ],
)
def test_submit_refuses_options_that_the_data_source_would_refuse(
    refused: Callable[..., str], words: list[str], message: str
) -> None:
    asked = ["submit", "quick", "--out", "/nowhere/x", "--address", "http://127.0.0.1:1"]
    assert refused(*asked, *words).startswith(message)


def test_submit_needs_an_address(refused: Callable[..., str]) -> None:
    assert "study submit needs --address, such as http://127.0.0.1:8265" in refused("submit", "quick", *SMALL)


@pytest.mark.parametrize(
    ("command", "address", "message"),
    [
        ("run", "http://10.0.0.1:8265", "http://10.0.0.1:8265 is no address of Ray's head, such as 10.0.0.1:6379"),
        ("run", "ray://10.0.0.1:10001", "ray://10.0.0.1:10001 is for Ray's client, which cannot run a study"),
        ("submit", "ray://10.0.0.1:10001", "ray://10.0.0.1:10001 is for Ray's client, which cannot run a study"),
        ("submit", "10.0.0.1:6379", "10.0.0.1:6379 is no address of a job server"),
    ],
)
def test_an_address_of_another_kind_is_refused_at_once(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, command: str, address: str, message: str
) -> None:
    whole = f"study: {message}; `study submit` takes the job server, such as http://10.0.0.1:8265"
    assert refused(command, "quick", "--out", "/nowhere/x", "--address", address) == whole
    if command == "run":
        monkeypatch.setenv("RAY_ADDRESS", address)
        named = whole.replace(f"{address} is", f"{address}, which RAY_ADDRESS names, is", 1)
        assert refused(command, "quick", "--out", "/nowhere/x") == named


@pytest.mark.parametrize("address", ["alpha", ":6379", "alpha:", "alpha:0", "alpha:65536", "alpha:port"])
def test_a_head_has_a_host_and_a_port(refused: Callable[..., str], address: str) -> None:
    said = refused("run", "quick", "--out", "/nowhere/x", "--address", address)
    assert said.startswith(f"study: {address} is no address of Ray's head, such as ")


@pytest.mark.parametrize("address", ["http://", "https://:8265", "http://alpha:65536", "http://alpha:port"])
def test_a_job_server_has_a_host_and_a_port(refused: Callable[..., str], address: str) -> None:
    said = refused("submit", "quick", "--out", "/nowhere/x", "--address", address)
    assert said.startswith(f"study: {address} is no address of a job server; `study submit` takes ")


def test_a_job_server_that_a_variable_names_wrongly_is_refused_with_the_variable(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://alpha:port")
    said = refused("submit", "quick", "--out", "/nowhere/x")
    assert said.startswith("study: http://alpha:port, which RAY_API_SERVER_ADDRESS names, is no address")


def test_a_scheme_that_ray_does_not_know_is_one_line(refused: Callable[..., str]) -> None:
    said = refused("submit", "quick", "--out", "/nowhere/x", "--address", "json://10.0.0.1:8265")
    assert said.startswith("study: the Ray job server at json://10.0.0.1:8265 takes no job (Module: json does not have")


def child(*words: str | Path, seconds: float, home: Path) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    return subprocess.run(
        [sys.executable, "-m", "study", *map(str, words)],
        cwd=ROOT,
        env=environment | {"HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


@pytest.mark.parametrize("command", ["run", "submit"])
def test_a_missing_cluster_is_reported_soon(tmp_path: Path, command: str) -> None:
    with socket.socket() as free:  # bound, and nobody listens
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        address = f"127.0.0.1:{port}" if command == "run" else f"http://127.0.0.1:{port}"
        words = ["quick", *SMALL, "--out", tmp_path / "out", "--address", address]
        done = child(command, *words, seconds=60, home=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith(
        f"study: no Ray {'job server ' if command == 'submit' else ''}at {address} ("
    )
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


# --- data ---------------------------------------------------------------------------------------------------------


def good_rows() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = 1000
    return pd.DataFrame(
        {
            "ts": 1_704_067_200 + np.arange(rows) * 1000,
            "user": rng.integers(0, 9, rows),
            "price": rng.standard_normal(rows),
            "click": rng.integers(0, 2, rows),
        }
    )


TOML = """files = ["log.parquet"]
time = "ts"
time_unit = "s"
ids = ["user"]
numbers = ["price"]
heldout = 0.2

[tasks]
click = "binary"
"""


def write(folder: Path, rows: pd.DataFrame, toml: str = TOML) -> Path:
    rows.to_parquet(folder / "log.parquet")
    (folder / "table.toml").write_text(toml)
    return folder


WRONG_DATA: dict[str, tuple[Callable[[Path], object], str]] = {
    "column": (lambda f: write(f, good_rows().drop(columns="price")), "lacks the columns price"),
    "two blanks": (
        lambda f: write(f, good_rows().rename(columns={"price": "the  price"}), TOML.replace('"price"', '"the price"')),
        "lacks the columns 'the price'; it has ts, user, 'the  price', click",
    ),
    "value": (lambda f: write(f, good_rows().assign(price=np.nan)), "price is missing or NaN in 1,000 of 1,000 rows"),
    "file": (lambda f: (write(f, good_rows()), (f / "log.parquet").unlink()), "no file log.parquet in"),
    "torn": (lambda f: (write(f, good_rows()), os.truncate(f / "log.parquet", 1500)), "does not read as Parquet"),
    "not UTF-8": (
        lambda f: (
            write(f, good_rows(), TOML.replace("log.parquet", "log.csv")),
            (f / "log.csv").write_bytes(b"ts,user,price,click\n1,2,\xff\xfe,1\n"),
        ),
        "log.csv",
    ),
    "key": (lambda f: write(f, good_rows(), "id = 3\n" + TOML), "table.toml: unknown key id; the keys are files"),
    "no_declaration": (lambda f: None, "table.toml"),
}
"""All other wrong tables: tests/study/data/test_table.py."""


@pytest.mark.parametrize("command", [["run", "quick", "--data"], ["plan", "quick", "--data"], ["data", "check"]])
@pytest.mark.parametrize("wrong", WRONG_DATA)
def test_unusable_data_are_refused(refused: Callable[..., str], tmp_path: Path, command: list[str], wrong: str) -> None:
    make, message = WRONG_DATA[wrong]
    make(tmp_path)
    said = refused(*command, "table", "--data-dir", tmp_path)
    assert said.startswith("study: ")
    assert message in said


def test_good_data_are_checked_and_planned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, good_rows())
    assert main(["data", "check", "table", "--data-dir", str(tmp_path)]) == 0
    assert "training: 800 rows; held out: 200 rows" in capsys.readouterr().out
    words = f"plan quick --data table --data-dir {tmp_path} --set batch=32 --set models=small"
    assert main(words.split()) == 0
    assert "table: 800 training rows, 200 held out" in capsys.readouterr().out


def test_data_options_belong_to_the_requested_source(
    refused: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, good_rows())
    words = f"quick --data table --data-dir {tmp_path} --set batch=32 --set models=small".split()
    assert main(["plan", *words, "--set", "data.only_days=1-3"]) == 0
    assert "table: 173 training rows, 87 held out" in capsys.readouterr().out
    assert "'table' has no option rows; its options are --data-dir" in refused("run", *words, "--set", "data.rows=300")
    assert "only_tasks names like; the data have click" in refused("run", *words, "--set", "data.only_tasks=like")


def test_another_source_keeps_the_selection_but_not_the_own_options_of_the_first() -> None:
    kept = {"only_tasks": "click", "only_ids": "user", "only_numbers": "", "only_days": "1-7"}
    options = {"rows": 500, "drift": 0.0} | kept
    study = dataclasses.replace(requested_study(RunRequest(space="quick")), data_options=options)
    assert change_study(study, RunRequest(space="quick", data="kuairand")).data_options == kept
    dropped = change_study(study, RunRequest(space="quick", data="kuairand", settings=("data.only_days=8-14",)))
    assert dropped.data_options == kept | {"only_days": "8-14"}
    assert change_study(study, RunRequest(space="quick", data="synthetic")).data_options == options


def test_a_source_without_its_folder_is_refused(refused: Callable[..., str], tmp_path: Path) -> None:
    needs = "the data source 'table' needs --data-dir; its options are --data-dir, only_ids"
    assert needs in refused("run", "quick", "--data", "table")
    assert "nowhere" in refused("run", "quick", "--data", "kuairand", "--data-dir", tmp_path / "nowhere")


# --- what works ---------------------------------------------------------------------------------------------------


def test_plan_counts_and_trains_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str], no_ray: None) -> None:
    assert main(["plan", "quick", *SMALL, "--seeds", "0-3", "--set", "lr=0.1,0.2", "--workers", "2"]) == 0
    said = capsys.readouterr().out
    assert "cells     10\n" in said
    assert "runs      40, of which 0 are recorded\n" in said
    assert "control   24 runs, of which 24 are to be trained first\n" in said
    assert "  contrasts 4: layer_clip, agc, lamb, clippy against none; p is corrected over 4\n" in said
    assert " 64 runs to train as " in said
    assert not list(tmp_path.iterdir())


def test_plan_names_the_contrasts_of_every_model(capsys: pytest.CaptureFixture[str], no_ray: None) -> None:
    settings = ("--set", "models=small,large", "--set", "compare=agc,none", "--set", "agc.max_ratio=0.01,0.1")
    assert main(["plan", "quick", *SMALL, "--seeds", "0-1", "--set", "methods=none,agc,clippy", *settings]) == 0
    said = capsys.readouterr().out
    assert "  contrasts 6: none, clippy against agc; clippy against none on each of 2 models; p is" in said


def test_a_comparator_that_is_not_there_is_refused(refused: Callable[..., str]) -> None:
    assert "compare names 'adagc', but the study's methods are none, " in refused(
        "plan", "quick", "--set", "compare=adagc"
    )


def test_plan_names_a_method_once_and_counts_confirmations(tmp_path: Path, no_ray: None) -> None:
    from study.record.confirmations import Confirmation, write_confirmation
    from study.record.definition import read_definition

    settings = ("methods=none,clippy", "clippy.rel=0.1,0.5", "lr=0.1,0.2", "seeds=0-3")
    _make_study(tmp_path, *settings)
    study = read_definition(tmp_path).study
    named = {"models": study.models, "arms": study.arms, "number": 0, "study_seeds": 4}
    write_confirmation(tmp_path, Confirmation(lr=0.1, seeds=(10, 11, 12), **named))
    said = preview(RunRequest(space="quick", settings=(*SMALL[1::2], *settings), out=str(tmp_path)))
    assert " of none, clippy (2 arms)\n" in said
    assert "confirm   9 runs" in said


def test_spaces_lists_everything_that_can_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    from study import plugins

    assert main(["spaces"]) == 0
    said = capsys.readouterr().out
    for package in ("models", "search_spaces", "study.data", "study.methods"):
        assert all(f"\n  {name} " in said for name in plugins.names(package))


def test_status_reads_the_record_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _make_study(tmp_path)
    assert main(["status", str(tmp_path)]) == 0
    assert f"quick: 0 of 320 runs recorded, 0 failed, in {tmp_path}" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["spaces"], ["status", "/nowhere"], ["run", "quick", "--out", "/nowhere/x"]])
def test_a_current_folder_that_was_removed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    here.rmdir()
    assert main(words) == 2
    assert capsys.readouterr().err == "study: the current folder was removed; change to another one\n"


def test_study_traceback_shows_where(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUDY_TRACEBACK", "1")
    with pytest.raises(ValueError, match="unknown study 'quik'"):
        main(["run", "quik"])


def test_ctrl_c_says_how_to_continue(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:

    def interrupted(*_arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "run", interrupted)
    assert main(["run", "quick"]) == 130
    assert "stopped; the same command continues" in capsys.readouterr().err


def test_a_submitted_job_has_the_requested_options() -> None:
    words = "submit quick --address http://x:1 --data table --data-dir /d --out /o --seeds 0-3 --workers 4 --set lr=0.1"
    words += " --level 0.05 --precision 1.5 --budget 64 --gpu-fraction 1/3"
    words += (
        " --device cuda --cuda-graphs off --resources a=1 --resources b=0.5 --label pool=mine --accept-changed-code"
    )
    line = run_words(build_parser(VERBS).parse_args([*words.split(), "--set", "methods=none, clippy", "--no-wait"]))
    assert line[:6] == ["python", "-P", "-m", "study", "run", "quick"]
    again = vars(build_parser(VERBS).parse_args(line[4:]))
    asked = vars(build_parser(VERBS).parse_args(words.split()))
    assert (again["level"], again["precision"], again["budget"]) == (0.05, 1.5, 64)
    for name in (
        "space",
        "data",
        "data_dir",
        "out",
        "seeds",
        "workers",
        "stack",
        "tracking_uri",
        "gpu_fraction",
        "device",
        "cuda_graphs",
        "resources",
        "labels",
        "accept_changed_code",
    ):
        assert again[name] == asked[name]
    assert again["settings"] == ["lr=0.1", "methods=none, clippy"]
    assert again["address"] is None


def test_a_submitted_job_trains_on_cpus_if_that_was_asked() -> None:
    words = "submit quick --address http://x:1 --out /o --gpu-fraction 0 --checkpoint-minutes 0 --trial-minutes 0"
    line = run_words(build_parser(VERBS).parse_args(words.split()))
    again = build_parser(VERBS).parse_args(line[4:])
    assert (again.gpu_fraction, again.checkpoint_minutes, again.trial_minutes) == (0, 0, 0)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (["weights", "DIR"], ["export-weights", "DIR"]),
        (["replay", "DIR", "ab", "--beside", "all"], ["replay", "DIR", "ab", "--compare", "all"]),
        (["run", "quick", "--init-accumulators", "handed"], ["run", "quick", "--init-accumulators", "restore"]),
        (["run", "quick", "--init-accumulators=handed"], ["run", "quick", "--init-accumulators=restore"]),
    ],
)
def test_words_of_the_previous_version_are_accepted_with_a_note(old: list[str], new: list[str]) -> None:
    words, (note,) = current_words(old)
    assert words == new
    assert "is now" in note
    assert current_words(new) == (new, [])


def test_help_describes_every_argument() -> None:
    def check(parser: argparse.ArgumentParser) -> None:
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for name, sub in action.choices.items():
                    assert name in {choice.dest for choice in action._choices_actions}
                    check(sub)
            else:
                assert action.help, f"{parser.prog} {action.dest}"

    check(build_parser(VERBS))


def test_help_of_merge_speaks_of_no_training(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["merge", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "--accept-changed-code merge runs that" in said
    assert "train " not in said


def test_request_has_every_option_of_the_table() -> None:
    assert set(RunRequest.__dataclass_fields__) == {"space", *OPTIONS}


TRAINS = {"ray", "mlflow", "optuna", "torch"}
DRAWS = {"seaborn", "matplotlib"}


@pytest.mark.parametrize(
    ("words", "heavy"),
    [
        ("--help", TRAINS | DRAWS | {"numpy", "pandas"}),
        ("run --help", TRAINS | DRAWS | {"numpy", "pandas"}),
        ("spaces", TRAINS | DRAWS | {"numpy", "pandas"}),
        ("data list", TRAINS | DRAWS | {"pandas"}),
        ("plan quick", TRAINS | DRAWS),
        ("plan quick --set clippy.rel=0.1,0.5 --set models=small,large", TRAINS | DRAWS),
        ("status STUDY", TRAINS | DRAWS),
        ("report STUDY", TRAINS),
        ("recommend STUDY", TRAINS),
        ("rescore STUDY --rule kept=0.5", TRAINS),
        ("status nowhere", TRAINS | DRAWS),
    ],
)
def test_commands_that_train_nothing_import_nothing_heavy(words: str, heavy: set[str], tmp_path: Path) -> None:
    code = (
        "import json, sys\nfrom study.cli.main import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})), file=sys.stderr)"
    )
    asked = words.replace("STUDY", str(tmp_path)).split()
    if "STUDY" in words:
        _make_study(tmp_path)
    if asked[0] == "plan":
        asked += ["--set", "data.rows=2000", "--set", "batch=64"]
        assert main(asked) == 0  # what it found is remembered
    command = [sys.executable, "-c", code, *asked]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    imported = set(json.loads(done.stderr.splitlines()[-1]))
    assert not imported & heavy


def test_a_changed_user_module_is_imported_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.py").write_text("raise ValueError('was looked at')\n")
    for _ in range(2):
        assert main(["plan", "quick", *SMALL, "--set", "models=mine.net"]) == 2
        (tmp_path / "mine.py").write_text("")
    assert "unknown model 'mine.net'" in capsys.readouterr().err


def test_a_plugin_that_does_not_compile_is_listed_with_its_error(tmp_path: Path) -> None:
    from study import plugins

    package = tmp_path / "odd_plugins"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "good.py").write_text('"""Does good.\n\nAnd more."""\nraise RuntimeError("imported")\n')
    (package / "torn.py").write_text("def build(:\n")
    (package / "silent.py").write_text("")
    sys.path.insert(0, str(tmp_path))
    try:
        assert plugins.described("odd_plugins") == {
            "good": "Does good.",
            "silent": "",
            "torn": "does not compile (invalid syntax, line 1)",
        }
    finally:
        sys.path.remove(str(tmp_path))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--workers", "9" * 26], "need at most 1,000,000,000, got 99999"),
        (["--device", "cuda", "--gpu-fraction", "0"], "--device cuda does not go with --gpu-fraction 0"),
        (["--label", "pool=a", "--label", "pool=b"], "--label pool is given twice"),
        (["--resources", "slot=1", "--resources", "slot=2"], "--resources slot is given twice"),
        (["--resources", "GPU=1"], "GPU is no custom resource; see --device and --gpu-fraction"),
        (["--resources", "CPU=2"], "CPU is no custom resource; see --device and --gpu-fraction"),
        (["--out", "pipe"], "pipe is a file, and a record is a folder"),
    ],
)
@pytest.mark.parametrize("command", [["run"], ["submit", "--address", "http://10.0.0.1:8265"]])
def test_what_can_never_run_is_refused_before_ray_starts(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: list[str],
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("study.tune.cluster.connected", None)
    monkeypatch.setattr("study.tune.submit.submit", None)
    os.mkfifo("pipe")
    placed = [str(tmp_path / word) if word in ("out", "pipe") else word for word in ("--out", "out", *words)]
    try:
        code = main([command[0], "quick", *command[1:], *placed])
    except SystemExit as stop:  # argparse
        code = stop.code
    assert code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("words", [["check", "kuairand"], ["fetch", "kuairand"]])
def test_data_are_in_a_folder(words: list[str], refused: Callable[..., str]) -> None:
    assert "--data-dir must be a folder, got gs://bucket" in refused("data", *words, "--data-dir", "gs://bucket")

"""Secrets reach no message, no file and no command line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT
from simulated_record import simulated_definition, write_simulated_study

from study import telemetry
from study.cli.main import main
from study.config import Arm
from study.record.failures import read_failures, write_failure
from study.text import console, redaction
from study.tracking.client import default_uri
from study.tune import environment, submit

SECRET = "hunter22-and-more"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://user:hunter22@host:5000/x", "https://***@host:5000/x"),
        ("no Ray at http://user@host: refused", "no Ray at http://***@host: refused"),
        ("postgresql+psycopg2://u:p@ss/w0rd@db/mlflow went away", "postgresql+psycopg2://***@db/mlflow went away"),
        ("s3://KEY:SECRET@bucket/x and s3://bucket/y", "s3://***@bucket/x and s3://bucket/y"),
        ("https://host/?token=abc&x=1", "https://host/?token=***&x=1"),
        ("https://host/a?x=1&X-Amz-Signature=ab%2Fc#top", "https://host/a?x=1&X-Amz-Signature=***#top"),
        ("mssql://host/db?user=a;password=b c", "mssql://host/db?user=a;password=*** c"),
        ("header Authorization: Bearer abcdefgh.ijk", "header Authorization: Bearer ***"),
        ("sqlite:////home/a@b/mlflow.db", "sqlite:////home/a@b/mlflow.db"),
        ("mail to someone@host", "mail to someone@host"),
        ("clippy.rel=0.5 of https://host/a?lr=3", "clippy.rel=0.5 of https://host/a?lr=3"),
    ],
)
def test_redacted_replaces_secrets(text: str, shown: str) -> None:
    assert redaction.redacted(text) == shown
    assert redaction.redacted(shown) == shown


@pytest.mark.parametrize(
    ("part", "end", "shown"),
    [
        ("a", "://u@host", "://***@host"),
        ("a.", "x", "x"),
        ("a.", "://u:p@host", "://***@host"),
        ("&key", "=abc", "=***"),
        ("&x", "=abc", "=abc"),
        ("key", "=abc", "=abc"),
    ],
)
def test_a_long_text_without_blanks_is_redacted(part: str, end: str, shown: str) -> None:
    """This takes half a minute where the time is quadratic in the length."""
    long = part * (200_000 // len(part))
    assert redaction.redacted(long + end) == long + shown


def test_schemes_without_a_user_stay() -> None:
    long = "a://" * 50_000
    assert redaction.redacted(long) == long
    assert redaction.redacted(f"{long}b@{long}") == f"a://***@{long}"


def test_a_long_name_of_a_query_is_redacted() -> None:
    long = "key" * 70_000
    assert redaction.redacted(f"?{long}") == f"?{long}"
    assert redaction.redacted(f"?{long}=abc") == f"?{long}=***"


@pytest.mark.parametrize(
    "name",
    [
        "MLFLOW_TRACKING_TOKEN",
        "MLFLOW_TRACKING_PASSWORD",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_ACCESS_KEY_ID",
        environment.TOKEN,
    ],
)
def test_values_of_secret_variables_are_redacted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.setenv(name, SECRET)
    assert redaction.redacted(f"denied for {SECRET}!") == "denied for ***!"
    assert console.first_line(ValueError(f"denied for {SECRET}\nand more")) == "denied for ***"
    assert main(["status", f"/nowhere/{SECRET}"]) == 2
    assert SECRET not in capsys.readouterr().err


def test_paths_of_token_files_are_not_redacted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/home/me/token")
    monkeypatch.setenv("HF_TOKEN", "x")
    assert redaction.redacted("no file /home/me/token, x") == "no file /home/me/token, x"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    written = tmp_path / "study"
    write_simulated_study(written, simulated_definition(models=("small",), arms=[Arm(method="none")], lrs=(0.1, 0.6)))
    return written


def test_a_record_its_report_and_its_view_hold_no_secret(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_PASSWORD", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, SECRET)
    write_failure(folder, "x", ["a"], console.first_line(OSError(f"https://me:{SECRET}@host said no to {SECRET}")))
    assert main(["report", str(folder)]) == 0
    assert main(["mlflow", str(folder), "--tracking-uri", default_uri(folder)]) == 0
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {"mlflow.db", "report.html"} <= {path.name for path in files}
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []
    assert "https://***@host said no to ***" in read_failures(folder).values()


@pytest.mark.parametrize(
    "words", [["--tracking-uri", f"http://me:{SECRET}@host"], [f"--track=http://me:{SECRET}@host"]]
)
def test_a_password_on_the_command_line_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert main(["mlflow", str(folder), *words]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert SECRET not in said
    assert "MLFLOW_TRACKING_URI" in said


@pytest.mark.parametrize(
    "words",
    [
        ["--tracking-uri", f"https://me:{SECRET}@host"],
        ["--tracking-uri", f"https://host/?token={SECRET}"],
        ["--set", f"data.url=https://me:{SECRET}@host"],
    ],
)
def test_submit_refuses_secrets_in_a_job(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.setattr(submit, "submit", lambda *_a, **_k: pytest.fail("a job was submitted"))
    address = ["--address", "http://127.0.0.1:1", "--out", str(tmp_path / "out")]
    assert main(["submit", "quick", *address, *words]) == 2
    said = capsys.readouterr().err
    assert "MLFLOW_TRACKING_URI" in said
    assert SECRET not in said


@pytest.mark.parametrize("on", [False, True])
def test_study_telemetry_turns_reports_on(on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in telemetry.OFF:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("STUDY_TELEMETRY", "1" if on else "")
    assert telemetry.disabled() == ({} if on else telemetry.OFF)


@pytest.mark.parametrize("on", ["0", "1"])
def test_mlflow_and_ray_report_only_if_study_telemetry_is_set(on: str, tmp_path: Path) -> None:
    """Asked of their own code, in a process as the command makes it. (A CI's settings would turn MLflow's off.)"""
    code = (
        "import study.cli.main\nfrom study.tune import environment\nenvironment.prepare('local')\n"
        "from mlflow.telemetry import utils\n"
        "from ray._common.usage import usage_lib\n"
        "utils._IS_IN_CI_ENV_OR_TESTING = False\n"
        "print(utils.is_telemetry_disabled(), usage_lib.usage_stats_enabled())"
    )
    kept = {k: v for k, v in os.environ.items() if k not in (*telemetry.OFF, "DO_NOT_TRACK")}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=ROOT,
        env=kept | {"STUDY_TELEMETRY": on, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.split() == (["False", "True"] if on == "1" else ["True", "False"])

"""Every command that takes a study's folder takes a URL as well. The store is fsspec's memory, in this process."""

import json
from pathlib import Path

import fsspec
import pytest
from simulated_record import simulated_definition, write_simulated_study

from study.cli.main import main
from study.commands.request import RunRequest, out_folder
from study.config import runs_of
from study.record import tables
from study.record.failures import write_failure
from study.record.repair import set_bad_files_aside
from study.storage import stores
from study.tracking import client


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A small study in a store, and nothing of it on this machine."""
    url = f"memory://commands/{tmp_path.name}"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STUDY_CACHE", str(tmp_path / "of another machine"))
    folder = stores.folder_of(url)
    definition = simulated_definition(models=("small",), lrs=(0.1, 0.4), seeds=(0, 1), steps=20)
    write_simulated_study(folder, definition, leave_out=[("small", "clippy", 0.4, 1)])
    planned = {run.id for run in runs_of(definition.study, definition.data["content"])}
    write_failure(folder, "t", sorted(planned - tables.recorded_ids(folder)), "out of memory")
    monkeypatch.setenv("STUDY_CACHE", str(tmp_path / "cache"))
    return url


@pytest.mark.parametrize(
    "words",
    [
        ["status"],
        ["resume"],
        ["report"],
        ["recommend"],
        ["confirm", "--lr", "0.1"],
        ["rescore", "--rule", "kept=0.5"],
        ["replay", "abc"],
        ["mlflow"],
        ["ui"],
    ],
)
def test_a_url_without_a_study_is_said(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STUDY_CACHE", str(tmp_path / "cache"))
    assert main([words[0], "memory://commands/nothing", *words[1:]]) == 2
    assert capsys.readouterr().err == "study: memory://commands/nothing holds no study (no study.json)\n"


def test_commands_read_the_store_and_write_to_it(url: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["status", url]) == 0
    said = capsys.readouterr().out
    assert f"19 of 20 runs recorded, 1 failed, in {url}" in said
    assert "out of memory" in said

    assert main(["report", url]) == 0
    said = capsys.readouterr().out
    assert said.rstrip().endswith(f"{url}/report.html")
    store = stores.store_for(url)
    assert b"<html" in (store.get("report.html") or b"")
    assert store.names("tables")
    assert store.names("figures")

    assert main(["recommend", url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)

    assert main(["rescore", url, "--rule", "kept=0.5"]) == 0
    view = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("rescored: "))
    assert main(["status", view.removeprefix("rescored: ")]) == 0

    assert main(["mlflow", url]) == 0
    assert "MLflow: 5 curves, 10 cells" in capsys.readouterr().out
    assert "mlflow.db" not in {path.rpartition("/")[2] for path in fsspec.filesystem("memory").find(url)}


def test_a_record_that_breaks_in_the_mirror_is_fetched_again(url: str) -> None:
    folder = stores.folder_of(url)
    whole = tables.recorded_ids(folder)
    for path in (*(folder / "runs").iterdir(), *(folder / "losses").iterdir()):
        stamp = path.stat().st_mtime_ns
        path.write_bytes(bytes(path.stat().st_size))
        import os

        os.utime(path, ns=(stamp, stamp))
    set_bad_files_aside(folder)
    assert tables.recorded_ids(folder) == whole
    assert not (folder / "set_aside").exists()


def test_a_record_that_breaks_in_the_store_is_set_aside_there(url: str) -> None:
    store, folder = stores.store_for(url), stores.folder_of(url)
    name = store.names("runs")[0]
    store.put(f"runs/{name}", b"PAR1 and no more")
    with pytest.warns(RuntimeWarning, match=rf"set aside as {url}/set_aside/runs-.*its runs count as missing"):
        set_bad_files_aside(folder)
    assert name not in store.names("runs")
    assert store.get(f"set_aside/{store.names('set_aside')[0]}") == b"PAR1 and no more"


def test_a_shared_mlflow_server_knows_the_study_from_every_machine(url: str, tmp_path: Path, monkeypatch) -> None:
    first = client.folder_id(stores.folder_of(url))
    monkeypatch.setenv("STUDY_CACHE", str(tmp_path / "a third machine"))
    assert client.folder_id(stores.folder_of(url)) == first


def test_a_cluster_takes_a_url(url: str) -> None:
    study = simulated_definition().study
    asked = RunRequest(space="quick", out=url, address="10.0.0.1:6379")
    assert stores.address(out_folder(asked, study)) == url

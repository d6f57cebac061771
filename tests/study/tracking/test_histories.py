"""Runs of an MLflow experiment are imported with the answers of the record that they come from."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exported import TASK_NAMES, assert_same_answers, judged_record, long_table
from mlflow.entities import Metric, Param

import analysis
from study.cli.main import main
from study.commands.import_request import ImportRequest
from study.commands.import_runs import import_runs
from study.tracking.client import DATABASE, default_uri, open_client, quiet_mlflow

LOSS = np.exp(-np.arange(40) / 10) + 1


@pytest.fixture
def server(tmp_path: Path, empty_database: Path) -> Path:
    """A folder with an empty MLflow database."""
    folder = tmp_path / "server"
    folder.mkdir()
    shutil.copy(empty_database, folder / DATABASE)
    return folder


class Experiment:
    def __init__(self, folder: Path, name: str = "gpt") -> None:
        self.client = open_client(default_uri(folder))
        self.id = self.client.create_experiment(name, artifact_location=(folder / "artifacts").as_uri())

    def log(self, params: Mapping[str, Any], losses: Mapping[str, Any], steps: Any = None, name: str = "run") -> None:
        run = self.client.create_run(self.id, run_name=name).info.run_id
        metrics = [
            Metric(key, float(value), i, int(step))
            for key, values in losses.items()
            for i, (step, value) in enumerate(zip(range(len(values)) if steps is None else steps, values, strict=True))
        ]
        self.client.log_batch(run, params=[Param(key, str(value)) for key, value in params.items()])
        for start in range(0, len(metrics), 1000):
            self.client.log_batch(run, metrics=metrics[start : start + 1000])
        self.client.set_terminated(run)

    def grid(self, lrs: tuple[float, ...] = (0.1, 0.2), seeds: tuple[int, ...] = (0, 1), **params: Any) -> None:
        for lr in lrs:
            for seed in seeds:
                noise = np.random.default_rng([seed, int(100 * lr)]).normal(size=len(LOSS))
                self.log({"lr": lr, "seed": seed, "optimizer": "adam"} | params, {"train_loss": LOSS + 0.01 * noise})


def asked(server: Path, **changed: Any) -> ImportRequest:
    values: dict[str, Any] = {"source": "mlflow", "tracking_uri": default_uri(server), "experiment": "gpt"}
    values |= {"lr": "params.lr", "seed": "params.seed", "curve": ("params.optimizer",)}
    values |= {"loss": ("metrics.train_loss",), "out": str(server / "ours")}
    return ImportRequest(**values | changed)


def test_an_exported_experiment_gives_the_answers_of_its_record(server: Path, tmp_path: Path) -> None:
    record = judged_record(tmp_path / "trained")
    losses = [*TASK_NAMES, *(f"constant_{name}" for name in TASK_NAMES)]
    with quiet_mlflow():
        experiment = Experiment(server)
        for (method, lr, seed), run in long_table(record).groupby(["method", "lr", "seed"], sort=False):
            params = {"lr": lr, "seed": seed, "optimizer": method}
            experiment.log(params, {name: run[name].to_numpy() for name in losses})
    baseline = tuple(f"metrics.constant_{name}" for name in TASK_NAMES)
    loss = tuple(f"metrics.{name}" for name in TASK_NAMES)
    import_runs(asked(server, loss=loss, baseline_column=baseline, planned=True))
    assert_same_answers(record, server / "ours")


def test_runs_that_lack_something_are_listed(server: Path) -> None:
    experiment = Experiment(server)
    experiment.grid()
    whole = {"lr": 0.1, "seed": 7, "optimizer": "adam"}
    experiment.log({"lr": 0.1, "optimizer": "adam"}, {"train_loss": LOSS}, name="no_seed")
    experiment.log(whole | {"lr": "auto"}, {"train_loss": LOSS}, name="auto_lr")
    experiment.log(whole, {"val_loss": LOSS}, name="no_loss")
    experiment.log(whole, {"train_loss": LOSS}, steps=[0] * len(LOSS), name="no_steps")
    text = import_runs(asked(server))
    assert "4 runs imported" in text
    for lacks in (
        "params.seed: no_seed",
        "a number as params.lr: auto_lr",
        "metrics.train_loss: no_loss",
        "steps of metrics.train_loss: no_steps",
    ):
        assert f"1 run left out, without {lacks}" in text


def test_losses_that_are_not_finite_and_repeated_steps_are_read(server: Path) -> None:
    experiment = Experiment(server)
    experiment.grid(lrs=(0.1, 0.2, 0.4))
    params = {"lr": 0.8, "seed": 0, "optimizer": "adam"}
    experiment.log(params, {"train_loss": [*LOSS[:20], np.nan]})
    experiment.log(params | {"seed": 1}, {"train_loss": [*LOSS[:20], np.inf]})
    resumed = [*range(30), *range(20, 40)]
    experiment.log(params | {"seed": 2}, {"train_loss": [*LOSS[:30], *LOSS[20:]]}, steps=resumed)
    import_runs(asked(server))
    cells = analysis.load(server / "ours").set_index(["lr", "seed"])
    assert list(cells.loc[[(0.8, 0), (0.8, 1)], "reason"]) == ["nonfinite"] * 2
    assert cells.loc[(0.8, 2), "outcome"] == "completed"
    assert cells.loc[(0.8, 2), "steps"] == 40


def test_the_command_line_imports_an_experiment(
    server: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("study.tracking.writing.PAGE", 3)
    experiment = Experiment(server)
    experiment.grid()
    experiment.grid(qk_norm="True", seeds=(2, 3))
    words = ["import", "mlflow", "--tracking-uri", default_uri(server), "--experiment", "gpt", "--lr", "lr"]
    words += ["--seed", "seed", "--curve", "optimizer", "--loss", "train_loss", "--out", str(server / "ours")]
    assert main(words) == 0
    assert "8 runs imported" in capsys.readouterr().out
    assert set(analysis.load(server / "ours")["method"]) == {"adam"}


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"experiment": "other"}, "no experiment 'other'"),
        ({"tracking_uri": None}, "--tracking-uri"),
        ({"tracking_uri": "sqlite:////nowhere/mlflow.db"}, "no MLflow database"),
        ({"lr": "params.rate"}, "without params.rate"),
        ({}, "has no runs"),
    ],
)
def test_an_experiment_that_cannot_be_imported_is_refused(server: Path, changed: dict[str, Any], word: str) -> None:
    experiment = Experiment(server)
    if "lr" in changed:
        experiment.grid()
    with pytest.raises(ValueError, match=word):
        import_runs(asked(server, **changed))
    assert not (server / "ours").exists()


@pytest.mark.parametrize("uri", ["http://", "http://h:99999", "nosuch://x"])
def test_an_address_that_is_of_no_server_is_refused_as_such(server: Path, uri: str) -> None:
    with pytest.raises(ValueError, match=rf"^{uri} cannot be used as a tracking URI \("):
        import_runs(asked(server, tracking_uri=uri))

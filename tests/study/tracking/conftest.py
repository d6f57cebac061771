"""A study on disk with an empty MLflow database, and an MLflow client that counts its writes."""

import contextlib
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow_view import Watched, write

from study.tracking.client import DATABASE, create_database, open_client


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Setting one up takes MLflow a second; tests start from a copy."""
    folder = tmp_path_factory.mktemp("database")
    create_database(folder)
    return folder / DATABASE


@pytest.fixture
def folder(tmp_path: Path, empty_database: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    shutil.copy(empty_database, folder)
    write(folder)
    return folder


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Callable[..., contextlib.AbstractContextManager[list[str]]]:
    @contextlib.contextmanager
    def watch(last: float = math.inf) -> Iterator[list[str]]:
        writes: list[str] = []
        with monkeypatch.context() as patch:
            patch.setattr("study.tracking.mirror.open_client", lambda uri: Watched(open_client(uri), writes, last))
            yield writes

    return watch

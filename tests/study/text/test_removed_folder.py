"""The current folder is removed while a study trains, as Ray does with the working directory of a job."""

import os
from pathlib import Path

import pandas as pd
import pytest

from study.commands import sizes
from study.loops import process_state
from study.text import own_errors


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_mistakes_in_a_users_file_are_placed(here: Path) -> None:
    here.rmdir()
    assert own_errors.in_line("/job/mine/net.py", 7) == "mine/net.py, line 7"
    assert own_errors.in_line("net.py", 7) == "net.py, line 7"
    with pytest.raises(ZeroDivisionError) as error:
        exec("1 / 0")  # a frame without a file
    assert own_errors.place(error.value, "mine").startswith("text/test_removed_folder.py, line ")


@pytest.mark.parametrize("when", ["before", "during"])
def test_a_loop_trains(here: Path, when: str) -> None:
    if when == "before":
        here.rmdir()
    with process_state.restored():
        if when == "during":
            here.rmdir()
        os.chdir("/")


def test_the_sizes_of_a_report_are_read(here: Path) -> None:
    here.rmdir()
    found = sizes._model_options(pd.DataFrame({"model": ["ranker width=8", "ranker width=16"]}))
    assert found["ranker.width"].tolist() == [8, 16]

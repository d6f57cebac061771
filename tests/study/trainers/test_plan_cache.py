"""Answers on disk: found once, as long as nothing that they rest on changes; never in the way."""

import itertools
import json
from pathlib import Path

import pytest

from study.trainers import _plan_cache as plan_cache
from study.trainers._plan_cache import cached_call


@pytest.fixture(autouse=True)
def _forget_what_they_rest_on():
    plan_cache._depends_on.cache_clear()
    yield
    plan_cache._depends_on.cache_clear()


def counter():
    return itertools.count().__next__


def test_an_answer_is_found_once(tmp_path: Path) -> None:
    find = counter()
    assert [cached_call(tmp_path, ["size", "small"], find) for _ in range(3)] == [0, 0, 0]
    assert cached_call(tmp_path, ["size", "large"], find) == 1
    assert cached_call(tmp_path, ["size", "small"], find) == 0


def test_what_is_not_ours_and_what_has_no_cache_is_found_anew(tmp_path: Path) -> None:
    find = counter()
    assert [cached_call(tmp_path, ["size"], find, built_in=False) for _ in range(2)] == [0, 1]
    assert [cached_call(None, ["size"], find) for _ in range(2)] == [2, 3]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("changed", ["source", "version"])
def test_other_sources_and_versions_ask_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str) -> None:
    package = tmp_path / "models"
    package.mkdir()
    (package / "__init__.py").write_text("")
    model = package / "mine.py"
    model.write_text("WIDTH = 1\n")
    monkeypatch.setattr(plan_cache, "PACKAGES", ("models",))
    monkeypatch.setattr(plan_cache.importlib.util, "find_spec", lambda _: FakeSpec(package))
    find = counter()
    assert [cached_call(tmp_path, ["size"], find) for _ in range(2)] == [0, 0]
    if changed == "source":
        model.write_text("WIDTH = 2\n")
    else:
        monkeypatch.setattr(plan_cache.importlib.metadata, "version", lambda name: "9.9")
    plan_cache._depends_on.cache_clear()
    assert [cached_call(tmp_path, ["size"], find) for _ in range(2)] == [1, 1]


class FakeSpec:
    def __init__(self, folder: Path) -> None:
        self.submodule_search_locations = [str(folder)]


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00"])
def test_a_damaged_file_is_written_anew(tmp_path: Path, text: str) -> None:
    (tmp_path / plan_cache.FILE).write_text(text)
    find = counter()
    assert [cached_call(tmp_path, ["size"], find) for _ in range(2)] == [0, 0]


def test_a_folder_that_cannot_be_written_is_as_good_as_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    find = counter()
    assert [cached_call(tmp_path / "file" / "cache", ["size"], find) for _ in range(2)] == [0, 1]


def test_errors_are_not_answers(tmp_path: Path) -> None:
    def refuse() -> int:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        cached_call(tmp_path, ["size"], refuse)
    assert cached_call(tmp_path, ["size"], lambda: 7) == 7


def test_the_oldest_are_forgotten_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_cache, "MOST", 3)
    find = counter()
    for place in range(5):
        cached_call(tmp_path, ["size", place], find)
    assert list(json.loads((tmp_path / plan_cache.FILE).read_text()).values()) == [2, 3, 4]


def test_a_model_of_ours_is_told_from_a_dotted_name() -> None:
    assert plan_cache.is_built_in("models", "small")
    assert not plan_cache.is_built_in("models", "own_models.linear")
    assert not plan_cache.is_built_in("models", "_ranker")

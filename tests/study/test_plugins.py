"""A user's own folder: its modules are found, and hide none of ours, of a library or of Python."""

import importlib
import pkgutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from study import data, plugins
from study.config import Arm, Study
from study.definition import own_code
from study.loops import command
from study.trainers.protocol import open_trainer, own_names
from study.tune import submit

MODEL = "def build(spec):\n    return 'mine'\n"

Write = Callable[[str, str], None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Write a file of the user's folder. What a test imports from there is forgotten after it."""

    def write(name: str, text: str) -> None:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    others = tmp_path.parent  # folders of other tests, whose commands put them on the path
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if not Path(entry).is_relative_to(others)])
    monkeypatch.setattr(plugins, "user_folder", None)
    for package in plugins.PACKAGES:
        module = importlib.import_module(package)
        monkeypatch.setattr(module, "__path__", list(module.__path__))
    before = set(sys.modules)
    yield write
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.mark.parametrize("first", [True, False])  # `python -m study` puts the current folder first
def test_user_folder_comes_last_on_the_path(write: Write, tmp_path: Path, first: bool) -> None:
    if first:
        sys.path.insert(0, str(tmp_path))
    plugins.add_folder(str(tmp_path))
    assert sys.path[-1] == str(tmp_path)
    assert sys.path.count(str(tmp_path)) == 1
    assert sys.path.index(str(plugins.ROOT)) < len(sys.path) - 1


def test_reading_command_imports_nothing_from_the_current_folder(write: Write, tmp_path: Path) -> None:
    sys.path.insert(0, str(tmp_path))
    plugins.drop_folder(str(tmp_path))
    plugins.add_folder(None)
    assert str(tmp_path) not in sys.path


def test_modules_of_user_packages_that_have_our_names_are_found(write: Write, tmp_path: Path) -> None:
    write("analysis/__init__.py", "raise RuntimeError")
    write("analysis/ours.py", "WIDTH = 8\n")
    write("models/mine.py", "from analysis.ours import WIDTH\nfrom models import small\n" + MODEL)
    write("models/__init__.py", "raise RuntimeError")
    write("search_spaces/mine.py", "study = 1\n")
    ours = plugins.names("models")
    plugins.add_folder(str(tmp_path))
    dotted = plugins.load("models", "models.mine", "model", "build")
    assert dotted.build(None) == "mine"
    assert plugins.load("models", "mine", "model", "build") is dotted
    assert plugins.load("search_spaces", "mine", "study", "study").study == 1
    assert plugins.names("models") == ours
    assert Path(plugins.load("models", "small", "model", "build").__file__).is_relative_to(plugins.ROOT)


@pytest.mark.parametrize("package", ["models", "study.methods", "study.data", "study.trainers"])
def test_a_file_of_the_current_folder_is_a_plugin(write: Write, tmp_path: Path, package: str) -> None:
    """It was unknown. Did you mean mynet?"""
    write("mynet.py", "from layers import WIDTH\n" + MODEL)
    write("layers.py", "WIDTH = 8\n")
    plugins.add_folder(str(tmp_path))
    assert plugins.load(package, "mynet", "plugin", "build").__file__ == str(tmp_path / "mynet.py")
    (own,) = own_names(package, "mynet")
    before = own_code.digest.__wrapped__(own)
    assert before is not None
    write("layers.py", "WIDTH = 9\n")
    assert own_code.digest.__wrapped__(own) != before


def test_a_file_of_the_current_folder_hides_no_other_plugin(write: Write, tmp_path: Path) -> None:
    write("small.py", MODEL)
    write("mine.py", MODEL)
    write("models/mine.py", MODEL)
    write("queue.py", MODEL)
    plugins.add_folder(str(tmp_path))
    assert Path(plugins.load("models", "small", "model", "build").__file__).is_relative_to(plugins.ROOT)
    assert plugins.load("models", "mine", "model", "build").__file__ == str(tmp_path / "models" / "mine.py")
    assert own_names("models", "small") == ()
    with pytest.raises(ValueError, match=r"queue\.py has the name of another module"):
        plugins.load("models", "queue", "model", "build")


def test_an_error_of_a_plugin_in_the_current_folder_names_its_line(write: Write, tmp_path: Path) -> None:
    write("mydata.py", "def load(cache):\n    raise KeyError('x')\n")
    plugins.add_folder(str(tmp_path))
    with pytest.raises(ValueError, match=r"mydata\.py, line 2: KeyError"):
        data.load("mydata", {}, tmp_path / "cache")


def test_the_folder_of_methods_is_listed_once_for_all_arms(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    study = Study(
        name="many", arms=tuple(Arm("clippy", rel=r / 100) for r in range(1, 90)), models=("small",), lrs=(0.1,)
    )
    trainer = open_trainer(study, tmp_path)
    listed, list_modules = [], pkgutil.iter_modules
    monkeypatch.setattr(pkgutil, "iter_modules", lambda folders: listed.append(folders) or list_modules(folders))
    trainer.validate(study)
    assert len(listed) <= len(plugins.PACKAGES)


def test_dotted_name_of_two_files_is_refused(write: Write, tmp_path: Path) -> None:
    write("models/small.py", MODEL)
    plugins.add_folder(str(tmp_path))
    with pytest.raises(ValueError, match=r"models\.small is both .* rename"):
        plugins.load("models", "models.small", "model", "build")
    assert Path(plugins.load("models", "small", "model", "build").__file__).is_relative_to(plugins.ROOT)


@pytest.mark.parametrize("name", ["nope", "_ranker", "models.nope", "", "..x", "a\0b"])
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="unknown model"):
        plugins.load("models", name, "model", "build")


@pytest.mark.parametrize("name", ["mine", "models.mine"])
def test_reading_command_refuses_user_modules(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    write("models/mine.py", MODEL)
    plugins.add_folder(str(tmp_path))
    monkeypatch.setattr(plugins, "only_ours", True)
    with pytest.raises(ValueError, match="mine"):
        plugins.load("models", name, "model", "build")


def test_submit_warns_of_files_that_hide_modules_of_python(write: Write, tmp_path: Path) -> None:
    write("mine.py", "")
    write("queue.py", "")
    write("code/readme.txt", "")  # no package
    with pytest.warns(UserWarning, match="hides Python's own module") as warned:
        assert submit._runtime_env(tmp_path, None, "http://head:8265")["working_dir"] == str(tmp_path)
    assert [str(warning.message).partition(" ")[0] for warning in warned] == [str(tmp_path / "queue.py")]


def test_submit_warns_of_modules_that_the_cluster_lacks(write: Write, tmp_path: Path) -> None:
    write("search_spaces/my_lrs.py", "LRS = (0.1,)\n")
    write("submitted.py", "from search_spaces.my_lrs import LRS\nstudy = LRS\n")
    plugins.add_folder(str(tmp_path))
    assert plugins.own_files() == []
    plugins.load("search_spaces", "submitted", "study", "study")
    assert plugins.own_files() == ["search_spaces/my_lrs.py", "submitted.py"]
    with pytest.warns(UserWarning, match=r"my_lrs\.py.*--working-dir"):
        submit._runtime_env(None, None, "http://head:8265")
    assert submit._runtime_env(tmp_path, None, "http://head:8265")["working_dir"] == str(tmp_path)


def test_command_of_a_loop_finds_modules_in_the_user_folder(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    plugins.add_folder(str(tmp_path))
    assert command._environment()["PYTHONPATH"] == str(tmp_path)


def test_a_file_in_a_checkout_is_found_by_the_installed_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed command has no folder of ours on `sys.path`."""
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(plugins.ROOT))])
    monkeypatch.setattr(plugins, "user_folder", None)
    plugins.add_folder(str(plugins.ROOT))
    assert sys.path[-1] == str(plugins.ROOT)

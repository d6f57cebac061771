"""The hash of a user's own module: it changes with the code that the module runs, and with nothing else."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from study import plugins
from study.definition import own_code
from study.text.own_errors import our_folders

digest = own_code.digest.__wrapped__  # a process keeps the first answer

METHOD = '''"""A method."""

from my_pkg import _layers
from .deep.tools import scale  # relative


def build(*, factor=1.0):
    """Return a chain."""
    return scale(factor)
'''

PACKAGE = {
    "my_pkg/__init__.py": "",
    "my_pkg/mine.py": METHOD,
    "my_pkg/_layers.py": "import math\n\nfrom beside import LIMIT\n",
    "my_pkg/deep/__init__.py": "from . import tools\n",
    "my_pkg/deep/tools.py": "def scale(x):\n    return 2 * x\n",
    "my_pkg/other.py": "raise RuntimeError('never imported')\n",
    "beside.py": "import numpy\n\nLIMIT = 3\n",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(plugins, "user_folder", str(tmp_path))
    for name in [name for name in sys.modules if name.partition(".")[0] in ("my_pkg", "beside", "single")]:
        monkeypatch.delitem(sys.modules, name)
    return written(tmp_path, PACKAGE)


def written(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("my_pkg/mine.py", METHOD.replace("scale(factor)", "scale(10 * factor)")),
        ("my_pkg/mine.py", METHOD.replace("factor=1.0", "factor=2.0")),
        ("my_pkg/__init__.py", "import numpy\n"),
        ("my_pkg/_layers.py", "import math\n\nfrom beside import LIMIT\n\nX = 1\n"),
        ("my_pkg/deep/tools.py", "def scale(x):\n    return 20 * x\n"),
        ("beside.py", "import numpy\n\nLIMIT = 4\n"),
    ],
)
def test_a_change_of_a_module_or_of_what_it_imports_changes_its_hash(folder: Path, file: str, text: str) -> None:
    before = digest("my_pkg.mine")
    assert len(before) == 64
    (folder / file).write_text(text)
    assert digest("my_pkg.mine") != before


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("my_pkg/mine.py", METHOD.replace("# relative", "# another comment").replace("\n\n\n", "\n\n\n\n")),
        ("my_pkg/mine.py", METHOD.replace("Return a chain.", "Another docstring.")),
        ("my_pkg/mine.py", METHOD + "\n\nstudy = Study(lrs=(0.1, 0.2))\n"),
        ("my_pkg/other.py", "X = 2\n"),
    ],
)
def test_what_the_module_does_not_run_leaves_its_hash(folder: Path, file: str, text: str) -> None:
    before = digest("my_pkg.mine")
    (folder / file).write_text(text)
    assert digest("my_pkg.mine") == before


def test_the_hash_is_the_same_in_another_folder_and_once_imported(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = written(folder, {"single.py": "import beside\n"}) and digest("single")
    monkeypatch.syspath_prepend(folder)
    plugins.import_module("single")
    assert digest("single") == found
    other = written(tmp_path_factory.mktemp("editable"), PACKAGE | {"single.py": "import beside\n"})
    monkeypatch.setattr(plugins, "user_folder", None)
    monkeypatch.delitem(sys.modules, "single")
    monkeypatch.delitem(sys.modules, "beside")
    sys.path.remove(str(folder))
    monkeypatch.syspath_prepend(other)
    assert digest("single") == found


def test_of_two_modules_of_a_name_that_counts_which_python_imports(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = own_code.digest("my_pkg.mine")
    changed = PACKAGE | {"my_pkg/mine.py": METHOD.replace("factor=1.0", "factor=2.0")}
    first = written(tmp_path / "first", changed)
    monkeypatch.syspath_prepend(first)
    monkeypatch.setattr(plugins, "user_folder", str(folder))
    own_code.digest.cache_clear()
    assert own_code.digest("my_pkg.mine") != before
    importlib.import_module("my_pkg.mine")
    assert Path(sys.modules["my_pkg.mine"].__file__ or "").is_relative_to(first)


def test_libraries_beside_an_installed_module_do_not_count(folder: Path) -> None:
    (folder / "beside-1.dist-info").mkdir()
    before = digest("my_pkg.mine")
    written(folder, {"beside.py": "LIMIT = 5\n"})
    assert digest("my_pkg.mine") == before
    written(folder, {"my_pkg/_layers.py": "X = 1\n"})
    assert digest("my_pkg.mine") != before


def test_a_script_counts_with_what_lies_beside_it(folder: Path) -> None:
    written(folder, {"scripts/train.py": "import losses\n", "scripts/losses.py": "X = 1\n"})
    before = digest("scripts/train.py")
    written(folder, {"scripts/losses.py": "X = 2\n"})
    assert digest("scripts/train.py") != before


def test_ours_and_what_is_not_there_have_no_hash(folder: Path) -> None:
    for name in ("study.methods.clippy", "models.small", "search_spaces.digits_cnn", "my_pkg.gone", "gone.py", "math"):
        assert digest(name) is None


def test_code_that_does_not_compile_counts_by_its_bytes(folder: Path) -> None:
    written(folder, {"beside.py": "def (\n"})
    before = digest("my_pkg.mine")
    written(folder, {"beside.py": "def  (\n"})
    assert digest("my_pkg.mine") != before


def test_a_copy_of_the_project_in_the_folder_counts_as_ours(folder: Path) -> None:
    (folder / "my_pkg" / "mine.py").write_text("import models.small\nimport models.added\n")
    written(folder, {"models/added.py": "X = 1\n"})
    before = digest("my_pkg.mine")
    written(folder, {"models/small.py": "", "models/__init__.py": ""})
    assert digest("my_pkg.mine") == before
    (folder / "models" / "added.py").write_text("X = 2\n")
    assert digest("my_pkg.mine") != before


def test_packages_that_ray_unpacked_apart_are_ours(tmp_path: Path) -> None:
    """Ray gives each of `py_modules` a folder of its own. The working directory may hold copies."""
    apart = [tmp_path / f"package_{name}" for name in our_folders()]
    for place, (name, folder) in zip(apart, our_folders().items(), strict=True):
        place.mkdir()
        (place / name).symlink_to(folder)
    own = written(
        tmp_path / "own", {"mine.py": "import models.small\n", "models/__init__.py": "", "models/small.py": ""}
    )
    asked = """if True:
        import sys, models.small
        from study import plugins
        from study.definition import own_code
        from study.text import own_errors
        plugins.add_folder(sys.argv[1])
        print(own_errors.is_own(models.small.__file__), own_code.digest("models.small"), own_code.digest("mine"))
    """
    paths = {"together": "", "apart": os.pathsep.join(map(str, apart))}
    said = {
        how: subprocess.run(
            [sys.executable, "-P", "-c", asked, str(own)],
            env=os.environ | {"PYTHONPATH": path},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for how, path in paths.items()
    }
    assert said["apart"] == said["together"]
    assert said["apart"][:2] == ["False", "None"]
    assert len(said["apart"][2]) == 64

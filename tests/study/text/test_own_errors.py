"""Mistakes in a user's own files: the file, the line, and the error's own words; "unknown" only where nothing is."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from own_files import own_folder, write  # noqa: F401 - a fixture

from study import data, methods, plugins
from study.trainers import loop

SPACE = 'from study import Arm, Study\n\nstudy = Study(name="x", models=("small",), arms=(Arm(method="none"),), '

MISTAKES = {
    "value": (SPACE + "lrs=(0.1, 0.1), seeds=(0,))\n", "mine.py, line 3: lrs names 0.1 twice"),
    "keyword": (SPACE + "lr=(0.1,))\n", "mine.py, line 3: TypeError: .*unexpected keyword argument 'lr'"),
    "syntax": ("x = 1\ny = (\n", "mine.py, line 2: SyntaxError: '[(]' was never closed"),
    "name": ("\nx = y\n", "mine.py, line 2: NameError: name 'y' is not defined"),
    "import": ("\nfrom study import Study, Armm\n", "mine.py, line 2: ImportError: cannot import name 'Armm'"),
    "module": ("\nimport not_there\n", "mine.py, line 2: .*not_there"),
    "exit": ("import sys\nsys.exit('no')\n", "mine.py, line 2: SystemExit: no"),
    "empty": ("raise RuntimeError\n", "mine.py, line 1: RuntimeError$"),
    "inside": ("def check():\n    return {}['m']\n\n\ncheck()\n", "mine.py, line 2: KeyError: 'm'"),
}

KINDS = {
    "study": lambda name: plugins.load("search_spaces", name, "study", "study"),
    "model": lambda name: plugins.load("models", name, "model", "build"),
    "method": lambda name: plugins.load("study.methods", name, "method", "build"),
    "data source": lambda name: data.load(name, {}, Path()),
    "trainer": lambda name: plugins.load("study.trainers", name, "trainer", "Trainer"),
    "loop": lambda name: _loop(name).function,
}


def _loop(name: str) -> Any:
    study: Any = SimpleNamespace(trainer_options={"function": f"{name}:train"})
    return loop.Trainer(study, Path())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_shown_with_its_file_and_line(own_folder: Path, kind: str, mistake: str) -> None:  # noqa: F811
    text, message = MISTAKES[mistake]
    with pytest.raises(ValueError, match=message) as raised:
        KINDS[kind](write(own_folder, text))
    assert "unknown" not in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


def test_a_mistake_in_a_file_that_is_imported_is_shown_there(own_folder: Path) -> None:  # noqa: F811
    helper = write(own_folder, "WIDTHS = (1, 2\n")
    for text in (helper, write(own_folder, f"\nfrom {helper} import WIDTHS\n")):
        with pytest.raises(ValueError, match=f"{helper.replace('.', '/')}.py, line 1: SyntaxError"):
            plugins.load("models", text, "model", "build")


@pytest.mark.parametrize(
    ("package", "name", "meant"),
    [
        ("study.methods", "clipy", "clippy"),
        ("models", "smal_dcn", "small_dcn"),
        ("search_spaces", "lr_curves", "lr_curve"),
        ("models", "OWN.mein", "OWN.mine"),
        ("models", "nothing_like_it", ""),
    ],
)
def test_a_name_that_is_not_there_is_unknown(own_folder: Path, package: str, name: str, meant: str) -> None:  # noqa: F811
    own = write(own_folder, "").removesuffix(".mine")
    name, meant = name.replace("OWN", own), meant.replace("OWN", own)
    hint = re.escape(f"Did you mean {meant}?") if meant else "my_pkg.mine$"
    with pytest.raises(ValueError, match=f"unknown thing '{name}'; there are .*{hint}"):
        plugins.load(package, name, "thing", "build")


def test_a_command_that_only_reads_runs_no_code_of_another_package(own_folder: Path, monkeypatch) -> None:  # noqa: F811
    (own_folder / "evil").mkdir()
    (own_folder / "evil" / "__init__.py").write_text("raise SystemExit(3)\n")
    for only_ours, message in ((True, "commands that only read"), (False, "SystemExit: 3")):
        monkeypatch.setattr(plugins, "only_ours", only_ours)
        with pytest.raises(ValueError, match=message):
            plugins.load("study.methods", "evil.sub.m", "method", "build")
        assert "evil" not in sys.modules


def test_what_own_functions_raise_is_shown_with_its_line(own_folder: Path) -> None:  # noqa: F811
    source = write(own_folder, "def load(cache, *, rows=3):\n    return {}['day']\n")
    with pytest.raises(ValueError, match=r"mine\.py, line 2: KeyError: 'day'"):
        data.load(source, {}, Path())
    build = "def build(lr, *, base, c=1.0):\n    return base()\n\n\n"
    method = write(own_folder, build + "def check(*, base, c):\n    raise ValueError(f'need c > 2, got {c}')\n")
    with pytest.raises(ValueError, match=r"mine\.py, line 6: need c > 2, got 1.0"):
        methods.check(method, {})

"""`study plan` of a user's loop: bad input is one line in the user's words, and nothing is written."""

import contextlib
import importlib
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from study import plugins
from study.cli.main import main

Refuse = Callable[..., str]

HEAD = "from study import Arm, Loop, Study\n"
TRAIN = "def train(run, watch, *, width=32):\n    watch(1.0)\n"
COMMAND = 'Loop(command="{}", losses="{{folder}}/losses.csv")'


def space(loop: str = "Loop(train)", train: str = TRAIN, **changed: str) -> str:
    """Return the text of a search space. The first line of the study is line 4."""
    values = {"name": "'mine'", "arms": "(Arm('plain'),)", "lrs": "(0.1, 1.0)", "seeds": "range(2)"} | changed
    return f"{HEAD}{train}study = Study(trainer={loop}, {', '.join(f'{k}={v}' for k, v in values.items())})\n"


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Refuse]:
    """Plan a search space that must be refused. Returns the line that says why."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STUDY_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("STUDY_TRACEBACK", raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(plugins, "user_folder", None)
    for package in plugins.PACKAGES:
        module = importlib.import_module(package)
        monkeypatch.setattr(module, "__path__", list(module.__path__))
    shown = warnings.showwarning

    def refuse(text: str, *words: str) -> str:
        (tmp_path / "my_file.py").write_text(text)
        code = main(["plan", "my_file", *words])
        said = capsys.readouterr()
        assert code == 2, said
        assert len(said.err.splitlines()) == 1, said.err
        assert said.out == ""
        assert [path.name for path in tmp_path.iterdir()] == ["my_file.py"], "something was written"
        return said.err

    yield refuse
    warnings.showwarning = shown
    with contextlib.suppress(KeyError):
        del sys.modules["my_file"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (space() + "1 / 0\n", "line 5: ZeroDivisionError: division by zero"),
        (space() + "raise ValueError('of two\\nlines')\n", "line 5: of two lines"),
        (space() + "raise SystemExit(0)\n", "line 5: SystemExit"),
        (space() + "open('not_there')\n", "line 5: FileNotFoundError"),
        (space() + "from study import Nope\n", "line 5: ImportError"),
        (space() + "def (:\n", "line 5: SyntaxError"),
        (space() + "  indented = 1\n", "line 5: IndentationError"),
        (space() + "import not_installed_here\n", "not_installed_here"),
        (HEAD, "defines no `study`"),
        (HEAD + "study = 3\n", "neither a study.Study"),
        ("", "defines no `study`"),
    ],
)
def test_a_file_that_defines_no_study_is_refused_with_its_line(refused: Refuse, text: str, words: str) -> None:
    said = refused(text)
    assert "my_file" in said
    assert words in said


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (space("Loop('my_file:nope')"), "no function 'nope'"),
        (space("Loop('no_such_file:train')"), "no module 'no_such_file'"),
        (space(train="def train(run):\n    pass\n"), "takes (run)"),
        (space(train="def train(run, watch, width):\n    pass\n"), "width"),
        (space(train="def train(run, watch, *, width):\n    pass\n"), "width"),
        (space(train="async def train(run, watch):\n    pass\n"), "plain function"),
        (space(train="def train(run, watch):\n    yield\n"), "plain function"),
        (space(train="class train:\n    pass\n"), "plain function"),
        (space("Loop(lambda run, watch: None)"), "top of a module"),
        (space("Loop(3)"), "got 3"),
        (space("train"), "Loop(...)"),
        (space("Loop(train, baseline=-1.0)"), "baseline > 0"),
        (space("Loop(train, baseline=0)"), "baseline > 0"),
        (space("Loop(train, baseline=float('nan'))"), "baseline > 0"),
        (space("Loop(train, baseline={'click': 1.0})"), "click"),
        (space("Loop(train, tasks='loss')"), "tasks"),
        (space("Loop(train, quality='-')"), "quality"),
        (space("Loop(train, quality=3)"), "quality"),
        (space("Loop(train, cpus=float('nan'))"), "cpus=nan"),
        (space("Loop(train, gpus='1')"), "gpus"),
        (space("Loop(train, qualty='accuracy')"), "qualty"),
    ],
)
def test_a_loop_that_cannot_be_used_is_refused(refused: Refuse, text: str, words: str) -> None:
    assert words in refused(text)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("no_such_program_here {lr}", "no_such_program_here"),
        ("python my_file.py {lr} {nope}", "{nope}"),
        ("python my_file.py", "{lr}"),
        ("python my_file.py {lr:.2f}", "format"),
        ("python my_file.py {lr.real}", "{lr.real}"),
    ],
)
def test_a_command_that_cannot_be_used_is_refused(refused: Refuse, command: str, words: str) -> None:
    assert words in refused(space(COMMAND.format(command)))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("losses='losses.csv'", "{folder}"),
        ("losses='{folder}/{nope}.csv'", "{nope}"),
        ("losses='{folder}/losses.csv', quality='accuracy'", "metrics="),
    ],
)
def test_files_of_a_command_that_cannot_be_used_are_refused(refused: Refuse, more: str, words: str) -> None:
    assert words in refused(space(f"Loop(command='python my_file.py {{lr}}', {more})"))


@pytest.mark.parametrize(
    ("axis", "value", "words"),
    [
        ("arms", "()", "arms"),
        ("arms", "('plain',)", 'Arm("name")'),
        ("arms", "Arm('plain')", "arms needs a tuple"),
        ("arms", "(Arm('plain'), Arm('plain'))", "plain"),
        ("arms", "(Arm(''),)", "name"),
        ("arms", "(Arm('a\\n'),)", "control characters"),
        ("arms", "(Arm(3),)", "got 3"),
        ("arms", "(Arm('plain', nope=1),)", "no option 'nope'; it has width"),
        ("arms", "(Arm('plain', width=(1, 2)),)", "width"),
        ("arms", "(Arm('plain', width=float('nan')),)", "nan"),
        ("arms", "(Arm('plain', width=object()),)", "width"),
        ("lrs", "()", "lrs"),
        ("lrs", "0.1", "lrs needs a tuple"),
        ("lrs", "('0.1',)", "number as lr"),
        ("lrs", "(0.0, 0.1)", "lr=0"),
        ("lrs", "(-0.1,)", "lr=-0.1"),
        ("seeds", "()", "seeds"),
        ("seeds", "3", "seeds needs a tuple or a range"),
        ("seeds", "(0.5,)", "seed=0.5"),
        ("seeds", "(-1,)", "seed=-1"),
        ("name", "''", "name"),
    ],
)
def test_an_axis_of_wrong_values_is_refused(refused: Refuse, axis: str, value: str, words: str) -> None:
    assert words in refused(space(**{axis: value}))


@pytest.mark.parametrize("name", ["steps", "k", "rate", "score_scale", "final_loss", "curve"])
def test_a_number_named_as_a_column_of_the_report_is_refused(refused: Refuse, name: str) -> None:
    """Its runs would be trained, and their record could not be read."""
    train = f"def train(run, watch, *, {name}=1):\n    watch(1.0)\n"
    assert f"option {name}" in refused(space(train=train), "--set", f"plain.{name}=2,3")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--set", "plain.nope=1"], "no option 'nope'; it has width"),
        (["--set", "plian.width=1"], "plain.OPTION"),
        (["--set", "methods=plain,other"], "'other'; it has 'plain'"),
        (["--set", "models=small"], "'small'; it has 'my_file'"),
        (["--set", "my_file.width=8"], "arms"),
        (["--set", "steps=100"], "options of the loop"),
        (["--set", "data.rows=100"], "its own data"),
        (["--set", "lr=0,1"], "lr=0"),
        (["--data", "kuairand"], "its own data"),
        (["--data-dir", "."], "its own data"),
        (["--init-from", "weights.safetensors"], "--init-from is for rankers"),
        (["--stack", "4"], "one run at a time"),
    ],
)
def test_wrong_options_are_refused(refused: Refuse, words: list[str], said: str) -> None:
    assert said in refused(space(), *words)


KINDS = (
    "def train(run, watch, *, width=32, momentum=0.9, nesterov=False, clip=None, schedule='none'):\n    watch(1.0)\n"
)


@pytest.mark.parametrize(
    ("setting", "kind"),
    [
        ("width=abc", "whole number"),
        ("width=8,abc", "whole number"),
        ("width=true", "whole number"),
        ("width=8.5", "whole number"),
        ("momentum=abc", "a number"),
        ("momentum=false", "a number"),
        ("nesterov=1", "true or false"),
        ("nesterov=no", "true or false"),
    ],
)
def test_an_option_of_another_kind_than_its_default_is_refused(refused: Refuse, setting: str, kind: str) -> None:
    said = refused(space(train=KINDS), "--set", f"plain.{setting}")
    assert f"plain.{setting.partition('=')[0]}" in said
    assert kind in said


@pytest.mark.parametrize("setting", ["beta=abc", "beta=true"])
def test_an_option_of_another_kind_than_in_the_study_is_refused(refused: Refuse, setting: str) -> None:
    """A command has no defaults, so the values of the arms say what an option is."""
    arms = "(Arm('plain', beta=0), Arm('momentum', beta=0.9))"
    said = refused(space(COMMAND.format("python my_file.py {lr} {beta}"), arms=arms), "--set", f"plain.{setting}")
    assert "need a number, got plain.beta" in said

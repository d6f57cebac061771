"""What a user sees while a study trains."""

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from study.commands import progress
from study.commands.progress import Progress, duration
from study.config import CONTROL_SEEDS, Run
from study.execution.planner import Stack
from study.execution.work_source import Planned
from study.storage import stores

COUNTS = {"runs": 2, "diverged": 1, "undertrained": 0, "seconds": 1.0}


def stack(model: str, method: str, seeds: tuple[int, ...]) -> Stack:
    return Stack(runs=tuple(Run(data="d", model=model, method=method, lr=0.1, seed=seed) for seed in seeds))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


WORK = {"small": 20.0, "large": 290.0}


def test_line_counts_runs_and_weighs_time_left_by_model(clock: list[float]) -> None:
    control = stack("small", "none", CONTROL_SEEDS[:2])
    small, large = stack("small", "none", (0, 1)), stack("large", "clippy", (0, 1))
    out = io.StringIO()
    source = Planned([small, large])
    shown = Progress([control], source, WORK, out)
    clock[0] = 60.0
    shown(control, COUNTS)
    assert shown.line().startswith("2/6 runs · 6% · 2/min · ")
    assert shown.line().endswith("diverged: control first")
    clock[0] = 120.0
    source.recorded(small)
    shown(small, COUNTS)
    # Two minutes for 4 x 20 of work; 2 x 290 are left.
    assert shown.line() == "4/6 runs · 12% · 2/min · 14:30 left · diverged: none 1/2"
    source.given_up(large, "the worker process ended")
    shown(large, "the worker process ended")
    said = out.getvalue().splitlines()
    assert said[0] == "0/6 runs · the first stacks train"
    assert said[-1] == "failed, 2 runs of clippy: the worker process ended"
    assert "0:00 left" in shown.line()


def test_stacks_by_which_the_control_grows_are_counted(clock: list[float]) -> None:
    control, further = stack("small", "none", CONTROL_SEEDS[:2]), stack("small", "none", CONTROL_SEEDS[2:])
    shown = Progress([control], Planned([stack("small", "none", (0, 1))]), WORK, io.StringIO())
    shown(control, COUNTS)
    shown.add_control([further])
    assert shown.line().startswith("2/6 runs")
    shown(further, COUNTS)
    assert shown.line().startswith("4/6 runs")


def test_the_clock_starts_with_the_first_trial(clock: list[float]) -> None:
    small, large = stack("small", "none", (0, 1)), stack("small", "none", (2, 3))
    source = Planned([small, large])
    shown = Progress([], source, WORK, io.StringIO())
    clock[0] = 75.0  # others used the cluster
    shown.begin()
    clock[0] = 135.0
    source.recorded(small)
    shown(small, COUNTS)
    assert shown.line() == "2/4 runs · 50% · 2/min · 1:00 left · diverged: none 1/2"


def test_the_pace_counts_all_time_since_the_first_trial_when_tune_begins_again(clock: list[float]) -> None:
    small, large = stack("small", "none", (0, 1)), stack("small", "none", (2, 3))
    source = Planned([small, large])
    shown = Progress([], source, WORK, io.StringIO())
    shown.begin()
    clock[0] = 60.0
    source.recorded(small)
    shown(small, COUNTS)
    shown.begin()  # a worker was killed for memory
    clock[0] = 120.0
    assert shown.line() == "2/4 runs · 50% · 1/min · 2:00 left · diverged: none 1/2"


def test_a_long_study_does_not_flood_a_log(clock: list[float]) -> None:
    control = [stack("small", "none", CONTROL_SEEDS[at : at + 1]) for at in range(2)]
    stacks = [stack("small", "none", (seed,)) for seed in range(45)]
    out, source = io.StringIO(), Planned(stacks)
    shown = Progress(control, source, WORK, out)
    for one in [*control, *stacks]:
        clock[0] += 1.0
        source.recorded(one)
        shown(one, {"runs": 1, "diverged": 0})
    shown.note("a note")
    shown.close()
    begins = [line.split("/")[0].strip() for line in out.getvalue().splitlines()]
    assert begins == ["0", "2", "12", "22", "32", "42", "a note", "47"]


def test_terminal_shows_a_bar_for_all_runs_and_one_per_method(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    small, large = stack("small", "none", (0, 1)), stack("large", "clippy", (0, 1))
    out, source = Terminal(), Planned([small, large])
    shown = Progress([], source, WORK, out)
    clock[0] = 60.0
    source.recorded(small)
    shown(small, COUNTS)
    shown.note("a note")
    shown.close()
    said = out.getvalue()
    assert "2/4" in said
    assert "14:30 left" in said
    assert "1/2 diverged" in said
    assert "a note\n" in said.replace("\r", "")


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (62, "1:02"), (725, "12:05"), (11040, "3:04:00")])
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def beat(folder: Path, trained: Stack, step: int, **more: object) -> None:
    about = {"model": trained.runs[0].model, "runs": [run.id for run in trained.runs], "steps": 200, "pid": 1, **more}
    content = {"beat": 0.0, "clock": 0.0, "seconds": 1.0, "limit": 0.0, "step": step, **about}
    stores.store_for(folder).put(f"training/{trained.name}.json", json.dumps(content).encode())


def test_the_line_moves_with_the_steps_of_what_trains(clock: list[float], tmp_path: Path) -> None:
    """Two stacks of two runs each: the work of 4 runs. After 60 steps of 200 of the first, 0.6 of a run is done."""
    first, second = stack("small", "none", (0, 1)), stack("small", "none", (2, 3))
    source, out = Planned([first, second]), io.StringIO()
    shown = Progress([], source, WORK, out, folder=tmp_path)
    clock[0] = 60.0
    beat(tmp_path, first, 60)
    shown.read_steps()
    assert shown.line() == "0/4 runs · 15% · 1/min · 5:40 left · diverged: control first"
    shown.check()
    assert out.getvalue().splitlines()[-1] == shown.line()
    clock[0] = 120.0
    source.recorded(first)
    shown(first, COUNTS)  # its steps, read before, are not counted once more
    assert shown.line() == "2/4 runs · 50% · 1/min · 2:00 left · diverged: none 1/2"


def test_the_pace_leaves_out_what_a_checkpoint_had_done(clock: list[float], tmp_path: Path) -> None:
    """A stack of two runs goes on at step 100 of 200, and comes to 150 within a minute: half a run, and half left."""
    one = stack("small", "none", (0, 1))
    source = Planned([one])
    shown = Progress([], source, WORK, io.StringIO(), folder=tmp_path, resumed=[one.name])
    beat(tmp_path, one, 100)
    shown.read_steps()
    clock[0] = 60.0
    beat(tmp_path, one, 150)
    shown.read_steps()
    assert shown.line() == "0/2 runs · 75% · 0/min · 1:00 left · diverged: control first"
    clock[0] = 120.0
    source.recorded(one)
    shown(one, COUNTS)
    assert shown.line().startswith("2/2 runs · 100% · 0/min · 0:00 left")


def test_steps_of_the_control_count_and_unknown_ones_do_not(clock: list[float], tmp_path: Path) -> None:
    control, cells = stack("small", "none", CONTROL_SEEDS[:2]), stack("small", "none", (0, 1))
    shown = Progress([control], Planned([cells]), WORK, io.StringIO(), folder=tmp_path)
    clock[0] = 60.0
    beat(tmp_path, control, 100)
    beat(tmp_path, cells, 100, steps=None)  # a loop that does not know how long it is
    shown.read_steps()
    assert shown.line().startswith("0/4 runs · 25% · ")
    beat(tmp_path, stack("other", "none", (5,)), 100)  # left by another command
    (tmp_path / "training" / "broken.json").write_text("{")
    shown.read_steps()
    assert shown.line().startswith("0/4 runs · 25% · ")


def test_a_line_without_news_is_not_repeated(clock: list[float], tmp_path: Path) -> None:
    one, out = stack("small", "none", (0, 1)), io.StringIO()
    shown = Progress([], Planned([one]), WORK, out, folder=tmp_path)
    for step in (50, 50, 50, 100):
        clock[0] += 2 * progress.STEPS_LINE_SECONDS
        beat(tmp_path, one, step)
        shown.read_steps()
        shown.check()
        shown.check()
    assert [line.split(" · ")[1] for line in out.getvalue().splitlines()] == ["the first stacks train", "25%", "50%"]


class Kernel:
    """What a kernel's IPython does with what is displayed, by display id."""

    def __init__(self) -> None:
        self.shown = dict[int, list[dict[str, str]]]()

    def display(self, data: dict[str, str], *, raw: bool, display_id: bool) -> Any:
        assert raw
        assert display_id
        of_this = self.shown.setdefault(len(self.shown), [data])
        return SimpleNamespace(update=lambda data, raw: of_this.append(data))

    def modules(self) -> dict[str, Any]:
        events = SimpleNamespace(register=lambda *_: None)  # Ray asks for it
        shell = type("ZMQInteractiveShell", (), {"events": events})()
        face = SimpleNamespace(display=self.display)
        return {"IPython": SimpleNamespace(get_ipython=lambda: shell, display=face), "IPython.display": face}


def test_a_notebook_shows_one_bar_and_keeps_what_was_printed(
    clock: list[float], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kernel = Kernel()
    for name, module in kernel.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    small, large = stack("small", "none", (0, 1)), stack("large", "clip<py", (0, 1))
    source = Planned([small, large])
    shown = Progress([], source, WORK)
    (states,) = kernel.shown.values()
    assert "the first stacks train" in states[-1]["text/plain"]
    for one in (small, large):
        clock[0] += 60.0
        source.recorded(one)
        shown(one, COUNTS)
    shown.note("a note")
    shown.close()
    assert len(kernel.shown) == 1, "one bar"
    assert 'max="4" value="4.000"' in states[-1]["text/html"]
    assert "none 1/2 diverged · clip&lt;py 1/2 diverged" in states[-1]["text/html"]
    assert states[-1]["text/plain"].startswith("4/4 · 100%")
    assert capsys.readouterr().out == "a note\n"


def test_in_a_notebook_tune_reports_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from study.tune.runner import _quiet

    assert _quiet() == {}, "elsewhere Tune warns of a reporter"
    monkeypatch.setitem(sys.modules, "IPython", Kernel().modules()["IPython"])
    reporter = _quiet()["progress_reporter"]
    assert not reporter.should_report([], done=True)

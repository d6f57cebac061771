"""The benchmark of start-up measures what it says, in alternation."""

from pathlib import Path

import bench
import pytest
import startup


def test_sides_alternate_and_medians_and_ratios_are_right(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    took = {"here": iter((1.0, 9.0, 2.0)), "there": iter((8.0, 3.0, 4.0))}
    order: list[str] = []

    def measure(side: startup.Side) -> dict[str, float]:
        order.append(side.name)
        return {"a command": next(took[side.name])}

    monkeypatch.setattr(startup, "MEASURES", (measure,))
    monkeypatch.setattr(startup.Side, "lines", lambda *_words: ([], 0.0))
    sides = [startup.Side(name=name, checkout=tmp_path, folder=tmp_path) for name in took]
    head, row = startup.table(sides, 3).splitlines()
    assert order == ["here", "there"] * 3
    assert head.split() == ["seconds,", "median", "here", "there", "ratio", "all"]
    assert row.split()[:5] == ["a", "command", "2.00", "4.00", "0.50"]


def test_a_command_is_timed_and_one_that_fails_says_so(tmp_path: Path) -> None:
    side = startup.Side(name="here", checkout=bench.ROOT, folder=tmp_path)
    lines, seconds = side.lines("--help")
    assert any("COMMAND" in text for _, text in lines)
    assert 0 < lines[-1][0] <= seconds
    with pytest.raises(RuntimeError, match="exit code 2 of study run nowhere"):
        side.lines("run", "nowhere")

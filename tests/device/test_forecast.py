"""The forecast for a GPU: its formula by hand, and the form of what it says."""

import re
from pathlib import Path

import forecast
import numpy as np
import pytest
import torch
from fake_device import DEVICE, computing_nothing
from stacks import LOG, RECIPE

RATES = forecast.Rates(flops=100.0, bandwidth=10.0, memory=0.0, launch=1.0)


def test_a_step_takes_the_larger_of_launches_and_device() -> None:
    found = forecast.seconds_of([(500.0, 10.0), (0.0, 20.0)], RATES)
    assert found == pytest.approx({"launches": 2.0, "products": 5.0, "bytes": 3.0, "device": 7.0, "all": 7.0})
    assert forecast.seconds_of([(50.0, 1.0), (0.0, 2.0)], RATES)["all"] == pytest.approx(2.0)


def test_bytes_live_as_long_as_their_tensors_and_once_for_all_views() -> None:
    with computing_nothing(), forecast.LiveBytes() as live:
        x = torch.ones(1000, device=DEVICE)
        y = x.view(10, 100)[1:] + 1
        assert live.most == 4000 + 3600
        del x
        live.most = 0
        torch.ones(1000)  # of the host
        z = y * 2
        assert live.most == 3600 + 3600
        assert z.device == DEVICE


def test_operations_of_the_host_are_not_counted_and_a_sort_passes_four_times() -> None:
    with computing_nothing(), forecast.Operations() as seen:
        (torch.ones(10) + 1).to(DEVICE)
        torch.ones(10, device=DEVICE).sort()
    assert seen.found == [(0.0, 80.0), (0.0, 40.0), (0.0, 4 * (40 + 40 + 80))]


def test_a_stack_grows_straight_with_its_seeds() -> None:
    few, more, six = (forecast.simulated(forecast.runs_of("small", "clippy", n, LOG, RECIPE), LOG) for n in (2, 4, 6))
    runs = 6 * forecast.LRS
    np.testing.assert_allclose(forecast.step_of(few, more, runs), six.step)
    assert forecast.along(few.memory, more.memory, runs) == pytest.approx(six.memory)
    judging = [forecast.seconds_of(one.judging, RATES)["bytes"] for one in (few, more, six)]
    assert forecast.along(*judging[:2], runs) == pytest.approx(judging[2])
    assert forecast.fitting(few, more, six.memory) == runs


def test_one_command_prints_the_table_of_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--models", "small", "--runs", "500", "--data", "synthetic", "--rows", "8000"]
    assert forecast.main(asked) == 0
    head, _, *rows = capsys.readouterr().out.splitlines()
    assert head.endswith("| 500 runs, s |")
    assert [row.split(" | ")[:3] for row in rows] == [["| `small`", card, "500"] for card in forecast.CARDS]
    for row in rows:
        _, _, _, memory, fit, parts, rules, judging, seconds = row.strip("| ").split(" | ")
        planned, held = map(float, memory.split(", "))
        assert planned / 4 < held < 4 * planned
        assert all(int(runs.replace(",", "")) > 1024 for runs in re.split(", ", fit))
        assert len(parts.split(", ")) == 3
        assert rules in ("launches", "products", "bytes")
        assert 0 < float(judging) < float(seconds.replace(",", ""))


@pytest.mark.slow
def test_the_paper_s_large_network_has_a_forecast() -> None:
    rows = forecast.forecast("paper_large_dcn", "none", 1000, LOG, RECIPE)
    assert [row[0] for row in rows] == list(forecast.CARDS)


def test_the_check_says_forecast_over_measured_of_both_paths() -> None:
    lines = forecast.check("small", "none", LOG, RECIPE, RATES, most_seconds=0.0)
    assert [line.split(", ")[3].split(":")[0] for line in lines] == ["a GPU's path", "as make bench trains"]
    for line in lines:
        expected, measured, ratio = map(float, re.findall(r"forecast (\S+) .* measured (\S+) \((\S+)\)", line)[0])
        assert ratio == pytest.approx(measured / expected, abs=0.01)


def test_the_operations_of_a_cpu_step_are_fewer_on_a_gpu_s_path() -> None:
    runs = forecast.runs_of("small", "none", 2, LOG, RECIPE)
    of_bench, _ = forecast.timed_step(runs, LOG, 0.0)
    with forecast.path_of_a_gpu():
        of_gpu, _ = forecast.timed_step(runs, LOG, 0.0)
    assert len(of_gpu) < len(of_bench)
    assert of_gpu == forecast.simulated(runs, LOG).step


def test_a_folder_without_data_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        forecast.main(["--data-dir", str(tmp_path)])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "--data-dir names the folder that is read here" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--models", "small,nosuch"], "unknown model 'nosuch'"),
        (["--method", "nosuch"], "unknown method 'nosuch'"),
        (["--runs", "0"], "argument --runs: need at least 1, got 0"),
    ],
)
def test_a_bad_option_is_said_before_the_table(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        forecast.main(["--data", "synthetic", "--rows", "8000", "--models", "small", *words])
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert message in said.err.splitlines()[-1]

"""The parts of the GPU benchmark run, and count right, as far as a CPU can show."""

import subprocess
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import gpu
import numpy as np
import pandas as pd
import pytest
from device_settings import Setting, all_pairs

from search_spaces._arms import PAPER_FIVE
from study import data, methods
from study.config import CONTROL_LRS, CONTROL_SEEDS, Recipe, Rule
from study.training import fused_mlp
from study.training.trainer import train

SMALL = ["--device", "cpu", "--data", "synthetic", "--rows", "20000", "--steps", "13"]


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return data.load("synthetic", {"rows": 20_000}, tmp_path_factory.mktemp("cache"))


def test_parts_run(capsys):
    more = ["--runs", "6", "--stack", "4", "--processes", "2", "--paper", "small", "--paper-steps", "13"]
    more += ["--batch", "64"]
    assert gpu.main([*SMALL, *more, "--only", "rate,waits,graph,small,paper"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in said[1:]] == ["rate", "waits", *["graph"] * 4, *["small"] * 3, "paper"]
    assert "6 runs in 2 stacks of at most 4" in said[7]
    assert "nan" not in "".join(said)


TOY = ["--device", "cpu", "--data", "synthetic", "--rows", "8000", "--steps", "60", "--seeds", "2"]


def test_outcomes_of_a_device_are_held_against_the_cpu_s(capsys):
    assert gpu.main([*TOY, "--lrs", "0.05,0.1,1000", "--only", "outcomes"]) == 0
    _, alike, edges, twice, alone = capsys.readouterr().out.splitlines()
    assert alike == "outcomes: 6 runs: 100.0% end as on the CPU (target 97%)"
    assert edges.endswith("each within the other's interval")
    assert "not each" not in edges
    assert twice == "outcomes: a stack of 6 twice: the same bits"
    assert alone.endswith("differ by 0 at most (tolerance 0.001)")


def test_edges_of_the_paper_s_networks_have_a_line_and_rows_a_curve(capsys, tmp_path):
    assert ",".join(arm.method for arm in PAPER_FIVE) == gpu.METHODS
    more = ["--paper", "small", "--methods", "none,clippy", "--lrs", "0.05,1000", "--batch", "128", "--stack", "3"]
    assert gpu.main([*TOY, *more, "--only", "paper-edges", "--out", str(tmp_path / "edges.csv")]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.split(": LR50")[0] for line in lines] == [
        f"paper-edges: small, {method}, float32, 2 seeds" for method in ("none", "clippy")
    ]
    table = pd.read_csv(tmp_path / "edges.csv")
    assert table.groupby("method").size().to_dict() == {"none": 4, "clippy": 4}
    assert table[table["method"] == "none"]["diverged"].tolist() == [False, True] * 2


def test_layers_round_their_factors_to_bfloat16_and_nothing_after(log, monkeypatch):
    monkeypatch.setattr(gpu.matmul.devices, "wants_few_operations", lambda _device: True)
    monkeypatch.setattr(fused_mlp, "takes", lambda *_given: False)
    runs = gpu.runs_of("small", 2, log, Recipe(steps=20))
    exact = train(runs, log).loss
    with gpu.multiplying("bfloat16"):
        rounded = train(runs, log).loss
    assert not np.array_equal(exact, rounded)
    np.testing.assert_allclose(rounded, exact, rtol=0.02)
    assert np.array_equal(train(runs, log).loss, exact)


def test_the_slice_can_be_tiled(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(gpu, "tile", lambda *given: asked.append(given))
    monkeypatch.setattr(data, "load", lambda source, options, _cache: asked.append((source, options)))
    assert gpu.main(["--device", "cpu", "--only", "rate", "--data-dir", str(tmp_path), "--tile", "5000"]) == 0
    [(source, into, rows), (_, options)] = asked
    assert (source, str(into), rows) == (tmp_path, options["dir"], 5000)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [(["--only", "rate,speed"], "no part is called speed"), (["--device", "cuda"], "this machine has no GPU")],
)
def test_what_cannot_be_measured_is_said(arguments, word, capsys, monkeypatch):
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as ended:
        gpu.main(arguments)
    assert ended.value.code == 2
    assert word in capsys.readouterr().err


def test_a_step_is_timed_after_the_first_ones(log):
    runs = gpu.runs_of("small", 2, log, Recipe(steps=30))
    found = gpu.timed(runs, log, "cpu")
    assert 0 < 19 * found.of_step < found.seconds
    with pytest.raises(ValueError, match="a step is timed after the first 11, so a run needs more steps, got 11"):
        gpu.timed(gpu.runs_of("small", 2, log, Recipe(steps=11)), log, "cpu")


def test_what_is_watched_begins_and_ends_where_it_should():
    said = []
    watch = gpu._between(3, 5, said.append, "begin", "end")
    for step in range(8):
        watch(step)
        said.append(step)
    assert said == [0, 1, 2, "begin", 3, 4, "end", 5, 6, 7]


def test_waits_are_watched_from_the_first_warm_step_and_told(log, monkeypatch):
    runs = gpu.runs_of_setting(Setting("clippy", "own_models.dropout", "method", "float64"), log)
    modes = []
    monkeypatch.setattr(gpu.torch.cuda, "set_sync_debug_mode", modes.append)
    assert gpu.waits(runs, log, "cpu") == "no step waits for the device"
    assert modes == ["error", 0, 0]

    def refuse(mode):
        if mode == "error":
            raise RuntimeError("called a synchronizing CUDA operation")

    monkeypatch.setattr(gpu.torch.cuda, "set_sync_debug_mode", refuse)
    assert gpu.waits(runs, log, "cpu") == "a step waits: called a synchronizing CUDA operation"


def test_a_folder_without_data_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        gpu.main(["--device", "cpu", "--data-dir", str(tmp_path)])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "--data-dir names the folder that is read here" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--only", "small", "--runs", "0"], "argument --runs: need at least 1, got 0"),
        (["--only", "paper", "--paper", "nosuch"], "unknown model 'nosuch'"),
        (["--only", "outcomes", "--steps", "5"], "the training loss is not learnable here"),
        (["--only", "graph", "--steps", "5"], "a run needs more steps, got 5"),
    ],
)
def test_a_bad_option_is_said_without_a_traceback(words, message, capsys):
    with pytest.raises(SystemExit) as ended:
        gpu.main(["--device", "cpu", "--data", "synthetic", "--rows", "8000", "--seeds", "1", *words])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def settings_asked(monkeypatch, measure):
    """Return the list of settings for which gpu.py will call `measure`, which tells nothing."""
    asked = []

    def told(runs, _log, _device):
        asked.append((runs[0].method, runs[0].model, runs[0].recipe.embeddings, runs[0].recipe.precision))
        return "told"

    monkeypatch.setattr(gpu, measure, told)
    return asked


def test_waits_are_asked_in_every_setting_of_the_tests(log, monkeypatch):
    asked = settings_asked(monkeypatch, "waits")
    monkeypatch.setattr(gpu, "kernels_of_step", lambda *_given: 7.0)
    said = list(gpu.say_waits(Namespace(device="cuda:0"), log, {}))
    assert asked == all_pairs()
    assert said[0] == f"waits: {' '.join(all_pairs()[0])}: told; 7 kernels a step"
    assert sum("kernels" in line for line in said) == len(methods.names())


@pytest.mark.parametrize("changed", ["loss", "moved"])
def test_a_stack_is_trained_plainly_and_by_a_graph(changed, log, monkeypatch):
    asked = []

    def trained(*given, cuda_graphs):
        asked.append(cuda_graphs)
        found = train(*given)
        other = {changed: getattr(found, changed) + len(asked), "notes": ("no graph here",)}
        return replace(found, **other) if cuda_graphs else found

    monkeypatch.setattr(gpu, "train", trained)
    monkeypatch.setattr(gpu.step_graph, "_refused", "a fault of the stack before")
    said = gpu.by_graph(gpu.runs_of("small", 2, log, Recipe(steps=13)), log, "cpu")
    assert asked == [False, False, True]
    assert gpu.step_graph._refused == ""
    assert said.endswith("OTHER losses and distances; no graph here")


def test_graphs_are_asked_in_every_setting_of_the_tests(log, monkeypatch):
    asked = settings_asked(monkeypatch, "by_graph")
    said = list(gpu.say_graph(Namespace(device="cuda:0", steps=20, stack=8), log, {}))
    assert asked[3:] == all_pairs()
    assert said[:3] == [f"graph: {size} runs of small: told" for size in (1, 8, 32)]
    assert said[3] == f"graph: {' '.join(all_pairs()[0])}: told"


def test_outcomes_are_those_of_the_rule(log):
    recipe = Recipe(steps=60)
    control = [gpu._run("small", lr, seed, log, recipe) for seed in CONTROL_SEEDS for lr in CONTROL_LRS]
    runs = [gpu._run("small", lr, 0, log, recipe) for lr in (0.05, 1e4)]
    found = gpu.outcomes(train(runs, log), train(control, log), log, Rule())
    assert np.array_equal(found, [False, True])


def test_it_needs_neither_ray_nor_mlflow():
    code = "import sys; sys.modules.update(ray=None, mlflow=None, scipy=None, optuna=None); import gpu"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
        env={"PYTHONPATH": str(gpu.ROOT)},
    )
    assert not done.returncode, done.stderr

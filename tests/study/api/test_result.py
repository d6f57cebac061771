"""A record from Python: the same numbers as the functions of `analysis`, and one clear error for what is not there."""

import math
import os
import pickle
import pydoc
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from trained_study import once

import analysis
import study
from analysis.text.edges import edge_text
from study.api.table import ResultTable
from study.record.definition import read_definition

PUBLISHED = Path(__file__).parents[3] / "docs" / "results"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> study.Result:
    folder = tmp_path_factory.mktemp("records")
    for name in ("lr_small", "lr_small_dcn", "threshold_frontier"):
        shutil.copytree(PUBLISHED / name, folder / name)
    return study.open(folder / "lr_small")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> study.Result:
    return study.open(str(once(tmp_path_factory)))


def axes(**options):
    return Figure().add_subplot(**options)


# --- tables -------------------------------------------------------------------------------------------------------


def test_tables_are_those_of_analysis(published) -> None:
    runs = analysis.load(published.folder)
    pd.testing.assert_frame_equal(published.runs, runs)
    pd.testing.assert_frame_equal(published.rates(), analysis.divergence_rates(runs))
    for level in (0.5, 0.05):
        pd.testing.assert_frame_equal(published.edges(level), analysis.edges(runs, level))
    pd.testing.assert_frame_equal(published.quality(), analysis.quality(runs, read_definition(published.folder)))
    claimed = published.recommend(risk=0.2).set_index("curve")
    assert claimed.loc["none", "lr"] == 0.4
    assert claimed.loc["none", "risk"] == 0.2
    planned = published.contrasts().query("planned")
    assert planned["curve"].tolist() == ["layer_clip", "agc", "lamb", "clippy"]


@pytest.mark.parametrize("ps", [["x"], [None], [pd.NA], pd.array([0.2], "Float64"), [0.2]])
def test_a_table_that_was_changed_is_shown(ps) -> None:
    table = ResultTable({"curve": ["none"], "p": ps, "n": [3]})
    wide = pd.concat([table, table], axis=1)
    for changed in (table, wide, table.pivot(index="n", columns="curve", values=["p"])):
        assert repr(changed)
        assert changed._repr_html_()
    assert "0.2" in repr(ResultTable({"p": [0.2, math.nan]}))


def test_a_table_is_shown_with_all_rows_where_pandas_has_no_limit() -> None:
    with pd.option_context("display.max_rows", None):
        assert len(repr(ResultTable({"n": range(99)})).splitlines()) == 1 + 99


def test_a_table_shows_its_answer_and_holds_all_columns(published, tmp_path) -> None:
    edges = published.edges()
    assert list(edges)[:6] == ["model", "curve", "edge", "low", "high", "status"]
    assert list(published.rates())[:8] == ["model", "curve", "lr", "n", "k", "rate", "low", "high"]
    assert edges["rel"].notna().sum() == 1  # of clippy alone
    none = edges.loc[edges["curve"] == "none"]
    text, html = repr(none), none._repr_html_()
    assert "rel" not in text.splitlines()[0].split()
    assert (
        "Empty in all rows, and not shown: abs, acc_rel, floor, max_norm, max_ratio, mu, rel, options"
        in text.replace("\n", " ")
    )
    assert "<th>rel</th>" not in html
    assert "not shown: abs," in html
    assert "<th>rel</th>" in edges._repr_html_()
    edges.to_csv(tmp_path / "edges.csv", index=False)
    assert list(pd.read_csv(tmp_path / "edges.csv")) == list(edges)
    with pd.option_context("display.width", 300, "display.max_columns", 50):
        shown = repr(published.contrasts().query("planned and curve == 'clippy'"))
    assert "< 0.001" in shown
    assert "e-05" not in shown


def test_losses_are_shown_with_short_ids_and_hold_whole_ones(trained) -> None:
    losses = trained.losses()
    first, line = repr(losses).splitlines()[:2]
    assert first.split() == ["run_id", "step", "task", "loss"]
    shown = line.split()[1]
    assert len(shown) == 12
    assert shown in losses._repr_html_()
    assert losses["run_id"].iloc[0] == trained.runs["run_id"].loc[lambda ids: ids.str.startswith(shown)].item()
    assert len(losses["run_id"].iloc[0]) == 64


def test_a_table_of_runs_is_a_copy(published) -> None:
    before = published.rates()
    table = published.runs
    table["lr"] *= 10
    pd.testing.assert_frame_equal(published.rates(), before)
    pd.testing.assert_frame_equal(analysis.divergence_rates(published.runs), pd.DataFrame(before))


def test_a_result_can_be_pickled_after_its_tables_were_used(published) -> None:
    edges = published.edges()
    again = pickle.loads(pickle.dumps(published))
    assert repr(again) == repr(published)
    pd.testing.assert_frame_equal(again.edges(), edges)


def test_fits_are_shown_in_a_few_words(published) -> None:
    assert "('small', 'none'): <Fit of 16 seeds and 10 lrs from 0.02 to 3.2>" in repr(published.fits)


def test_a_table_without_rows_says_why(published) -> None:
    table = published.across_models()
    assert "in two models" in repr(table)
    assert "in two models" in table._repr_html_()
    assert "No row" not in repr(published.contrasts()) + repr(published.edges().query("model == ''"))


@pytest.mark.parametrize("width", [80, 120])
def test_a_table_shows_the_columns_that_fit_and_how_many_more_there_are(published, width) -> None:
    tables = [published.edges(), published.rates(), published.runs, published.contrasts(), published.recommend()]
    with pd.option_context("display.width", width):
        for table in tables:
            lines = repr(table).splitlines()
            assert all(len(line) <= width for line in lines)
            seen = lines[0].split()
            assert set(seen) <= set(table)
            more = next(int(line.split()[0]) for line in lines if " more columns: " in line)
            assert len(seen) + more == table.shown()[0].shape[1]
        assert {"edge", "low", "high", "status"} <= set(repr(tables[0]).splitlines()[0].split())
        assert repr(published.runs).split()[:6] == ["run_id", "model", "curve", "lr", "seed", "outcome"]
        assert "[800 rows]" in repr(published.runs)
        long = tables[0].assign(curve="a curve of a very long name, longer than half of the width of a page")
        assert " status" in repr(long)
        assert "more columns" not in repr(tables[0][["curve", "edge"]])


def test_losses_have_a_row_for_each_step_and_task(trained) -> None:
    one = trained.runs.query("method == 'agc' and lr == 0.1 and seed == 1").iloc[0]
    losses = trained.losses(method="agc", lr=0.1, seed=1)
    assert list(losses.columns) == ["run_id", "step", "task", "loss"]
    assert set(losses["run_id"]) == {one["run_id"]}
    for _, of_task in losses.groupby("task"):
        assert of_task["step"].tolist() == list(range(one["steps"]))
    pd.testing.assert_frame_equal(losses, trained.losses(one["run_id"][:10]))
    pd.testing.assert_frame_equal(losses, trained.losses(method="agc", lr=np.float32(0.1), seed=np.int64(1)))
    last = losses.groupby("step")["loss"].sum().iloc[-1]
    assert last == pytest.approx(one["final_loss"], rel=0.5), "the sum over tasks, of one step"
    assert len(trained.losses()) == len(trained.runs) * len(losses)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"run_id": "zz"}, "0 runs"),
        ({"run_id": ""}, "0 runs"),
        ({"run_id": "a", "seed": 1}, "give a run_id, or"),
        ({"seed": 99}, "no run has the seed 99; there are 0, 1"),
        ({"method": "lamb"}, "no run has the method 'lamb'; there are 'agc', 'clippy', 'none'"),
        ({"lr": 0.2}, "there are 0.1, 1.7"),
        ({"run_id": 5}, "run_id is a text, got 5"),
        ({"lr": "x"}, "lr is a number, got 'x'"),
        ({"seed": [0, 1]}, r"seed is a number, got \[0, 1\]"),
        ({"method": ["none", "agc"]}, "method is a text, got"),
    ],
)
def test_losses_of_runs_that_are_not_there(trained, asked, words) -> None:
    with pytest.raises(ValueError, match=words):
        trained.losses(**asked)


def test_losses_of_a_published_record_are_not_there(published) -> None:
    with pytest.raises(study.RecordError, match="has no losses"):
        published.losses(method="none", lr=0.4, seed=3)


def test_a_level_outside_0_and_1(published) -> None:
    for level in (0, 1, -0.5, float("nan")):
        with pytest.raises(ValueError, match="0 < level < 1"):
            published.edges(level)


def test_a_folder_without_a_record_and_one_of_a_family(tmp_path) -> None:
    with pytest.raises(study.RecordError, match="holds no study"):
        study.open(tmp_path)
    shutil.copytree(PUBLISHED / "scale_batch", tmp_path / "batches")
    with pytest.raises(study.RecordError, match="holds a family of studies; name one of them: batch_1024, batch_128"):
        study.open(tmp_path / "batches")


def test_repr_says_what_it_is_and_html_shows_the_edges(published) -> None:
    assert repr(published) == f"<Result of lr_curve: 800 runs, 5 curves, in {published.folder}>"
    one = study.open(published.folder)
    one._runs = published.runs.iloc[:1]
    assert repr(one).startswith("<Result of lr_curve: 1 run, 1 curve, in ")
    html = published._repr_html_()
    assert html.count("<tr") == 6
    assert "&lt;Result of lr_curve" in html
    assert "0.5995" in repr(published.edges())
    assert "<td>0.5995</td>" in html, "as many digits as in the table"
    assert "not shown: options" in html


def test_latex_has_a_line_for_each_curve_and_bounds_for_edges_that_were_not_reached(published) -> None:
    lines = published.latex().splitlines()
    assert lines[1] == r"\toprule"
    assert lines[-2:] == [r"\bottomrule", r"\end{tabular}"]
    assert r"layer\_clip & 2.01 & 1.60 to 3.20 & 16 & 10 & 16 \\" in lines
    assert r"clippy & -- & above 3.20 & 16 & 10 & 16 \\" in lines
    assert "LR05" in published.latex(0.05)


# --- figures ------------------------------------------------------------------------------------------------------


def test_figures_draw_into_the_axes_they_are_given(published, trained) -> None:
    ax = axes()
    assert published.plot_divergence(ax, palette={"agc": "tab:red"}) is ax
    handles, labels = ax.get_legend_handles_labels()
    assert labels == ["none", "layer_clip", "agc", "lamb", "clippy"]
    assert to_rgba(handles[2].get_color()) == to_rgba("tab:red")
    ax = axes()
    published.plot_tradeoff(ax)
    assert ax.get_xlabel() == "P(divergence)"
    ax = axes()
    run = trained.runs["run_id"].iloc[0]
    trained.plot_losses(run, ax)
    assert ax.get_legend_handles_labels()[1] == [task["name"] for task in read_definition(trained.folder).data["tasks"]]
    assert np.allclose(ax.lines[0].get_ydata(), trained.losses(run).query("task == 'click'")["loss"], equal_nan=True)


def test_tasks_of_a_run_are_told_apart_without_colour_and_take_ones_own(trained) -> None:
    run, ax = trained.runs["run_id"].iloc[0], axes()
    trained.plot_losses(run, ax, palette={"click": "tab:red"}, markers={"like": "X"})
    lines = {line.get_label(): line for line in ax.lines}
    assert len(lines) > 1
    assert len({line.get_marker() for line in lines.values()}) == len(lines)
    assert len({str(line._dash_pattern) for line in lines.values()}) == len(lines)
    assert to_rgba(lines["click"].get_color()) == to_rgba("tab:red")
    assert lines["like"].get_marker() == "X"
    known = trained.losses(run)["loss"]
    assert ax.get_yscale() == ("log" if known.max() > 10 * known.min() > 0 else "linear")
    alone = axes()
    trained.plot_losses(run, alone, task="like")
    assert alone.lines[0].get_color() == lines["like"].get_color(), "the colour of a task stays"
    with pytest.raises(ValueError, match="the palette names clik; there are click"):
        trained.plot_losses(run, axes(), palette={"clik": "red"})


def test_a_frontier_is_of_one_threshold(published) -> None:
    result = study.open(published.folder.parent / "threshold_frontier")
    ax = axes()
    result.plot_frontier(ax, threshold="layer_clip max_norm", model=result.runs["model"].iloc[0])
    assert ax.get_xlabel() == "max_norm"
    with pytest.raises(ValueError, match=r"one of those that vary: .*layer_clip max_norm"):
        result.plot_frontier(axes(), threshold="agc nothing", model=result.runs["model"].iloc[0])
    with pytest.raises(ValueError, match="none does here"):
        published.plot_frontier(axes())


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda result: result.plot_divergence(axes(projection="polar")), "these are polar"),
        (lambda result: result.plot_divergence("x"), "ax is axes of matplotlib, got 'x'"),
        (lambda result: result.plot_divergence(axes(), model="large"), "model is one of small, got 'large'"),
        (lambda result: result.plot_divergence(axes(), palette={"gc": "red"}), "the palette names gc; there are agc"),
        (lambda result: result.plot_divergence(axes(), palette=5), "palette needs a dict of names, got 5"),
        (lambda result: result.plot_tradeoff(axes(), quality="auc_x"), "auc_x"),
        (lambda result: result.plot_losses(result.runs["run_id"].iloc[0], axes(), task="x"), "no losses"),
    ],
)
def test_a_figure_that_cannot_be_drawn(published, call, words) -> None:
    with pytest.raises(ValueError, match=words):
        call(published)


def small_study(**changes: Any) -> study.Study:
    return study.Study(**{"name": "s", "models": ("small",), "arms": (study.Arm("none"),), "lrs": (0.1,)} | changes)


def test_a_whole_number_of_numpy_or_as_a_float_is_a_number_of_steps() -> None:
    recipe = study.Recipe(steps=60.0, warmup=np.int64(3))  # pyright: ignore[reportArgumentType]
    assert (repr(recipe.steps), repr(recipe.warmup)) == ("60", "3")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda result: result.edges("x"), "need a number as level, got level='x'"),
        (lambda result: result.recommend(confidence=None), "need a number as confidence, got confidence=None"),
        (
            lambda result: result.confirm(0.4, seeds=4),
            r"seeds is a range or a list of whole numbers, such as range\(4\)",
        ),
        (lambda result: result.confirm(0.4, method="zz"), "no method 'zz'; it has 'none', 'layer_clip', 'agc'"),
        (lambda result: result.confirm(0.4, method=5), "method is a text, several separated by commas, got 5"),
        (lambda result: result.confirm(0.4, workers=True), "workers needs a positive number, got True"),
        (lambda result: result.losses(seed=True), "seed is a number, got True"),
        (lambda result: result.losses(lr=True), "lr is a number, got True"),
        (lambda _: study.open(5), "folder is a path, got 5"),
        (lambda result: study.compare(result, 5), "folder is a path, got 5"),
        (lambda result: study.merge(result, result, out=5), "out is a path, got 5"),
        (lambda _: study.Arm("none", 5), "options of the arm none needs a dict, got 5"),
        (lambda _: study.Recipe(batch="x"), "need a number as batch, got batch='x'"),
        (lambda _: study.Recipe(steps=60.5), "need a whole number as steps, got steps=60.5"),
        (lambda _: study.Recipe(steps=10**400), "need steps <= 1,000,000,000, got steps=1000"),
        (lambda _: study.Recipe(window=math.inf), "need a whole number as window, got window=inf"),
        (lambda _: study.Recipe(warmup=None), "need a number as warmup, got warmup=None"),
        (lambda _: study.Recipe(init_from=5), "init_from is the SHA-256 of weights, got 5"),
        (lambda _: study.Rule(median_steps=2.5), "need a whole number as median_steps, got median_steps=2.5"),
        (lambda _: study.EdgeSearch(budget=1.5), "need a whole number as budget, got budget=1.5"),
        (lambda _: study.QualitySearch(judged=2.5), "need a whole number as judged, got judged=2.5"),
        (lambda _: study.QualitySearch(task=5), "task is the name of a task, got 5"),
        (lambda _: study.QualitySearch(ranges=5), "ranges needs a dict, got 5"),
        (lambda _: study.QualitySearch(ranges={"agc": 5}), "ranges of agc needs a dict, got 5"),
        (lambda _: study.QualitySearch(ranges={"agc": {"rel": 5}}), r"agc.rel needs \(low, high\), got 5"),
        (lambda _: study.QualitySearch(ranges={"agc": {"rel": "ab"}}), r"agc.rel needs \(low, high\), got 'ab'"),
        (lambda _: study.QualitySearch(ranges={"agc": {"rel": ("a", 1)}}), "need a number as agc.rel"),
        (lambda _: small_study(models=(5,)), "models are names, got 5"),
        (lambda _: small_study(search=5), r"search is made by EdgeSearch\(...\) or QualitySearch\(...\), got 5"),
        (lambda _: small_study(search="edges"), r"search is made by EdgeSearch\(...\) or QualitySearch\(...\), got"),
        (lambda _: study.Monitor(1.0, rule=5), r"rule is made by Rule\(...\), got 5"),
        (lambda _: study.Rule(kept="x"), "need a number as kept, got kept='x'"),
        (lambda _: study.EdgeSearch(level="x"), "need a number as level, got level='x'"),
        (lambda _: study.log_grid(0.1, 1, 2.5), "need a whole number as count, got count=2.5"),
    ],
)
def test_an_argument_of_a_wrong_type_is_one_clear_error(published, call, words) -> None:
    with pytest.raises(ValueError, match=words):
        call(published)


def test_an_lr_that_is_no_number_names_no_confirmation(published) -> None:
    with pytest.raises(ValueError, match="need a number as lr, got lr=True"):
        published.confirm(True, seeds=[500])
    assert not (published.folder / "confirm").exists()


def test_figures_for_a_paper_have_its_width_and_say_what_they_show(trained, tmp_path) -> None:
    paths = trained.save_figures(tmp_path, formats=("svg", "pdf"), width=3.3)
    names = {path.stem for path in paths}
    assert {"divergence", "tradeoff", "kept", "auc_click", "horizon"} <= names
    assert len(paths) == 2 * len(names)
    for name in names:
        svg = (tmp_path / f"{name}.svg").read_text()
        assert 'width="237.6pt"' in svg, "3.3 inches"
        assert "<dc:description>" in svg
        assert b"/MediaBox [ 0 0 237.6 " in (tmp_path / f"{name}.pdf").read_bytes()
    edges = trained.edges().set_index("curve")
    told = (tmp_path / "divergence.svg").read_text()
    assert f"none: crosses 50% at lr {edge_text(edges.loc['none'])}" in told
    assert matplotlib.rcParams["font.size"] == 10


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"formats": ("pdf", "gif")}, "formats are some of pdf, svg, png"),
        ({"formats": "pdf"}, "formats are some of pdf, svg, png"),
        ({"formats": 5}, "formats are some of pdf, svg, png, got 5"),
        ({"width": "x"}, "need a width of 1 to 40 inches, got 'x'"),
        ({"formats": [["png"]]}, r"formats are some of pdf, svg, png, got \[\['png'\]\]"),
        ({"formats": b"pdf"}, "formats are some of pdf, svg, png"),
        ({"width": True}, "need a width of 1 to 40 inches, got True"),
        ({"formats": ()}, "formats are some of pdf, svg, png"),
        ({"width": 0}, "need a width of 1 to 40 inches, got 0"),
        ({"width": 8.4e3}, "need a width of 1 to 40 inches"),
    ],
)
def test_figures_that_cannot_be_saved_are_refused_before_a_folder_is_made(published, tmp_path, options, words) -> None:
    with pytest.raises(ValueError, match=words):
        published.save_figures(tmp_path / "figures", **options)
    assert not (tmp_path / "figures").exists()


# --- running and comparing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"what": "no_such_space"}, "no_such_space"),
        ({"what": "table3"}, "table3 is a family of studies"),
        ({"what": 3}, "got int"),
        ({"what": "quick", "seeds": [1.5]}, "seeds are whole numbers, got 1.5"),
        ({"what": "quick", "seeds": 4}, r"seeds is a range or a list of whole numbers, such as range\(4\); got 4"),
        ({"what": "quick", "seeds": np.array(4)}, r"seeds is a range or a list of whole numbers, .*; got array\(4\)"),
        ({"what": "quick", "seeds": b"12"}, "seeds is a range or a list of whole numbers, .*; got b'12'"),
        ({"what": "quick", "seeds": bytearray(b"12")}, "seeds is a range or a list of whole numbers"),
        ({"what": "quick", "workers": True}, "workers needs a positive number, got True"),
        ({"what": "quick", "settings": ["lr=1"]}, "settings needs a dict"),
        ({"what": "quick", "workers": 1.5}, "workers needs a positive number, got 1.5"),
        ({"what": "quick", "address": 5}, "address is a text, got 5"),
        ({"what": "quick", "seeds": [True]}, "seeds are whole numbers, got True"),
        ({"what": "quick", "workers": 0}, "workers needs a positive number, got 0"),
        ({"what": "quick", "settings": {"warmup": [0, 20]}}, "quick_warmup is a family of studies"),
        ({"what": "quick", "settings": {"lr": [0.1, "x"]}}, "x"),
        ({"what": "quick", "seeds": []}, "seeds has no seed"),
        ({"what": "quick", "seeds": [0, 1, 0]}, "seeds names 0 twice"),
        ({"what": "quick", "settings": {"lr": []}}, "the setting lr has no value"),
        ({"what": "quick", "device": "tpu"}, "device is 'cpu' or 'cuda', got 'tpu'"),
        ({"what": "quick", "accept_changed_code": "yes"}, "accept_changed_code is True or False, got 'yes'"),
    ],
)
def test_a_study_that_cannot_be_run_is_refused_before_a_folder_is_made(tmp_path, options, words) -> None:
    with pytest.raises(ValueError, match=words):
        study.run(**options, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_file_in_place_of_the_folder_is_refused_before_ray_starts(published, tmp_path, below) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="file is a file, and a record is a folder"):
        study.run("quick", tmp_path / "file" / below)
    with pytest.raises(ValueError, match="file is a file, and a record is a folder"):
        study.merge(published, published.folder.parent / "lr_small_dcn", out=tmp_path / "file" / below)


def test_words_of_the_command_line_are_not_those_of_python(published, tmp_path) -> None:
    with pytest.raises(ValueError, match=r"need a number as level, got level='0.5'$"):
        published.edges("0.5")
    for folders in ([published], [published, published.folder.parent / "lr_small_dcn"]):
        with pytest.raises(ValueError, match=r"^((?!--).)*$"):
            study.merge(*folders, out=published.folder if len(folders) > 1 else tmp_path / "out")


@pytest.mark.parametrize("name", ["..", "a/../../b", ""])
def test_a_name_that_leads_elsewhere_is_no_folder(published, name) -> None:
    with pytest.raises(ValueError, match="name"):
        study.run(replace(published.study, name=name))


@pytest.mark.parametrize("change", [{"seeds": range(4)}, {"settings": {"batch": 64}}, {"data": "kuairand"}])
def test_a_study_of_ones_own_has_its_own_seeds_and_settings(tmp_path, published, change) -> None:
    with pytest.raises(ValueError, match=f"a Study has its own {next(iter(change))}"):
        study.run(published.study, tmp_path / "out", **change)


def test_two_studies_beside_each_other(published) -> None:
    same = study.compare(published, published.folder)
    assert same.differences == {}
    known = same.edges.set_index("curve").drop(index="clippy")
    assert (known["ratio"] == 1).all()
    assert (known["low"] < 1).all()
    assert (known["high"] > 1).all()
    moved = study.open(published.folder)
    options = published.study.data_options | {"dir": "/elsewhere"}
    moved._definition = replace(moved._definition, study=replace(published.study, data_options=options))
    assert study.compare(published, moved).differences == {}, "the same data"
    with_dcn = study.compare(published, published.folder.parent / "lr_small_dcn")
    assert with_dcn.differences == {"models": (["small"], ["small_dcn"])}
    assert set(with_dcn.edges["model"]) == {"small and small_dcn"}
    assert with_dcn.edges["curve"].tolist() == ["none", "layer_clip", "agc", "lamb", "clippy"]
    assert (
        with_dcn.edges["edge_b"].iloc[0] == study.open(published.folder.parent / "lr_small_dcn").edges()["edge"].iloc[0]
    )
    text = repr(with_dcn)
    assert text.startswith(repr(with_dcn.edges))
    shown = repr(with_dcn.edges)
    assert "..." not in shown.replace("small and small_...", "")
    assert shown.split()[:5] == ["model", "curve", "edge_a", "edge_b", "ratio"]
    assert "more columns: " in shown
    assert "differs:" in text
    assert "models: ['small'] and ['small_dcn']" in text
    assert "<li>models:" in with_dcn._repr_html_()


def test_curves_of_other_thresholds_are_not_compared(published) -> None:
    frontier = study.open(published.folder.parent / "threshold_frontier")
    both = study.compare(frontier, published).edges
    assert "none" in both["curve"].tolist()
    assert all(label == "none" or "0.1" in label or "0.01" in label or "0.5" in label for label in both["curve"])
    assert "arms" in study.compare(frontier, published).differences


def test_a_ratio_is_of_b_over_a(published) -> None:
    lower = study.open(published.folder)
    lower._runs = published.runs.assign(lr=published.runs["lr"] / 2)
    ratio = study.compare(published, lower).edges.set_index("curve").loc["none"]
    assert ratio["ratio"] == pytest.approx(0.5, rel=0.02)
    assert ratio["high"] < 1


# --- the package --------------------------------------------------------------------------------------------------


def test_import_has_no_side_effects_and_every_name_is_there() -> None:
    code = """
import os, sys
before = dict(os.environ)
import study
heavy = {"numpy", "pandas", "torch", "ray", "mlflow", "matplotlib"} & set(sys.modules)
assert not heavy, heavy
assert dict(os.environ) == before
import threading
assert threading.active_count() == 1 and sys.breakpointhook is sys.__breakpointhook__
import matplotlib
settings = dict(matplotlib.rcParams)
assert all(getattr(study, name) is not None for name in study.__all__)
assert dict(os.environ) == before and dict(matplotlib.rcParams) == settings
assert threading.active_count() == 1, threading.enumerate()
"""
    # Not the environment of this process, which has imported the package.
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH") if name in os.environ}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, env=environment)
    assert replace(study.Rule(), kept=0.3) != study.Rule()
    assert matplotlib.rcParams["font.size"] == 10


def test_no_function_hides_a_module_of_its_name() -> None:
    root = Path(study.__file__).parent
    for name in study.__all__:
        assert not (root / f"{name}.py").exists(), name
        assert not (root / name).is_dir(), name


def test_help_of_the_package_names_every_function_on_one_screen() -> None:
    text = study.__doc__ or ""
    assert len(text.splitlines()) <= 40
    for name in ("run", "open", "compare", "merge"):
        assert f"study.{name}(" in text
    for name in vars(study.Result):
        if not name.startswith("_"):
            assert name in text, name


def test_help_of_the_package_shows_signatures() -> None:
    text = pydoc.plain(pydoc.render_doc(study))
    for name in ("run(what: ", "open(folder: ", "compare(a: ", "merge(*folders: "):
        assert f"\n    {name}" in text

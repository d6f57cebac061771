"""The report shows what the record holds, whatever the record lacks."""

import asyncio
import base64
import dataclasses
import json
import math
import re
from html.parser import HTMLParser

import chromium
import numpy as np
import pandas as pd
import pytest
from simulated_record import METHODS, reference, simulated_definition, write_simulated_study
from simulation import runs_table
from text_checks import contains

import analysis
from analysis.report import page as report_page
from analysis.report import sections, terminal
from analysis.report.answers import once, under_models
from analysis.report.tables import missing_runs, planned_count, report_tables
from analysis.stats.contrasts import contrasts
from analysis.stats.quality import lr_sensitivity
from analysis.text.contrasts import sentences
from analysis.text.report import trust_notes
from study.commands.recommend import Claim, recommend
from study.config import IMPORTED, Arm, Study
from study.record import checksums
from study.record.definition import RecordError, open_study
from study.record.failures import write_failure
from study.record.schema import FIRST_LOSSES
from study.record.tables import read_runs, write_trial


class Page(HTMLParser):
    """Tags with their attributes, and the text of a page."""

    def __init__(self, path):
        super().__init__()
        self.path, self.tags, self.text = path, [], ""
        self.feed(path.read_text())
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def all(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]


def study_of(folder, *, models=("small",), methods=("none", "clippy"), lrs=(0.1, 0.4, 0.8), seeds=(0, 1, 2), **more):
    definition = simulated_definition(
        models=models, arms=[Arm(method=m) for m in methods], lrs=lrs, seeds=seeds, steps=120
    )
    return write_simulated_study(folder, definition, **more)


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    folder = tmp_path_factory.mktemp("full")
    gone = [("small", "lamb", 0.4, s) for s in (1, 2, 3, 6)]
    definition = write_simulated_study(folder, leave_out=gone)
    first = missing_runs(definition, read_runs(folder))["run_id"].tolist()[:3]
    write_failure(folder, "lost", first, "out of memory <on a worker>")
    tables = report_tables(folder)
    return folder, definition, Page(report_page.write(tables, reference())), tables


@pytest.fixture
def without_figures(monkeypatch):
    """Reports whose figures are not the subject of the test, and take most of its time."""
    monkeypatch.setattr(report_page, "report_figures", lambda *_: {})


def test_every_curve_has_a_sentence_before_any_table(full):
    folder, _, page, _ = full
    rows = analysis.edges(analysis.load(folder)).to_dict("records")
    assert len(rows) == 10
    for row in rows:
        assert analysis.sentence(row) in page.text
        assert page.text.index(analysis.sentence(row)) < page.text.index("LR50")


def test_sections_are_in_order_and_state_claims(full):
    folder, _, page, _ = full
    titles = re.findall(r"<h2>(.*?)</h2>", (folder / "report.html").read_text())
    assert titles[:4] == [
        "The largest learning rate that can be claimed",
        "Where training diverges",
        "Stability against quality",
        "Which method moves the edge",
    ]
    contains(page.text, "No lr can be claimed yet", "at most 5%", "95% confidence", "0 of 8", "up to 31%")
    assert "study confirm DIR --lr 1.6 --method clippy" in page.text
    assert "How the edge depends on the rule" not in titles


def test_every_planned_contrast_has_a_sentence_and_every_pair_a_row(full):
    folder, definition, page, _ = full
    table = contrasts(analysis.load(folder), definition)
    said = [line for model in ("small", "large_dcn") for line in sentences(table[table["model"] == model])]
    assert len(said) == 8
    assert all(line in page.text for line in said)
    assert len(re.findall(r"<td>(?:agc|lamb|clippy)</td><td>(?:layer_clip|agc|lamb)</td>", page.path.read_text())) == 12


def test_report_shows_how_far_other_rules_move_an_edge(tmp_path, without_figures):
    study_of(tmp_path, with_losses=False)
    own = {"rule": "own", "settings": "", "n": 8, "changed": 0, "edge": 0.4, "status": "reached", "ratio": 1.0}
    moved = own | {"rule": "stricter", "settings": "kept=0.5", "changed": 3, "edge": 0.3, "ratio": 0.75}
    gone = own | {"rule": "looser", "settings": "kept=0.1", "changed": 5, "edge": np.nan, "ratio": np.nan}
    same = {"model": "small", "curve": "none", "method": "none", "lr_min": 0.01, "lr_max": 1.6}
    table = pd.DataFrame([own | same, moved | same, gone | same | {"status": "not reached"}])
    page = Page(report_page.write(report_tables(tmp_path), influence=table))
    assert "How the edge depends on the rule" in page.text
    assert "stricter: kept=0.5" in page.text
    row = "<td>none</td>" + "".join(
        f'<td class="number">{v}</td>' for v in ("0.40", "0.30", "0.75", "3 of 8", "&gt; 1.6", "5 of 8")
    )  # a column that is empty in all rows, the ratio under the looser rule, is left out
    assert row in page.path.read_text()


def test_csv_tables_have_no_infinity(full):
    folder, _, _, _ = full
    names = ["across_models", "cells", "contrasts", "edges", "lr_sensitivity", "recommendation"]
    assert sorted(path.stem for path in (folder / "tables").glob("*.csv")) == names
    for name in names:
        assert "inf" not in (folder / "tables" / f"{name}.csv").read_text().replace("influence", "")
    table = pd.read_csv(folder / "tables" / "edges.csv")
    assert table["level"].tolist() == [0.5] * 10 + [0.05] * 10
    assert table.loc[table["curve"] == "clippy", "edge"].isna().all()
    cells = pd.read_csv(folder / "tables" / "cells.csv")
    assert len(cells) == 100
    assert cells["n"].sum() == len(analysis.load(folder))
    assert {"rate", "low", "high", "kept", "kept_q10", "auc_click", "rmse_play"} <= set(cells)


def test_many_curves_are_summarized(full, monkeypatch, tmp_path, without_figures):
    found = dataclasses.replace(full[3], folder=tmp_path)
    for module, name, most in ((terminal, "MOST_CURVES", 4), (sections, "MOST_CELLS", 99)):
        monkeypatch.setattr(module, name, most)
    said = terminal.text(found, "results/x", "study")
    for part in ("5 curves", "4 reached LR50", "1 did not", "0 have it below", "results/x/tables/edges.csv"):
        assert part in said.splitlines()[1]
    assert "diverged runs of n" not in said
    page = Page(report_page.write(found)).text
    assert "100 cells are too many" in page
    assert "tables/cells.csv" in page


def test_terminal_text_has_answers_before_cells(full):
    said = terminal.text(full[3], "results/x", "study")
    lines = said.splitlines()
    assert lines[0] == "small:"
    assert lines[1].startswith("  none: half of the runs diverge within 200 steps at lr 0.")
    assert lines[6].startswith("  layer_clip against none: LR50 is 1.")
    contains(lines[10], "No lr can be claimed yet", "at most 5%", "0 of 8")
    assert said.count("  More: study recommend results/x\n\n") == said.count("More: ") == 1
    assert said.index("large_dcn:") < said.index("small: diverged runs of n, 95% interval")
    assert "AUC" not in said


def test_claims_are_in_page_and_terminal_text(tmp_path, without_figures):
    study_of(tmp_path, seeds=range(60), edges={"none": 0.9, "clippy": np.inf}, with_losses=False)
    found = report_tables(tmp_path)
    for text in (terminal.text(found), Page(report_page.write(found)).text):
        contains(text, "Claimed", "none up to lr 0.4 (0 of 60)", "clippy up to lr 0.8 (0 of 60)")


def test_report_of_an_adaptive_study_is_short(tmp_path, without_figures):
    rng = np.random.default_rng(0)
    lrs = sorted({float(f"{lr:.3g}") for lr in 0.05 * 10 ** (1.3 * rng.random(60))})
    kept = {(lr, i) for i, lr in enumerate(lrs)}
    gone = [
        ("small", m, lr, s) for m in ("none", "clippy") for lr in lrs for s in range(len(lrs)) if (lr, s) not in kept
    ]
    study_of(tmp_path, lrs=lrs, seeds=range(len(lrs)), leave_out=gone)
    found = report_tables(tmp_path)
    assert len(found.rates) < 50
    said = terminal.text(found)
    assert "clippy against none: LR50 is more than " in said
    page = Page(report_page.write(found))
    assert len(page.all("tr")) < 250


def test_page_loads_nothing_and_has_no_script(full):
    folder, _, page, _ = full
    assert not page.all("script")
    assert not page.all("link")
    assert page.all("img")
    assert all(image["src"].startswith("data:image/svg+xml;base64,") for image in page.all("img"))
    html = (folder / "report.html").read_text()
    assert not re.search(r"""(src|href|url\()=?["'(]?\s*(https?:)?//""", html)
    assert not re.search(r"@import|@font-face", html)
    for image in page.all("img"):
        svg = base64.b64decode(image["src"].partition(",")[2]).decode()
        assert not re.search(r"<image|<script|href=\"(?!#)", svg)


PAGE_AND_FIGURES = """
    [document.documentElement.scrollWidth, innerWidth, [...document.querySelectorAll('figure img')].map(image => {
        const at = image.getBoundingClientRect();
        return [at.left, at.right];
    })]
"""


@chromium.needs_chromium
@pytest.mark.parametrize("width", [390, 1366])
def test_figures_lie_inside_the_page(full, width):
    """On a phone and on a laptop. Nothing but tables, each in a box of its own, is wider than the page."""

    async def measured():
        address = (full[0] / "report.html").as_uri()
        async with chromium.opened(address, (width, 844), mobile=width < 500) as page:
            await page.until("document.readyState === 'complete' && document.querySelector('figure img') !== null")
            return await page.evaluate(PAGE_AND_FIGURES)

    of_page, of_window, figures = asyncio.run(measured())
    assert of_page <= of_window == width
    assert len(figures) == len(list((full[0] / "figures").iterdir()))
    assert all(0 <= left < right <= width for left, right in figures)
    left, right = figures[0]
    assert right - left > 0.85 * min(width, 1120)


def test_every_figure_is_in_the_page_and_a_file(full):
    folder, _, page, _ = full
    names = ["divergence", "tradeoff", "kept", "auc_click", "auc_like", "rmse_play", "micro", "horizon", "gallery"]
    assert sorted(path.stem for path in (folder / "figures").iterdir()) == sorted(names)
    assert len(page.all("img")) == len(names)
    assert not [path for path in folder.rglob(".*") if path.is_file()]


def test_the_gallery_promises_an_onset_only_where_there_are_references(full, tmp_path):
    onset, judged = "the onset, from which the loss left", "Dotted: the step at which a run was judged to have diverged"
    assert onset in full[2].text
    assert judged not in full[2].text
    study_of(tmp_path, methods=("none",))
    without = Page(report_page.write(report_tables(tmp_path)))
    assert (tmp_path / "figures" / "gallery.png").exists()
    assert judged in without.text
    assert onset not in without.text


def test_runs_parquet_has_every_run(full):
    folder, _, _, _ = full
    beside = pd.read_parquet(folder / "runs.parquet")
    assert len(beside) == len(read_runs(folder)) == 796 + 2 * 24
    assert set(beside["role"]) == {"cell", "control"}


def test_missing_runs_are_counted_by_reason(full):
    _, _, page, _ = full
    assert "4 of 800 planned runs are not recorded" in page.text
    assert "out of memory <on a worker>" in page.text
    assert "not run yet" in page.text


def of_a_loop(folder, *, weak=True, moved=None, seeds=range(4), lrs=(0.01, 0.02, 0.4)):
    """Write the record of a loop that measures no distance from the start."""
    study_of(folder, methods=("none",), lrs=lrs, seeds=seeds, with_losses=False)
    (path,) = (folder / "runs").glob("small-00.parquet")
    rows = checksums.read_parquet(path.read_bytes()).to_pylist()
    for row in rows:
        row |= {"moved": moved} | ({"baseline": FIRST_LOSSES} if weak else {})
        row |= {"outcome": "undertrained"} if row["lr"] == 0.01 else {}
    write_trial(folder, path.stem, rows, [])


def texts_of(folder):
    found = report_tables(folder)
    return terminal.text(found), Page(report_page.write(found)).text


def test_report_tells_a_weak_baseline_and_outcomes_that_rest_on_losses_alone(tmp_path, without_figures):
    of_a_loop(tmp_path)
    for text in texts_of(tmp_path):
        contains(text, "All 12 runs are judged against the loss at initialization", "weak", "class frequencies")
        contains(text, "watch(loss, targets=y)", "4 of 12 runs are undertrained", "losses alone")


@pytest.mark.parametrize(
    ("trainer", "options", "advice"),
    [
        ("loop", {"function": "mine:train"}, "watch(loss, targets=y)"),
        ("loop", {"command": "train {lr}"}, "baseline=X"),
        (IMPORTED, {}, "--baseline-column"),
    ],
)
def test_a_weak_baseline_comes_with_advice_that_its_trainer_can_follow(trainer, options, advice):
    runs = pd.DataFrame({"baseline": [FIRST_LOSSES], "outcome": ["completed"], "moved": [1.0]})
    changed = {"trainer": trainer, "trainer_options": options}
    study = Study(name="s", models=("mine",), arms=(Arm("plain"),), lrs=(0.1,), **changed)
    (note,) = trust_notes(runs, study)
    contains(note, advice)


def test_report_of_a_strong_baseline_and_measured_distances_has_no_notes(tmp_path, without_figures):
    of_a_loop(tmp_path, weak=False, moved=1.5)
    for text in texts_of(tmp_path):
        assert "at initialization" not in text
        assert "losses alone" not in text


@pytest.mark.parametrize("planned", [True, False], ids=["a grid", "ids alone"])
def test_report_tells_that_missing_runs_depend_on_the_lr(tmp_path, without_figures, planned):
    """A loop that exits where its loss is high: no recorded run diverged, and the edge seemed to be above all lrs."""
    lrs, seeds = (0.1, 0.2, 0.4, 0.8, 1.6), range(6)
    lost = [("small", "none", lr, seed) for lr in lrs[3:] for seed in seeds if (lr, seed) != (0.8, 0)]
    definition = study_of(
        tmp_path, methods=("none",), lrs=lrs, seeds=seeds, leave_out=lost, edges={"none": np.inf}, with_losses=False
    )
    study = definition.study
    runs = [study.run(definition.data["content"], m, study.arms[0], lr, s) for m, _, lr, s in lost]
    write_failure(tmp_path, "lost", runs if planned else [run.id for run in runs], "it exited")
    for text in texts_of(tmp_path):
        contains(text, "none: 11 of 30 runs are missing", "rises with the lr", "may have diverged", "> 0.8")
        contains(text, "Missing runs forbid claims: none from lr 0.8 on (11 missing)")
        assert re.search(r"If all of them did, LR50 is 0\.\d+ \(0\.\d+ to 0\.\d+\)", text)
    said = recommend(tmp_path, Claim())
    contains(said, "11 runs are missing, the lowest at lr 0.8", "claim nothing from there on")
    (row,) = json.loads(recommend(tmp_path, Claim(), as_json=True))
    assert (row["missing"], row["missing_from"]) == (11, 0.8)
    assert row["nominated"] < 0.8


def test_missing_runs_match_arms_with_explicit_defaults(tmp_path):
    definition = simulated_definition(arms=[Arm(method="clippy", options={"rel": 0.5})], lrs=(0.1,), seeds=(0, 1))
    write_simulated_study(tmp_path, simulated_definition(arms=[Arm(method="clippy")], lrs=(0.1,), seeds=(0, 1)))
    every = read_runs(tmp_path)
    assert missing_runs(definition, every).empty
    assert len(missing_runs(definition, every[every["seed"] != 1])) == 2


def test_page_has_rule_control_versions_and_configuration(full):
    _, definition, page, _ = full
    for words in ("kept below 0.25", "once had 0.5 G", "safe lr 0.08", "torch", "2.13.0", definition.data["content"]):
        assert words in page.text
    assert '"initial_accumulator": 0.1' in page.text
    assert page.text.count("0.005") >= 2


def test_every_cell_has_a_row(full):
    folder, _, page, _ = full
    rates = analysis.divergence_rates(analysis.load(folder))
    row = rates[(rates["model"] == "small") & (rates["curve"] == "lamb") & (rates["lr"] == 0.4)].iloc[0]
    assert row["n"] == 4
    assert len(page.all("tr")) > len(rates)


def test_names_are_escaped(tmp_path):
    method = "<script>alert('x')</script> & $x_1$"
    study_of(tmp_path, methods=("none", method), edges={"none": 0.3, method: 0.3})
    page = Page(report_page.write(report_tables(tmp_path)))
    assert not page.all("script")
    assert f"{method}: " in page.text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seeds": (5,), "lrs": (0.1,)}, "only 1 seed"),
        ({"edges": {"none": np.inf}}, "no divergence within 120 steps"),
        ({"edges": {"none": 0.0}, "methods": ("none",)}, "lr 0.1, the lowest tried"),
        ({"leave_out": [("small", "clippy", lr, s) for lr in (0.1, 0.4, 0.8) for s in (0, 1, 2)]}, "9 of 18 planned"),
        ({"with_losses": False}, "half of the runs diverge"),
    ],
    ids=["one seed, one lr", "nothing diverged", "everything diverged", "a curve is missing", "losses are missing"],
)
def test_small_records_give_a_report_without_a_warning(tmp_path, changes, said):
    study_of(tmp_path, **changes)
    assert said in Page(report_page.write(report_tables(tmp_path))).text


def test_study_without_runs_gets_a_report(tmp_path):
    open_study(tmp_path, simulated_definition(models=("small",), lrs=(0.1,), seeds=(0,)))
    page = Page(report_page.write(report_tables(tmp_path)))
    assert "No runs recorded yet." in page.text
    assert f"{len(METHODS)} of {len(METHODS)} planned runs are not recorded" in page.text


def test_folder_without_a_study_is_refused(tmp_path):
    with pytest.raises(RecordError, match="holds no study"):
        report_page.write(report_tables(tmp_path))


def test_missing_runs_are_those_of_each_arms_own_grid(tmp_path):
    arms = (Arm("none"), Arm("clippy", lrs=(1.6, 3.2)))
    definition = simulated_definition(models=("small",), arms=arms, lrs=(0.1, 0.4, 0.8), seeds=range(4))
    write_simulated_study(tmp_path, definition, leave_out=[("small", "clippy", 3.2, 1)], with_losses=False)
    found = report_tables(tmp_path)
    assert planned_count(definition.study) == 4 * (3 + 2)
    assert missing_runs(definition, found.every)[["method", "lr", "seed"]].values.tolist() == [["clippy", 3.2, 1]]
    assert set(found.rates.loc[found.rates["method"] == "clippy", "lr"]) == {1.6, 3.2}


def test_grids_without_a_common_lr_have_no_sensitivity_to_compare():
    """A curve without an lr in common with those before it does not empty their range."""
    definition = simulated_definition(models=("small",), lrs=(0.1, 0.2, 0.4))
    tables = []
    for methods, lrs in ((("none", "agc"), (0.1, 0.2, 0.4)), (("lion",), (0.001, 0.002))):
        tables.append(runs_table(np.zeros((len(methods), 4, len(lrs))), lrs, methods))
    found = lr_sensitivity(pd.concat(tables, ignore_index=True), definition).set_index("curve")
    assert found.loc[["none", "agc"], "sensitivity"].tolist() == [0.0, 0.0]
    assert math.isnan(found.loc["lion", "sensitivity"])
    assert set(found["sensitivity_lr_min"]) == {0.1}


def test_what_holds_for_every_model_is_said_once(tmp_path, without_figures):
    models = ("large", "large_dcn", "large_mmoe")
    study_of(tmp_path, models=models, methods=("agc", "clippy"), with_losses=False)
    found = report_tables(tmp_path)
    said, page = terminal.text(found, "DIR", "study"), Page(report_page.write(found)).text
    for sentence in ("the study has no runs of none", "No lr can be claimed yet", "More: study recommend DIR"):
        assert said.count(sentence) == 1, sentence
    assert "all 3 models:\n  " in said
    for sentence in ("the study has no runs of none", "No lr can be claimed yet"):
        assert page.count(sentence) == 1, sentence


def test_what_some_models_have_in_common_is_said_under_their_names():
    assert once([("a", "x"), ("b", "y"), ("c", "x")], "abc") == [("a, c", "x"), ("b", "y")]
    assert once([("a", ["x"]), ("b", ["x"])], "ab") == [("all 2 models", ["x"])]
    assert once([("a", "x"), ("b", "x")], "abc") == [("a, b", "x")], "nothing is said of c"
    assert once([("a", "x"), ("a", "y")], "a") == [("a", "x"), ("a", "y")]
    assert once([("a", "x")], "a") == [("a", "x")]


def test_lines_stand_once_under_the_models_they_hold_for():
    lines = {"a": ["x", "y"], "b": ["z", "y"], "c": ["z", "y"]}
    assert under_models(lines) == {"a": ["x"], "all 3 models": ["y"], "b, c": ["z"]}
    assert under_models({"a": ["x", "y"]}) == {"a": ["x", "y"]}


def test_a_recommendation_that_holds_for_all_models_is_said_once(tmp_path):
    study_of(tmp_path, models=("large", "large_dcn", "large_mmoe"), methods=("clippy",), lrs=(0.01,), with_losses=False)
    said = recommend(tmp_path, Claim())
    assert said.startswith("all 3 models:\n  clippy: ")
    assert said.count("clippy: ") == 1

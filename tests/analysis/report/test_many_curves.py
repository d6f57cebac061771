"""Reports of thousands of curves: what is counted here grows with the curves, not with their square; a page shows a
part."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from records import TASK, make_definition
from simulated_record import simulated_definition, write_simulated_study
from threshold_runs import runs_of

import analysis
from analysis.figures import panels as panel_figures
from analysis.figures import tradeoff as tradeoff_figures
from analysis.figures.palette import curve_styles
from analysis.figures.panels import panels
from analysis.loading import curve_labels
from analysis.report import html, sections
from analysis.report.html import Table
from analysis.stats.frontier import frontier, tradeoff
from analysis.stats.missing import missing_by_curve
from analysis.stats.trajectories import diverged_by_step
from analysis.text import alt
from analysis.text import report as report_text
from study.commands import report as report_command
from study.config import Study, control_of
from study.record import files


class CountedText(str):
    """A text that counts how often it is compared."""

    __hash__ = str.__hash__
    compared = 0

    def __eq__(self, other: object) -> bool:
        CountedText.compared += 1
        return str.__eq__(self, other)


def test_labels_of_many_methods_compare_each_a_few_times() -> None:
    CountedText.compared = 0
    labels = curve_labels([(CountedText(f"arm{i}"), {"rel": rel}) for i in range(200) for rel in (1, 2)])
    assert labels[:2] == ["arm0 rel=1", "arm0 rel=2"]
    assert CountedText.compared < 10 * len(labels)


def series_compared(monkeypatch: pytest.MonkeyPatch, make: Any) -> int:
    """How often whole columns are compared with something."""
    compared, equal = [], pd.Series.__eq__
    with monkeypatch.context() as patched:
        patched.setattr(pd.Series, "__eq__", lambda own, other: compared.append(1) or equal(own, other))
        make()
    return len(compared)


def many(methods: int, **options: Any) -> pd.DataFrame:
    return runs_of(*((f"arm{i:03d}", {}, 0.4) for i in range(methods)), **options)


def test_missing_runs_of_many_curves_are_not_looked_for_among_all_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []
    for methods in (3, 9):
        runs = many(methods)
        runs = runs.assign(curve=runs["method"])
        lost = runs.iloc[::5]
        kept = runs.drop(lost.index)
        table = missing_by_curve(kept, lost)
        assert table["recorded"].tolist() == kept.groupby("curve").size().tolist()
        counts.append(series_compared(monkeypatch, lambda kept=kept, lost=lost: missing_by_curve(kept, lost)))
    assert counts[0] == counts[1]


def test_styles_of_many_methods_do_not_look_through_the_table_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    tables = [runs.assign(curve=runs["method"]) for runs in (many(3), many(9))]
    assert list(curve_styles(tables[0])) == ["arm000", "arm001", "arm002"]
    assert series_compared(monkeypatch, lambda: curve_styles(tables[1])) == 0


def test_the_control_of_each_model_is_named_once(monkeypatch: pytest.MonkeyPatch) -> None:
    definition = make_definition(models=tuple(f"m{i}" for i in range(30)))
    every = pd.DataFrame({"run_id": ["a"], "role": ["cell"]})
    found: Any = SimpleNamespace(definition=definition, every=every, folder=Path())
    every_control = control_of(definition.study, "c" * 64)
    named, run = [], Study.run
    monkeypatch.setattr(Study, "run", lambda *values: named.append(1) or run(*values))
    assert report_command._references(found, every) == {}
    assert len(named) <= len(every_control)


def test_the_control_of_some_models_is_that_of_the_study() -> None:
    study = make_definition(models=("a", "b", "c")).study
    assert control_of(study, "d", ["b"]) == [run for run in control_of(study, "d") if run.model == "b"]


def test_the_influence_of_rules_reads_each_row_once() -> None:
    read = []

    class Row(dict):
        def __getitem__(self, name: str) -> Any:
            read.append(name)
            return dict.__getitem__(self, name)

    same = {
        "settings": "",
        "edge": 0.1,
        "low": 0.1,
        "high": 0.2,
        "status": "reached",
        "ratio": 1.0,
        "changed": 0,
        "n": 4,
    }
    rows = [Row(same, curve=f"c{i}", rule=rule) for i in range(50) for rule in ("own", "stricter")]
    tables: Any = SimpleNamespace(by_model=lambda _: [("small", rows)])
    table = sections.rule_influence(tables, pd.DataFrame(rows))
    assert table is not None
    assert [row[1] for row in table.rows] == [f"c{i}" for i in range(50)]
    assert read.count("curve") == len(rows)


def test_a_figure_has_a_limited_number_of_panels(monkeypatch: pytest.MonkeyPatch) -> None:
    models = [f"m{i}" for i in range(9)]
    runs = pd.concat([runs_of(("none", {}, 0.4), ("lamb", {}, 0.8), model=model) for model in models])
    monkeypatch.setattr(panel_figures, "MOST_PANELS", 3)
    monkeypatch.setattr(tradeoff_figures, "MOST_PANELS", 3)
    runs = runs.assign(curve=runs["method"])
    lines = frontier(runs)
    assert [part.model for part in panels(runs, models, lines)] == ["m0", "m4", "m8"]
    monkeypatch.setattr(panel_figures, "MOST_CURVES", 1)
    assert [part.model for part in panels(runs, models, lines)] == ["m0", "m4", "m8"]
    definition: Any = SimpleNamespace(data={"tasks": [TASK]})
    figure = tradeoff_figures.tradeoff(tradeoff(runs, definition))
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["m0", "m4", "m8"]


def test_of_many_methods_evenly_spaced_ones_and_the_front_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tradeoff_figures, "MANY_METHODS", 3)
    table = tradeoff(many(9).assign(curve=lambda runs: runs["method"]), SimpleNamespace(data={"tasks": [TASK]}))  # type: ignore[arg-type]
    front = set(table.loc[table["pareto"], "method"])
    table.loc[table["method"] == "arm002", "pareto"] = True
    (legend,) = tradeoff_figures.tradeoff(table).legends
    assert {text.get_text() for text in legend.get_texts()} == {"arm000", "arm002", "arm004", "arm008", *front}


def rendered(template: str, **values: Any) -> str:
    head = '{% from "macros.html.j2" import answers, table %}'
    return html._environment().from_string(head + template).render(**values)


def test_a_page_shows_a_part_of_a_long_table_and_says_so() -> None:
    rows = Table(head=["curve"], rows=[[f"c{i}"] for i in range(1001)], words=1)
    page = rendered("{{ table(rows, most=11) }}", rows=rows)
    assert [f"c{i}" for i in range(1001) if f">c{i}<" in page] == [f"c{100 * i}" for i in range(11)]
    assert "11 of 1,001 rows, evenly spaced. The files in tables/ have all." in page
    assert "evenly spaced" not in rendered("{{ table(rows) }}", rows=rows)


def test_a_page_says_a_part_of_many_curves_and_models_in_words() -> None:
    models = [(f"m{i}", [(f"c{k}", " is safe") for k in range(21)]) for i in range(5)]
    page = rendered("{{ answers(models, shown=3, shown_models=2) }}", models=models)
    assert page.count("<li>") == 2 * 3
    assert "2 of 5 models, evenly spaced" in page
    few = rendered("{{ answers(models, most=2, shown=3) }}", models=models)
    assert few.count("Each of 3 of 21 curves in words") == 5


def test_many_claims_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_text, "MOST_CLAIMS", 2)
    lrs = np.array([0.4, 0.1, 0.2])
    counts = {"k": 0, "n": 59, "missing": 0, "failed": 0}
    claims = pd.DataFrame({"status": "claimed", "model": "m", "curve": list("abc"), "lr": lrs} | counts)
    said = report_text.claims_text(claims)
    assert said.endswith("3 curves, the lowest up to lr 0.1, the highest to 0.4.")
    assert "a up to lr 0.4 (0 of 59)" in report_text.claims_text(claims.head(2))


def test_a_report_of_many_runs_reads_each_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_simulated_study(tmp_path, simulated_definition(models=("small",), lrs=(0.2, 0.6, 1.2), seeds=(0, 1)))
    monkeypatch.setattr(report_text, "MOST_REJUDGED", 0)
    read, read_file = [], files.read_file
    monkeypatch.setattr(files, "read_file", lambda folder, name: read.append(name) or read_file(folder, name))
    assert "leaves out how other rules" in report_command.report(tmp_path)
    every = [f"{path.parent.name}/{path.name}" for kind in ("runs", "losses") for path in tmp_path.glob(f"{kind}/*")]
    assert sorted(name for name in read if name.startswith(("runs/", "losses/"))) == sorted(every)
    assert (tmp_path / "figures" / "gallery.png").exists()


def described(folder: Path) -> dict[str, str]:
    """What each figure says that it shows."""
    texts = {path.stem: path.read_text() for path in folder.glob("*.svg")}
    return {name: text.split("<dc:description>")[1].split("</")[0] for name, text in texts.items()}


def test_figures_of_many_runs_mark_divergence_alike_wherever_they_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, into = tmp_path / "study", tmp_path / "figures"
    write_simulated_study(folder, simulated_definition(models=("small",), lrs=(0.2, 0.6, 1.2), seeds=(0, 1)))
    monkeypatch.setattr(report_text, "MOST_REJUDGED", 0)
    report_command.report(folder, ["svg"])
    found = described(folder / "figures" / "paper")
    assert found["horizon"] == alt.horizon(diverged_by_step(analysis.load(folder))), "the judge's steps alone"
    page = (folder / "report.html").read_text()
    assert "counts from its onset" not in page
    assert "counts from the step at which it was judged to have diverged" in page
    report_command.save_figures(folder, into, ["svg"])
    assert described(into) == found

"""`study report`: tables, figures and report.html from the record alone."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from study.commands import sizes
from study.commands.paths import typed_command, typed_path
from study.commands.rescore import rule_influence
from study.config import IMPORTED, RANKER, control_of
from study.record import tables
from study.record.failures import read_failures
from study.record.references import references
from study.storage import stores
from study.storage.atomic import write_atomic
from study.storage.stores import StorageError

if TYPE_CHECKING:
    import pandas as pd

    from analysis.report.tables import ReportTables
    from analysis.stats.scale import ScaleTables


def report(folder: Path, figures: Sequence[str] = (), *, latex: bool = False) -> str:
    """Write the report, and return its text for a terminal.

    Args:
        folder: Of the study.
        figures: Formats of figures for a paper, which go into figures/paper (`save_figures`).
        latex: Also write the edges as a table of LaTeX, `tables/edges.tex`. A file that is there is always updated.

    Raises:
        ValueError: Unknown formats.
        StorageError: It cannot be written.
    """
    from analysis.report import page, terminal
    from analysis.report.figures import check_figures
    from analysis.report.figures import save_figures as paper_figures
    from analysis.report.tables import LEVELS, report_tables
    from analysis.text.latex import edges_table
    from analysis.text.report import MOST_REJUDGED

    if figures:
        check_figures(figures, COLUMN)
    stores.store_for(folder).refresh("set_aside", tables.PUBLISHED)
    found = report_tables(folder)
    try:
        many = len(found.runs) > MOST_REJUDGED
        judged = found.every.loc[found.every["role"] == "control"] if many else found.every
        losses = _losses(found)
        told = _references(found, losses)
        path = page.write(
            found,
            told,
            None if many else _influence(found, losses),
            losses,
            sizes=_sizes(found),
            doubling=None if many else _doubling(found, losses),
        )
        if figures:
            paper_figures(found, folder / "figures" / "paper", figures, COLUMN, losses, told)
        latex = latex or stores.store_for(folder).get(LATEX, 1) is not None  # of an earlier report
        if latex:
            parts = [edges_table(found.edges[level]) for level in LEVELS]
            write_atomic(folder / LATEX, "\n\n".join(parts).encode() + b"\n", sync=False)
    except OSError as error:
        raise StorageError(f"cannot write the report to {folder} ({error.strerror or error})") from error
    stores.publish(folder)
    address = stores.address(folder)
    url = "" if address == str(folder) else f"\n        {address}/{path.name}"
    text = terminal.text(found, typed_path(folder), typed_command(), told)
    lines = [text, *_missing_losses(judged, losses), *_missing_runs(folder, found), "", f"report: {path}{url}"]
    if latex:
        lines.append(f"LaTeX: {folder}/{LATEX} (LR50 and LR05; needs \\usepackage{{booktabs}})")
    return "\n".join(lines)


LATEX = "tables/edges.tex"

COLUMN = 3.3
"""Inches of a column of a paper."""


def save_figures(folder: Path, into: Path, formats: Sequence[str], width: float = COLUMN) -> list[Path]:
    """Write the figures of a report for a paper, and return their paths.

    Args:
        folder: Of the study.
        into: Where to.
        formats: "pdf", "svg" or "png".
        width: Of a figure, in inches.

    Raises:
        ValueError: Unknown formats, or no width of a page.
        StorageError: They cannot be written.
    """
    from analysis.report.figures import check_figures
    from analysis.report.figures import save_figures as paper_figures
    from analysis.report.tables import report_tables

    check_figures(formats, width)
    found = report_tables(folder)
    losses = _losses(found)
    try:
        return paper_figures(found, into, formats, width, losses, _references(found, losses))
    except OSError as error:
        raise StorageError(f"cannot write figures to {into} ({error.strerror or error})") from error


def _losses(found: "ReportTables") -> "pd.DataFrame":
    """The losses of all runs; of over MOST_REJUDGED, those of the control and of the gallery."""
    from analysis.stats.trajectories import example_pairs
    from analysis.text.report import MOST_REJUDGED

    if len(found.runs) <= MOST_REJUDGED:
        return tables.read_losses(found.folder)
    control = found.every.loc[found.every["role"] == "control", "run_id"]
    examples = [run["run_id"] for pair in example_pairs(found.runs) for run in pair]
    return tables.read_losses(found.folder, [*control, *examples])


def _missing_losses(runs: "pd.DataFrame", losses: "pd.DataFrame") -> list[str]:
    """What the report lacks where the losses of runs are not there, as in a published study."""
    missing = len(set(runs["run_id"]) - set(losses["run_id"]))
    if not missing:
        return []
    return [
        "",
        f"the losses of {missing} runs are missing: no course of a run, and no edge under another rule or horizon",
    ]


def _missing_runs(folder: Path, found: "ReportTables") -> list[str]:
    """Runs that failed. They are not in any denominator."""
    failures = read_failures(folder, set(found.every["run_id"]))
    if not failures:
        return []
    imported = found.definition.study.trainer == IMPORTED
    again = "" if imported else f" (`{typed_command()} resume {typed_path(folder)}` tries again)"
    reasons = [f"  {n}: {reason}" for reason, n in Counter(failures.values()).most_common()]
    return ["", f"{len(failures)} runs are missing and not counted in n{again}:", *reasons]


def _influence(found: "ReportTables", losses: "pd.DataFrame") -> "pd.DataFrame | None":
    """How far each edge moves under other rules; None if that is not known."""
    if found.best is not None:
        return None
    try:
        return rule_influence(found.folder, fitted=found.fitted, every=found.every, losses=losses)
    except ValueError:
        return None  # the control is not recorded, or it learned nothing under a rule


def _sizes(found: "ReportTables") -> "ScaleTables | None":
    """The edges against a size; None if no size varies, or several do.

    The thresholds of a ranker's methods are no sizes.
    """
    study = found.definition.study
    if (
        found.best is not None
        or found.runs.empty
        or (study.trainer == RANKER and not any(map(_has_options, study.models)))
    ):
        return None
    try:
        return sizes.of_report(found.folder, *sizes.of_study(study, found.runs, found.fitted))
    except ValueError:
        return None


def _has_options(model: str) -> bool:
    return " " in model


def _doubling(found: "ReportTables", losses: "pd.DataFrame") -> "pd.DataFrame | None":
    """How far each edge moved over the last doubling of the steps; None if that is not known."""
    from study.commands.horizon import doubling_of, outcomes_at

    if found.best is not None:
        return None
    try:
        judged = outcomes_at(found.folder, found.definition, found.every, losses, shares=(0.5, 1.0))
    except ValueError:
        return None
    return doubling_of(judged) if judged else None


def _references(found: "ReportTables", losses: "pd.DataFrame") -> dict[str, dict[str, Any]]:
    """The reference of each model whose control is recorded, as the report takes it."""
    study, data, runs = found.definition.study, found.definition.data, found.every
    runs = runs.loc[runs["role"] == "control"]  # else each model's would be looked for among all runs
    losses = losses.loc[losses["run_id"].isin(runs["run_id"])]
    recorded, described = set(runs["run_id"]), {}
    for model in study.models:
        if not all(run.id in recorded for run in control_of(study, data["content"], [model])):
            continue
        try:
            reference = references(study, data, found.folder, [model], losses=losses, runs=runs)[model]
        except ValueError:
            continue  # the control learned nothing, and the study stopped with an error
        gains = zip(data["tasks"], reference.task_gain, strict=True)
        described[model] = {"lr": reference.lr, "gain": reference.gain, "noise": reference.noise}
        described[model] |= {f"gain_{task['name']}": gain for task, gain in gains}
        described[model]["constant_loss"] = sum(task["constant_loss"] for task in data["tasks"])
    return described

"""The edges of studies that differ in one thing each, one below the other: a forest plot, and a page.

Each study is held against another of its family by the ratio of their LR50 (`analysis.stats.contrasts.ratio_interval`),
curve by curve; p is corrected over the whole family by Holm's method. An edge that was not reached is an arrow, and a
ratio with it one-sided. Seeds are not taken as paired: another model or recipe is another draw of thresholds.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.axes import lr_axis
from analysis.figures.palette import method_styles
from analysis.loading import load, records
from analysis.stats.contrasts import LEVEL, contrasts, holm, points, ratio_interval
from analysis.stats.edges import REACHED, Fit, edge_text, edges, fits
from analysis.text.format import span_text, two_digits
from study.record.definition import Definition, RecordError, study_exists


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A study of a family: where it is recorded, and what it changes. against: the label of what it is held against."""

    label: str
    words: str
    against: str
    folder: Path


def members_of(folder: Path) -> tuple[str, list[Shown]]:
    """(name, members in order) of a family, from its `family.json`. Raises RecordError where it is
    not a family's: labels name folders inside this one."""
    path = folder / "family.json"
    try:
        content = json.loads(path.read_text())
        if content["format"] != FORMAT:
            raise RecordError(f"{path} has format {content['format']!r}; this version reads format {FORMAT}")
        for member in content["members"]:
            if not {"label", "words", "against"} <= set(member) or not str(member["label"]).replace("_", "").isalnum():
                raise ValueError(f"a member is {member!r}")
        members = [{key: str(member[key]) for key in ("label", "words", "against")} for member in content["members"]]
        return str(content["name"]), [Shown(**member, folder=folder / member["label"]) for member in members]
    except RecordError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecordError(f"{path} is not a family's ({error})") from error


FORMAT = 1


def forest(members: Sequence[Shown], read: Callable[[Path], pd.DataFrame] = load) -> pd.DataFrame:
    """One row a member and curve, in the order of the members; of members that have runs. read: the table of runs of a
    member's folder.

    Columns: label, words, model, curve, method, n, k (runs, and diverged ones), seeds, edge, low, high, status, lr_min,
    lr_max (`analysis.stats.edges.edges`); against (a label; empty where there is nothing to compare with), ratio (of
    LR50 over that of against; NaN unless both were reached), ratio_low, ratio_high (95%; 0 and inf where it has no such
    end), p, p_holm. Raises RecordError (a ValueError) where a record cannot be read.
    """
    tables = {m.label: read(m.folder) for m in members if study_exists(m.folder)}
    fitted = {label: fits(runs) for label, runs in tables.items() if len(runs)}
    rows = []
    for member in members:
        if member.label not in fitted:
            continue
        runs = tables[member.label]
        other = {} if member.against == member.label else fitted.get(member.against, {})
        for row in records(edges(runs, LEVEL, fitted[member.label])):
            own = runs.loc[(runs["model"] == row["model"]) & (runs["curve"] == row["curve"]), "outcome"]
            against = _counterpart(row["model"], row["curve"], other)
            fit = fitted[member.label][row["model"], row["curve"]]
            head = {"label": member.label, "words": member.words} | {c: row[c] for c in ("model", "curve", "method")}
            edge = {c: row[c] for c in ("seeds", "edge", "low", "high", "status", "lr_min", "lr_max", "level")}
            rows.append(
                head
                | {"n": len(own), "k": (own == "diverged").tolist().count(True)}
                | edge
                | {"against": member.against if against else ""}
                | _ratio(fit, against)
            )
    found = pd.DataFrame(rows, columns=pd.Index(COLUMNS))
    tested = found["p"].notna().to_numpy()
    found.loc[tested, "p_holm"] = holm(found.loc[tested, "p"].to_numpy(dtype=float))
    return found


def _counterpart(model: str, curve: str, fitted: Mapping[tuple[str, str], Fit]) -> Fit | None:
    """The same curve of another member: of the same model, or of its only one, where the model is what was changed."""
    alike = [fit for (_, other), fit in fitted.items() if other == curve]
    return fitted.get((model, curve), alike[0] if len(alike) == 1 else None)


COLUMNS = (
    *("label", "words", "model", "curve", "method", "n", "k", "seeds", "level", "edge", "low", "high", "status"),
    *("lr_min", "lr_max", "against", "ratio", "ratio_low", "ratio_high", "p", "p_holm"),
)


def curves(runs: pd.DataFrame, definition: Definition) -> pd.DataFrame:
    """The same table of the curves of one study, each held against the `none` of its own options and model; p is
    Holm's over those of a model (`analysis.stats.contrasts`)."""
    fitted = fits(runs)
    ratios = contrasts(runs, definition, fitted=fitted)
    held = {(r["model"], r["curve"]): r for r in records(ratios.loc[ratios["planned"].astype(bool)])}
    models, rows = definition.study.models, []
    for row in sorted(records(edges(runs, LEVEL, fitted)), key=lambda row: models.index(row["model"])):
        ratio = held.get((row["model"], row["curve"]), {})
        of = runs.loc[(runs["model"] == row["model"]) & (runs["curve"] == row["curve"]), "outcome"]
        rows.append(
            {name: row[name] for name in COLUMNS if name in row}
            | {"label": row["curve"], "words": row["model"] if len(models) > 1 else ""}
            | {"n": len(of), "k": (of == "diverged").tolist().count(True), "against": ratio.get("against", "")}
            | {
                f"ratio{end}": ratio.get(name, math.nan)
                for end, name in (("", "ratio"), ("_low", "low"), ("_high", "high"))
            }
            | {name: ratio.get(name, math.nan) for name in ("p", "p_holm")}
        )
    return pd.DataFrame(rows, columns=pd.Index(COLUMNS))


def _ratio(fit: Fit, against: Fit | None) -> dict[str, float]:
    if against is None:
        return dict.fromkeys(("ratio", "ratio_low", "ratio_high", "p"), math.nan)
    a, b = points(fit), points(against)
    low, high, p = ratio_interval(a, b)
    middle_a, middle_b = a.edge_N[len(a.edge_N) // 2], b.edge_N[len(b.edge_N) // 2]
    known = a.x_min <= middle_a <= a.x_max and b.x_min <= middle_b <= b.x_max
    return {"ratio": 10 ** (middle_a - middle_b) if known else math.nan, "ratio_low": low, "ratio_high": high, "p": p}


def draw(ax: Axes, table: pd.DataFrame) -> None:
    """A row of `forest` a line, from the top: the edge with its 95% interval, the ratio in words beside it."""
    styles = method_styles(table["method"])
    rows = records(table)
    first, last = _shown(rows)
    for y, row in enumerate(rows):
        style = styles[row["method"]]
        low, high = max(row["low"], row["lr_min"]), min(row["high"], row["lr_max"])
        if row["status"] == REACHED:
            ax.plot([low, high], [y, y], color=style.colour, linewidth=1.6, solid_capstyle="butt")
            ax.plot(row["edge"], y, marker=style.marker, color=style.colour, markersize=6)
        else:
            end, sign = (row["lr_max"], ">") if row["status"] == "not reached" else (row["lr_min"], "<")
            ax.plot(end, y, marker=sign, color=style.colour, markersize=7)
        if row["status"] == REACHED and row["low"] == 0:
            ax.plot(row["lr_min"], y, marker="<", color=style.colour, markersize=4)
        if row["status"] == REACHED and math.isinf(row["high"]):
            ax.plot(row["lr_max"], y, marker=">", color=style.colour, markersize=4)
        ax.annotate(
            f"{edge_text(row)}   {times_text(row)}",
            (1.01, y),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=8,
        )
    if rows and rows[0]["status"] == REACHED:
        ax.axvline(rows[0]["edge"], color="0.75", linewidth=0.8, zorder=0)
    several = len(set(table["curve"])) > 1
    names = [filter(None, [row["words"], row["curve"] if several else ""]) for row in rows]
    ax.set_yticks(range(len(rows)), [" · ".join(name) for name in names])
    ax.set_ylim(len(rows) - 0.4, -0.6)
    lr_axis(ax, [first, last])
    ax.set_xlabel(f"learning rate at which {'half' if LEVEL == 0.5 else f'{LEVEL:.0%}'} of the runs diverge")
    ax.grid(axis="x", color="0.92")


def _shown(rows: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """The lrs that the axis covers: all intervals, and the ends of the ranges of edges that were not seen in them."""
    ends = []
    for row in rows:
        low, high = max(row["low"], row["lr_min"]), min(row["high"], row["lr_max"])
        seen = row["status"] == REACHED
        ends += [low, high] if seen else [row["lr_max"] if row["status"] == "not reached" else row["lr_min"]]
    return min(ends) / MARGIN, max(ends) * MARGIN


MARGIN = 1.25


def figure(table: pd.DataFrame) -> Figure:
    drawn = Figure(figsize=(9.5, 1.1 + 0.3 * len(table)), layout="constrained")
    draw(drawn.subplots(), table)
    return drawn


def times_text(row: Mapping[str, Any]) -> str:
    if not row["against"]:
        return ""
    span = span_text(row["ratio_low"], row["ratio_high"])
    return f"× {two_digits(row['ratio'])} ({span})" if math.isfinite(row["ratio"]) else f"× {span}"

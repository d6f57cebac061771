"""Makes the tables of docs/statistics.md and docs/scale.md again, from the rows that are kept in docs/statistics/.

    python tests/helpers/statistics_page.py      (make statistics)

A table stands between `<!-- table WHAT LEVEL -->` and `<!-- end -->`. WHAT is a key of TABLES; LEVEL is that of an
edge, where a table has one for each.
"""

import re
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from cells import FOLDER
from shapes import FAMILY
from simulation_claims import MOST_GRID_RUNS, SAFE_TIMES
from simulation_edges import LEVELS, REFERENCES

from analysis.findings.pages import MARK

PAGES = tuple(Path(__file__).parents[2] / "docs" / name for name in ("statistics.md", "scale.md"))
TARGET = 0.93


def rows_of(name: str) -> pd.DataFrame:
    """Return the kept rows of a simulation."""
    return pd.read_csv(FOLDER / f"{name}.csv")


def claims(_: float) -> str:
    """Return the claims that simulations check, with the worst cell of each."""
    lr50, lr05 = (_rising(level) for level in LEVELS)
    family = lr50["shape"].isin(FAMILY) | (lr50["shape"] == "never")
    found = rows_of("searches").groupby("level")["covered"].agg(["min", "size"])
    differing = lr50[[f"differs from {reference}" for reference in REFERENCES]].max().max()
    equal = rows_of("families")
    wrong = rows_of("safe")["wrong"].max()
    doubling = rows_of("doublings")
    models_hold = rows_of("models")[["moves_covered", "ratio_covered"]].min(axis=1)
    said = (
        f"**Edges**: on {lr50['shape'].nunique()} curves of many shapes, the 95% interval of LR50 contains the true "
        "edge in at least "
        f"{lr50['covered'].min():.1%} of the studies of each of {len(lr50)} cells, that of LR05 in at least "
        f"{lr05['covered'].min():.1%}. The logistic alone: {lr50['covered_alone'].min():.0%} and "
        f"{lr05['covered_alone'].min():.0%}; on its own curves {lr50['covered_alone'][family].min():.1%} for LR50.",
        "**Adaptive searches**: the interval contains the true edge in at least "
        + " and ".join(
            f"{row['min']:.1%} of the searches of {_name(level)} on each of {row['size']:.0f} curves"
            for level, row in found.sort_index(ascending=False).iterrows()
        )
        + ".",
        f"**Safe lrs** (`study recommend`): the true risk is above the claimed risk in at most {wrong:.1%} of the "
        "studies of each cell. This includes the choice of the lr.",
        "**Differences between methods**: two curves with the same LR50 and other shapes are said to differ in at most "
        f"{differing:.1%} of the studies of each cell. Of five equal methods, one is said to differ in at most "
        f"{equal['wrong'].max():.1%} of {_range(equal['simulations'])} families.",
        "**Over several models** (`across_models`): the intervals contain the true values in at least "
        f"{models_hold.min():.1%} of the studies of each of {len(models_hold)} cells.",
        "**The last doubling** (`study scale --over steps`): the interval of the ratio contains the true one in at "
        f"least {doubling['covered'].min():.1%} of the studies of each of {len(doubling)} cells.",
    )
    return "\n".join(textwrap.fill(f"- {words}", 125, subsequent_indent="  ") for words in said)


def simulated(_: float) -> str:
    """Return which cells of edges there are."""
    rows = rows_of("edges")
    of_grid = rows.groupby("grid", sort=False)["seeds"].unique()
    cells = "; ".join(f"`{grid}` with {', '.join(map(str, sorted(seeds)))} seeds" for grid, seeds in of_grid.items())
    return f"{_range(rows['simulations'])} studies of each cell. Simulated: {cells}."


def worst(level: float) -> str:
    """Return which cell of edges covers least, and how many cover less than TARGET."""
    rows = _rising(level).sort_values("covered", kind="stable")
    first, few = rows.iloc[0], int((rows["covered"] < TARGET).sum())
    return textwrap.fill(
        f"{_name(level)}: the worst of {len(rows)} cells covers {first['covered']:.3f} ({first['shape']}; "
        f"{first['seeds']} seeds, {first['grid']}). {few} of {len(rows)} cover less than {TARGET}. The logistic alone: "
        f"worst {rows['covered_alone'].min():.3f}, {int((rows['covered_alone'] < TARGET).sum())} less than {TARGET}.",
        125,
    )


def coverage(level: float) -> str:
    """Return the lowest coverage over all grids, by curve and number of seeds, beside that of the logistic alone."""
    return _by_seeds(level, ("covered", "covered_alone"), "min", "{:.3f}, {:.3f}", 0)


def widths(level: float) -> str:
    """Return mean widths over all grids, by curve and number of seeds, beside those of the logistic alone."""
    return _by_seeds(level, ("width", "width_alone"), "mean", "{:.2f}, {:.2f}", 1)


def _by_seeds(level: float, columns: Sequence[str], how: str, form: str, sort: int) -> str:
    rows = _rising(level)
    tables = [rows.pivot_table(index="shape", columns="seeds", values=name, aggfunc=how) for name in columns]
    order = tables[0].min(axis=1).sort_values(kind="stable").index if sort == 0 else rows["shape"].unique()
    seeds = list(tables[0].columns)
    lines = [["curve", *(f"{n} seeds" for n in seeds)]]
    for shape in order:
        lines.append([shape, *(form.format(*(table.loc[shape, n] for table in tables)) for n in seeds)])
    return markdown(lines)


def flagged(level: float) -> str:
    """Return the highest share of studies over all grids that are said to fall again, by curve and number of seeds."""
    rows = rows_of("edges")
    rows = rows.loc[(rows["level"] == level).to_numpy()]
    rows = rows.assign(curve=np.where(rows["shape"] == "falls again", "falls again", "all others, highest"))
    table = rows.pivot_table(index="curve", columns="seeds", values="flagged", aggfunc="max")
    lowest = rows.pivot_table(index="curve", columns="seeds", values="flagged", aggfunc="min")
    seeds = list(table.columns)
    lines = [["curve", *(f"{n} seeds" for n in seeds)]]
    lines.append(["all others, highest", *(f"{table.loc['all others, highest', n]:.4f}" for n in seeds)])
    lines.append(["falls again, lowest", *(f"{lowest.loc['falls again', n]:.3f}" for n in seeds)])
    bound = rows.groupby("curve")["bound"].min()
    of_seeds = rows.loc[(rows["shape"] == "falls again").to_numpy()].groupby("seeds")["covered"].min()
    unseen, seen = of_seeds.loc[3], of_seeds.drop(3).min()
    return (
        f"{markdown(lines)}\n\nThe model-free bound of LR50 contains the true edge in at least "
        f"{bound['all others, highest']:.1%} of the studies\nof each cell, and {bound['falls again']:.1%} for the "
        "curve that falls again. It is wide.\n\n"
        + textwrap.fill(
            "With few seeds the fall is often not seen, and then the interval of an edge counts on a curve that rises: "
            f"with 3 seeds it contains LR50 of the curve that falls again in {unseen:.1%} of the studies on the worst "
            f"grid, with 8 or more in at least {seen:.1%}.",
            125,
        )
    )


def differs(level: float) -> str:
    """Return the highest share of studies over all grids in which two curves of one LR50 are said to differ."""
    rows = _rising(level)
    columns = [f"differs from {reference}" for reference in REFERENCES]
    worst_of = rows.groupby("shape", sort=False)[columns].max().dropna(how="all")
    worst_of = worst_of.loc[worst_of.max(axis=1).sort_values(ascending=False, kind="stable").index]
    lines = [["curve", *(f"against {reference}" for reference in REFERENCES)]]
    lines += [[str(shape), *(_number(row[name]) for name in columns)] for shape, row in worst_of.iterrows()]
    return markdown(lines)


def safe(_: float) -> str:
    """Return the highest share of wrong claims of a safe lr over all grids, by curve and number of seeds."""
    rows = rows_of("safe")
    table = rows.pivot_table(index="shape", columns="seeds", values="wrong", aggfunc="max")
    table = table.loc[table.max(axis=1).sort_values(ascending=False, kind="stable").index]
    lines = [["curve", *(f"{n} seeds" for n in table.columns)]]
    body = markdown([*lines, *([str(shape), *map(_number, row)] for shape, row in table.iterrows())])
    return f"{_each(rows, 'studies of each curve, grid and number of seeds', SAFE_TIMES)}\n\n{body}"


def families(_: float) -> str:
    """Return the share of families of equal methods with a wrong claim, by curve, seeds and what a seed keeps."""
    rows = rows_of("families")
    table = rows.pivot_table(index=["seeds", "kept"], columns="shape", values="wrong", sort=False)
    lines = [["seeds", "threshold of a seed", *map(str, table.columns)]]
    for (seeds, kept), row in table.iterrows():  # pyright: ignore[reportGeneralTypeIssues]
        lines.append([str(seeds), "one for each method" if kept else "none", *map(_number, row)])
    return f"{_each(rows, 'families of each curve and number of seeds')}\n\n{markdown(lines)}"


def models(_: float) -> str:
    """Return how often the intervals over several models hold, and how wide they are, by curve and seeds."""
    rows = rows_of("models")
    lines = [
        [
            "curve",
            "seeds, of one model and of the others",
            "`moves` covered",
            "width",
            "`ratio` covered",
            "width, decades",
        ]
    ]
    for (shape, fewest, most), own in rows.groupby(["shape", "seeds", "most"], sort=False):  # pyright: ignore
        least, mean = own.min(numeric_only=True), own.mean(numeric_only=True)
        lines.append([str(shape), f"{fewest}, {most}", f"{least['moves_covered']:.3f}", f"{mean['moves_width']:.2f}"])
        lines[-1] += [f"{least['ratio_covered']:.3f}", _or_open(mean["ratio_width"])]
    return f"{_each(rows, 'studies of each curve, grid and number of seeds')}\n\n{markdown(lines)}"


def doublings(_: float) -> str:
    """Return how often the interval of the last doubling holds, by curve and number of seeds."""
    rows = rows_of("doublings")
    table = rows.pivot_table(index="shape", columns="seeds", values="covered", aggfunc="min")
    table = table.loc[table.min(axis=1).sort_values(kind="stable").index]
    lines = [["curve", *(f"{n} seeds" for n in table.columns)]]
    body = markdown([*lines, *([str(shape), *map(_number, row)] for shape, row in table.iterrows())])
    return f"{_each(rows, 'studies of each curve, grid, number of seeds and ratio')}\n\n{body}"


def scale(_: float) -> str:
    """Return how often predictions at larger sizes hold, by law."""
    rows = rows_of("scale")
    lines = [["law", "drawn", "sizes", "predicted at", "coverage", "predicted", "width"]]
    for row in rows.to_dict("records"):
        cell = [row["law"], row["drawn"], row["sizes"], f"{row['times']:g}x", f"{row['covered']:.3f}"]
        lines.append([*cell, f"{row['predicted']:.2f}", f"{row['width']:.2f}"])
    least = rows.loc[rows["covered"].idxmin()]
    return (
        f"{_each(rows, 'records of each law')}\n\n{markdown(lines)}\n\nThe lowest coverage is "
        f"{least['covered']:.3f} (`{least['law']}`, {least['sizes']} sizes, at {least['times']:g}x)."
    )


def wider(_: float) -> str:
    """Return how much wider than those of the logistic alone the intervals are, on the logistic's own curves."""
    said = []
    for level in LEVELS:
        rows = _rising(level)
        rows = rows.loc[(rows["shape"].isin(FAMILY) & (rows["seeds"] >= 8)).to_numpy()]
        times = rows["width"] / rows["width_alone"]
        most = rows.loc[times.idxmax()]
        where = f"`{most['shape']}`, {most['seeds']} seeds, `{most['grid']}`"
        said.append(
            f"{_name(level)}: {times.mean():.1f} times as wide on average, {times.max():.1f} times at most ({where})"
        )
    return textwrap.fill(f"On the logistic's own curves, with 8 or more seeds: {'; '.join(said)}.", 125)


def searches(level: float) -> str:
    """Return what adaptive searches find, by curve."""
    rows = rows_of("searches")
    rows = rows.loc[(rows["level"] == level).to_numpy()].sort_values("covered", kind="stable")
    if not len(rows):
        return f"Searches of {_name(level)} are not simulated yet."
    lines = [["curve", "covered", "logistic alone", "bias / width", "mean runs", "90% of searches", "width, decades"]]
    for row in rows.to_dict("records"):
        alone = row.get("covered_alone", np.nan)  # not kept by older simulations
        lines.append([row["shape"], f"{row['covered']:.3f}", _number(alone), _signed(row["bias"])])
        lines[-1] += [f"{row['runs']:.0f}", f"{row['most_runs']:.0f}", f"{row['width']:.3f}"]
    return f"{_each(rows, 'searches of each curve')}\n\n{markdown(lines)}"


def search_differences(_: float) -> str:
    """Return the share of pairs of searches of one LR50 that are said to differ."""
    rows = rows_of("search_differences")
    table = rows.pivot_table(index="shape", columns="against", values="wrong", sort=False)
    lines = [["curve", *(f"against {name}" for name in table.columns)]]
    lines += [[str(shape), *map(_number, row)] for shape, row in table.iterrows()]
    return f"{_each(rows, 'pairs of searches')}\n\n{markdown(lines)}"


def starts(_: float) -> str:
    """Return what searches take by where they begin, range tests counted."""
    return _runs_by("starts", "start", "begin", "searches of each curve and start")


def spending(_: float) -> str:
    """Return what searches take without one of their rules, and if they knew the slope."""
    rows = rows_of("spending").pivot_table(index="shape", columns="rule", values="runs")
    table = _runs_by("spending", "rule", "rules", "searches of each curve by each set of rules")
    least = f"slope known, {NEITHER}"
    said = (
        f"Without the last two these curves take {_saved(rows, 'all rules', NEITHER)} fewer runs. If the slope were "
        f"known too, {_saved(rows, NEITHER, least)} of the rest would be saved: these runs are spent on the slope. "
        f"With all rules only {_saved(rows, 'all rules', 'slope known')} would be saved: the interval that only "
        "assumes that P rises makes no use of a slope."
    )
    return f"{textwrap.fill(said, 125)}\n\n{table}"


NEITHER = "neither of the last two"


def _saved(runs: pd.DataFrame, rule: str, other: str) -> str:
    """The part of a rule's runs that another saves, over the curves."""
    saved = 1 - runs[other] / runs[rule]
    return f"{saved.min():.0%} to {saved.max():.0%}"


def _runs_by(name: str, column: str, head: str, what: str) -> str:
    rows = rows_of(name)
    lines = [["curve", head, "mean runs", "90% of searches", "covered"]]
    for row in rows.to_dict("records"):
        lines.append([row["shape"], row[column], f"{row['runs']:.0f}", f"{row['most_runs']:.0f}"])
        lines[-1].append(f"{row['covered']:.3f}")
    return f"{_each(rows, what)}\n\n{markdown(lines)}"


def cost(_: float) -> str:
    """Return the runs of searches beside those of grids whose intervals are as wide."""
    columns = ["curve", "level", "precision", "mean runs", "90% of searches", "width, decades"]
    lines = [[*columns, "grid, independent runs", "grid, seeds keep thresholds", "covered", "bias / width"]]
    rows = rows_of("cost")
    for row in rows.to_dict("records"):
        grids = [_grid(row[name], row["runs"]) for name in ("grid_independent", "grid_kept")]
        lines.append([row["shape"], f"{row['level']:g}", f"{row['precision']:g}", f"{row['runs']:.0f}"])
        lines[-1] += [f"{row['most_runs']:.0f}", f"{row['width']:.3f}", *grids, f"{row['covered']:.3f}"]
        lines[-1].append(f"{row['bias']:+.3f}")
    return f"{_each(rows, 'searches of each curve')}\n\n{markdown(lines)}"


def falls(_: float) -> str:
    """Return how many searches are flagged as falling again."""
    columns = ["curve", "level", "precision", "mean runs", "lrs", "quarter octaves", "flagged", "flagged, edge wrong"]
    lines = [columns]
    rows = rows_of("falls")
    for row in rows.to_dict("records"):
        means = [f"{row[name]:.0f}" for name in ("runs", "lrs", "quarter_octaves")]
        lines.append([row["shape"], f"{row['level']:g}", f"{row['precision']:g}", *means])
        lines[-1] += [f"{row['flagged']} of {row['simulations']}", str(row["wrong"])]
    return f"{_each(rows, 'searches of each curve')}\n\n{markdown(lines)}"


TABLES: dict[str, Callable[[float], str]] = {
    made.__name__: made
    for made in (
        claims,
        simulated,
        worst,
        coverage,
        widths,
        flagged,
        differs,
        safe,
        families,
        models,
        doublings,
        scale,
        wider,
        searches,
        search_differences,
        starts,
        spending,
        cost,
        falls,
    )
}


def _grid(runs: float, of_search: float) -> str:
    if np.isnan(runs):
        return f"over {MOST_GRID_RUNS:,} ({MOST_GRID_RUNS / of_search:.1f}x)"
    return f"{runs:.0f} ({runs / of_search:.1f}x)"


def _each(rows: pd.DataFrame, what: str, times: int = 1) -> str:
    return f"{_range(times * rows['simulations'])} {what}:"


def _range(counts: pd.Series) -> str:
    fewest, most = int(counts.min()), int(counts.max())
    return f"{most:,}" if fewest == most else f"{fewest:,} to {most:,}"


def _rising(level: float) -> pd.DataFrame:
    rows = rows_of("edges")
    return rows.loc[((rows["level"] == level) & (rows["shape"] != "falls again")).to_numpy()]


def _name(level: float) -> str:
    return f"LR{100 * level:02.0f}"


def _or_open(width: float) -> str:
    return f"{width:.2f}" if np.isfinite(width) else "open"


def _number(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.3f}"


def _signed(value: float) -> str:
    return "" if np.isnan(value) else f"{value:+.2f}"


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """Return a table whose first line is its head."""
    ruled = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in ruled)


def with_new_tables(page: str) -> str:
    """Return the page with every table made again."""

    def updated(mark: re.Match[str]) -> str:
        made = TABLES[mark["what"]](float(mark["studies"]))
        return f"<!-- table {mark['what']} {mark['studies']} -->\n\n{made}\n\n<!-- end -->"

    return MARK.sub(updated, page)


if __name__ == "__main__":
    for file in PAGES:
        file.write_text(with_new_tables(file.read_text()))

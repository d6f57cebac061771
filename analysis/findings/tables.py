"""The tables of the pages of findings, in Markdown, each from published studies (`analysis.findings.published`)."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.findings import published
from analysis.findings.published import Published
from analysis.loading import records
from analysis.stats.best import best
from analysis.stats.contrasts import contrasts, first_planned, holm, points, ratio_interval
from analysis.stats.edges import REACHED, edges, fits
from analysis.stats.forest import forest
from analysis.stats.frontier import frontier as edge_by_threshold
from analysis.stats.quality import quality
from analysis.stats.rates import divergence_rates, in_bins
from analysis.stats.table2 import table2
from analysis.text.best import best_table
from analysis.text.edges import edge_span, edge_text
from analysis.text.format import difference_text, p_text, score_text, span_text, two_digits, value_text
from analysis.text.scale import EXPONENT_HEAD, exponent_row, prediction_rows
from analysis.text.table2 import as_text
from study.config import RANKER, EdgeSearch, comparators
from study.record.definition import study_exists


def about(folders: Sequence[Path]) -> str:
    """Return a line for each study or family: runs, seeds, data, steps, versions."""
    return "\n\n".join(_about_family(f) if published.is_family(f) else _about(published.read(f)) for f in folders)


def _about(entry: Published) -> str:
    study, runs, data = entry.definition.study, entry.runs, entry.definition.data
    versions = entry.definition.versions
    tuned = f"{entry.tuned:,} runs that tuned, and of what they chose " if entry.tuned else ""
    steps = f"{max(runs['steps'].tolist())} steps"
    if study.trainer == RANKER:
        models = ", ".join(f"`{model}`" for model in study.models)
        steps = (
            f"{models}; {data['source']}, {data['train_rows']:,} training rows, {steps} at batch {study.recipe.batch}"
        )
    return (
        f"*`{study.name}`: {tuned}{len(runs):,} runs ({_diverged(entry):,} diverged) and {entry.control} of the control"
        f"; {runs['seed'].nunique()} seeds; {steps}; torch {versions['torch']}, "
        f"commit {versions.get('commit', 'unknown')}.*"
    )


def _about_family(folder: Path) -> str:
    entries = [published.read(m.folder) for m in published.family_members(folder) if study_exists(m.folder)]
    runs, control = sum(len(entry.runs) for entry in entries), sum(entry.control for entry in entries)
    commits = sorted({str(entry.definition.versions.get("commit", "unknown")) for entry in entries})
    return (
        f"*`{folder.name}`: {len(entries)} studies, {runs:,} runs with a seed each ({sum(map(_diverged, entries)):,} "
        f"diverged) and {control:,} of their controls; torch {entries[0].definition.versions['torch']}, "
        f"commit {', '.join(commits)}.*"
    )


def _diverged(entry: Published) -> int:
    return (entry.runs["outcome"] == "diverged").tolist().count(True)


def rates(folders: Sequence[Path]) -> str:
    """Return k/n of every cell, a table a model: a row an lr, a column a curve."""
    entries = map(published.read, folders)
    return "\n\n".join(
        _cells(entry, divergence_rates(in_bins(entry.runs)), lambda row: f"{row['k']}/{row['n']}") for entry in entries
    )


def medians(folders: Sequence[Path]) -> str:
    """Return the median held-out AUC of the first task in every cell, a diverged run as the worst result."""
    pages = []
    for folder in folders:
        entry = published.read(folder)
        first = f"auc_{entry.definition.data['tasks'][0]['name']}"
        table = quality(entry.runs, entry.definition)
        pages.append(_cells(entry, table, lambda row, first=first: f"{row[first]:.4f}", f"{score_text(first)}, "))
    return "\n\n".join(pages)


def _cells(entry: Published, table: pd.DataFrame, text: Callable[[dict[str, Any]], str], head: str = "") -> str:
    """A table for each model with `text(row)` of each cell: a row an lr, a column a curve."""
    pages = []
    for model in entry.definition.study.models:
        of_model = table.loc[table["model"] == model]
        curves = list(dict.fromkeys(of_model["curve"]))
        at = {(row["curve"], row["lr"]): text(row) for row in records(of_model)}
        rows = [[f"{lr:g}", *(at.get((c, lr), "") for c in curves)] for lr in sorted(set(of_model["lr"]))]
        pages.append(markdown([f"{head}{model}, lr", *curves], rows))
    return "\n\n".join(pages)


def edge_table(folders: Sequence[Path]) -> str:
    """Return LR50 and LR05, or the edge at the level of a search, and the ratio of LR50 to its comparator's."""
    rows, levels, against_names = [], LEVELS, set()
    for folder in folders:
        entry = published.read(folder)
        against_names |= set(comparators(entry.definition.study))
        fitted = fits(entry.runs)
        search = entry.definition.study.search
        if isinstance(search, EdgeSearch) and search.level not in LEVELS:
            levels = (search.level,)
        by_level = [
            {(row["model"], row["curve"]): row for row in records(edges(entry.runs, level, fitted))} for level in levels
        ]
        ratios = contrasts(entry.runs, entry.definition, fitted=fitted)
        against = first_planned(ratios)
        models = entry.definition.study.models
        for key in sorted(by_level[0], key=lambda key: models.index(key[0])):
            ratio = against.get(key)
            of = entry.runs.loc[(entry.runs["model"] == key[0]) & (entry.runs["curve"] == key[1])]
            diverged = f"{(of['outcome'] == 'diverged').tolist().count(True)}/{len(of)}"
            cells = [*(_edge(at[key]) for at in by_level), *((_ratio(ratio), _p(ratio)) if ratio else ("", ""))]
            rows.append([key[0], key[1], diverged, *cells, str(by_level[0][key]["seeds"])])
    head = ["model", "method", "diverged", *(f"LR{100 * level:02.0f} (95%)" for level in levels)]
    over = " or ".join(f"`{name}`" for name in sorted(against_names))
    return markdown([*head, f"LR50 over that of {over} (95%)", "p (Holm)", "seeds"], rows)


LEVELS = (0.5, 0.05)


def chosen(folders: Sequence[Path]) -> str:
    """Return the held-out quality of each method at the lr and thresholds that the other seeds choose.

    The last column is the difference in AUC to `none`, paired by seed, of the curve that most seeds choose.
    """
    rows, head = [], []
    for folder in folders:
        entry = published.read(folder)
        table, tasks = table2(entry.runs, entry.definition), entry.definition.data["tasks"]
        first = f"auc_{tasks[0]['name']}"
        errors = [f"rmse_{task['name']}" for task in tasks if f"rmse_{task['name']}" in table]
        paired = contrasts(entry.runs, entry.definition)
        more = first_planned(paired)
        head = ["model", "method", f"{score_text(first)} (95%)", *(f"{score_text(name)} (95%)" for name in errors)]
        head += ["lr of most seeds", "diverged there", "AUC more than `none` (95%)"]
        for row in records(table):
            values = [value_text(row, first), *(value_text(row, name) for name in errors)]
            at = f"{row['lr']:g}{str(row['curve']).removeprefix(str(row['method']))}"
            found_more = more.get((row["model"], row["curve"]))
            more_of = difference_text(found_more) if found_more else ""
            rows.append([row["model"], row["method"], *values, at, f"{row['k']}/{row['n']}", more_of])
    return markdown(head, rows)


def paper_table(folders: Sequence[Path]) -> str:
    """Return Table 2 of the paper: each method at the lr and thresholds that the other seeds choose."""
    head, rows = [], []
    for folder in folders:
        entry = published.read(folder)
        head, more = as_text(table2(entry.runs, entry.definition), divergence_rates(entry.runs))
        rows += more
    return markdown(head, rows)


def family(folders: Sequence[Path]) -> str:
    """Return the edge of each member of a family, and its ratio to the member that it is compared with."""
    (folder,) = folders
    table = forest(published.family_members(folder), lambda path: published.read(path).runs)
    words = {row["label"]: row["words"] for row in records(table)}
    rows, several = [], len(set(table["curve"])) > 1
    for row in records(table):
        ratio = _ratio({**row, "low": row["ratio_low"], "high": row["ratio_high"]}) if row["against"] else ""
        against = words.get(row["against"], "") if row["against"] else ""
        diverged = f"{row['k']}/{row['n']}"
        curve = [row["curve"]] if several else []
        rows.append([row["words"], *curve, diverged, _edge(row), against, ratio, _p(row) if row["against"] else ""])
    head = ["", *(["curve"] if several else []), "diverged", "LR50 (95%)", "against", "ratio (95%)", "p (Holm)"]
    return markdown(head, rows)


def exponents_by_size(folders: Sequence[Path]) -> str:
    """Return how the edge of each curve depends on a size, and how well the largest size is predicted."""
    (folder,) = folders
    rows = map(exponent_row, records(published.read_scale(folder).exponents))
    return markdown(EXPONENT_HEAD, [*rows])


def predicted_by_size(folders: Sequence[Path]) -> str:
    """Return predicted edges at the largest sizes, each beside what was measured there."""
    (folder,) = folders
    found = published.read_scale(folder)
    assert found.predictions is not None
    head, *rows = prediction_rows(found.axis, found.predictions)
    return markdown(head, rows)


def frontier(folders: Sequence[Path]) -> str:
    """Return the edge of every threshold of one study, and its best median held-out quality.

    The same rows choose the best lr and judge it, so the quality describes and claims nothing.
    """
    (folder,) = folders
    entry = published.read(folder)
    first = f"auc_{entry.definition.data['tasks'][0]['name']}"
    scored = records(quality(entry.runs, entry.definition))
    rows = []
    for row in records(edge_by_threshold(entry.runs)):
        cells = [cell for cell in scored if (cell["model"], cell["curve"]) == (row["model"], row["curve"])]
        best = max(cells, key=lambda cell: cell[first])
        value = f"{row['threshold']} {row['value']:g}" if row["threshold"] else ""
        auc = f"{best[first]:.4f} ({best[f'{first}_q10']:.4f} to {best[f'{first}_q90']:.4f})"
        rows.append([row["model"], row["method"], value, row["held"], _edge(row), f"{best['lr']:g}", auc])
    head = ["model", "method", "threshold", "at", "LR50 (95%)", "best lr", f"{score_text(first)} there (10 to 90%)"]
    return markdown(head, rows)


def best_of_search(folders: Sequence[Path]) -> str:
    """Return the best quality of each method within a risk of divergence, judged by fresh seeds."""
    head, rows = [], []
    for folder in folders:
        definition = published.read(folder).definition
        gain = published.read_gains(folder)
        of_run = dict(zip(gain["run_id"].tolist(), gain["gain"].tolist(), strict=True))
        head, more = best_table(best(published.every_run(folder), of_run, definition), definition)
        rows += more
    return markdown(head, rows)


def agreement(folders: Sequence[Path]) -> str:
    """Return whether two data sets order the methods alike, for pairs of studies of the same models.

    Two methods differ if the 95% interval of the ratio of their edges excludes 1.

    Raises:
        ValueError: If the studies do not come in pairs.
    """
    if len(folders) % 2:
        raise ValueError("the table agreement takes studies in pairs")
    rows = []
    for first, second in zip(folders[::2], folders[1::2], strict=True):
        orders = [_order(published.read(folder)) for folder in (first, second)]
        sources = [published.read(folder).definition.data["source"] for folder in (first, second)]
        for model in orders[0]:
            if model in orders[1]:
                a, b = orders[0][model], orders[1][model]
                decided = [pair for pair in a if a[pair] and b.get(pair)]
                unlike = [" and ".join(pair) for pair in decided if a[pair] != b[pair]]
                open_pairs = [" and ".join(pair) for pair in a if pair not in decided]
                counts = [str(len(decided) - len(unlike)), str(len(unlike)), str(len(open_pairs))]
                named = "; ".join(unlike + [f"not told: {pair}" for pair in open_pairs])
                rows.append([model, " and ".join(sources), str(len(a)), *counts, named])
    return markdown(["model", "data", "pairs of methods", "ordered alike", "unlike", "not told apart", "which"], rows)


def grid_and_search(folders: Sequence[Path]) -> str:
    """Return LR50 by a grid beside that by a search of the same curves, where both reached it, for pairs of studies.

    Raises:
        ValueError: If the studies do not come in pairs, or a pair differs in its data or recipe.
    """
    if len(folders) % 2:
        raise ValueError("the table grid_and_search takes studies in pairs")
    rows, p = [], []
    for pair in zip(folders[::2], folders[1::2], strict=True):
        entries = [published.read(folder) for folder in pair]
        if len({(repr(entry.definition.study.recipe), *entry.runs["data"].unique()) for entry in entries}) > 1:
            raise ValueError(f"{pair[0].name} and {pair[1].name} differ in their data or recipe")
        tables = [entry.runs for entry in entries]
        fitted = [fits(table) for table in tables]
        grid, searched = (
            {(row["model"], row["curve"]): row for row in records(edges(table, 0.5, fit_of))}
            for table, fit_of in zip(tables, fitted, strict=True)
        )
        for key, row in grid.items():
            if key in searched and row["status"] == searched[key]["status"] == REACHED:
                runs = [str(((t["model"] == key[0]) & (t["curve"] == key[1])).sum()) for t in tables]
                low, high, alone = ratio_interval(points(fitted[1][key]), points(fitted[0][key]))
                rows.append([*key, _edge(row), runs[0], _edge(searched[key]), runs[1], span_text(low, high)])
                p.append(alone)
    head = ["model", "method", "LR50 by grid", "runs", "by search", "runs", "search over grid (95%)", "p", "p (Holm)"]
    words = zip(map(p_text, p), map(p_text, holm(p)), strict=True)
    return markdown(head, [[*row, *both] for row, both in zip(rows, words, strict=True)])


def _order(entry: Published) -> dict[str, dict[tuple[str, str], int]]:
    """Model -> (curve, other), in alphabetical order -> 1 if its edge is higher, -1 if lower, 0 if undecided."""
    order: dict[str, dict[tuple[str, str], int]] = {}
    for row in records(contrasts(entry.runs, entry.definition)):
        sign = int(row["low"] > 1) - int(row["high"] < 1)
        a, b = sorted((row["curve"], row["against"]))
        order.setdefault(row["model"], {})[a, b] = sign if a == row["curve"] else -sign
    return order


TABLES: dict[str, Callable[[Sequence[Path]], str]] = {
    "about": about,
    "rates": rates,
    "medians": medians,
    "edges": edge_table,
    "chosen": chosen,
    "table2": paper_table,
    "family": family,
    "frontier": frontier,
    "exponents": exponents_by_size,
    "predictions": predicted_by_size,
    "best": best_of_search,
    "agreement": agreement,
    "grid_and_search": grid_and_search,
}


def _edge(row: Mapping[str, Any]) -> str:
    return f"{edge_text(row)} ({edge_span(row)})"


def _ratio(row: Mapping[str, Any]) -> str:
    span = span_text(row["low"], row["high"])
    return f"{two_digits(row['ratio'])} ({span})" if math.isfinite(row["ratio"]) else span


def _p(row: Mapping[str, Any]) -> str:
    return p_text(row["p_holm"])


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table with a head and rows of as many cells."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)

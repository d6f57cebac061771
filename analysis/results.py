"""Published findings: the tables of docs/results.md, made again from the rows of their studies.

    python -m analysis.results docs/results.md                 every table again, in place; `make results`
    python -m analysis.results --publish DIR docs/results/NAME  a study's rows, without its per-step losses

A table stands between `<!-- table WHAT STUDY -->` and `<!-- end -->`, WHAT one of `TABLES`, STUDY a folder of
docs/results: `study.json`, and `runs.parquet` with one row a run, as `study report` writes it. All else on the page is
written by hand. Where a study's data were read from is left out of what is published.
"""

import argparse
import json
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.contrasts import contrasts
from analysis.edges import edge_text, edges, span_text
from analysis.quality import quality
from analysis.rates import divergence_rates, in_bins
from analysis.runs import cells_of, records
from analysis.table2 import as_text, table2
from study.record import Definition, RecordError, read_definition


@dataclass(frozen=True, kw_only=True)
class Published:
    """A study as it is published. runs: one row a run, as `analysis.load` gives them; control: how many it had."""

    definition: Definition
    runs: pd.DataFrame
    control: int


def read(folder: Path) -> Published:
    """Raises study.record.RecordError (a ValueError) where there is no published study."""
    definition = read_definition(folder)
    try:
        every = pd.read_parquet(folder / "runs.parquet")
    except (OSError, ValueError) as error:
        raise RecordError(f"{folder / 'runs.parquet'} does not read ({error})") from error
    runs = cells_of(every, definition.study)
    return Published(definition=definition, runs=runs, control=(every["role"] == "control").tolist().count(True))


def publish(study: Path, into: Path) -> None:
    """Copy what a table needs of a study that has been reported on: its rows, and its definition without the place
    where its data were read. Raises RecordError where there is no report."""
    definition, rows = json.loads((study / "study.json").read_text()), study / "runs.parquet"
    if not rows.is_file():
        raise RecordError(f"{study} has no runs.parquet; study report {study} writes it")
    definition["study"]["data_options"].pop("dir", None)
    into.mkdir(parents=True, exist_ok=True)
    (into / "study.json").write_text(json.dumps(definition, indent=1, sort_keys=True) + "\n")
    pd.read_parquet(rows).to_parquet(into / "runs.parquet", index=False, compression="zstd")


def remade(page: str, folder: Path) -> str:
    """The page with every table made again from the studies in the folder. Raises ValueError for a table or study that
    is not known."""

    def one(found: re.Match[str]) -> str:
        what, name = found["what"], found["study"]
        if what not in TABLES:
            raise ValueError(f"unknown table {what!r}; there are {', '.join(TABLES)}")
        return f"<!-- table {what} {name} -->\n\n{TABLES[what](read(folder / name))}\n\n<!-- end -->"

    return re.sub(r"<!-- table (?P<what>\S+) (?P<study>\S+) -->.*?<!-- end -->", one, page, flags=re.DOTALL)


# Tables


def about(published: Published) -> str:
    """n, seeds, steps, versions: what a claim rests on."""
    study, runs, data = published.definition.study, published.runs, published.definition.data
    versions = published.definition.versions
    k = (runs["outcome"] == "diverged").tolist().count(True)
    return (
        f"*`{study.name}`: {len(runs):,} runs ({k:,} diverged) and {published.control} of the control; "
        f"{runs['seed'].nunique()} seeds; {', '.join(f'`{model}`' for model in study.models)}; {data['source']}, "
        f"{data['train_rows']:,} training rows, {max(runs['steps'].tolist())} steps at batch {study.recipe.batch}; "
        f"torch {versions['torch']}, commit {versions.get('commit', 'unknown')}.*"
    )


def rates(published: Published) -> str:
    """k/n of every cell, a row an lr, a column a curve, model by model."""
    found = divergence_rates(in_bins(published.runs))
    pages = []
    for model in published.definition.study.models:
        of_model = found.loc[found["model"] == model]
        curves = list(dict.fromkeys(of_model["curve"]))
        at = {(row["curve"], row["lr"]): f"{row['k']}/{row['n']}" for row in records(of_model)}
        rows = [[f"{lr:g}", *(at.get((c, lr), "") for c in curves)] for lr in sorted(set(of_model["lr"]))]
        pages.append(_markdown([f"{model}, lr", *curves], rows))
    return "\n\n".join(pages)


def edge_table(published: Published) -> str:
    """LR50 and LR05 with 95% intervals, and the ratio of LR50 to that of `none` with Holm's p."""
    fifty, five = (
        {(row["model"], row["curve"]): row for row in records(edges(published.runs, level))} for level in (0.5, 0.05)
    )
    ratios = contrasts(published.runs, published.definition)
    against = {(r["model"], r["curve"]): r for r in records(ratios.loc[ratios["planned"].astype(bool)])}
    rows = []
    for key in sorted(fifty, key=lambda key: published.definition.study.models.index(key[0])):
        ratio = against.get(key)
        cells = [_edge(fifty[key]), _edge(five[key]), _ratio(ratio) if ratio else "", _p(ratio) if ratio else ""]
        rows.append([key[0], key[1], *cells, str(fifty[key]["seeds"])])
    head = ["model", "method", "LR50 (95%)", "LR05 (95%)", "LR50 over that of `none` (95%)", "p (Holm)", "seeds"]
    return _markdown(head, rows)


def best(published: Published) -> str:
    """Held-out quality at the lr of best median AUC of the first task, chosen by the same rows: it describes."""
    scored = quality(published.runs, published.definition)
    tasks = published.definition.data["tasks"]
    names = [n for t in tasks for n in (f"auc_{t['name']}", f"rmse_{t['name']}") if n in scored]
    rows = []
    for model in published.definition.study.models:
        of_model = scored.loc[scored["model"] == model]
        for curve in dict.fromkeys(of_model["curve"]):
            cells = records(of_model.loc[of_model["curve"] == curve])
            row = max(cells, key=lambda cell: cell[names[0]])
            values = [f"{row[n]:.4f} ({row[f'{n}_low']:.4f} to {row[f'{n}_high']:.4f})" for n in names]
            rows.append([model, curve, f"{row['lr']:g}", *values])
    return _markdown(["model", "method", "lr", *(n.replace("_", " ", 1).replace("auc", "AUC") for n in names)], rows)


def paper_table(published: Published) -> str:
    """The paper's Table 2, each method at the lr and thresholds that the other seeds choose."""
    head, rows = as_text(table2(published.runs, published.definition), divergence_rates(published.runs))
    return _markdown(head, rows)


TABLES: dict[str, Callable[[Published], str]] = {
    "about": about,
    "rates": rates,
    "edges": edge_table,
    "best": best,
    "table2": paper_table,
}


def _edge(row: Mapping[str, Any]) -> str:
    return f"{edge_text(row)} ({span_text(row['low'], row['high'])})"


def _ratio(row: Mapping[str, Any]) -> str:
    span = span_text(row["low"], row["high"])
    return f"{float(format(row['ratio'], '.2g')):g} ({span})" if math.isfinite(row["ratio"]) else span


def _p(row: Mapping[str, Any]) -> str:
    p = row["p_holm"]
    return "-" if math.isnan(p) else ("< 0.001" if p < 0.001 else f"{p:.3f}")


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--publish", type=Path, metavar="DIR", help="a study's folder, to be copied to PATH")
    parser.add_argument("path", type=Path, metavar="PATH", help="the page, or where to publish")
    asked = parser.parse_args(arguments)
    try:
        if asked.publish:
            publish(asked.publish, asked.path)
        else:
            asked.path.write_text(remade(asked.path.read_text(), asked.path.with_suffix("")))
    except (OSError, ValueError) as error:
        print(f"results: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

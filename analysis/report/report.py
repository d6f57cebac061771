"""The report of a study: one HTML file that says the answers first, from the record alone.

Beside `report.html` stand `runs.parquet` (every recorded run, the control included), `tables/*.csv` (edges and other
answers; an end of an interval that is not known is an empty field) and `figures/*.png`. The page holds its figures,
needs no script and nothing from elsewhere. Every word that comes from the record is escaped.
"""

import io
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.figures.axes import figure_style
from analysis.loading import CELL, cells_of, records, tasks_of, threshold_columns
from analysis.report.figures import report_figures
from analysis.report.page import file_name, html_table, image, note, page, write_whole
from analysis.stats import contrasts as contrasted
from analysis.stats import recommend as recommended
from analysis.stats import table2 as at_best
from analysis.stats.best import best, best_table, gains, task_of
from analysis.stats.best import sentence as best_sentence
from analysis.stats.best import text as best_text
from analysis.stats.edges import BELOW, NOT_REACHED, REACHED, Fit, edge_span, edge_text, edges, fits, sentence
from analysis.stats.quality import lr_sensitivity, quality
from analysis.stats.rates import divergence_rates, in_bins, rates_table, upper_bound
from analysis.text.format import p_text, score_text, span_text
from study.config import EdgeSearch, QualitySearch, Rule, Run, Study, to_json
from study.record.confirmations import read_confirmations
from study.record.definition import Definition, read_definition
from study.record.failures import read_failures
from study.record.tables import read_losses, read_runs

LEVELS = (0.5, 0.05)

Reference = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Tables:
    """What a report says, each found once from the record of the study in `folder`.

    every: all recorded runs, the control included; runs: those of cells. edges: by level: LEVELS, and that of a search.
    recommended: `analysis.stats.recommend` with risk 5% at 95%. contrasts, sensitivity: of `analysis.stats.contrasts`
    and `analysis.stats.quality`; without rows for a search for the best quality, whose arms have no curves; best: what
    it found. table2: of `analysis.stats.table2`, where a method has several arms to choose from.
    """

    folder: Path
    definition: Definition
    every: pd.DataFrame
    runs: pd.DataFrame
    rates: pd.DataFrame
    fitted: dict[Any, Fit]
    edges: dict[float, pd.DataFrame]
    recommended: pd.DataFrame
    contrasts: pd.DataFrame
    sensitivity: pd.DataFrame
    best: pd.DataFrame | None
    table2: pd.DataFrame | None

    @property
    def sought(self) -> float:
        """The level of the edges that are told first."""
        return _sought(self.definition.study)


def _sought(study: Study) -> float:
    return study.search.level if isinstance(study.search, EdgeSearch) else LEVELS[0]


def tables(folder: Path) -> Tables:
    """The tables of a study's report. Raises RecordError (a ValueError) where there is no study."""
    definition, every = read_definition(folder), read_runs(folder)
    runs = cells_of(every, definition.study)
    searched = isinstance(definition.study.search, QualitySearch)
    fitted = fits(runs)
    confirmations = read_confirmations(folder)
    compared = runs.iloc[:0] if searched else runs
    return Tables(
        folder=folder,
        definition=definition,
        every=every,
        runs=runs,
        rates=divergence_rates(in_bins(runs)),
        fitted=fitted,
        edges={level: edges(runs, level, fitted) for level in dict.fromkeys([*LEVELS, _sought(definition.study)])},
        recommended=recommended.recommend(compared, definition, confirmations=confirmations, fitted=fitted),
        contrasts=contrasted.contrasts(compared, definition, confirmations=confirmations, fitted=fitted),
        sensitivity=lr_sensitivity(compared, definition),
        best=best(every, gains(every, read_losses(folder), definition), definition) if searched else None,
        table2=at_best.table2(runs, definition) if at_best.is_for(definition.study) else None,
    )


def write(
    found: Tables,
    reference: Reference | None = None,
    influence: pd.DataFrame | None = None,
    losses: pd.DataFrame | None = None,
) -> Path:
    """Write report.html, runs.parquet, tables/*.csv and figures/ into the study's folder; returns the path of
    report.html.

    reference: model -> what the control gave: "lr" (the safe lr), "gain" (the reference gain), "gain_<task>",
    "constant_loss". influence: `study.commands.rescore.rule_influence`. None leaves either out of the page. losses: of
    all runs, where they have been read. Works from a record of any size, down to no run at all. Raises OSError where
    the folder cannot be written.
    """
    folder, definition, runs, every = found.folder, found.definition, found.runs, found.every
    drawn = report_figures(folder, runs, definition, found.rates, found.fitted, found.edges[LEVELS[0]], losses)
    images = {}
    with figure_style():
        for name, figure in drawn.items():
            images[name] = image(figure, folder / "figures" / f"{file_name(name)}.png")
    table = io.BytesIO()
    every.to_parquet(table, index=False)
    write_whole(folder / "runs.parquet", table.getvalue())
    scored = quality(in_bins(runs), definition)
    cells = found.rates.merge(scored.drop(columns=[*set(scored) & set(found.rates) - {*CELL}]), on=CELL)
    for name, answers in (("edges", pd.concat(found.edges.values())), ("cells", cells), *_answers(found)):
        finite = answers.replace([math.inf, -math.inf], math.nan)  # an end that is not known is an empty field
        write_whole(folder / "tables" / f"{name}.csv", finite.to_csv(index=False).encode())
    control = every.loc[every["role"] == "control"]
    content = page(
        f"{definition.study.name}: where training diverges",
        [
            _heading(definition, runs),
            _best_section(definition, found.best),
            _recommendation_section(definition, found.recommended),
            _divergence_section(definition, images, found.edges) if len(runs) else "",
            _figures_section(definition, images, "What stability costs in quality", FRONTIERS),
            _at_best_section(definition, found),
            _contrasts_section(definition, found),
            _influence_section(definition, influence),
            _figures_section(definition, images, "What it costs, and how it happens", OTHER_FIGURES),
            _cells_section(definition, found.rates, scored),
            _missing_section(definition, every, read_failures(folder, set(every["run_id"])), folder),
            _control_section(control, reference),
            _rule_section(definition),
            _configuration_section(definition, every),
        ],
    )
    path = folder / "report.html"
    write_whole(path, content.encode())
    return path


def _answers(found: Tables) -> list[tuple[str, pd.DataFrame]]:
    named = {"recommendation": found.recommended, "contrasts": found.contrasts, "lr_sensitivity": found.sensitivity}
    if found.best is not None:
        return [("best", found.best)]
    if found.table2 is not None:
        named["table2"] = found.table2
    return list(named.items())


# The answers


def text(found: Tables, folder: str = "DIR", command: str = "study") -> str:
    """What a terminal shows of a report: the answers of each model, then every cell; of a model with more than
    MANY_TO_PRINT curves, how many have which answer. folder, command: as the user types them."""
    if found.best is not None:
        return best_text(found.best, found.definition)
    said = []
    for model in _models(found.definition.study, found.edges[found.sought]):
        edge = records(_of(found.edges[found.sought], model))
        ratios = _of(found.contrasts, model)
        if len(edge) > MANY_TO_PRINT:
            said.append(
                f"{model}:\n  {_in_short(edge, found.sought)} All of them: {folder}/tables/edges.csv, cells.csv"
            )
            continue
        lines = [sentence(row) for row in edge]
        if ratios["planned"].tolist().count(True) > MANY:
            lines.append(_moved(ratios))
        elif len(ratios):
            lines += contrasted.sentences(ratios, quality=False)
        lines.append(f"{_claims(_of(found.recommended, model))} More: {command} recommend {folder}")
        said.append("\n".join([f"{model}:", *(f"  {line}" for line in lines)]))
    place = {model: i for i, model in enumerate(found.definition.study.models)}
    rates = found.rates.sort_values("model", key=lambda models: models.map(place), kind="stable")
    curves = pd.Series(rates.groupby("model")["curve"].transform("nunique"))
    printed = curves.to_numpy(dtype=int) <= MANY_TO_PRINT
    return "\n\n".join([*said, *([rates_table(rates.loc[printed])] if printed.any() or rates.empty else [])])


MANY_TO_PRINT = 100
"""Curves of a model from which on a terminal shows no line of each."""


def _in_short(edge: Sequence[Mapping[str, Any]], level: float) -> str:
    """Many edges of one model, in a sentence."""
    counts = Counter(row["status"] for row in edge)
    reached = sorted(row["edge"] for row in edge if row["status"] == REACHED)
    span = f" (from lr {reached[0]:.2g} to {reached[-1]:.2g})" if reached else ""
    return (
        f"{len(edge):,} curves: LR{100 * level:02.3g} was reached by {counts[REACHED]:,}{span}, by "
        f"{counts[NOT_REACHED]:,} not up to the highest lr, and lies below the lowest for {counts[BELOW]:,}."
    )


def _moved(ratios: pd.DataFrame) -> str:
    """Many contrasts of one model, in a sentence."""
    p = ratios.loc[ratios["planned"].astype(bool), "p_holm"]
    return f"{int((p <= 0.05).sum())} of {len(p)} curves differ in LR50 from none (Holm's p at most 0.05)."


def _claims(of_model: pd.DataFrame) -> str:
    """What is claimed of one model, in a sentence."""
    claimed = [row for row in records(of_model) if row["status"] == recommended.CLAIMED]
    risk = f"at most {100 * recommended.RISK:g}% of the runs diverge, {100 * recommended.CONFIDENCE:g}% sure"
    if claimed:
        lrs = ", ".join(f"{row['curve']} up to lr {row['lr']:g} ({row['k']:g} of {row['n']:g})" for row in claimed)
        return f"Claimed, {risk}: {lrs}."
    if "edges" in set(of_model["searched"]):
        return f"No lr can be claimed yet ({risk}): runs that were placed by looking at outcomes only nominate one."
    most = max(of_model["nominated_n"].fillna(0).tolist(), default=0)
    bound = (
        f": {most:g} runs, none diverged, only bound the risk at {100 * upper_bound(0, int(most)):.2g}%" if most else ""
    )
    return f"No lr can be claimed yet ({risk}){bound}."


def _heading(definition: Definition, runs: pd.DataFrame) -> str:
    study = definition.study
    counts = Counter(runs["outcome"])
    devices = ", ".join(sorted({str(d) for d in runs["device"].dropna()}))
    facts = definition.data.get("facts", {})
    source = facts.get("name") or definition.data.get("source", study.data)
    lead = (
        f"{len(runs):,} runs on {source}: {counts['completed']:,} completed, {counts['diverged']:,} diverged, "
        f"{counts['undertrained']:,} undertrained" + (f"; trained on {devices}." if devices else ".")
    )
    parts = [f"<h1>{escape(study.name)}</h1>", f'<p class="lead">{escape(lead)}</p>']
    if runs.empty:
        parts.append("<p><strong>No runs recorded yet.</strong> The list of missing runs is below.</p>")
    return "\n".join(parts)


def _recommendation_section(definition: Definition, found: pd.DataFrame) -> str:
    if found.empty:
        return ""
    parts = ["<h2>How far one can go</h2>"]
    models = _models(definition.study, found)
    for model in models:
        named = f"<strong>{escape(model)}</strong>: " if len(models) > 1 else ""
        parts.append(f"<p>{named}{escape(_claims(_of(found, model)))}</p>")
    score = recommended.quality_words(str(found["quality"].iloc[0]))
    head = ["model", "curve", "claimed up to lr", "diverged", "nominated lr", "diverged there", "its risk, at most"]
    head += ["fresh seeds to claim it", "chance", f"{score} there", "95% interval"]
    body = []
    for row in (row for model in models for row in records(_of(found, model))):
        claim = (
            [f"{row['lr']:g}", f"{row['k']:g} of {row['n']:g}"] if row["status"] == recommended.CLAIMED else ["-", "-"]
        )
        tried = f"{row['nominated_k']:g} of {row['nominated_n']:g}" if row["nominated_n"] else "-"
        seen = [tried, _percent(row["nominated_bound"])]
        seeds = "-" if math.isnan(row["more_if_clean"]) else f"{row['more_if_clean']:g}"
        next_one = [f"{row['nominated']:.3g}", *seen, seeds, _percent(row["chance"])]
        quality_there = [_number(row["quality_median"]), _span(row, "quality_low", "quality_high", 3)]
        body.append(
            [
                row["model"],
                row["curve"],
                *claim,
                *(["-"] * 5 if math.isnan(row["nominated"]) else next_one),
                *quality_there,
            ]
        )
    parts.append(html_table(head, body, 2))
    text = (
        f"The largest learning rate at which at most {100 * recommended.RISK:g}% of the runs diverge, "
        f"{100 * recommended.CONFIDENCE:g}% sure: tested upward from the lowest lr, on runs of fixed seeds, or by "
        f"fresh seeds that were named before they were trained. Nominated: an lr above that may well hold; what was "
        f"seen there is no claim. Quality is at the claimed lr, or else at the nominated one: median and exact "
        f"interval over seeds, a diverged run as the worst result. study recommend says it in words, and takes another "
        f"risk."
    )
    parts.append(note(text))
    if commands := recommended.commands(found, "DIR"):
        lines = escape("\n".join(commands))
        parts.append(f"<details><summary>What would claim more</summary><pre>{lines}</pre></details>")
    return "\n".join(parts)


def _divergence_section(definition: Definition, images: Mapping[str, str], found: Mapping[float, pd.DataFrame]) -> str:
    parts = ["<h2>Where training diverges</h2>", _figure(images, "divergence", _captions(definition)["divergence"])]
    first = found[_sought(definition.study)]
    for model in _models(definition.study, first):
        parts.append(_said(model, [(row["curve"], sentence(row)) for row in records(_of(first, model))]))
    seeds = min(first["seeds"].tolist())
    if seeds < 5:
        few = f"A curve here rests on {_count(seeds, 'seed')}: its interval says how little that is."
        parts.append(note(f"{few} More seeds make it narrower."))
    return "\n".join([*parts, _edges_table(definition, found)])


def _said(model: str, lines: Sequence[tuple[Any, str]]) -> str:
    """A model's sentences, each begun by its curve's name, which is made bold."""
    items = [f"<li><strong>{escape(str(name))}</strong>{escape(line[len(str(name)) :])}</li>" for name, line in lines]
    said = f'<ul class="answer">{"".join(items)}</ul>'
    if len(lines) > MANY:
        said = f"<details><summary>Each of {len(lines)} curves in words</summary>{said}</details>"
    return f"<h3>{escape(model)}</h3>{said}"


MANY = 12
"""Curves of a model from which on a table is read, and sentences are looked up."""


def _of(table: pd.DataFrame, model: str) -> pd.DataFrame:
    return table.loc[table["model"] == model]


def _models(study: Study, table: pd.DataFrame) -> list[str]:
    present = list(dict.fromkeys(table["model"]))
    return [m for m in study.models if m in present] + [m for m in present if m not in study.models]


# The best quality


def _best_section(definition: Definition, found: pd.DataFrame | None) -> str:
    search = definition.study.search
    if found is None or not isinstance(search, QualitySearch):
        return ""
    said = [(row["model"], best_sentence(row, definition)) for row in records(found)]
    task = task_of(definition.data, search)
    text = (
        f"Tuned, {search.budget:,} runs an arm, for the highest gain in {task} by progressive validation (each batch "
        f"of the last training day is scored before it is trained on), where at most {100 * search.risk:.2g}% of the "
        f"runs diverge. Judged: by {search.judged} fresh seeds, on the held-out day; tuning saw neither. Scores are "
        f"medians, with 95% intervals that hold for any distribution; a diverged run is the worst result."
    )
    table = html_table(*best_table(found, definition), 3)
    lines = "".join(f"<li><strong>{escape(model)}</strong> {escape(line)}</li>" for model, line in said)
    return f'<h2>The best quality within the risk</h2>{table}{note(text)}<ul class="answer">{lines}</ul>'


def _at_best_section(definition: Definition, found: Tables) -> str:
    if found.table2 is None or found.table2.empty:
        return ""
    head, body = at_best.as_text(found.table2, divergence_rates(found.runs))
    text = (
        "Table 2 of Tang et al. (KDD 2023) with intervals: of all learning rates and thresholds of a method, those "
        "that the other seeds choose by progressive validation of the first task; each seed judges that choice on the "
        "held-out day. Medians with exact 95% intervals over seeds, a diverged run as the worst result. Best at: the "
        "choice of most seeds; its diverged runs of n, with 95% Wilson intervals."
    )
    return f"<h2>Each method at its best</h2>{html_table(head, body, 2)}{note(text)}"


# Figures


def _captions(definition: Definition) -> dict[str, tuple[str, str]]:
    rule = definition.study.rule
    captions = {
        "divergence": (
            "P(divergence) against the learning rate",
            "Points: diverged runs of n, with 95% Wilson intervals (moved apart a little where they would cover each "
            "other). Lines and bands: the fitted curve and its 95% band. An arrow: the edge was not reached.",
        ),
        "frontier": (
            "The edge as a threshold moves",
            "The learning rate at which half of the runs diverge, with its 95% interval; one panel a threshold, all "
            "others held. An arrow: not reached up to the highest lr tried. Grey: the same edge without any treatment. "
            "An open marker: the rate falls again at a higher lr. Of many values and lines, a dozen evenly spaced ones "
            "are shown; tables/edges.csv has all. A tight threshold can be stable because it hardly "
            "trains: quality against P(divergence), below, says which.",
        ),
        "threshold_map": (
            "P(divergence) over learning rate and threshold",
            "Each cell: diverged runs of n. Lines: where the fitted curve of each threshold crosses 5%, 50% and 95%; "
            "a line ends where its level was not reached.",
        ),
        "tradeoff": (
            "Quality against P(divergence)",
            "Every curve and learning rate is a point: median held-out quality, a diverged run as the worst result, "
            "against the share of diverged runs (methods moved apart a little). Black line and large markers: the "
            "Pareto front, which no other point beats in both, with the 95% interval of the rate and the 10 to 90% "
            "band of quality over seeds. Grey names: the best of each other method. Crosses lie below the figure. "
            "Chosen and judged on the same day and seeds: it describes, and claims nothing.",
        ),
        "kept": (
            "What a run keeps of the gain that can be had",
            f"Median and 10 to 90% band over seeds; 1 is the control's gain, 0 a constant predictor. Under the dotted "
            f"line ({rule.kept:g}) a run has diverged or is undertrained. A cross: the median lies below the figure. "
            f"A method that fades is not a method that holds.",
        ),
    }
    for task in tasks_of(definition.data):
        name = task["name"]
        worst = f"{task['constant_rmse']:.3g}" if task.get("constant_rmse") is not None else "the constant's RMSE"
        captions[f"auc_{name}"] = (
            f"Held-out AUC of {name}",
            "Median and 10 to 90% band over seeds, on the held-out day; a diverged run counts as 0.5.",
        )
        captions[f"rmse_{name}"] = (
            f"Held-out RMSE of {name}",
            f"Median and 10 to 90% band over seeds, on the held-out day; a diverged run counts as {worst}, the "
            f"constant predictor's.",
        )
    return captions | {
        "micro": (
            "Micro divergence",
            f"Share of runs whose gain fell by {rule.micro_fall:g} of the reference gain or more and came back, with "
            f"95% intervals.",
        ),
        "horizon": (
            "When runs diverge",
            "Cumulative share of a curve's runs, all learning rates together, that had diverged by each step; a run "
            "that never learned counts from step 0. A "
            "probability of divergence belongs to a horizon: a curve that still rises at its end would show more "
            "divergence in a longer training.",
        ),
        "gallery": (
            "Diverged runs beside healthy ones",
            f"Gain over the best constant predictor (the line at 0) on the same batches, in units of its loss: raw "
            f"(thin) and the median of the last {rule.median_steps} steps (thick). Dotted: where the run diverged.",
        ),
    }


FRONTIERS = ("frontier", "threshold_map", "tradeoff")
OTHER_FIGURES = ("kept", "auc_", "rmse_", "micro", "horizon", "gallery")
"""Names of figures, or how they begin."""


def _figure(images: Mapping[str, str], name: str, caption: tuple[str, str]) -> str:
    if name not in images:
        return ""
    title, text = caption
    return f'<figure><div class="scroll"><img {images[name]} alt="{escape(title)}"></div>{_caption(text)}</figure>'


def _caption(text: str) -> str:
    return f"<figcaption>{escape(text)}</figcaption>" if text else ""


def _figures_section(definition: Definition, images: Mapping[str, str], title: str, names: tuple[str, ...]) -> str:
    captions = _captions(definition)
    shown = [name for name in images if name.startswith(names)]
    parts = [f"<h3>{escape(captions[name][0])}</h3>{_figure(images, name, captions[name])}" for name in shown]
    return "\n".join([f"<h2>{title}</h2>", *parts]) if parts else ""


# Tables


def _edges_table(definition: Definition, found: Mapping[float, pd.DataFrame]) -> str:
    merged = {level: {(r["model"], r["curve"]): r for r in records(table)} for level, table in found.items()}
    head = ["model", "curve", *(h for level in found for h in (f"LR{100 * level:02.3g}", "95% interval")), "seeds"]
    body = []
    first = found[LEVELS[0]]
    for model in _models(definition.study, first):
        for key in [k for k in merged[LEVELS[0]] if k[0] == model]:
            rows = [merged[level][key] for level in found]
            notes = "" if rows[0]["monotone"] else " (falls again)"
            cells = [text for row in rows for text in (edge_text(row), edge_span(row))]
            body.append([key[0], key[1] + notes, *cells, str(rows[0]["seeds"])])
    text = (
        "LR50 and LR05 are the learning rates at which half and 5% of the runs diverge. Seeds are clusters: the same "
        "seed at a neighbouring lr is no new draw, and the interval counts seeds, not runs. > 1.6 says that the edge "
        "was not seen up to the highest lr tried, < 0.01 that it lies below the lowest; the interval says what is sure "
        "(a few seeds without divergence cannot exclude a risk of 5%)."
    )
    return html_table(head, body, 2) + note(text)


def _percent(p: float) -> str:
    return f"{100 * p:.2g}%" if math.isfinite(p) else "-"


def _contrasts_section(definition: Definition, found: Tables) -> str:
    if found.contrasts.empty:
        return ""
    parts = ["<h2>Which method moves the edge</h2>"]
    for model in _models(definition.study, found.contrasts):
        of_model = _of(found.contrasts, model)
        planned = records(of_model.loc[of_model["planned"].astype(bool)])
        lines = contrasted.sentences(of_model)
        names = [row["curve"] for row in planned] or [""]
        parts.append(_said(model, list(zip(names, lines, strict=True))))
    planned = found.contrasts["planned"].to_numpy(dtype=bool)
    if planned.any():
        parts.append(_contrasts_table(definition.study, found.contrasts.loc[planned], "p (Holm)", "p_holm"))
    text = (
        "A ratio of 2 says that the method is stable up to twice the learning rate. Each method is held against none, "
        "named before any run; p is corrected for all of a model's by Holm's method, and at most 0.05 is a claim. An "
        "edge that was not reached gives a bound (> 4), never a number. Quality: the mean over paired seeds, each "
        "method at its own best lr, which the other seeds choose by progressive validation; a diverged run is the "
        "worst result. It is corrected for nothing."
    )
    parts.append(note(text))
    if not planned.all():
        others = _contrasts_table(definition.study, found.contrasts.loc[~planned], "p, uncorrected", "p")
        text = note("These describe: they were not named beforehand, and are corrected for nothing.")
        parts.append(f"<details><summary>All other pairs</summary>{others}{text}</details>")
    return "\n".join([*parts, _costs_table(definition, found)])


def _contrasts_table(study: Study, table: pd.DataFrame, p_head: str, p: str) -> str:
    score = recommended.quality_words(str(table["quality"].iloc[0]))
    table = pd.concat([_of(table, model) for model in _models(study, table)])
    head = ["model", "curve", "against", "LR50 ratio", "95% interval", p_head, "seeds", f"{score}, difference"]
    head += ["95% interval", "at lr", "diverged only here", "only there"]
    body = []
    for row in records(table):
        ratio = [contrasted.ratio_text(row), contrasted.interval_text(row), p_text(row[p])]
        cost = [_signed(row["difference"]), f"{_signed(row['difference_low'])} to {_signed(row['difference_high'])}"]
        at = f"{row['lr']:.2g}" + (f", named (p {p_text(row['lr_p_holm'])})" if row["lr_named"] else "")
        counts = [f"{row['lr_only']} of {row['lr_pairs']}", f"{row['lr_only_against']} of {row['lr_pairs']}"]
        compared = row["lr_named"] or row["lr_only"] + row["lr_only_against"] > 0
        body.append(
            [row["model"], row["curve"], row["against"], *ratio, str(row["pairs"])]
            + (cost if row["difference_pairs"] > 1 else ["-", "-"])
            + ([at, *counts] if compared else ["-", "-", "-"])
        )
    return html_table(head, body, 3)


def _signed(value: float) -> str:
    return f"{value:+.4f}" if math.isfinite(value) else "-"


def _costs_table(definition: Definition, found: Tables) -> str:
    sensitivity = {(row["model"], row["curve"]): row for row in records(found.sensitivity)}
    body = []
    for model in _models(definition.study, found.recommended):
        for row in records(_of(found.recommended, model)):
            cost = sensitivity[row["model"], row["curve"]]
            low, high = row["headroom_low"], row["headroom_high"]
            room = span_text(low, high) if math.isfinite(row["best_lr"]) else "-"
            best_lr = f"{row['best_lr']:.2g}" if math.isfinite(row["best_lr"]) else "-"
            values = [_number(cost["sensitivity"]), _span(cost, "sensitivity_low", "sensitivity_high", 3)]
            body.append([row["model"], row["curve"], best_lr, recommended.headroom_text(row) or "-", room, *values])
    score = recommended.quality_words(str(found.recommended["quality"].iloc[0]))
    head = ["model", "curve", f"lr of best {score}", "headroom", "95% interval", "LR sensitivity", "95% interval"]
    ends = found.sensitivity.iloc[0]
    text = (
        "An lr means different things to different methods. Headroom is LR05 over the lr of best held-out quality: "
        "below 1, the best runs are trained where more than 5% diverge. LR sensitivity (Wortsman et al., arXiv "
        "2309.14322): the final training loss, capped at its value at initialization, less the best one, averaged over "
        f"lrs evenly in the logarithm, from {ends['sensitivity_lr_min']:g} to {ends['sensitivity_lr_max']:g}."
    )
    return f"<h3>What a wrong lr costs</h3>{html_table(head, body, 2)}{note(text)}"


def _influence_section(definition: Definition, found: pd.DataFrame | None) -> str:
    if found is None or found.empty:
        return ""
    rules = dict(zip(found["rule"], found["settings"], strict=True))
    others = [rule for rule in rules if rule != "own"]
    head = ["model", "curve", "LR50", *(h for r in others for h in (f"{r}: {rules[r]}", "times", "runs changed"))]
    body = []
    for model in _models(definition.study, found):
        of_model = _of(found, model)
        for curve in dict.fromkeys(of_model["curve"]):
            rows = {row["rule"]: row for row in records(of_model.loc[of_model["curve"] == curve])}
            moved = [
                part
                for rule in others
                for part in (
                    edge_text(rows[rule]),
                    "-" if math.isnan(rows[rule]["ratio"]) else f"{rows[rule]['ratio']:.2f}",
                    f"{rows[rule]['changed']} of {rows[rule]['n']}",
                )
            ]
            body.append([model, curve, edge_text(rows["own"]), *moved])
    text = (
        "Every run judged again, from its recorded losses, by a stricter and by a looser rule of divergence: where the "
        "edge moves with it, training fades there rather than breaks. study rescore applies any other rule."
    )
    return f"<h2>How much the rule matters</h2>{html_table(head, body, 2)}{note(text)}"


def _cells_section(definition: Definition, rates: pd.DataFrame, scored: pd.DataFrame) -> str:
    if rates.empty:
        return ""
    scores = [f"{kind}_{t['name']}" for t in tasks_of(definition.data) for kind in ("auc", "rmse")]
    scores = [name for name in scores if name in scored]
    bands = ["kept", *scores]
    if len(rates) > MOST_CELLS:
        where = f"{len(rates):,} cells are too many to read here: tables/cells.csv, beside this page, has each of them."
        return f"<h2>All cells</h2>{note(where)}"
    cells = rates.merge(scored[[*CELL, *(f"{b}{e}" for b in bands for e in ("", "_low", "_high"))]], on=CELL)
    head = ["model", "curve", "lr", "n", "k", "rate", "95% interval", "undertrained", *(score_text(b) for b in bands)]
    head += ["micro rate", "95% interval"]
    body = []
    for model in _models(definition.study, cells):
        for row in records(cells.loc[cells["model"] == model]):
            counts = [f"{row['lr']:g}", str(row["n"]), str(row["k"]), f"{row['rate']:.2f}", _span(row, "low", "high")]
            values = [f"{_number(row[b])} ({_span(row, f'{b}_low', f'{b}_high', 3)})" for b in bands]
            micro = [f"{row['micro_rate']:.2f}", _span(row, "micro_low", "micro_high")]
            body.append([row["model"], row["curve"], *counts, str(row["undertrained"]), *values, *micro])
    text = (
        "One row a cell: the runs that differ only in seed. n counts every recorded run, k the diverged ones; "
        "undertrained runs (slow, not unstable) are in n and not in k. Quality and kept: median (10 to 90% band), a "
        "diverged run as the worst result; -inf: not finite."
    )
    return f"<h2>All cells</h2>{note(text)}{html_table(head, body, 2)}"


MOST_CELLS = 2_000
"""Rows of a table that a page can show without keeping its reader waiting."""


def _span(row: Mapping[str, Any], low: str, high: str, digits: int = 2) -> str:
    if math.isnan(row[low]) and math.isnan(row[high]):
        return "-"
    return f"{_number(row[low], digits)} to {_number(row[high], digits)}"


def _number(value: float, digits: int = 3) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else ("-" if math.isnan(value) else f"{value:g}")


def _missing_section(definition: Definition, every: pd.DataFrame, failures: Mapping[str, str], folder: Path) -> str:
    parts = ["<h2>Missing runs</h2>"]
    missing = pd.DataFrame() if definition.study.search else missing_runs(definition, every)
    if definition.study.search:
        said = f"{len(failures):,} runs that the search asked for are not recorded." if failures else "None failed."
        parts.append(f"<p>A search plans its runs as it goes. {said}</p>")
        reasons = Counter(failures.values()).most_common()
        parts += [html_table(["reason", "runs"], [[r, f"{n:,}"] for r, n in reasons], 1)] if reasons else []
    elif missing.empty:
        parts.append(f"<p>None: all {planned_count(definition.study):,} planned runs are recorded.</p>")
    else:
        reasons = Counter(failures.get(run, "not run yet") for run in missing["run_id"])
        said = f"{len(missing):,} of {planned_count(definition.study):,} planned runs are not recorded."
        parts.append(note(f"{said} They are in no rate: a crash is not a divergence."))
        parts.append(html_table(["reason", "runs"], [[r, f"{n:,}"] for r, n in reasons.most_common()], 1))
        groups = missing.assign(why=[failures.get(run, "not run yet") for run in missing["run_id"]])
        rows = []
        for key, group in groups.groupby(["model", "method", "options", "why"], sort=False):
            model, method, options, why = (str(part) for part in key)  # pyright: ignore[reportGeneralTypeIssues]
            lrs = ", ".join(f"{lr:g}" for lr in sorted(set(group["lr"])))
            arm = f"{method} {options}" if options != "{}" else method
            rows.append([model, arm, lrs, _ranges(group["seed"]), str(len(group)), why])
        parts.append(html_table(["model", "method", "lr", "seeds", "runs", "reason"], rows, 2))
    aside = sorted(path.name for path in (folder / "set_aside").glob("*"))
    if aside:
        parts.append(note(f"Files that did not read, and were set aside: {', '.join(aside)}."))
    return "\n".join(parts)


def planned_count(study: Study) -> int:
    """How many runs the study's axes make, the control apart."""
    return len(study.models) * len(study.arms) * len(study.lrs) * len(study.seeds)


def missing_runs(definition: Definition, every: pd.DataFrame) -> pd.DataFrame:
    """Planned by the study's axes and not recorded: columns run_id, model, method, options (JSON), lr, seed.

    A run is found by its id. Where an arm spells out what is the method's default anyway, its id is another than that
    of the recorded run; so a recorded run that no id claims stands for one planned run of its model, method, lr and
    seed.
    """
    study = definition.study
    recorded = set(every["run_id"])
    rows = []
    for model in study.models:
        for arm in study.arms:
            for lr in study.lrs:
                for seed in study.seeds:
                    same = {"model": model, "method": arm.method, "options": arm.options, "lr": lr, "seed": seed}
                    run = Run(**same, data=definition.data["content"], recipe=study.recipe)
                    rows.append({"run_id": run.id, **same, "options": json.dumps(arm.options, sort_keys=True)})
    claimed = {row["run_id"] for row in rows} & recorded
    keys = ("model", "method", "lr", "seed")
    spare = Counter(tuple(row[k] for k in keys) for row in records(every) if row["run_id"] not in claimed)
    missing = []
    for row in rows:
        key = tuple(row[k] for k in keys)
        if row["run_id"] in claimed:
            continue
        if spare[key]:
            spare[key] -= 1
            continue
        missing.append(row)
    return pd.DataFrame(missing, columns=pd.Index(["run_id", "model", "method", "options", "lr", "seed"]))


def _ranges(values: Iterable[int]) -> str:
    """0, 1, 2, 5 as `0-2, 5`."""
    spans: list[list[int]] = []
    for value in sorted({int(v) for v in values}):
        if spans and value == spans[-1][1] + 1:
            spans[-1][1] = value
        else:
            spans.append([value, value])
    return ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in spans)


# How it was measured


def _control_section(control: pd.DataFrame, reference: Reference | None) -> str:
    parts = ["<h2>The control</h2>"]
    for model, values in (reference or {}).items():
        gains = {k.removeprefix("gain_"): v for k, v in values.items() if k.startswith("gain_") and v is not None}
        per_task = ", ".join(f"{name} {_number(float(gain), 4)}" for name, gain in gains.items())
        said = f"{model}: safe lr {values['lr']:g}, reference gain {float(values['gain']):.4f}"
        parts.append(f"<p>{escape(said + (f' ({per_task})' if per_task else ''))}.</p>")
    if control.empty:
        return "\n".join([*parts, "<p>No control runs are recorded.</p>"])
    parts.append(
        note(
            "Untreated runs with seeds of their own, on a ladder of learning rates. The steadiest and best of them "
            "sets the gain that all others are measured against; they are in no cell."
        )
    )
    rows = []
    for key, group in control.groupby(["model", "lr"], sort=True):
        model, lr = key  # pyright: ignore[reportGeneralTypeIssues]
        loss = pd.Series(group["final_loss"]).astype(float)
        shown = "-" if loss.isna().all() else _number(float(loss.median()), 4)
        rows.append([str(model), f"{lr:g}", str(len(group)), shown])
    parts.append(html_table(["model", "lr", "runs", "final loss, median"], rows, 1))
    return "\n".join(parts)


def _rule_section(definition: Definition) -> str:
    items = "".join(
        f"<li><strong>{escape(name)}</strong>: {escape(text)}</li>" for name, text in rule_in_words(definition)
    )
    return f"<h2>What counts as diverged</h2><ul>{items}</ul>"


def rule_in_words(definition: Definition) -> list[tuple[str, str]]:
    """The outcome rule of a study, with its numbers: (word, meaning) pairs."""
    rule: Rule = definition.study.rule
    return [
        (
            "gain",
            f"the best constant predictor's loss minus the run's, on the same batch, in units of the constant's mean "
            f"loss; smoothed by the median of the last {rule.median_steps} steps. G, the reference gain, is the "
            f"control's final gain.",
        ),
        (
            "kept",
            "the final gain over G: 1 is all that the network can learn, 0 is useless, below 0 worse than a constant.",
        ),
        (
            "diverged",
            f"a loss or weight that is not finite (nonfinite), or kept below {rule.kept:g} without being merely slow: "
            f"collapsed if the gain once had {rule.once_had:g} G, never learned if not.",
        ),
        (
            "undertrained",
            f"kept below {rule.kept:g}, but the gain never fell more than {rule.slow_fall:g} G below its best, rose by "
            f"at least {rule.slow_rise:g} G in the last {100 * rule.slow_rise_steps:g}% of the steps, and the loss "
            f"never exceeded {rule.slow_loss:g} times its first value; or its network has come less than "
            f"{rule.slow_moved:g} times as far from its start as the control's, and never went back by its method. "
            "Slow, not unstable.",
        ),
        (
            "micro divergence",
            f"the gain fell by {rule.micro_fall:g} G or more below its best and came back to within "
            f"{rule.micro_recovery:g} G of it, over whole windows of {rule.median_steps} steps.",
        ),
        ("spike", f"a single step whose gain lies {rule.spike:g} G or more below the running median."),
        (
            "safe lr",
            f"the control's lr of the highest median final gain without a fall above {rule.control_fall:g} of it (or "
            f"above {rule.control_noise:g} standard errors, where the noise of batches is larger). A "
            f"task whose reference gain is under {rule.learnable_errors:g} standard errors is not learnable here.",
        ),
    ]


def _configuration_section(definition: Definition, every: pd.DataFrame) -> str:
    versions = {
        **definition.versions,
        "runs made by version": ", ".join(sorted({str(v) for v in every["version"].dropna()})),
    }
    study = _by_line(to_json(definition.study))
    return "\n".join(
        [
            "<h2>Configuration</h2>",
            html_table(["part", "version"], [[k, str(v)] for k, v in versions.items() if v], 2),
            _arms_table(cells_of(every, definition.study)),
            f"<details open><summary>The study</summary><pre>{escape(study)}</pre></details>",
            f"<details><summary>The data</summary><pre>{escape(_by_line(definition.data))}</pre></details>",
        ]
    )


def _arms_table(runs: pd.DataFrame) -> str:
    """Each curve's thresholds and options, those at their default too."""
    thresholds = threshold_columns(runs)
    curves = records(runs.drop_duplicates("curve"))
    body = []
    for row in curves:
        values = [f"{name} = {row[name]:g}" for name in thresholds if pd.notna(row[name])]
        options = json.loads(row["options"]) if isinstance(row["options"], str) else {}
        body.append([row["curve"], ", ".join(values + [f"{k} = {v}" for k, v in options.items()]) or "-"])
    return html_table(["curve", "thresholds and options"], body, 2) if body else ""


def _by_line(values: Mapping[str, Any]) -> str:
    """JSON, one line a key, and one line an entry of a list of objects."""
    lines = []
    for key in sorted(values):
        value = values[key]
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            items = ",\n".join(f"  {json.dumps(item, sort_keys=True)}" for item in value)
            lines.append(f'"{key}": [\n{items}\n ]')
        else:
            lines.append(f'"{key}": {json.dumps(value, sort_keys=True)}')
    return "{\n " + ",\n ".join(lines) + "\n}"


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" + ("" if n == 1 else "s")

"""Recorded runs judged from their losses, without training: what a control learned, and outcomes by another rule."""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from study import overrides
from study.commands.paths import typed_command, typed_path
from study.config import Rule, Study
from study.outcomes.judge import final_loss
from study.outcomes.recorded import judge_recorded, stack_losses
from study.record import tables
from study.record.definition import Definition, RecordError, check_not_a_view, read_definition
from study.record.references import references
from study.record.views import write_view

STRICTER, LOOSER = {"kept": 0.5}, {"kept": 0.1}


def rule_of(study: Study, words: Sequence[str]) -> Rule:
    """The study's rule with every `key=value` applied. Raises ValueError that lists the right keys, or the range."""
    for word in words:
        if not all(word.partition("=")):
            known = ", ".join(f"{name}={value:g}" for name, value in dataclasses.asdict(study.rule).items())
            raise ValueError(f"--rule takes key=value, got {word!r}; the study's rule is {known}")
        study = overrides.apply(study, [f"rule.{word}"])
    return study.rule


def rescore_and_compare(folder: Path, words: Sequence[str]) -> str:
    """Judge the recorded runs by another rule (`key=value` words). Returns how far each edge moves, as text."""
    path = rescore(folder, rule_of(read_definition(folder).study, words))
    lines = [*changes(folder, path), f"rescored: {path}", f"  {typed_command()} report {typed_path(path)}"]
    return "\n".join(lines)


def rescore(folder: Path, rule: Rule) -> Path:
    """Judge every recorded run by another rule, the control's reference too. Returns the folder that then holds the
    same study under that rule, `rescored/<hash of the rule>/`; see `study.record.views.write_view`.

    Raises ValueError where the folder holds no study, or a rescored one, or nothing can be learned by that rule.
    """
    definition = read_definition(folder)
    check_not_a_view(folder)
    runs, losses = tables.read_runs(folder), tables.read_losses(folder)
    return write_view(folder, rule, _columns(folder, definition, runs, losses, rule))


def rule_influence(
    folder: Path,
    rules: Mapping[str, Mapping[str, float]] | None = None,
    *,
    level: float = 0.5,
    fitted: Mapping[Any, Any] | None = None,
    every: pd.DataFrame | None = None,
    losses: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """How far each edge moves under other rules: a row for each curve and rule, the study's own rule ("own") first.

    rules: name -> what differs from the study's rule; None is "stricter" (kept < 0.5) and "looser" (kept < 0.1).
    fitted: what `analysis.stats.edges.fits` gave for the study's runs. every, losses: all recorded runs, and losses.
    None reads them, or finds it.

    Columns: model, curve, method, rule (its name), settings (`kept=0.5`; "" for the study's own), n, k (diverged runs,
    all lrs together), changed (runs with another outcome than by the study's rule), edge, low, high, status, lr_min,
    lr_max (as `analysis.stats.edges`), ratio (of the edge to that by the study's rule; NaN unless both were reached).

    No rows where there are no runs, or where losses of some are missing. Raises ValueError where there is no study, and
    where nothing can be learned by a rule.
    """
    import analysis
    from analysis.loading import cells_of
    from analysis.stats.edges import fits

    definition, every = read_definition(folder), tables.read_runs(folder) if every is None else every
    own = cells_of(every, definition.study)
    losses = tables.read_losses(folder) if losses is None else losses
    rules = {"stricter": STRICTER, "looser": LOOSER} if rules is None else rules
    if not set(own["run_id"]) <= set(losses["run_id"]):
        own = own.iloc[:0]
    judged = {"own": own}
    for name, changed in rules.items() if len(own) else ():
        rule = dataclasses.replace(definition.study.rule, **changed)
        columns = _columns(folder, definition, every, losses, rule)
        judged[name] = own.assign(
            outcome=[columns[run]["outcome"] for run in own["run_id"]],
            reason=[columns[run]["reason"] for run in own["run_id"]],
        )
    rows = []
    fitted = fits(own) if fitted is None else fitted
    edges = {name: _by_curve(analysis.edges(runs, level, _fits(runs, own, fitted))) for name, runs in judged.items()}
    of_curve = own.groupby(["model", "curve"]).indices
    diverged = {name: (runs["outcome"] == "diverged").to_numpy() for name, runs in judged.items()}
    moved = {name: (runs["outcome"] != own["outcome"]).to_numpy() for name, runs in judged.items()}
    for key, before in edges["own"].items():
        here = of_curve[key]
        for name in judged:
            edge = edges[name][key]
            rows.append(
                {column: edge[column] for column in ("model", "curve", "method", *EDGE)}
                | {"rule": name, "settings": _words(rules.get(name, {})), "n": len(here)}
                | {"k": int(diverged[name][here].sum()), "changed": int(moved[name][here].sum())}
                | {"ratio": edge["edge"] / before["edge"]}
            )
    head = ["model", "curve", "method", "rule", "settings", "n", "k", "changed"]
    return pd.DataFrame(rows, columns=pd.Index([*head, *EDGE, "ratio"]))


EDGE = ("edge", "low", "high", "status", "lr_min", "lr_max")


def _fits(runs: pd.DataFrame, own: pd.DataFrame, fitted: Mapping[Any, Any]) -> dict[Any, Any]:
    """Fits of the runs, anew only of the curves of which another rule lets other runs diverge."""
    from analysis.stats.edges import fits

    moved = (runs["outcome"] == "diverged") != (own["outcome"] == "diverged")
    curves = set(runs.loc[moved, "curve"])
    return {**fitted, **fits(runs.loc[runs["curve"].isin(list(curves))])}


def _by_curve(table: pd.DataFrame) -> dict[tuple[str, str], dict[str, Any]]:
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.itertuples(index=False, name=None)]
    return {(row["model"], row["curve"]): row for row in rows}


def _words(changed: Mapping[str, float]) -> str:
    return ", ".join(f"{key}={value:g}" for key, value in changed.items())


def changes(folder: Path, view: Path) -> list[str]:
    """What another rule changed, a line a curve: diverged runs and LR50 before and after."""
    from analysis.text.edges import edge_text

    rules = [dataclasses.asdict(read_definition(where).study.rule) for where in (folder, view)]
    changed = {key: value for key, value in rules[1].items() if value != rules[0][key]}
    table = rule_influence(folder, {"other": changed})
    rows = {(row["model"], row["curve"], row["rule"]): row for row in table.to_dict("records")}
    others = [row for row in rows.values() if row["rule"] == "other"]
    lines = [
        f"{_words(changed) or 'the same rule'}: {sum(row['changed'] for row in others)} of "
        f"{sum(row['n'] for row in others)} runs have another outcome"
    ]
    for row in others:
        own = rows[row["model"], row["curve"], "own"]
        lines.append(
            f"  {row['model']} · {row['curve']}: {own['k']} -> {row['k']} of {row['n']} diverged, "
            f"LR50 {edge_text(own)} -> {edge_text(row)}"
        )
    return lines


def _columns(
    folder: Path, definition: Definition, runs: pd.DataFrame, losses: pd.DataFrame, rule: Rule
) -> dict[str, dict[str, Any]]:
    """What a rule changes in the row of every recorded run: run id -> column -> value."""
    if lacking := len(set(runs["run_id"]) - set(losses["run_id"])):
        raise RecordError(f"the losses of {lacking} runs in {folder} are missing")
    study = dataclasses.replace(definition.study, rule=rule)
    tasks = [task["name"] for task in definition.data["tasks"]]
    constant_K = np.array([task["constant_loss"] for task in definition.data["tasks"]])
    of_model = functools.partial(references, study, definition.data, folder, losses=losses, runs=runs)
    columns: dict[str, dict[str, Any]] = {}
    for model, of_its in runs.groupby("model", sort=False):
        control = of_its.loc[of_its["role"] == "control", "run_id"].tolist()
        of_control = losses.loc[losses["run_id"].isin(control)]
        cells = losses.loc[losses["run_id"].isin(sorted(set(of_its["run_id"]) - set(control)))]
        ids, loss_RTK, _, steps_R = stack_losses(of_control, tasks)
        for run, loss_TK, steps in zip(ids, loss_RTK, steps_R, strict=True):
            columns[run] = {"final_loss": final_loss(loss_TK[:steps], rule)}
        if cells.empty:
            continue
        lost = of_its.loc[(of_its["reason"] == "nonfinite") & of_its["kept"].isna(), "run_id"]
        moved = dict(zip(of_its["run_id"], of_its["moved"].to_numpy(dtype=float, na_value=math.nan), strict=True))
        reference = of_model(models=[str(model)])[str(model)]
        outcomes = judge_recorded(cells, tasks, constant_K, set(lost), reference, rule, moved)
        columns |= {run: outcome.columns(tasks) for run, outcome in outcomes.items()}
    return columns

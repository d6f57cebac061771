"""`study rescore`: judge recorded runs by another rule, without training."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from study.commands.paths import typed_command, typed_path
from study.config import RANKER, Rule, Study
from study.definition import overrides
from study.outcomes.judge import final_loss
from study.outcomes.recorded import judge_recorded, losses_by_run
from study.record import tables
from study.record.confirmations import read_confirmations
from study.record.definition import Definition, RecordError, check_not_a_view, read_definition
from study.record.references import references
from study.record.views import write_view

OTHER_RULES: Mapping[str, Mapping[str, float]] = {"stricter": {"kept": 0.5}, "looser": {"kept": 0.1}}
"""Rules that the report compares with the study's own: name -> changed numbers."""

EDGE = ("edge", "low", "high", "status", "lr_min", "lr_max")


def rule_of(study: Study, words: Sequence[str]) -> Rule:
    """Return the study's rule with each `key=value` applied. Raises ValueError that lists the keys, or the range."""
    for word in words:
        if not all(word.partition("=")):
            known = ", ".join(f"{name}={value:g}" for name, value in dataclasses.asdict(study.rule).items())
            raise ValueError(f"--rule takes key=value, got {word!r}; the study's rule is {known}")
        study = overrides.apply(study, [f"rule.{word}"])
    return study.rule


def rescore_and_compare(folder: Path, words: Sequence[str]) -> str:
    """Judge the recorded runs by another rule. Returns how far each edge moves, as text.

    Args:
        folder: the study's folder.
        words: `key=value` for each number of the rule that changes.
    """
    path = rescore(folder, rule_of(read_definition(folder).study, words))
    lines = [*changes(folder, path), f"rescored: {path}", f"  {typed_command()} report {typed_path(path)}"]
    return "\n".join(lines)


def rescore(folder: Path, rule: Rule) -> Path:
    """Judge every recorded run, and the control's reference, by another rule.

    Returns:
        The folder of the same study under that rule (`study.record.views`).

    Raises:
        ValueError: the folder holds no study or a rescored one, losses are missing, or nothing is learned by the rule.
    """
    definition = read_definition(folder)
    check_not_a_view(folder)
    runs, losses = tables.read_runs(folder), tables.read_losses(folder)
    return write_view(folder, rule, judged_columns(folder, definition, runs, losses, rule))


def rule_influence(
    folder: Path,
    rules: Mapping[str, Mapping[str, float]] = OTHER_RULES,
    *,
    level: float = 0.5,
    fitted: Mapping[Any, Any] | None = None,
    every: pd.DataFrame | None = None,
    losses: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Return how far each edge moves under other rules.

    Args:
        folder: the study's folder.
        rules: name -> numbers that differ from the study's rule.
        level: P(divergence) at the edge.
        fitted: `analysis.stats.edges.fits` of the study's runs; None computes it.
        every, losses: all recorded runs and losses; None reads them.

    Returns:
        One row a curve and rule, the study's own rule ("own") first; no rows if losses are missing. Columns: model,
        curve, method, rule, settings (`kept=0.5`), n, k (diverged runs of all lrs), changed (runs with another outcome
        than under the study's rule), `EDGE` (as `analysis.edges`) and ratio (of the edge to that under the study's
        rule; NaN unless both were reached).

    Raises:
        ValueError: there is no study, or nothing is learned by a rule.
    """
    import analysis
    from analysis.loading import CURVE, cells_of
    from analysis.stats.edges import fits

    definition, every = read_definition(folder), tables.read_runs(folder) if every is None else every
    own = cells_of(every, definition, read_confirmations(folder))
    losses = tables.read_losses(folder) if losses is None else losses
    if not set(own["run_id"]) <= set(losses["run_id"]):
        own = own.iloc[:0]
    fitted = fits(own) if fitted is None else fitted
    judged = {"own": own}
    for name, changed in rules.items() if len(own) else ():
        rule = dataclasses.replace(definition.study.rule, **changed)
        columns = judged_columns(folder, definition, every, losses, rule)
        outcomes = {column: [columns[run][column] for run in own["run_id"]] for column in ("outcome", "reason")}
        judged[name] = own.assign(**outcomes)
    parts = []
    for name, runs in judged.items():
        edges = analysis.edges(runs, level, _fits(runs, own, fitted))
        flags = {"n": 1, "k": runs["outcome"] == "diverged", "changed": runs["outcome"] != own["outcome"]}
        counts: Any = runs[CURVE].assign(**flags).astype(dict.fromkeys(flags, int)).groupby(CURVE, as_index=False).sum()
        parts.append(edges.merge(counts, on=CURVE).assign(rule=name, settings=_words(rules.get(name, {}))))
    table: Any = pd.concat(parts).sort_index(kind="stable").reset_index(drop=True)  # curve by curve
    table["ratio"] = table["edge"] / table.groupby(CURVE)["edge"].transform("first")
    return table[[*CURVE, "method", "rule", "settings", "n", "k", "changed", *EDGE, "ratio"]]


def changes(folder: Path, view: Path) -> list[str]:
    """Return what another rule changed, one line a curve: diverged runs and LR50 before and after."""
    from analysis.text.edges import edge_text

    old, new = (dataclasses.asdict(read_definition(where).study.rule) for where in (folder, view))
    changed = {key: value for key, value in new.items() if value != old[key]}
    table: Any = rule_influence(folder, {"other": changed})
    own, other = (table[table["rule"] == rule].to_dict("records") for rule in ("own", "other"))
    count, total = (sum(row[name] for row in other) for name in ("changed", "n"))
    return [f"{_words(changed) or 'the same rule'}: {count} of {total} runs have another outcome"] + [
        f"  {after['model']} · {after['curve']}: {before['k']} -> {after['k']} of {after['n']} diverged, "
        f"LR50 {edge_text(before)} -> {edge_text(after)}"
        for before, after in zip(own, other, strict=True)
    ]


def _fits(runs: pd.DataFrame, own: pd.DataFrame, fitted: Mapping[Any, Any]) -> dict[Any, Any]:
    """Fits of the runs. Only curves on which other runs diverge are fitted again."""
    from analysis.stats.edges import fits

    moved = (runs["outcome"] == "diverged") != (own["outcome"] == "diverged")
    curves = set(runs.loc[moved, "curve"])
    return {**fitted, **fits(runs.loc[runs["curve"].isin(list(curves))])}


def _words(changed: Mapping[str, float]) -> str:
    return ", ".join(f"{key}={value:g}" for key, value in changed.items())


def judged_columns(
    folder: Path,
    definition: Definition,
    runs: pd.DataFrame,
    losses: pd.DataFrame,
    rule: Rule,
    *,
    distances: bool = True,
) -> dict[str, dict[str, Any]]:
    """Return what a rule changes in each recorded run: run id -> column -> value.

    Args:
        folder: the study's folder.
        definition: of the study.
        runs: all recorded runs.
        losses: of these runs.
        rule: the rule.
        distances: whether a run's distance from its start is known; without it, an lr up to the control's safe one
            can show that a run is slow.
    """
    if missing := len(set(runs["run_id"]) - set(losses["run_id"])):
        raise RecordError(f"the losses of {missing} runs in {folder} are missing")
    study = dataclasses.replace(definition.study, rule=rule)
    tasks = [task["name"] for task in definition.data["tasks"]]
    constant_K = np.array([task["constant_loss"] for task in definition.data["tasks"]])
    columns: dict[str, dict[str, Any]] = {}
    for model, of_model in runs.groupby("model", sort=False):
        is_control = losses["run_id"].isin(of_model.loc[of_model["role"] == "control", "run_id"])
        for run, own in losses_by_run(losses[is_control], tasks).items():
            columns[run] = {"final_loss": final_loss(own.loss, rule, own.step)}
        cells = losses[losses["run_id"].isin(of_model["run_id"]) & ~is_control]
        if cells.empty:
            continue
        lost = of_model.loc[(of_model["reason"] == "nonfinite") & of_model["kept"].isna(), "run_id"]
        moved = dict(zip(of_model["run_id"], of_model["moved"].to_numpy(dtype=float, na_value=math.nan), strict=True))
        reference = references(study, definition.data, folder, [str(model)], losses=losses, runs=runs)[str(model)]
        declared = set(of_model.loc[of_model["declared"].fillna(False), "run_id"]) if "declared" in of_model else set()
        lrs = None
        if not distances or (study.trainer != RANKER and bool(of_model["moved"].isna().all())):
            moved, lrs = None, dict(zip(of_model["run_id"], of_model["lr"], strict=True))
        outcomes = judge_recorded(cells, tasks, constant_K, set(lost), reference, rule, moved, declared, lrs)
        columns |= {run: outcome.columns(tasks) for run, outcome in outcomes.items()}
    return columns

"""Signals that predict divergence before the loss changes, over many runs that `study signals` watched.

    onset            the step from which a run's loss left that of a healthy run for good (`study.outcomes.onset`)
    ROC AUC at k     how often a signal is larger in a run k steps before its onset than at the same step of the same
                     model in a run that is not within k steps of one; ties count half. Among pairs with the same lr, it
                     measures what a signal says beyond the lr. The interval resamples seeds
    gone             the step at which `study.outcomes.judge` sees the divergence in the trailing median
    alarm            the first step, from `START` on, at which a signal exceeds a threshold. The threshold is the lowest
                     that rings in at most a given share of the completed runs, on half of the seeds; its results are
                     measured on the other half. It warned if it came before the onset, and was early if before `gone`
    lead             steps from the alarm to the onset, below 0 if it came later; gain: from the alarm to `gone`

A run that completes is watched for all of its steps, so a false alarm is one anywhere in it. Sharpness is measured
every other step at first and rarely later; in between, its last value stands. Each model and method is judged by
itself, since the predictive signals may differ; the thresholds of a method are one group.
"""

import io
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.loading import load, of_curves
from analysis.stats.intervals import wilson
from study.record.files import read_beside

SIGNALS = (
    *("sharpness_share", "largest_over_bound", "largest_share", "gradient_jump", "activation_norm", "dead_share"),
    *("loss_share", "lr"),
)
"""Columns. The last two are what a signal has to beat: the loss itself, and knowing the lr."""

START = 6
"""The first step that counts. Before it, the loss of every network overshoots while its first scores shrink."""

LAGS = (1, 2, 3, 5, 8)
"""Steps before the onset."""

FALSE_ALARMS = 0.1
"""The share of completed runs in which a rule may ring, on the seeds that choose its threshold."""

DRAWS = 1000

GROUP = ["model", "method"]

AROUND_ONSET = (-12, 4)
"""Steps from an onset at which runs are drawn."""

ENOUGH = 5
"""The fewest runs with an onset at `START` or later, and without one, of a model and method that is judged."""


OF_RUNS = ("run_id", "model", "method", "curve", "lr", "seed", "outcome")
"""Columns of the table of runs that are joined to the signals."""


def _recorded(folder: Path) -> pd.DataFrame:
    """One row a run and step, as `study signals` left it: run_id, step, and the signals."""
    parts = [pd.read_parquet(io.BytesIO(content)) for _, content in read_beside(folder, "signals", "parquet")]
    if not parts:
        raise ValueError(f"{folder} has no signals: `study signals {shlex.quote(str(folder))}` watches its runs")
    table = pd.concat(parts, ignore_index=True)
    return table.drop_duplicates(["run_id", "step"], ignore_index=True)


def watched(folder: Path) -> pd.DataFrame:
    """Return one row a run and step: the signals, with the run's model, method, curve, lr, seed and outcome.

    Raises:
        ValueError: If no run of the study was watched.
    """
    return prepared(_recorded(folder).merge(of_curves(load(folder))[list(OF_RUNS)], on="run_id"))


def prepared(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with `gradient_jump` and `loss_share`, and with sharpness at every step."""
    table = table.sort_values(["run_id", "step"], ignore_index=True)
    by_run = table.groupby("run_id", sort=False)
    earlier = by_run["gradient_norm"].shift().groupby(table["run_id"], sort=False)
    before = earlier.rolling(10, min_periods=3).median().droplevel(0)
    filled = {name: by_run[name].ffill() for name in ("sharpness_share", "treated_share") if name in table}
    return table.assign(
        gradient_jump=table["gradient_norm"] / before, loss_share=table["loss"] / table["constant"], **filled
    )


def judged(table: pd.DataFrame) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """Return the rows of the models and methods that have `ENOUGH` runs of either kind, and what is left out.

    Returns:
        The rows, and for each model and method that is left out a mapping: model, method, diverged (runs with an
        onset at `START` or later), healthy (runs without an onset).
    """
    runs = table.drop_duplicates("run_id")
    skipped, keep = [], pd.Series(False, index=table.index)
    for (model, method), own in groups(runs, GROUP):
        onset = own["onset"].to_numpy(dtype=float, na_value=np.nan)
        diverged, healthy = int((onset >= START).sum()), int(np.isnan(onset).sum())
        if min(diverged, healthy) < ENOUGH:
            skipped.append({"model": model, "method": method, "diverged": diverged, "healthy": healthy})
        else:
            keep |= (table["model"] == model) & (table["method"] == method)
    return table.loc[keep], skipped


def crossings(table: pd.DataFrame, levels: Sequence[float] = (1, 2, 4, 8)) -> pd.DataFrame:
    """Return how often sharpness x lr / 2 exceeded each level, from `START` on.

    Returns:
        Columns model, method, outcome, level, n, k, share, seeds, lead_q25, lead, lead_q75 (quartiles of the steps
        from the first crossing to the onset; NaN for completed runs). Runs that diverged count before their onset only.
    """
    table = table.loc[(table["step"] >= START) & (table["onset"].isna() | (table["step"] < table["onset"]))]
    rows = []
    for (model, method, outcome), part in groups(table, [*GROUP, "outcome"]):
        n, seeds = len(set(part["run_id"])), len(set(part["seed"]))
        for level in levels:
            over = part.loc[part["sharpness_share"] > level].drop_duplicates("run_id")
            lead = (over["onset"] - over["step"]).to_numpy(dtype=float, na_value=np.nan)
            ends = _quartiles(lead[~np.isnan(lead)])
            row = {"model": model, "method": method, "outcome": outcome, "level": level}
            row |= {"n": n, "k": len(over), "share": len(over) / n}
            rows.append(row | {"seeds": seeds} | dict(zip(("lead_q25", "lead", "lead_q75"), ends, strict=True)))
    return pd.DataFrame(rows)


def onsets(table: pd.DataFrame) -> pd.DataFrame:
    """Return when runs begin to diverge, and how long until `gone`.

    Returns:
        Columns model, method, n (diverged runs), first, onset_q25, onset, onset_q75, last (steps; quartiles),
        after_q25, after, after_q75 (steps from the onset to `gone`).
    """
    runs = table.drop_duplicates("run_id").dropna(subset=["onset"])
    rows = []
    for (model, method), own in groups(runs, GROUP):
        onset, gone = (own[name].to_numpy(dtype=float) for name in ("onset", "gone"))
        row = {"model": model, "method": method, "n": len(own), "first": onset.min(), "last": onset.max()}
        for name, steps in (("onset", onset), ("after", (gone - onset)[np.isfinite(gone)])):
            row |= dict(zip((f"{name}_q25", name, f"{name}_q75"), _quartiles(steps), strict=True))
        rows.append(row)
    return pd.DataFrame(rows)


SAMPLED = 20
"""`condensed` keeps the sharpness of a run at every step divisible by this."""


def levels(table: pd.DataFrame) -> pd.DataFrame:
    """Return sharpness x lr / 2 over the second half of completed runs, at every `SAMPLED`-th step.

    Returns:
        Columns model, method, lr, n (runs), low, middle, high (the 10%, 50% and 90% quantiles over runs and steps),
        sharpness (the median, without lr / 2).
    """
    half = table["step"].max() / 2
    late = table.loc[(table["outcome"] == "completed") & (table["step"] >= half) & (table["step"] % SAMPLED == 0)]
    rows = []
    for (model, method, lr), own in groups(late.dropna(subset=["sharpness_share"]), [*GROUP, "lr"]):
        low, middle, high = np.quantile(own["sharpness_share"].to_numpy(dtype=float), [0.1, 0.5, 0.9]).tolist()
        row = {"model": model, "method": method, "lr": lr, "n": own["run_id"].nunique()}
        rows.append(row | {"low": low, "middle": middle, "high": high, "sharpness": 2 * middle / lr})
    return pd.DataFrame(rows)


def discrimination(
    table: pd.DataFrame, lags: Sequence[int] = LAGS, signals: Sequence[str] = SIGNALS, draws: int = DRAWS
) -> pd.DataFrame:
    """Return the ROC AUC of each signal k steps before the onset.

    Returns:
        Columns model, method, signal, lag, auc, low, high (95%), same_lr, same_lr_low, same_lr_high, diverged (runs
        with a value there), healthy (runs without an onset), seeds.
    """
    rows = []
    for (model, method), own in groups(table, GROUP):
        runs = _one_row_a_run(own)
        values_of = {signal: own.pivot(index="run_id", columns="step", values=signal) for signal in signals}
        for lag in lags:
            for signal, values in values_of.items():
                auc = _auc(values, runs, lag, draws)
                rows.append({"model": model, "method": method, "signal": signal, "lag": lag} | auc)
    return pd.DataFrame(rows)


def _one_row_a_run(table: pd.DataFrame) -> pd.DataFrame:
    """The columns that are constant over a run, by run_id."""
    runs = table.drop_duplicates("run_id").set_index("run_id").sort_index()
    columns = ["model", "lr", "seed", "outcome", "onset", "gone"]
    return pd.DataFrame(runs.loc[:, [name for name in columns if name in runs]]).astype({"onset": float})


def _auc(values: pd.DataFrame, runs: pd.DataFrame, lag: int, draws: int) -> dict[str, float]:
    """A row of `discrimination`: the cases (C) against all runs (R) that are healthy at the same step."""
    onset_R, lr_R, seed_R = (runs[name].to_numpy(dtype=float) for name in ("onset", "lr", "seed"))
    case_C = np.flatnonzero((onset_R - lag >= START) & np.isin(onset_R - lag, values.columns))
    step_C = onset_R[case_C] - lag
    at_CR = values[step_C].to_numpy(dtype=float).T
    own_C = at_CR[np.arange(len(case_C)), case_C][:, None]
    pairs_CR = ~np.isnan(own_C) & ~np.isnan(at_CR) & ~(onset_R <= step_C[:, None] + lag)
    wins_CR = (own_C > at_CR) + 0.5 * (own_C == at_CR)
    compared = pairs_CR.any(1)
    row: dict[str, float] = {}
    for name, prefix, used_CR in (
        ("auc", "", pairs_CR),
        ("same_lr", "same_lr_", pairs_CR & (lr_R == lr_R[case_C][:, None])),
    ):
        low, middle, high = _mean_share(wins_CR, used_CR, seed_R, seed_R[case_C], draws)
        row |= {name: middle, f"{prefix}low": low, f"{prefix}high": high}
    healthy, seeds = int(np.isnan(onset_R).sum()), len(set(seed_R[case_C][compared]))
    return row | {"diverged": int(compared.sum()), "healthy": healthy, "seeds": seeds}


def _mean_share(
    wins_CR: np.ndarray, used_CR: np.ndarray, seed_R: np.ndarray, seed_C: np.ndarray, draws: int
) -> tuple[float, float, float]:
    """(low, mean, high): the mean over cases of their share of wins, and its 95% interval from resampled seeds."""
    cases = used_CR.any(1)
    if not cases.any():
        return np.nan, np.nan, np.nan
    seeds = np.union1d(seed_R[used_CR.any(0)], seed_C[cases])
    of_seed_RS = (seed_R[:, None] == seeds).astype(float)
    wins_CS, count_CS = (np.where(used_CR, v, 0.0)[cases] @ of_seed_RS for v in (wins_CR, used_CR))
    S = len(seeds)
    drawn_DS = np.random.default_rng(0).integers(0, S, (draws, S))
    times = np.bincount((drawn_DS + S * np.arange(draws)[:, None]).ravel(), minlength=draws * S)
    weight_DS = np.vstack([np.ones(S), times.reshape(draws, S)])  # first, each seed once
    with np.errstate(invalid="ignore"):
        share_DC = (weight_DS @ wins_CS.T) / (weight_DS @ count_CS.T)
        weight_DC = weight_DS[:, np.searchsorted(seeds, seed_C[cases])] * np.isfinite(share_DC)
        mean_D = (np.nan_to_num(share_DC) * weight_DC).sum(1) / weight_DC.sum(1)
    low, high = np.nanquantile(mean_D[1:], [0.025, 0.975]) if S > 1 else (np.nan, np.nan)
    return float(low), float(mean_D[0]), float(high)


def alarms(table: pd.DataFrame, signal: str, threshold: float) -> pd.DataFrame:
    """Return one row a run: model, lr, seed, outcome, onset, gone, and the step of the alarm (NaN if none)."""
    late = table["step"] >= START
    first_alarm = table.loc[late & (table[signal] > threshold)].groupby("run_id")["step"].min()
    runs = _one_row_a_run(table).astype({"gone": float})
    return runs.assign(alarm=first_alarm.reindex(runs.index).astype(float))


def summary(runs: pd.DataFrame) -> dict[str, float]:
    """Return what a rule did.

    Args:
        runs: `alarms`.

    Returns:
        diverged (runs with an onset at `START` or later), warned, early (the share of them with an alarm before the
        onset, before `gone`), lead, gain (medians over the early ones, with quartiles), completed (runs), false (the
        share of completed runs with an alarm).
    """
    outcome, onset, gone, alarm = (runs[name].to_numpy() for name in ("outcome", "onset", "gone", "alarm"))
    diverged, completed = (outcome == "diverged") & (onset >= START), outcome == "completed"
    lead, gain = (onset - alarm)[diverged], (gone - alarm)[diverged]
    early = gain >= 1
    row: dict[str, float] = {"diverged": len(lead), "warned": _mean(lead >= 1), "early": _mean(early)}
    for name, steps in (("lead", lead[early]), ("gain", gain[early])):
        row |= dict(zip((f"{name}_q25", name, f"{name}_q75"), _quartiles(steps), strict=True))
    return row | {"completed": int(completed.sum()), "false": _mean(~np.isnan(alarm[completed]))}


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else np.nan


def _quartiles(values: np.ndarray) -> list[float]:
    return np.quantile(values, [0.25, 0.5, 0.75]).tolist() if len(values) else [np.nan] * 3


def largest_values(table: pd.DataFrame, signal: str) -> np.ndarray:
    """Return the largest value of each run from `START` on, ascending."""
    late = table.loc[(table["step"] >= START) & table[signal].notna()]
    return np.sort(late.groupby("run_id").agg(largest=(signal, "max"))["largest"].to_numpy(dtype=float))


def groups(table: pd.DataFrame, by: Any) -> Iterator[tuple[Any, pd.DataFrame]]:
    """Yield the values of the columns `by`, and the rows that share them."""
    yield from table.groupby(by, sort=True)


def rules(table: pd.DataFrame, false_alarms: float = FALSE_ALARMS, draws: int = DRAWS) -> pd.DataFrame:
    """Return each signal's rule: its threshold from every other seed, and its results on the other seeds.

    Returns:
        Columns model, method, signal, threshold, chosen_early and chosen_gain (on the seeds that chose it), and
        those of `summary` on the judging seeds, with 95% intervals of warned, early and false (warned_low,
        warned_high, ...).
    """
    rows = []
    for (model, method), part in groups(table, GROUP):
        seeds = sorted(part["seed"].unique())
        choosing, judging = part.loc[part["seed"].isin(seeds[::2])], part.loc[part["seed"].isin(seeds[1::2])]
        if judging.empty:
            continue
        for signal in (name for name in SIGNALS if name != "lr"):
            threshold = chosen_threshold(choosing, signal, false_alarms)
            before, alarmed = (alarms(half, signal, threshold) for half in (choosing, judging))
            row = {"model": model, "method": method, "signal": signal, "threshold": threshold}
            row |= {f"chosen_{name}": summary(before)[name] for name in ("early", "gain")}
            rows.append(row | summary(alarmed) | _again(alarmed, draws))
    return pd.DataFrame(rows)


def alarm_rule(table: pd.DataFrame, times: float, draws: int = DRAWS) -> pd.DataFrame:
    """Return what `study.monitor.gradient_alarm.GradientAlarm(times)` does in all runs, a row a model and method.

    The columns are those of `summary` with their 95% intervals. Unbiased if other seeds chose `times`.
    """
    rows = []
    for (model, method), part in groups(table, GROUP):
        alarmed = alarms(part, "gradient_jump", times)
        rows.append({"model": model, "method": method, "threshold": times} | summary(alarmed) | _again(alarmed, draws))
    return pd.DataFrame(rows)


def chosen_threshold(table: pd.DataFrame, signal: str, false_alarms: float) -> float:
    """Return the lowest threshold that rings in at most a share of the completed runs."""
    largest = largest_values(table.loc[table["outcome"] == "completed"], signal)
    if not len(largest):
        return np.inf
    allowed = int(np.floor(false_alarms * len(largest) + 1e-9))
    return float(largest[len(largest) - 1 - allowed])


def _again(runs: pd.DataFrame, draws: int) -> dict[str, float]:
    """95% intervals: Wilson's over runs, widened to those of resampled seeds, which have no width at 0 and 1."""
    outcome, onset, gone, alarm = (runs[name].to_numpy() for name in ("outcome", "onset", "gone", "alarm"))
    diverged, completed = (outcome == "diverged") & (onset >= START), outcome == "completed"
    early = [diverged & (end - alarm >= 1) for end in (onset, gone)]
    counts = np.column_stack([*early, completed & ~np.isnan(alarm), diverged, completed])
    _, of_seed = np.unique(runs["seed"].to_numpy(), return_inverse=True)
    every = np.zeros((of_seed.max() + 1, counts.shape[1]))
    np.add.at(every, of_seed, counts)
    rng = np.random.default_rng(0)
    drawn, total = every[rng.integers(0, len(every), (draws, len(every)))].sum(1), every.sum(0)
    ends = {}
    for place, (name, of) in enumerate((("warned", 3), ("early", 3), ("false", 4))):
        share = drawn[drawn[:, of] > 0, place] / drawn[drawn[:, of] > 0, of]
        low, high = np.quantile(share, [0.025, 0.975]) if len(share) else (np.nan, np.nan)
        of_runs = [float(end) for end in wilson(round(total[place]), total[of])] if total[of] else [np.nan, np.nan]
        ends |= {f"{name}_low": min(low, of_runs[0]), f"{name}_high": max(high, of_runs[1])}
    return ends


def tables(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the tables auc, rules and crossings, from `judged` or from its `condensed` form."""
    return {"auc": discrimination(table), "rules": rules(table), "crossings": crossings(table)}


def condensed(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows and values that `tables` and the figures need; both give the same results as from the whole.

    It keeps all signals of all runs of a model and method around the onset of any of them; each signal where it
    exceeds its earlier values from `START` on, since an alarm with any threshold first rings there; and sharpness at
    every `SAMPLED`-th step.
    """
    around = range(AROUND_ONSET[0], AROUND_ONSET[1] + 1)
    onsets = {key: set(part["onset"].dropna().astype(int)) for key, part in groups(table, GROUP)}
    looked_at = {key: {onset + step for onset in own for step in around} for key, own in onsets.items()}
    keys = zip(table["model"], table["method"], table["step"], strict=True)
    near = np.array([step in looked_at[model, method] for model, method, step in keys], bool)
    late = table["step"] >= START
    values = {}
    for signal in (name for name in SIGNALS if name != "lr"):
        since = table[signal].where(late)
        before = since.groupby(table["run_id"]).cummax().groupby(table["run_id"]).shift()
        before = before.groupby(table["run_id"]).ffill()
        looked = near | (since > before) | (since.notna() & before.isna())
        if signal == "sharpness_share":
            looked |= table["step"] % SAMPLED == 0
        values[signal] = table[signal].where(looked)
    run = ["run_id", *GROUP, "curve", "lr", "seed", "outcome", "step", "onset", "gone"]
    kept = table[run].assign(**values)
    first = ~table.duplicated("run_id")
    return kept.loc[near | kept[list(values)].notna().any(axis=1) | first].reset_index(drop=True)

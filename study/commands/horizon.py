"""`study scale --over steps`: the same runs judged after fewer steps, from their recorded losses.

A record keeps the losses of all steps, so it holds the edge of every shorter horizon. Each run, and the control's
reference, is judged anew on its first steps. The distance of a network from its start is known at the end alone, so at
shorter horizons only losses and the control's safe lr can show that a run is slow.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from study.commands import sizes
from study.commands.rescore import judged_columns
from study.record import tables
from study.record.confirmations import read_confirmations
from study.record.definition import Definition, RecordError
from study.storage import stores

SHARES = (0.15, 0.25, 0.37, 0.5, 0.75, 1.0)
"""Horizons as shares of the record's steps."""

REACHED_BY = 0.95
"""The longest horizon is one that this share of the runs reached, of those that did not end themselves."""

AXIS = "steps"


def over_steps(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the edges of a record against the horizon, and how far they moved over its last doubling.

    Args:
        folder: of a study.

    Returns:
        The edges as `analysis.stats.scale.scale_tables` takes them, and `analysis.stats.horizon.last_doubling`.

    Raises:
        ValueError: there are no runs, losses are missing, or fewer than three horizons can be judged.
    """
    from analysis.stats.edges import fits
    from analysis.stats.scale import LEAST_SIZES

    definition, every, losses = sizes.definition_of(folder), tables.read_runs(folder), tables.read_losses(folder)
    if every.empty:
        raise ValueError(f"{stores.address(folder)} has no runs yet")
    judged = outcomes_at(folder, definition, every, losses)
    if len(judged) < LEAST_SIZES:
        raise ValueError(f"the runs can be judged at {len(judged)} horizons, and a fit needs {LEAST_SIZES}")
    points = [sizes.edges_of(runs, fits(runs)).assign(size=float(steps)) for steps, runs in judged.items()]
    return pd.concat(points, ignore_index=True), doubling_of(judged)


def doubling_of(judged: Mapping[int, pd.DataFrame]) -> pd.DataFrame:
    """Return `analysis.stats.horizon.last_doubling` of `outcomes_at`; no rows if half of the steps is not judged."""
    from analysis.stats.horizon import last_doubling

    longest = max(judged)
    return last_doubling(judged.get(round(longest / 2), judged[longest].iloc[:0]), judged[longest])


def outcomes_at(
    folder: Path,
    definition: Definition,
    every: pd.DataFrame,
    losses: pd.DataFrame,
    shares: Sequence[float] = SHARES,
) -> dict[int, pd.DataFrame]:
    """Return the runs of a study's cells, judged after fewer steps: steps -> runs, ascending.

    Runs that were cut before a horizon while healthy are left out there. At the longest horizon the outcomes are those
    of the record if all its runs have that length. A model is left out at horizons at which its control learned too
    little.

    Args:
        folder: the study's folder.
        definition: of the study.
        every: all recorded runs.
        losses: of these runs.
        shares: horizons, as shares of the longest.

    Raises:
        RecordError: losses are missing.
        ValueError: the lr of a shorter training would be another one.
    """
    from analysis.loading import cells_of

    recipe = definition.study.recipe
    if recipe.schedule != "constant" and recipe.decay_steps is None:
        raise ValueError(
            f"the lr of these runs falls until their last step (schedule={recipe.schedule}), so their first steps are "
            "not those of a shorter training; train studies of several steps instead"
        )
    if missing := len(set(every["run_id"]) - set(losses["run_id"])):
        raise RecordError(f"the losses of {missing} runs in {folder} are missing")
    own = cells_of(every, definition, read_confirmations(folder))
    if own.empty:
        return {}
    length = _lengths(losses)
    trained = np.maximum(np.array([length[run] for run in own["run_id"]]), own["steps"].to_numpy())
    ended = (own["reason"] == "nonfinite").to_numpy() | _declared(own)
    longest = int(np.quantile(trained[~ended] if (~ended).any() else trained, 1 - REACHED_BY, method="lower"))
    median_steps = definition.study.rule.median_steps
    found = {}
    for steps in sorted({round(share * longest) for share in shares}):
        if steps == longest and (trained[~ended] == longest).all():
            found[steps] = own
        elif steps >= median_steps:
            reached = own.loc[(trained >= steps) | ended]
            known, cut, columns = _known_by(every, length, steps), _cut(losses, steps), {}
            for _, of_model in known.groupby("model", sort=False):
                try:
                    columns |= judged_columns(folder, definition, of_model, cut, definition.study.rule, distances=False)
                except RecordError:
                    raise
                except ValueError:
                    continue  # the model's control learned too little in so few steps
            reached = reached.loc[reached["run_id"].isin(columns)]
            if len(reached):
                outcomes = {name: [columns[run][name] for run in reached["run_id"]] for name in OUTCOME}
                found[steps] = reached.assign(**outcomes, steps=steps)
    return found


OUTCOME = ("outcome", "reason", "diverged_at_step", "kept")


def _lengths(losses: pd.DataFrame) -> dict[str, int]:
    """Run id -> the number of its last logged step, plus 1."""
    rows = zip(losses["run_id"], losses["loss"], losses["step"], strict=True)
    return {run: int(step[-1]) + 1 if np.ndim(step) and len(step) else len(loss) for run, loss, step in rows}


def _declared(runs: pd.DataFrame) -> np.ndarray:
    return runs["declared"].fillna(False).to_numpy(dtype=bool) if "declared" in runs else np.zeros(len(runs), bool)


def _known_by(runs: pd.DataFrame, length: dict[str, int], steps: int) -> pd.DataFrame:
    """The runs with what was known of them after so many steps."""
    ends_later = np.array([length[run] for run in runs["run_id"]]) > steps
    later = runs["diverged_at_step"].to_numpy(dtype=float, na_value=math.inf) >= steps
    known: dict[str, Any] = {"moved": math.nan, "reason": runs["reason"].mask(later)}
    if "declared" in runs:
        known["declared"] = _declared(runs) & ~ends_later
    return runs.assign(**known)


def _cut(losses: pd.DataFrame, steps: int) -> pd.DataFrame:
    """The losses of the first steps."""
    counts = [int(np.searchsorted(step, steps)) if np.ndim(step) else steps for step in losses["step"]]
    columns = {}
    for name in ("loss", "constant", "step"):
        values = [v[:count] if np.ndim(v) else v for v, count in zip(losses[name], counts, strict=True)]
        columns[name] = pd.Series(values, index=losses.index, dtype=object)
    return losses.assign(**columns)

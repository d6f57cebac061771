"""The tables of a report, computed once from the record of a study."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.loading import cells_of, records
from analysis.stats.across_models import across_models
from analysis.stats.best import best, gains
from analysis.stats.contrasts import contrasts
from analysis.stats.edges import edges, fits
from analysis.stats.missing import failed_runs, missing_by_curve
from analysis.stats.psychometric import Fit
from analysis.stats.quality import lr_sensitivity, quality
from analysis.stats.rates import divergence_rates, in_bins
from analysis.stats.recommend import recommend
from analysis.stats.table2 import has_choices, table2
from study.config import EdgeSearch, QualitySearch, Study, planned_ids
from study.record.checksums import read_parquet
from study.record.confirmations import read_confirmations
from study.record.definition import Definition, RecordError, read_definition
from study.record.files import parsed, read_file
from study.record.tables import read_losses, read_runs

LEVELS = (0.5, 0.05)
"""P(divergence) at the edges that every report shows."""


@dataclass(frozen=True, kw_only=True)
class ReportTables:
    """What a report shows.

    Attributes:
        folder: The folder of the study.
        definition: The study.
        every: All recorded runs, including the control.
        runs: The runs of cells.
        rates: `divergence_rates`.
        scored: `quality`.
        fitted: `fits`.
        edges: Level -> `edges`, at `LEVELS` and at the level of a search.
        failed: `failed_runs`: runs of cells that failed for good.
        missing: `missing_by_curve` at the first level; empty for a search for the best quality, which has no curves.
        recommended: `recommend`, risk 5% at 95%.
        contrasts: `contrasts`; empty for a search for the best quality, which has no curves.
        across_models: `across_models`; empty unless contrasts were planned for several models.
        sensitivity: `lr_sensitivity`; empty for such a search.
        best: `best` of a search for the best quality, else None.
        table2: `table2` if a method has several arms, else None.
    """

    folder: Path
    definition: Definition
    every: pd.DataFrame
    runs: pd.DataFrame
    rates: pd.DataFrame
    scored: pd.DataFrame
    fitted: dict[Any, Fit]
    edges: dict[float, pd.DataFrame]
    failed: pd.DataFrame
    missing: pd.DataFrame
    recommended: pd.DataFrame
    contrasts: pd.DataFrame
    across_models: pd.DataFrame
    sensitivity: pd.DataFrame
    best: pd.DataFrame | None
    table2: pd.DataFrame | None

    @property
    def first_level(self) -> float:
        """The level of the edges that the report states first."""
        return first_level(self.definition.study)

    @property
    def first_edges(self) -> pd.DataFrame:
        return self.edges[self.first_level]

    def models(self, table: pd.DataFrame) -> list[str]:
        """Return the models of a table in the order of the study."""
        present = list(dict.fromkeys(table["model"]))
        known = self.definition.study.models
        return [m for m in known if m in present] + [m for m in present if m not in known]

    def by_model(self, table: pd.DataFrame) -> list[tuple[str, list[dict[str, Any]]]]:
        """Return (model, rows) of a table, models in the order of the study."""
        return [(model, records(table.loc[table["model"] == model])) for model in self.models(table)]


def first_level(study: Study) -> float:
    """Return the level that an edge search looked for, else 0.5."""
    return study.search.level if isinstance(study.search, EdgeSearch) else LEVELS[0]


def report_tables(folder: Path) -> ReportTables:
    """Compute the tables of a study's report.

    Args:
        folder: The folder of the study; its record may be of any size, down to no run.

    Raises:
        RecordError: If the folder holds no study.
    """
    definition, every = read_definition(folder), read_runs(folder)
    confirmations = read_confirmations(folder)
    runs = cells_of(every, definition, confirmations)
    searched = isinstance(definition.study.search, QualitySearch)
    fitted = fits(runs)
    compared = runs.iloc[:0] if searched else runs
    failed = failed_runs(folder, definition, runs)
    ratios = contrasts(compared, definition, confirmations=confirmations, fitted=fitted)
    return ReportTables(
        folder=folder,
        definition=definition,
        every=every,
        runs=runs,
        rates=divergence_rates(in_bins(runs)),
        scored=quality(in_bins(runs), definition),
        fitted=fitted,
        edges={level: edges(runs, level, fitted) for level in dict.fromkeys([*LEVELS, first_level(definition.study)])},
        failed=failed,
        missing=missing_by_curve(compared, failed.iloc[:0] if searched else failed, first_level(definition.study)),
        recommended=recommend(compared, definition, confirmations=confirmations, fitted=fitted, failed=failed),
        contrasts=ratios,
        across_models=across_models(compared, ratios),
        sensitivity=lr_sensitivity(compared, definition),
        best=best(every, _gains(folder, every, definition), definition) if searched else None,
        table2=table2(runs, definition) if has_choices(definition.study) else None,
    )


def _gains(folder: Path, every: pd.DataFrame, definition: Definition) -> dict[str, float]:
    """The gain of each run, from its losses; of a published study, whose losses are not there, from `gains.parquet`."""
    losses = read_losses(folder)
    if len(losses) or every.empty:
        return gains(every, losses, definition)
    content = read_file(folder, "gains.parquet")
    if content is None:
        raise RecordError(f"a search for the best quality is judged by losses, and those in {folder} are missing")
    table = parsed(read_parquet, content)
    return dict(zip(table["run_id"].to_pylist(), table["gain"].to_pylist(), strict=True))


def planned_count(study: Study) -> int:
    """Return how many runs the axes of a study make, without the control."""
    return study.cells * len(study.seeds)


def missing_runs(definition: Definition, every: pd.DataFrame) -> pd.DataFrame:
    """Return the planned runs that are not recorded.

    Runs are matched by id. An arm that spells out a default of its method has another id than the recorded run. Each
    recorded run without a planned id therefore stands for one planned run of its model, method, lr and seed.

    Returns:
        Columns run_id, model, method, options (JSON), lr, seed.
    """
    study, rows, planned, recorded = definition.study, [], set(), set(every["run_id"])
    options = {id(arm): json.dumps(arm.options, sort_keys=True) for arm in study.arms}
    for model, arm, lr, seed, run_id in planned_ids(study, definition.data["content"]):
        planned.add(run_id)
        if run_id not in recorded:
            rows.append((run_id, model, arm.method, options[id(arm)], lr, seed))
    missing = pd.DataFrame(rows, columns=pd.Index(["run_id", "model", "method", "options", "lr", "seed"]))
    keys = ["model", "method", "lr", "seed"]
    spare = every.loc[~every["run_id"].isin(list(planned)), keys].value_counts().to_dict()
    stands_for = np.array([spare.get(key, 0) for key in missing[keys].itertuples(index=False, name=None)], int)
    return missing.loc[missing.groupby(keys).cumcount() >= stands_for].reset_index(drop=True)

"""Read the runs of a study: one row a run, without the control, each with the name of its curve."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from study.config import JUDGED_FROM, MAX_NAMED, RANKER, QualitySearch
from study.record.confirmations import Confirmation, read_confirmations
from study.record.definition import Definition, RecordError, read_definition
from study.record.files import read_file
from study.record.schema import is_threshold, threshold_of
from study.record.tables import read_runs

CURVE = ["model", "curve"]
CELL = ["model", "curve", "lr"]


def load(folder: Path) -> pd.DataFrame:
    """Return the runs of a study's cells, one row a run, with the column `curve`.

    Returns:
        `study.record.tables.read_runs`, as `cells_of` selects them. Without runs, a table without rows.

    Raises:
        RecordError: If there is no study. A ValueError.
    """
    folder = Path(folder)
    return cells_of(read_runs(folder), read_definition(folder), read_confirmations(folder))


def cells_of(every: pd.DataFrame, definition: Definition, confirmations: Iterable[Confirmation] = ()) -> pd.DataFrame:
    """Return the recorded runs that belong to cells, with the columns `curve` and `confirms`.

    The control is left out. The arms of a loop are in the study's order, and have their defaults. Of a search for the
    best quality only the runs on fresh seeds remain: tuning has an lr and thresholds of its own each time, chosen by
    the results; see `analysis.stats.best`.
    """
    study = definition.study
    if isinstance(study.search, QualitySearch):
        every = every.loc[every["seed"] >= JUDGED_FROM]
    runs = with_curves(with_defaults(every, definition.data.get("defaults", {})))
    own = set(study.seeds)
    named = {run.id for test in confirmations for run in test.runs(definition) if run.seed not in own}
    runs = runs.assign(**{CONFIRMS: runs["run_id"].isin(list(named))})
    if study.trainer == RANKER:
        return runs
    rank = {method: i for i, method in enumerate(dict.fromkeys(arm.method for arm in study.arms))}
    return runs.sort_values("method", key=lambda methods: methods.map(rank), kind="stable", ignore_index=True)


CONFIRMS = "confirms"
"""Whether a run is one of a confirmation, with a seed that the study has at this lr alone."""


def of_curves(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs that make curves: those of the study's own seeds, without the fresh ones of confirmations.

    For what counts over lrs, or compares seeds. A rate, an edge and a claim have all runs, each at its own lr.
    """
    return runs.loc[make_curves(runs)]


def make_curves(runs: pd.DataFrame) -> np.ndarray:
    """Return for each run whether it is one of `of_curves`."""
    return ~runs[CONFIRMS].isin([True]).to_numpy() if CONFIRMS in runs else np.ones(len(runs), bool)


def with_defaults(runs: pd.DataFrame, defaults: Mapping[str, float]) -> pd.DataFrame:
    """Return the runs with the default of each threshold that their arm does not name.

    Args:
        runs: Columns options (JSON) and thresholds.
        defaults: Of the thresholds of a loop (`Definition.data`). A ranker records its own.
    """
    for column in [column for column in threshold_columns(runs) if threshold_of(column) in defaults]:
        name = threshold_of(column)
        other = runs["options"].fillna("").str.contains(f"{json.dumps(name)}:", regex=False)  # a text, or None
        runs = runs.assign(**{column: runs[column].mask(runs[column].isna() & ~other, defaults[name])})
    return runs


def with_curves(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs without the control, each once, with the column `curve` (`curve_labels`).

    Raises:
        ValueError: If the runs belong to several studies or data, whose seeds are no pairs.
    """
    if "role" in runs:
        runs = runs.loc[runs["role"] != "control"]
    for what in ("study", "data"):
        found = sorted({str(value)[:12] for value in runs[what].dropna().unique()} if what in runs else ())
        if len(found) > 1:
            studies = "several studies" if what == "study" else "one study on several data"
            raise ValueError(f"these are runs of {studies} ({', '.join(found)}): look at one at a time")
    if "run_id" in runs and (again := runs["run_id"].duplicated().to_numpy()).any():
        runs = runs.loc[~again]  # of tables that were put together
    if "curve" in runs:
        return runs
    named = runs.reindex(columns=["method", *threshold_columns(runs), "options"])
    of_row = named.groupby(list(named.columns), sort=False, dropna=False).ngroup().to_numpy()
    _, first, of_row = np.unique(of_row, return_index=True, return_inverse=True)
    arms = [_arm(row) for row in records(named.iloc[first])]
    distinct = list(dict.fromkeys(arms))
    labels = dict(zip(distinct, curve_labels([(method, dict(values)) for method, values in distinct]), strict=True))
    curves = np.array([labels[arm] for arm in arms], dtype=object)[of_row]
    return runs.assign(curve=pd.Series(curves, index=runs.index, dtype=object))


def curve_labels(arms: Iterable[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """Return the label of each arm: its method, and the values in which arms of that method differ (`clippy rel=0.1`).

    Args:
        arms: The method of each, and its thresholds and options.
    """
    written = [(method, {name: _short(value) for name, value in values.items()}) for method, values in arms]
    of_method: dict[str, list[dict[str, str]]] = {}
    for method, values in written:
        of_method.setdefault(method, []).append(values)
    varied = {}
    for method, alike in of_method.items():
        names = sorted({name for values in alike for name in values})
        varied[method] = [name for name in names if len({values.get(name) for values in alike}) > 1]
    return [
        " ".join([method, *(f"{name}={values[name]}" for name in varied[method] if name in values)])
        for method, values in written
    ]


def curves_of_arms(arms: pd.DataFrame, runs: pd.DataFrame) -> list[str]:
    """Return the curve of each arm: that of the same arm in a table of runs, else a label of its own.

    Args:
        arms: Columns method, options and a column for each threshold.
        runs: With the column `curve`; it may be empty.
    """
    known: dict[Any, str] = {}
    if len(runs):
        firsts = runs.drop_duplicates(["method", *threshold_columns(runs), "options"])
        shown = firsts.reindex(columns=["method", *threshold_columns(runs), "options"])
        known = {_arm(row): curve for row, curve in zip(records(shown), firsts["curve"], strict=True)}
    keys = [_arm(row) for row in records(arms)]
    distinct = list(dict.fromkeys([*known, *keys]))
    own = dict(zip(distinct, curve_labels([(method, dict(values)) for method, values in distinct]), strict=True))
    return [known.get(key, own[key]) for key in keys]


def threshold_columns(table: pd.DataFrame) -> list[str]:
    """Return the columns of a table of runs that hold thresholds: those that the record does not name itself."""
    return [name for name in table.columns if name not in ("curve", CONFIRMS, TRAINED_LR) and is_threshold(name)]


TRAINED_LR = "lr_trained"
"""The lr of a run whose `lr` is that of a bin (`analysis.stats.rates.in_bins`)."""


def tasks_of(definition_data: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the tasks of a study's data, in order: name, kind, constant_loss, constant_rmse, unit."""
    return list(definition_data["tasks"])


def in_order(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows sorted by model, method (`method_order`), curve and, if there is one, lr."""
    rank = {method: i for i, method in enumerate(method_order(table["method"]))}
    by = [*CURVE, *(["lr"] if "lr" in table else [])]
    table = table.assign(_rank=[rank[method] for method in table["method"]])
    return table.sort_values(["model", "_rank", *by[1:]], ignore_index=True).drop(columns="_rank")


METHOD_ORDER = (
    *("none", "layer_clip", "global_clip", "agc", "lamb", "clippy", "update_rms_clip", "zclip", "adagc", "autoclip"),
    *("activation_clip", "rollback", "rollback_lower_lr"),
)
"""The known methods in the order of tables and legends."""


def method_order(methods: Iterable[str]) -> list[str]:
    """Return the distinct methods in the order of tables and legends.

    The known ones come first, the others in their own order. Arms of a loop without `none` all keep their own order.
    """
    distinct = list(dict.fromkeys(methods))
    others = [m for m in distinct if m not in METHOD_ORDER]
    if others and "none" not in distinct:
        return distinct
    return [m for m in METHOD_ORDER if m in distinct] + others


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows as mappings of column names to values."""
    names = list(table.columns)
    columns = [column.to_numpy(dtype=object) for _, column in table.items()]  # texts of Arrow are slow one by one
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _arm(row: dict[str, Any]) -> tuple[str, tuple[tuple[str, str], ...]]:
    values = {k: _short(v) for k, v in row.items() if k not in ("method", "options") and not pd.isna(v)}
    options = row["options"]
    if isinstance(options, str) and options:
        values |= {k: _short(v) for k, v in json.loads(options).items()}
    return str(row["method"]), tuple(sorted(values.items()))


def _short(value: Any) -> str:
    return f"{value:.12g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


FAMILY_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class FamilyMember:
    """A study of a family.

    Attributes:
        label: Names its folder.
        words: What it changes.
        against: The label of the study that it is compared with.
        folder: Where it is recorded.
        contrasts: How many contrasts between methods it plans; 0 if an older version wrote the family.
    """

    label: str
    words: str
    against: str
    folder: Path
    contrasts: int = 0


def read_family(folder: Path) -> tuple[str, list[FamilyMember]]:
    """Return the name of a family and its members, in order, from its `family.json`.

    Raises:
        RecordError: If the file is not a family's. Labels must be safe names of folders.
    """
    path = folder / "family.json"
    try:
        content = json.loads(read_file(folder, path.name) or b"")
        if content["format"] != FAMILY_FORMAT:
            raise RecordError(f"{path} has format {content['format']!r}; this version reads format {FAMILY_FORMAT}")
        name = str(content["name"])
        members = [{key: member[key] for key in ("label", "words", "against")} for member in content["members"]]
        labels = [member["label"] for member in members]
        if not labels or len(set(labels)) < len(labels):
            raise ValueError("it names a member twice" if labels else "it has no members")
        for member in members:
            if wrong := [key for key, value in member.items() if not isinstance(value, str)]:
                raise ValueError(f"{wrong[0]} of a member is {member[wrong[0]]!r:.40}")
            if not member["label"].replace("_", "").isalnum() or not "".join([name, *member.values()]).isprintable():
                raise ValueError(f"a member is {member!r}")
        planned = [member.get("contrasts", 0) for member in content["members"]]
        for n in planned:
            if type(n) is not int or not 0 <= n <= MAX_NAMED:
                raise ValueError(f"a member plans {n!r:.40} contrasts")
        return name, [
            FamilyMember(**member, folder=folder / member["label"], contrasts=n)
            for member, n in zip(members, planned, strict=True)
        ]
    except RecordError:
        raise
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RecordError(f"{path} is not a family's ({error})") from error

"""Which size varies in a record, and the edges against it: for `study scale` and for reports."""

import dataclasses
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from study import plugins
from study.config import QualitySearch, Recipe, Study
from study.definition import model_options, overrides
from study.record.definition import Definition, read_definition, study_exists
from study.storage import stores

if TYPE_CHECKING:
    import pandas as pd

    from analysis.loading import FamilyMember
    from analysis.stats.scale import ScaleTables

LEVELS = (0.5, 0.05)

LARGEST = 1e15
"""A size is below this."""

PREDICTIONS = "tables/{}_predictions.csv"

WHAT = "a size is a number that differs between models (ranker.depth=1,2,4), arms, or members of a family"

OF_CURVES = ("models", "methods", "lr", "seeds", "control_lrs", "compare", "search", "data.dir")
"""Keys in which members of a family may differ beside the size: they say which curves there are, and their runs."""


def of_folder(folder: Path, key: str | None = None) -> "tuple[str, pd.DataFrame]":
    """Return the name of the size of a study, and the edges against it.

    Args:
        folder: of the study.
        key: the size, if several vary; None takes the only one.

    Returns:
        The name, and the edges as `analysis.stats.scale.scale_tables` takes them.

    Raises:
        ValueError: there are no runs, no size varies, or several do and none is named. Or an older version recorded
            the study, and did not write the default of its size.
    """
    import analysis
    from analysis.stats.edges import fits

    definition, runs = definition_of(folder), analysis.load(folder)
    if runs.empty:
        raise ValueError(f"{stores.address(folder)} has no runs yet")
    axis, points = of_study(definition.study, runs, fits(runs), key)
    of_loop = definition.study.trainer_options.get("function") and "defaults" not in definition.data
    if of_loop and axis in runs and runs.loc[runs["method"].isin(points["method"]), axis].isna().any():
        raise ValueError(
            f"{stores.address(folder)} was recorded by an older version, which kept no default of {axis}; repeat its "
            "`study run`, which adds it"
        )
    return axis, points


def definition_of(folder: Path) -> Definition:
    """Return the definition of a study. Raises ValueError if it searches for the best quality: it has no edges."""
    definition = read_definition(folder)
    if isinstance(definition.study.search, QualitySearch):
        raise ValueError(f"{stores.address(folder)} is a search for the best quality, which measures no edges")
    return definition


def of_study(
    study: Study, runs: "pd.DataFrame", fitted: Mapping[Any, Any], key: str | None = None
) -> "tuple[str, pd.DataFrame]":
    """Return `of_folder` of a study in memory. The size is an option of its models, or else of its arms.

    Args:
        study: the study.
        runs: its runs (`analysis.load`).
        fitted: `analysis.stats.edges.fits` of the runs.
        key: as for `of_folder`.
    """
    table = edges_of(runs, fitted)
    of_models, of_arms = _model_options(table), _arm_options(table)
    owner, dot, name = (key or "").rpartition(".")
    if dot and owner in set(table["method"]):  # an option of one method alone
        of_arms = of_arms.loc[table["method"] == owner]
        key = name
    models, arms = _varied([of_models]), _varied([own for _, own in of_arms.groupby(table["method"])])
    axis = _chosen(key, models if models and not key else models | arms, study.name)
    sizes = (of_models if axis in models else of_arms)[axis].dropna()
    points = table.loc[sizes.index].assign(size=sizes.astype(float))
    column, option = ("model", axis.rpartition(".")[2]) if axis in models else ("curve", axis)
    points[column] = [_without(label, option) for label in points[column]]
    return axis, points


def of_members(name: str, members: "Iterable[FamilyMember]", key: str | None = None) -> "tuple[str, pd.DataFrame]":
    """Return `of_folder` of a family. The size is a number of the members' recipes or of their data's options.

    Args:
        name: of the family.
        members: its studies.
        key: as for `of_folder`.
    """
    import pandas as pd

    import analysis
    from analysis.stats.edges import fits

    tables, options, data = [], [], set()
    for member in members:
        runs = analysis.load(member.folder) if study_exists(member.folder) else pd.DataFrame()
        if len(runs):
            study = definition_of(member.folder).study
            tables.append(edges_of(runs, fits(runs)))
            data |= set(runs["data"])
            options.append(overrides.by_key(study) | dataclasses.asdict(study.recipe))
    if not tables:
        raise ValueError(f"{name} has no runs yet")
    of_all = pd.DataFrame(options, dtype=object).drop(columns=[*OF_CURVES], errors="ignore")
    varied = _varied([of_all.fillna("default")])
    if len(varied) > 1:
        raise ValueError(f"several things vary in {name}: {', '.join(varied)}; a fit needs members that differ in one")
    axis = _chosen(key, varied, name)
    if len(data) > 1 and axis in {field.name for field in dataclasses.fields(Recipe)}:
        raise ValueError(f"the members of {name} have different data; a fit needs members that differ in {axis} alone")
    points = [table.assign(size=float(size)) for table, size in zip(tables, of_all[axis], strict=True)]
    return axis, pd.concat(points, ignore_index=True)


def edges_of(runs: "pd.DataFrame", fitted: Mapping[Any, Any]) -> "pd.DataFrame":
    """Return the edges of runs at every level of LEVELS. fitted: `analysis.stats.edges.fits` of the runs."""
    import pandas as pd

    from analysis.stats.edges import edges

    return pd.concat([edges(runs, level, fitted) for level in LEVELS], ignore_index=True)


def of_report(folder: Path, axis: str, points: "pd.DataFrame") -> "ScaleTables":
    """Return the tables of edges against a size, with predictions at the sizes of the last `study scale --at`.

    Args:
        folder: of the study or family.
        axis, points: as `of_study` and `of_members` return them.

    Raises:
        ValueError: no curve has enough sizes.
        StorageError: the last predictions cannot be read or removed.
    """
    from analysis.stats.scale import scale_tables

    found = scale_tables(axis, points, _predicted_sizes(folder, axis))
    if found.predictions is None:
        remove_predictions(folder)
    return found


def _predicted_sizes(folder: Path, axis: str) -> list[float]:
    import pandas as pd

    try:
        last = pd.read_csv(io.BytesIO(stores.store_for(folder).get(PREDICTIONS.format("scale")) or b""))
        return sorted(filter(is_size, set(last.loc[last["axis"] == axis, "size"].astype(float))))
    except (KeyError, ValueError):  # none, or no table of ours
        return []


def remove_predictions(folder: Path, name: str = "scale") -> None:
    """Remove the predictions of an earlier `study scale`: its tables and its figure belong together.

    Args:
        folder: of the study.
        name: how the names of the files begin.

    Raises:
        StorageError: they cannot be removed.
    """
    stores.store_for(folder).delete(PREDICTIONS.format(name))


def is_size(value: Any) -> bool:
    """Return whether a value is a positive number below LARGEST."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < LARGEST


def _model_options(table: "pd.DataFrame") -> "pd.DataFrame":
    """`model.option` -> its value in each row, defaults included."""
    import pandas as pd

    parsed = {model: model_options.parse(model) for model in dict.fromkeys(table["model"])}
    written = {(name, key) for name, options in parsed.values() for key in options}
    values: dict[str, dict[str, Any]] = {model: {} for model in parsed}
    for name, key in sorted(written):
        default = plugins.written_defaults("models", name, Path()).get(key)
        for model, (own, options) in parsed.items():
            if own == name:
                values[model][f"{name}.{key}"] = options.get(key, default)
    return pd.DataFrame([values[model] for model in table["model"]], index=table.index, dtype=object)


def _arm_options(table: "pd.DataFrame") -> "pd.DataFrame":
    """Threshold or option of the arm -> its value in each row."""
    import pandas as pd

    from analysis.loading import records, threshold_columns
    from analysis.stats.edges import EDGE_COLUMNS

    thresholds = [name for name in threshold_columns(table) if name not in (*EDGE_COLUMNS, "level")]
    rows = [
        {name: row[name] for name in thresholds if pd.notna(row[name])} | json.loads(row["options"] or "{}")
        for row in records(table)
    ]
    return pd.DataFrame(rows, index=table.index, dtype=object)


def _varied(tables: "Iterable[pd.DataFrame]") -> dict[str, list[Any]]:
    """The options that have several values in some table, and these values. A list counts as text."""
    found: dict[str, list[Any]] = {}
    for options in tables:
        for name in options:
            values = {v if isinstance(v, int | float) else str(v) for v in options[name].dropna()}
            if len(values) > 1:
                found.setdefault(str(name), []).extend(values)
    return found


def _chosen(key: str | None, varied: Mapping[str, Sequence[Any]], name: str) -> str:
    """Return the size. Raises ValueError if it is not one, or if several vary and none is named."""
    numbers = [one for one, values in varied.items() if all(map(is_size, values))]
    if key is not None and key not in varied:
        known = f"what varies is {', '.join(varied)}" if varied else WHAT
        raise ValueError(f"{key} does not vary in {name}; {known}")
    chosen = numbers if key is None else [key]
    if len(chosen) > 1:
        raise ValueError(f"several sizes vary in {name}: {', '.join(chosen)}; name one with --at KEY=SIZE")
    if chosen and chosen[0] in numbers:
        return chosen[0]
    if others := chosen or [*varied]:
        raise ValueError(f"{', '.join(others)} is not a positive number in every curve of {name}")
    raise ValueError(f"no size varies in {name}; {WHAT}")


def _without(label: str, option: str) -> str:
    """A model or curve without one of its options."""
    return " ".join(word for word in label.split() if not word.startswith(f"{option}="))

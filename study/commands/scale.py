"""`study scale`: fit the edges of a record against a size, and predict the edge at a size that was not trained."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from study import model_options, plugins
from study.config import Study
from study.record.definition import read_definition, study_exists
from study.storage import stores
from study.storage.stores import StorageError

if TYPE_CHECKING:
    import pandas as pd

    from analysis.loading import FamilyMember

LEVELS = (0.5, 0.05)


@dataclass(frozen=True, kw_only=True)
class Scale:
    """What a record says of its edges against a size.

    Args:
        axis: name of the size, such as `ranker.depth`.
        points, exponents, predictions: `analysis.stats.scale`; predictions is None without a size to predict.
    """

    axis: str
    points: "pd.DataFrame"
    exponents: "pd.DataFrame"
    predictions: "pd.DataFrame | None"


def scale(folder: Path, at: str | None = None, over: str | None = None, *, as_json: bool = False) -> str:
    """Fit edges against the size that varies, write tables and a figure, and return the text.

    Args:
        folder: of a study, or of a family.
        at: `KEY=VALUE,...`: sizes to predict; None predicts none.
        over: "steps": the size is the horizon, and the runs are judged anew at shorter ones.
        as_json: return JSON instead.

    Raises:
        ValueError: no size varies, several do, or fewer than three sizes are recorded; or `at` is not valid.
    """
    from analysis.report import scale as page
    from analysis.text import scale as text
    from study.commands import horizon

    key, sizes = parse_at(at) if at else (None, ())
    doubling = None
    if over is None:
        found = fitted(*points_of(folder, key), sizes)
    else:
        if key not in (None, horizon.AXIS):
            raise ValueError(f"--over {over} predicts at {horizon.AXIS}=N, got --at {at}")
        found, doubling = horizon.over_steps(folder, sizes)
    shown = (found.axis, found.points, found.exponents, found.predictions, doubling)
    try:
        paths = page.write(folder, *shown)
    except OSError as error:
        raise StorageError(f"cannot write to {folder} ({error.strerror or error})") from error
    stores.publish(folder)
    if as_json:
        return json.dumps(text.json_values(*shown), indent=1, allow_nan=False)
    return "\n".join([*text.lines(*shown), "", *(f"written: {path}" for path in paths)])


def fitted(axis: str, points: "pd.DataFrame", sizes: Sequence[float]) -> Scale:
    """Return the fit of edges against a size, and the predictions at `sizes`. Raises ValueError if all are censored."""
    from analysis.stats.edges import REACHED
    from analysis.stats.scale import exponents, predictions

    if REACHED not in set(points["status"]):
        raise ValueError(f"no edge was reached at any {axis}: the tried learning rates do not contain one")
    fractions = [f"{size:g}" for size in sizes if not float(size).is_integer()]
    if fractions and all(float(size).is_integer() for size in points["size"]):
        raise ValueError(f"{axis} is a whole number, got {', '.join(fractions)}")
    return Scale(
        axis=axis,
        points=points,
        exponents=exponents(points),
        predictions=predictions(points, sizes) if sizes else None,
    )


def parse_at(text: str) -> tuple[str, tuple[float, ...]]:
    """Return the key and the sizes of `ranker.depth=12,24`. Raises ValueError for other text."""
    key, equals, values = text.partition("=")
    if not equals or not key or not values:
        raise ValueError(f"--at takes KEY=SIZE,SIZE, got {text!r}")
    sizes = []
    for word in values.split(","):
        size = model_options.parse_value(key, word.strip())
        if isinstance(size, bool | str) or size <= 0:
            raise ValueError(f"a size is a positive number, got {key}={word.strip()}")
        if size in sizes:
            raise ValueError(f"{key}={size:g} is given twice")
        sizes.append(size)
    return key, tuple(float(size) for size in sizes)


def points_of(folder: Path, key: str | None = None) -> "tuple[str, pd.DataFrame]":
    """Return the name of the size and the edges of every size, as `analysis.stats.scale` takes them.

    Args:
        folder: of a study, or of a family.
        key: the size, if several vary; None takes the only one.

    Raises:
        ValueError: as `scale`.
    """
    import analysis
    from analysis.stats.edges import fits
    from study.commands import family, horizon

    if family.is_family(folder):
        return _points_of_family(*family.read_members(folder), key)
    if key == horizon.AXIS:
        raise ValueError(f"{key} is the horizon of the runs; add --over {key}")
    definition, runs = read_definition(folder), analysis.load(folder)
    if runs.empty:
        raise ValueError(f"{stores.address(folder)} has no runs yet")
    return points_of_study(definition.study, runs, fits(runs), key)


def points_of_study(
    study: Study, runs: "pd.DataFrame", fitted_curves: Mapping[Any, Any], key: str | None = None
) -> "tuple[str, pd.DataFrame]":
    """Return `points_of` of one study: the size is an option of its models, or else of its arms.

    Args:
        study: the study.
        runs: its runs (`analysis.load`).
        fitted_curves: `analysis.stats.edges.fits` of the runs.
        key: as for `points_of`.
    """
    table = edges_of(runs, fitted_curves)
    of_models, of_arms = _model_options(table), _arm_options(table)
    owner, dot, name = (key or "").rpartition(".")
    if dot and owner in set(table["method"]):  # an option of one method alone
        of_arms = of_arms.loc[table["method"] == owner]
        key = name
    models, arms = _varied(of_models), _varied(of_arms)
    axis = _chosen(key, models if models and not key else models | arms, study.name)
    sizes = (of_models if axis in models else of_arms)[axis].dropna()
    points = table.loc[sizes.index].assign(size=sizes.astype(float))
    if axis in models:
        points["model"] = [_without(model, axis.rpartition(".")[2]) for model in points["model"]]
    else:
        points["curve"] = [_without(curve, axis) for curve in points["curve"]]
    return axis, enough(points, axis)


def edges_of(runs: "pd.DataFrame", fitted_curves: Mapping[Any, Any]) -> "pd.DataFrame":
    """Return the edges of runs at every level of LEVELS."""
    import pandas as pd

    from analysis.stats.edges import edges

    return pd.concat([edges(runs, level, fitted_curves) for level in LEVELS], ignore_index=True)


def _model_options(table: "pd.DataFrame") -> "pd.DataFrame":
    """`model.option` -> its value in each row, defaults included."""
    import pandas as pd

    parsed = {model: model_options.parse(model) for model in dict.fromkeys(table["model"])}
    written = {(name, key) for name, options in parsed.values() for key in options}
    values: dict[str, dict[str, Any]] = {model: {} for model in parsed}
    for name, key in sorted(written):
        default = plugins.written_defaults("models", name, Path.cwd()).get(key)
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


def _varied(options: "pd.DataFrame") -> dict[str, list[Any]]:
    """The options that have several values in some model or method, and these values."""
    return {name: values for name in options if len(values := options[name].dropna().unique().tolist()) > 1}


def _chosen(key: str | None, varied: Mapping[str, list[Any]], name: str) -> str:
    """Return the size. Raises ValueError if it is not one, or if several vary and none is named."""
    numbers = [one for one, values in varied.items() if all(_is_number(value) for value in values)]
    if key is not None and key not in varied:
        raise ValueError(f"{key} does not vary in {name}; {_listed(varied)}")
    chosen = [key] if key is not None else numbers
    if len(chosen) > 1:
        raise ValueError(f"several sizes vary in {name}: {', '.join(chosen)}; name one with --at KEY=SIZE")
    if not chosen or chosen[0] not in numbers:
        not_a_number = [one for one in varied if one not in numbers]
        if not_a_number:
            raise ValueError(f"{', '.join(not_a_number)} is not a positive number in every curve of {name}")
        raise ValueError(f"no size varies in {name}; {SIZES}")
    return chosen[0]


SIZES = "a size is a number that differs between models (ranker.depth=1,2,4), arms, or members of a family"


def _listed(varied: Mapping[str, Any]) -> str:
    return f"what varies is {', '.join(varied)}" if varied else SIZES


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _without(label: str, option: str) -> str:
    """A model or curve without one of its options."""
    return " ".join(word for word in label.split() if not word.startswith(f"{option}="))


def enough(points: "pd.DataFrame", axis: str) -> "pd.DataFrame":
    """Return the lines with at least three sizes. Raises ValueError if there are none."""
    import pandas as pd

    from analysis.stats.scale import LEAST_SIZES, LINE

    lines = [line for _, line in points.groupby(LINE, sort=False) if len(set(line["size"])) >= LEAST_SIZES]
    if not lines:
        sizes = ", ".join(f"{size:g}" for size in sorted(set(points["size"])))
        raise ValueError(f"a fit needs {LEAST_SIZES} sizes or more, got {axis}={sizes}")
    return pd.concat(lines, ignore_index=True)


def _points_of_family(name: str, members: "Sequence[FamilyMember]", key: str | None) -> "tuple[str, pd.DataFrame]":
    """The size is a number of the recipe or of the data's options."""
    import pandas as pd

    import analysis
    from analysis.stats.edges import fits

    tables, options = [], []
    for member in members:
        runs = analysis.load(member.folder) if study_exists(member.folder) else None
        if runs is None or runs.empty:
            continue
        study = read_definition(member.folder).study
        own = dataclasses.asdict(study.recipe) | {f"data.{k}": v for k, v in study.data_options.items() if k != "dir"}
        tables.append(edges_of(runs, fits(runs)))
        options.append(own)
    if not tables:
        raise ValueError(f"{name} has no runs yet")
    of_members = pd.DataFrame(options, dtype=object)
    varied = _varied(of_members.fillna(MISSING))
    axis = _chosen(key, varied, name)
    others = [other for other in varied if other != axis]
    if others:
        raise ValueError(
            f"several things vary in {name}: {', '.join([axis, *others])}; a fit needs members that differ in one"
        )
    points = [table.assign(size=float(size)) for table, size in zip(tables, of_members[axis], strict=True)]
    return axis, enough(pd.concat(points, ignore_index=True), axis)


MISSING = "default"
"""An option that a member of a family leaves at its default."""

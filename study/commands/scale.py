"""`study scale`: fit the edges of a record against a size, and predict the edge at a size that was not trained."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from study.commands import family, horizon, sizes
from study.definition import model_options
from study.storage import stores
from study.storage.stores import StorageError

if TYPE_CHECKING:
    import pandas as pd


def scale(folder: Path, at: str | None = None, over: str | None = None, *, as_json: bool = False) -> str:
    """Fit edges against the size that varies, write tables and a figure, and return the text.

    Args:
        folder: of a study, or of a family.
        at: `KEY=VALUE,...`: sizes to predict; None predicts none, and removes predictions of an earlier call.
        over: "steps": the size is the horizon, and the runs are judged anew at shorter ones.
        as_json: return JSON instead, and write nothing.

    Raises:
        ValueError: no size varies, several do, fewer than three sizes are recorded, or no edge was reached; or `at` is
            not valid.
    """
    from analysis.report import scale as page
    from analysis.stats.scale import scale_tables
    from analysis.text import scale as text

    key, targets = (None, ()) if at is None else parse_at(at)
    axis, points, doubling = _points(folder, key, over)
    _check(axis, points, targets)
    found = scale_tables(axis, points, targets, doubling)
    if as_json:
        return json.dumps(text.json_values(found), indent=1, allow_nan=False)
    sizes.remove_predictions(folder, page.name_of(found))
    try:
        paths, _ = page.write(folder, found)
    except OSError as error:
        raise StorageError(f"cannot write to {folder} ({error.strerror or error})") from error
    stores.publish(folder)
    return "\n".join([*text.lines(found), "", *(f"written: {path}" for path in paths)])


def _points(folder: Path, key: str | None, over: str | None) -> "tuple[str, pd.DataFrame, pd.DataFrame | None]":
    """Return the name of the size, the edges against it, and their last doubling if it is the horizon."""
    if over is not None:
        if key not in (None, horizon.AXIS):
            raise ValueError(f"--over {over} predicts at {horizon.AXIS}=N, got --at {key}")
        if family.is_family(folder):
            raise ValueError(f"--over {over} takes a study, and {stores.address(folder)} is a family")
        return horizon.AXIS, *horizon.over_steps(folder)
    if family.is_family(folder):
        return *sizes.of_members(*family.read_members(folder), key), None
    if key == horizon.AXIS:
        raise ValueError(f"{key} is the horizon of the runs; add --over {key}")
    return *sizes.of_folder(folder, key), None


def _check(axis: str, points: "pd.DataFrame", targets: Sequence[float]) -> None:
    """Raise ValueError if no edge was reached, or a size is a fraction of a whole number."""
    from analysis.stats.edges import REACHED

    if REACHED not in set(points["status"]):
        raise ValueError(f"no edge was reached at any {axis}: the tried learning rates do not contain one")
    fractions = [f"{size:g}" for size in targets if not size.is_integer()]
    if fractions and all(float(size).is_integer() for size in points["size"]):
        raise ValueError(f"{axis} is a whole number, got {', '.join(fractions)}")


def parse_at(text: str) -> tuple[str, tuple[float, ...]]:
    """Return the key and the sizes of `ranker.depth=12,24` or `ranker.depth=12,ranker.depth=24`. Raises ValueError."""
    key, _, values = (part.strip() for part in text.partition("="))
    if not key or not values:
        raise ValueError(f"--at takes KEY=SIZE,SIZE, got {text!r}")
    found = []
    for word in map(str.strip, values.split(",")):
        other, equals, value = word.rpartition("=")
        if equals and other.strip() != key:
            raise ValueError(f"--at takes sizes of one key, got {key} and {other.strip()}")
        word = value.strip()
        size = model_options.parse_value(key, word)
        if not sizes.is_size(size):
            raise ValueError(f"a size is a positive number below {sizes.LARGEST:g}, got {key}={word[:40]}")
        if size in found:
            raise ValueError(f"{key}={size:g} is given twice")
        found.append(float(size))
    return key, tuple(found)

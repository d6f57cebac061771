"""Compares the edges of two studies."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from study.api.result import AnyPath, Result
from study.config import to_json

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two studies beside each other.

    Attributes:
        edges: One row a curve that both have, with the same method, thresholds and options; columns model (`a and b` if
            the models differ), curve (of a), edge_a, edge_b, ratio (LR50 of b over that of a, NaN unless both were
            reached), low, high (its 95% interval), status, p.
        differences: What differs in their definitions: key -> (of a, of b).
    """

    edges: "pd.DataFrame"
    differences: Mapping[str, tuple[Any, Any]]

    def __repr__(self) -> str:
        changed = [f"  {key}: {a!r} and {b!r}" for key, (a, b) in self.differences.items()]
        return "\n".join([repr(self.edges), "differs:", *(changed or ["  nothing"])])

    def _repr_html_(self) -> str:
        from html import escape

        rows = [f"<li>{escape(f'{key}: {a!r} and {b!r}')}</li>" for key, (a, b) in self.differences.items()]
        return f"{self.edges._repr_html_()}<p>Differs:</p><ul>{''.join(rows) or '<li>nothing</li>'}</ul>"


def compare(a: "Result | AnyPath", b: "Result | AnyPath") -> Comparison:
    """Return LR50 of the curves that two studies share, their ratios (b over a), and what differs in the definitions.

    If each has one model, these are compared even if they differ. The studies are taken as independent: if they share
    seeds, the intervals are too wide rather than too narrow.

    Args:
        a, b: Results, or the folders of records.

    Raises:
        ValueError: The studies have no curve in common.
    """
    from analysis.loading import records, threshold_columns
    from analysis.stats.contrasts import edge_ratio, points
    from study.api.table import ResultTable

    a, b = (one if isinstance(one, Result) else Result(one) for one in (a, b))
    models = [list(dict.fromkeys(one.runs["model"])) for one in (a, b)]
    lone = len(models[0]) == len(models[1]) == 1
    thresholds = sorted({name for one in (a, b) for name in threshold_columns(one.runs)})
    of_b = {_same(row, thresholds, lone): row for row in records(b.edges())}
    rows = []
    for of_a in records(a.edges()):
        other = of_b.get(_same(of_a, thresholds, lone))
        if other is None:
            continue
        points_of_a, points_of_b = (
            points(one.fits[row["model"], row["curve"]]) for one, row in ((a, of_a), (b, other))
        )
        ratio = edge_ratio(other, of_a, points_of_b, points_of_a)
        edges = {"edge_a": of_a["edge"], "edge_b": other["edge"]}
        model = " and ".join(dict.fromkeys([of_a["model"], other["model"]]))
        rows.append({"model": model, "curve": of_a["curve"]} | edges | ratio)
    if not rows:
        raise ValueError(f"{a.study.name} and {b.study.name} have no curve in common")
    return Comparison(edges=ResultTable(rows), differences=dict(_differences(a, b)))


def _same(row: Mapping[str, Any], thresholds: Sequence[str], lone: bool) -> tuple[Any, ...]:
    """What makes a curve the same in two studies: its method, thresholds and options, and its model unless alone."""
    arm = tuple((name, row[name]) for name in thresholds if name in row and row[name] == row[name])  # NaN: has none
    return (None if lone else row["model"], row["method"], row["options"], arm)


def _differences(a: Result, b: Result) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Yield key, (of a, of b) of what differs in two definitions; a nested key as `recipe.batch`."""
    found_a, found_b = (dict(_flat(to_json(one.study)) | {"data content": one.content}) for one in (a, b))
    for key in dict.fromkeys([*found_a, *found_b]):
        if key == "data_options.dir":
            continue  # where the data lie; their content is compared
        # A definition leaves out some values at their default.
        both = found_a.get(key, "default"), found_b.get(key, "default")
        if both[0] != both[1]:
            yield key, both


def _flat(value: Mapping[str, Any], within: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat |= _flat(inner, f"{within}{key}.") if isinstance(inner, dict) else {f"{within}{key}": inner}
    return flat

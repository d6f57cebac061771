"""What MLflow shows of a study: the record as curves, cells and one run for the study itself.

Everything here is computed from the study's folder, times included, so that a rebuild gives the same view.
"""

import functools
import hashlib
import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from study.config import IMPORTED, Study, canonical_json, to_json
from study.record.confirmations import read_confirmations
from study.record.definition import Definition
from study.record.failures import read_failures
from study.record.files import read_beside, read_file

if TYPE_CHECKING:
    import pandas as pd

VIEW = 2
"""Increase it when the same record is to be shown in another way: every run is then written again."""

SHOWN_FILES = ("study.json", "report.html", "runs.parquet")
MOST_CELLS = 2_000
MOST_CURVES = 100
MOST_RATES = 10
"""Metrics of a cell that its curve shows too, the most important ones. With the answers, a page has 20 charts."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell as a run of MLflow. step: of the curve's charts; start: milliseconds since 1970.

    metrics: the most important ones first.
    """

    key: str
    name: str
    step: int
    metrics: dict[str, float]
    params: dict[str, str]
    seconds: float
    start: int


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A curve as a run of MLflow. missing: planned runs that are not recorded. nested: whether its cells are runs.

    answers: metrics of the curve alone; None leaves those that MLflow has, while runs are still missing.
    """

    key: str
    name: str
    params: dict[str, str]
    colour: str
    missing: int
    cells: tuple[Cell, ...]
    nested: bool
    start: int
    answers: dict[str, float] | None

    @functools.cached_property
    def content(self) -> str:
        """Hash of all that the run shows but its answers."""
        cells = [[c.key, c.name, c.step, c.metrics, c.params, c.seconds] for c in self.cells]
        alone = [] if self.nested else ["cells are no runs"]
        return content_hash([VIEW, self.key, self.name, self.params, self.colour, self.missing, cells, *alone])


@dataclass(frozen=True, kw_only=True)
class StudyRun:
    """The study itself as a run of MLflow. files: path inside the folder -> hash of its content."""

    key: str
    folder: Path
    name: str
    params: dict[str, str]
    tags: dict[str, str]
    files: dict[str, str]
    start: int

    @property
    def content(self) -> str:
        """Hash of all that the run shows."""
        return content_hash([VIEW, self.params, self.tags, self.files])


def build_view(folder: Path, definition: Definition, *, finished: bool) -> tuple[list[Curve], StudyRun | None]:
    """Return what MLflow should show: the curves, most important first, and the study (None before its first run).

    MLflow lists and draws the newest runs first. So the first curve starts last, the study before all curves, and the
    cells before the study. Without curves where there are more than MOST_CELLS: each takes MLflow as long as a cell.
    """
    import analysis
    from analysis.loading import CURVE

    runs = analysis.load(folder)
    if runs.empty:
        return [], None
    files = [*(folder / "runs").glob("*.parquet")] or [folder / "runs.parquet"]
    began = min(int(path.stat().st_mtime * 1000) for path in files)  # when the first runs were recorded
    answers = _answers(folder, definition, runs) if finished else None
    few = runs.groupby(CURVE).ngroups <= MOST_CELLS
    curves = _curves(definition, runs, began, answers) if few else []
    return curves, _study_run(folder, definition, runs, began)


def mlflow_name(text: str) -> str:
    """Return a name that MLflow accepts: letters, digits, and _ - . / space."""
    return re.sub(r"[^\w\-. /]", "_", text, flags=re.ASCII)


def content_hash(content: Any) -> str:
    """Return a hash of a JSON value."""
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()[:32]


def lr_steps(lrs: Sequence[float]) -> list[int]:
    """Return the step of each learning rate, ascending: 1000 log10(lr / 1e-6), so 3000 is 0.001, and 6000 is 1.

    MLflow's axis of steps is linear. Two rates on the same step are put on neighbouring ones.
    """
    steps: list[int] = []
    for lr in lrs:
        step = round(1000 * math.log10(lr / 1e-6))
        steps.append(max(step, steps[-1] + 1) if steps else step)
    return steps


def _curves(
    definition: Definition,
    runs: "pd.DataFrame",
    began: int,
    answers: Mapping[tuple[str, str], dict[str, float]] | None,
) -> list[Curve]:
    import analysis
    from analysis.loading import CELL, CURVE, threshold_columns

    study = definition.study
    tasks = [task["name"] for task in definition.data["tasks"]]
    thresholds = threshold_columns(runs)
    planned_cells = 0 if study.search else study.cells
    scores = analysis.quality(runs, definition).set_index(CELL).to_dict("index")
    rates: dict[tuple[str, str], list[Any]] = defaultdict(list)
    for rate in analysis.divergence_rates(runs).to_dict("records"):
        rates[rate["model"], rate["curve"]].append(rate)
    order = sorted(rates, key=lambda pair: study.models.index(pair[0]))
    groups: dict[Any, pd.DataFrame] = dict(iter(runs.groupby(CURVE)))
    colours = _colours([groups[pair]["method"].iloc[0] for pair in order])

    curves = []
    for rank, ((model, label), colour) in enumerate(zip(order, colours, strict=True)):
        group: Any = groups[model, label]
        params = {"study": study.name, "model": model} | arm_params(group.iloc[0].to_dict(), thresholds)
        key, of_curve = content_hash([model, params]), rates[model, label]
        grid = () if study.trainer == IMPORTED else _lrs_of(study, group)
        plan = {(lr, seed) for lr in grid for seed in study.seeds}
        seconds = group["seconds"].fillna(0).groupby(group["lr"]).sum().to_dict()
        cells = tuple(
            Cell(
                key=content_hash([key, rate["lr"]]),
                name=f"{model} · {label} · lr {rate['lr']:.6g}",
                step=step,
                metrics=_metrics(rate, scores[model, label, rate["lr"]], tasks),
                params=params | {"lr": f"{rate['lr']:.12g}"},
                seconds=round(seconds[rate["lr"]], 3),
                start=began - (rank + 1) * 10_000 - place,
            )
            for place, (rate, step) in enumerate(zip(of_curve, lr_steps([r["lr"] for r in of_curve]), strict=True))
        )
        curves.append(
            Curve(
                key=key,
                name=f"{model} · {label}",
                params=params,
                colour=colour,
                missing=len(plan - set(zip(group["lr"], group["seed"], strict=True))),
                cells=cells,
                nested=max(planned_cells, len(scores)) <= MOST_CELLS,
                start=began + 100_000 - rank,
                answers=None if answers is None else answers.get((model, label), {}),
            )
        )
    return curves


def _study_run(folder: Path, definition: Definition, runs: "pd.DataFrame", began: int) -> StudyRun:
    study = definition.study
    missing = len(read_failures(folder)) if study.trainer == IMPORTED else _missing(study, runs)
    counts = {"runs": len(runs), "diverged": (runs["outcome"] == "diverged").sum(), "missing": missing}
    axes = {"models": study.models, "methods": dict.fromkeys(arm.method for arm in study.arms)}
    axes |= {"lrs": study.lrs, "seeds": study.seeds}
    shown = [(name, content) for name in SHOWN_FILES if (content := read_file(folder, name)) is not None]
    of_folders = (read_beside(folder, *kind) for kind in (("tables", "csv"), ("figures", "png")))
    return StudyRun(
        key="study",
        folder=folder,
        name=f"study · {study.name}",
        params={"study": study.name, "data": study.data, "data_content": definition.data["content"]}
        | {f"recipe.{k}": str(v) for k, v in to_json(study.recipe).items()}
        | {f"rule.{k}": str(v) for k, v in to_json(study.rule).items()},
        # What grows with the study is a tag, since a parameter of MLflow cannot change.
        tags={name: str(int(count)) for name, count in counts.items()}
        | {name: ", ".join(map(str, values)) for name, values in axes.items()},
        files={name: hashlib.sha256(content).hexdigest() for name, content in chain(shown, *of_folders)},
        start=began,
    )


def _missing(study: Study, runs: "pd.DataFrame") -> int:
    """How many of the planned runs of cells are not among these."""
    from analysis.loading import CURVE

    grids = [(runs, study.lrs)]
    if any(arm.lrs for arm in study.arms):
        grids = [(group, _lrs_of(study, group)) for _, group in runs.groupby(CURVE)]
    in_plan = sum(len(group.loc[group["lr"].isin(lrs) & group["seed"].isin(study.seeds)]) for group, lrs in grids)
    return study.cells * len(study.seeds) - in_plan


def _lrs_of(study: Study, of_curve: "pd.DataFrame") -> tuple[float, ...]:
    """The lrs that the study plans for the curve of recorded runs."""
    if not any(arm.lrs for arm in study.arms):
        return study.lrs
    run = of_curve.iloc[0]
    alike = [arm for arm in study.arms if arm.method == run["method"]]
    for arm in alike:
        if study.run(run["data"], run["model"], arm, float(run["lr"]), int(run["seed"])).id == run["run_id"]:
            return study.lrs_of(arm)
    return study.lrs_of(alike[0]) if alike else study.lrs  # an older version may have written out a default


def _answers(folder: Path, definition: Definition, runs: "pd.DataFrame") -> dict[tuple[str, str], dict[str, float]]:
    """What the study found, (model, curve) -> metric -> value. Values that are not finite are left out."""
    from analysis.loading import CURVE
    from analysis.stats.contrasts import contrasts, first_planned
    from analysis.stats.edges import edges, fits
    from analysis.stats.missing import failed_runs
    from analysis.stats.recommend import recommend

    if runs.groupby(CURVE).ngroups > MOST_CURVES:
        return {}
    fitted, confirmations = fits(runs), read_confirmations(folder)
    ratios = contrasts(runs, definition, confirmations=confirmations, fitted=fitted)
    failed = failed_runs(folder, definition, runs)
    claims = recommend(runs, definition, confirmations=confirmations, fitted=fitted, failed=failed)
    found: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for table, columns in (
        (edges(runs, 0.5, fitted).to_dict("records"), {"edge": "LR50", "low": "LR50_low", "high": "LR50_high"}),
        (edges(runs, 0.05, fitted).to_dict("records"), {"edge": "LR05", "low": "LR05_low", "high": "LR05_high"}),
        (first_planned(ratios).values(), {"ratio": "ratio", "low": "ratio_low", "high": "ratio_high"}),
        (claims.to_dict("records"), {"lr": "claimed_lr"}),
    ):
        for row in table:
            for column, name in columns.items():
                value = float(row[column])
                # A low end of 0 means that there is none.
                if math.isfinite(value) and not (column == "low" and value == 0):
                    found[row["model"], row["curve"]][f"edges/{name}"] = float(f"{value:.6g}")
    return found


def arm_params(run: Mapping[Any, Any], thresholds: Sequence[str]) -> dict[str, str]:
    """Return method, thresholds and options of a run, as text."""
    options = json.loads(run["options"]) if run["options"] else {}
    written = {name: f"{run[name]:.12g}" for name in thresholds if not math.isnan(run[name])}
    written |= {name: value if isinstance(value, str) else json.dumps(value) for name, value in options.items()}
    return {"method": run["method"]} | written


def _colours(methods: Sequence[str]) -> list[str]:
    """`#rrggbb` for each curve: its method's colour, paler for each further curve of the same method."""
    from analysis.figures.palette import method_styles

    styles, number, seen = method_styles(methods), Counter(methods), Counter()
    colours = []
    for method in methods:
        colour, share = styles[method].colour, seen[method] / number[method]
        levels = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        colours.append("#" + "".join(f"{round(level + 0.8 * share * (255 - level)):02x}" for level in levels))
        seen[method] += 1
    return colours


def _metrics(rate: Mapping[Any, Any], scores: Mapping[Any, Any], tasks: list[str]) -> dict[str, float]:
    """The finite metrics of a cell: MLflow stores infinity as a number, and its pages fail on NaN."""
    values = {"divergence/rate": rate["rate"], "divergence/rate_low": rate["low"], "divergence/rate_high": rate["high"]}
    values |= {"divergence/runs": rate["n"], "micro/rate": rate["micro_rate"]}
    for name in ("kept", *(f"{score}_{task}" for task in tasks for score in ("auc", "rmse"))):
        values |= {f"quality/{name}": scores[name]} if name in scores else {}
    values["micro/undertrained"] = rate["undertrained"] / rate["n"]
    return {mlflow_name(k): float(f"{v:.6g}") for k, v in values.items() if math.isfinite(v)}

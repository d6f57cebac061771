"""The record of a study from Python: runs, tables, claims and figures."""

import functools
import numbers
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from study.commands.paths import study_folder
from study.config import Study
from study.record.definition import Definition, RecordError, read_definition
from study.text.wording import count, quoted

if TYPE_CHECKING:
    import pandas as pd

    from analysis.figures.own_axes import Axes

AnyPath = str | os.PathLike[str]

SHOWN_EDGES = 12
"""Edges that a notebook shows of a result."""


class Result:
    """The record of a study, as it was when it was opened. Open it again to see later runs.

    Every table is a `pandas.DataFrame` (a `study.api.table.ResultTable`) with the answer in its first columns. `low`
    and `high` are the ends of a 95% interval, `_q10` and `_q90` quantiles over seeds. A notebook shows it without the
    columns that are empty in all rows. What cannot be done is a ValueError; `study.RecordError` if the folder holds no
    record.

    Attributes:
        folder: Of the record.
        study: What was studied.
    """

    def __init__(self, folder: AnyPath) -> None:
        self.folder = study_folder(path_text(folder, "folder"))
        self._definition: Definition = read_definition(self.folder)

    @property
    def study(self) -> Study:
        return self._definition.study

    @property
    def runs(self) -> "pd.DataFrame":
        """One row a run of the study's cells: what it was, how it ended, and its held-out quality. It is yours."""
        from study.api.table import ResultTable

        return ResultTable(self._runs.copy())

    @functools.cached_property
    def _runs(self) -> "pd.DataFrame":
        import analysis

        return analysis.load(self.folder)

    def __getstate__(self) -> dict[str, Any]:
        """Return what identifies the record: what was read from it is read again."""
        return {"folder": self.folder, "_definition": self._definition}

    @property
    def content(self) -> str:
        """The SHA-256 of the data."""
        return str(self._definition.data["content"])

    @functools.cached_property
    def fits(self) -> dict[Any, Any]:
        """The fitted curves, by model and curve; see `analysis.stats.edges.fits`."""
        from analysis.stats.edges import fits

        return fits(self._runs)

    def losses(
        self,
        run_id: str | None = None,
        *,
        model: str | None = None,
        method: str | None = None,
        lr: float | None = None,
        seed: int | None = None,
    ) -> "pd.DataFrame":
        """Return the losses of runs at every logged step.

        Args:
            run_id: Of one run, or how it begins. None selects by the other arguments; without any, all runs.
            model, lr, seed: Of the runs.
            method: Their method or curve.

        Returns:
            One row a run, step and task; columns run_id, step, task, loss.

        Raises:
            ValueError: No run, or several runs for one `run_id`; or the record has no losses of theirs.
        """
        import numpy as np
        import pandas as pd

        from study.api.table import ResultTable
        from study.record.tables import read_losses

        ids = self._selected(run_id, model, method, lr, seed)
        kept = read_losses(self.folder, ids)
        if kept.empty:
            raise RecordError(f"{self.folder} has no losses of these runs; a published record has none")
        parts = [
            pd.DataFrame(
                {
                    "run_id": row["run_id"],
                    "step": np.arange(len(row["loss"])) if row["step"] is None else np.asarray(row["step"]),
                    "task": row["task"],
                    "loss": np.asarray(row["loss"]),
                }
            )
            for row in kept.to_dict("records")
        ]
        return ResultTable(pd.concat(parts, ignore_index=True))

    def _selected(
        self, run_id: str | None, model: str | None, method: str | None, lr: float | None, seed: int | None
    ) -> list[str]:
        runs = self._runs
        for name, value in (("run_id", run_id), ("model", model), ("method", method)):
            if not isinstance(value, str | None):
                raise ValueError(f"{name} is a text, got {value!r}")
        for name, value in (("lr", lr), ("seed", seed)):
            if isinstance(value, bool) or not isinstance(value, numbers.Real | None):
                raise ValueError(f"{name} is a number, got {value!r}")
        if run_id is not None:
            if any(value is not None for value in (model, method, lr, seed)):
                raise ValueError("give a run_id, or model, method, lr and seed")
            found = [known for known in runs["run_id"] if known.startswith(run_id)] if run_id else []
            if len(found) != 1:
                raise ValueError(f"{len(found)} runs of {self.folder} have an id that begins with {run_id!r}")
            return found
        for name, value in (("model", model), ("seed", seed)):
            if value is not None:
                runs = self._where(runs, runs[name] == value, name, value, runs[name])
        if lr is not None:
            near = (runs["lr"] / float(lr) - 1).abs() < 1e-6  # of any precision
            runs = self._where(runs, near, "lr", lr, runs["lr"])
        if method is not None:
            either = (runs["method"] == method) | (runs["curve"] == method)
            runs = self._where(runs, either, "method", method, runs["curve"])
        return runs["run_id"].tolist()

    @staticmethod
    def _where(runs: "pd.DataFrame", chosen: Any, name: str, value: Any, known: Iterable[Any]) -> "pd.DataFrame":
        if not chosen.any():
            raise ValueError(f"no run has the {name} {value!r}; there are {quoted(sorted(set(known)))}")
        return runs.loc[chosen]

    def rates(self) -> "pd.DataFrame":
        """Return P(divergence) of each cell: k of n runs, rate, and its 95% Wilson interval.

        See `analysis.divergence_rates`. The cells of an adaptive search are bins of a quarter of an octave or wider.
        """
        import analysis
        from study.api.table import ResultTable

        return ResultTable(analysis.divergence_rates(analysis.in_bins(self._runs)))

    def edges(self, level: float = 0.5) -> "pd.DataFrame":
        """Return the edge of each curve, the lr at which P(divergence) crosses `level`; see `analysis.edges`."""
        import analysis
        from study.api.table import ResultTable

        return ResultTable(analysis.edges(self._runs, level, self.fits))

    def quality(self) -> "pd.DataFrame":
        """Return the held-out quality of each cell; see `analysis.quality`."""
        import analysis
        from study.api.table import ResultTable

        return ResultTable(analysis.quality(analysis.in_bins(self._runs), self._definition))

    def contrasts(self, quality: str | None = None) -> "pd.DataFrame":
        """Return the ratio of the edges of each pair of curves; see `analysis.stats.contrasts.contrasts`."""
        from analysis.stats.contrasts import contrasts
        from study.api.table import ResultTable
        from study.record.confirmations import read_confirmations

        confirmations = read_confirmations(self.folder)
        return ResultTable(
            contrasts(self._runs, self._definition, confirmations=confirmations, quality=quality, fitted=self.fits)
        ).unless_empty("No row: no model has runs of two curves.")

    def across_models(self) -> "pd.DataFrame":
        """Return how each method moves the edge over all models; see `analysis.stats.across_models`."""
        from analysis.stats.across_models import across_models
        from study.api.table import ResultTable

        return ResultTable(across_models(self._runs, self.contrasts())).unless_empty(
            "No row: a method and what it is compared with need runs of the same lrs, two or more, in two models."
        )

    def frontier(self, level: float = 0.5) -> "pd.DataFrame":
        """Return the edge of each curve by the threshold that varies; see `analysis.frontier`."""
        import analysis
        from study.api.table import ResultTable

        return ResultTable(analysis.frontier(self._runs, level, self.fits))

    def tradeoff(self, quality: str | None = None) -> "pd.DataFrame":
        """Return held-out quality against P(divergence) of each cell, and the Pareto front; see `analysis.tradeoff`."""
        import analysis
        from study.api.table import ResultTable

        return ResultTable(analysis.tradeoff(self._runs, self._definition, quality))

    def recommend(self, risk: float = 0.05, *, confidence: float = 0.95, quality: str | None = None) -> "pd.DataFrame":
        """Return the largest lr of each curve for which P(divergence) <= `risk` can be claimed, and what to confirm.

        See `analysis.stats.recommend.recommend`.
        """
        from analysis.stats.missing import failed_runs
        from analysis.stats.recommend import recommend
        from study.api.table import ResultTable
        from study.record.confirmations import read_confirmations

        found = recommend(
            self._runs,
            self._definition,
            confirmations=read_confirmations(self.folder),
            risk=risk,
            confidence=confidence,
            quality=quality,
            fitted=self.fits,
            failed=failed_runs(self.folder, self._definition, self._runs),
        )
        return ResultTable(found)

    def confirm(
        self,
        lr: float,
        *,
        seeds: str | Iterable[int] | None = None,
        method: str | None = None,
        model: str | None = None,
        risk: float = 0.05,
        confidence: float = 0.95,
        address: str | None = None,
        workers: int | None = None,
        accept_changed_code: bool = False,
    ) -> Self:
        """Train fresh seeds at one lr, to claim it, and return the record with them.

        Args:
            lr: The learning rate to claim.
            seeds: Named before they are trained, as `"100-158"` or numbers. None takes as many as the claim needs.
            method: A method or curve, or several separated by commas. None is all.
            model: A model, or several separated by commas. None is all.
            risk, confidence: Of the claim.
            address: Of a Ray cluster; None is this machine.
            workers: Trials at a time.
            accept_changed_code: Go on although a module of your own has changed since runs of it were recorded.
        """
        from study import plugins
        from study.commands.confirm import confirm
        from study.commands.recommend import Claim
        from study.commands.request import RunRequest
        from study.search.confirmation import ConfirmRequest

        check_requested(workers=workers, accept_changed_code=accept_changed_code, address=address)
        for name, value in (("method", method), ("model", model)):
            if not isinstance(value, str | None):
                raise ValueError(f"{name} is a text, several separated by commas, got {value!r}")
        plugins.add_script_folder()
        wanted = ConfirmRequest(lr=lr, seeds=seeds_text(seeds), methods=method, models=model)
        request = RunRequest(space="", address=address, workers=workers, accept_changed_code=accept_changed_code)
        confirm(self.folder, request, wanted, Claim(risk=risk, confidence=confidence))
        return type(self)(self.folder)

    def report(self) -> Path:
        """Write tables, figures and report.html into the folder, and return the path of the page."""
        from study.commands.report import report

        report(self.folder)
        return self.folder / "report.html"

    def save_figures(
        self, folder: AnyPath, formats: Sequence[str] = ("pdf", "svg", "png"), width: float = 3.3
    ) -> list[Path]:
        """Write all figures of the report for a paper, with letters of 8 points, and return their paths.

        Args:
            folder: Where to.
            formats: A figure has a file of each.
            width: Of a figure, in inches: 3.3 is a column of a paper.
        """
        from study.commands.report import save_figures

        return save_figures(self.folder, Path(path_text(folder, "folder")), formats, width)

    def latex(self, level: float = 0.5) -> str:
        """Return the edges as a booktabs table of LaTeX, with intervals and seeds."""
        from analysis.text.latex import edges_table

        return edges_table(self.edges(level))

    def plot_divergence(
        self,
        ax: "Axes | None" = None,
        *,
        model: str | None = None,
        level: float = 0.5,
        palette: Mapping[str, Any] | None = None,
        markers: Mapping[str, Any] | None = None,
    ) -> "Axes":
        """Draw P(divergence) against lr, with intervals and fitted curves.

        Args:
            ax: Where to draw; None is the current axes of pyplot.
            model: Which one; None if there is one.
            level: Of the edges.
            palette: Colour of each curve or method that is not to have its own.
            markers: The marker of each, likewise.
        """
        from analysis.figures.curves import draw_rates
        from analysis.figures.own_axes import own_styles, plain_axes
        from analysis.stats.edges import fitted_curves

        ax, model = plain_axes(ax), self._model(model)
        rates, edges = self._of(self.rates(), model), self._of(self.edges(level), model)
        runs = self._runs.loc[self._runs["model"] == model]
        draw_rates(ax, rates, fitted_curves(runs, fitted=self.fits), edges, own_styles(rates, palette, markers))
        return ax

    def plot_frontier(
        self,
        ax: "Axes | None" = None,
        *,
        threshold: str | None = None,
        model: str | None = None,
        level: float = 0.5,
        palette: Mapping[str, Any] | None = None,
        markers: Mapping[str, Any] | None = None,
    ) -> "Axes":
        """Draw the edge of a method against its threshold, beside that of `none`.

        Args:
            ax: Where to draw; None is the current axes of pyplot.
            threshold: `clippy rel`: a method and its threshold. None if one varies.
            model: Which one; None if there is one.
            level: Of the edges.
            palette: Colour of each method that is not to have its own.
            markers: The marker of each, likewise.

        Raises:
            ValueError: No such threshold varies.
        """
        from analysis.figures.frontier import draw_frontier
        from analysis.figures.own_axes import own_styles, plain_axes
        from analysis.figures.panels import threshold_lines

        ax, table = plain_axes(ax), self._of(self.frontier(level), self._model(model))
        lines = {f"{line['method'].iloc[0]} {line['threshold'].iloc[0]}": line for _, line in threshold_lines(table)}
        if threshold is None and len(lines) == 1:
            (threshold,) = lines
        if threshold not in lines:
            raise ValueError(f"threshold is one of those that vary: {', '.join(lines) or 'none does here'}")
        line = lines[threshold]
        style = own_styles(table, palette, markers, methods=True)[line["method"].iloc[0]]
        draw_frontier(ax, line, table.loc[table["curve"] == "none"], style)
        return ax

    def plot_tradeoff(
        self,
        ax: "Axes | None" = None,
        *,
        model: str | None = None,
        quality: str | None = None,
        palette: Mapping[str, Any] | None = None,
        markers: Mapping[str, Any] | None = None,
        legend: bool = True,
    ) -> "Axes":
        """Draw held-out quality against P(divergence), with the Pareto front.

        Points of several methods are shifted by up to 0.05 in P(divergence), so that equal rates are seen.

        Args:
            ax: Where to draw; None is the current axes of pyplot.
            model: Which one; None if there is one.
            quality: A column of `quality()`; None is that of the first task.
            palette: Colour of each method that is not to have its own.
            markers: The marker of each, likewise.
            legend: Whether one legend below all panels has the methods of a panel that is too small for them. Then its
                names are thresholds and lrs. It needs a figure with a constrained layout.
        """
        from analysis.figures.own_axes import own_styles, plain_axes
        from analysis.figures.tradeoff import draw_tradeoff

        ax, table = plain_axes(ax), self._of(self.tradeoff(quality), self._model(model))
        draw_tradeoff(ax, table, own_styles(table, palette, markers, methods=True), key=legend)
        return ax

    def plot_losses(
        self,
        run_id: str,
        ax: "Axes | None" = None,
        *,
        task: str | None = None,
        palette: Mapping[str, Any] | None = None,
        markers: Mapping[str, Any] | None = None,
    ) -> "Axes":
        """Draw the losses of a run over its steps, a line for each task.

        Args:
            run_id: Of the run, or how it begins.
            ax: Where to draw; None is the current axes of pyplot.
            task: The only one to draw.
            palette: Colour of each task that is not to have its own.
            markers: The marker of each, likewise.

        Raises:
            ValueError: No such run or task.
        """
        from analysis.figures.losses import draw_losses
        from analysis.figures.own_axes import own_styles, plain_axes

        losses = self.losses(run_id)
        tasks = list(dict.fromkeys(losses["task"]))
        if task is not None and task not in tasks:
            raise ValueError(f"no task {task!r}; there are {', '.join(tasks)}")
        ax, names = plain_axes(ax), losses.rename(columns={"task": "method"}).assign(curve=losses["task"])
        styles = own_styles(names.drop_duplicates("method"), palette, markers, methods=True)
        draw_losses(ax, losses if task is None else losses.loc[losses["task"] == task], styles)
        return ax

    def _model(self, model: str | None) -> str:
        known = list(dict.fromkeys(self._runs["model"]))
        if model is None and len(known) == 1:
            return known[0]
        if model is None or model not in known:
            raise ValueError(f"model is one of {', '.join(known)}, got {model!r}" if known else "no run is recorded")
        return model

    @staticmethod
    def _of(table: "pd.DataFrame", model: str) -> "pd.DataFrame":
        return table.loc[table["model"] == model]

    def __repr__(self) -> str:
        runs = count(len(self._runs), "run")
        curves = count(len(self._runs[["model", "curve"]].drop_duplicates()), "curve")
        return f"<Result of {self.study.name}: {runs}, {curves}, in {self.folder}>"

    def _repr_html_(self) -> str:
        from html import escape

        return f"<p>{escape(repr(self))}</p>{self.edges().head(SHOWN_EDGES)._repr_html_()}"


def open(folder: AnyPath) -> Result:
    """Return the record in a folder, or at a URL.

    Raises:
        RecordError: There is no record of one study.
    """
    return Result(folder)


def path_text(path: AnyPath, name: str) -> str:
    """Return a path as text. Raises ValueError for what is none."""
    if not isinstance(path, str | os.PathLike):
        raise ValueError(f"{name} is a path, got {path!r}")
    return os.fspath(path)


def check_requested(*, workers: int | None = None, accept_changed_code: bool = False, **texts: str | None) -> None:
    """Raise ValueError unless workers are counted, code is accepted or not, and the others, by name, are texts."""
    if not isinstance(accept_changed_code, bool):
        raise ValueError(f"accept_changed_code is True or False, got {accept_changed_code!r}")
    counted = isinstance(workers, numbers.Integral) and not isinstance(workers, bool) and workers >= 1
    if workers is not None and not counted:
        raise ValueError(f"workers needs a positive number, got {workers!r}")
    for name, value in texts.items():
        if not isinstance(value, str | None):
            raise ValueError(f"{name} is a text, got {value!r}")


def seeds_text(seeds: str | Iterable[int] | None) -> str | None:
    """Return seeds as the command line writes them."""
    if seeds is None or isinstance(seeds, str):
        return seeds
    if not isinstance(seeds, Iterable) or isinstance(seeds, bytes | bytearray) or getattr(seeds, "shape", None) == ():
        raise ValueError(f"seeds is a range or a list of whole numbers, such as range(4); got {seeds!r}")
    found = []
    for seed in seeds:
        if isinstance(seed, bool) or not isinstance(seed, numbers.Integral):
            raise ValueError(f"seeds are whole numbers, got {seed!r}")
        found.append(str(int(seed)))
    if not found:
        raise ValueError("seeds has no seed")
    if twice := [seed for seed, n in Counter(found).items() if n > 1]:
        raise ValueError(f"seeds names {twice[0]} twice")
    return ",".join(found)

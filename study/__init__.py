"""A study draws runs from search spaces, trains models, and records the outcome of each.

    from study import Arm, Monitor, Study, log_grid

    result = study.run("quick", out="results/quick")    # trains, and returns the record
    result = study.open("results/quick")                # what is recorded: result.runs, result.edges(), ...
    study.compare("results/a", "results/b")             # ratios of edges, and what differs in the definitions
    study.merge("results/a", "results/b", out="both")   # one record of a study that was trained in two folders

A result has, as tables and paths:

    study, folder, content                              # what was studied, where, and the hash of its data
    runs, losses(run_id), rates(), edges(level), fits   # runs, their losses, P(divergence), and the edge of each curve
    contrasts(), across_models(), frontier()            # which method moves the edge, and by how much
    quality(), tradeoff(), recommend(risk), confirm(lr) # what it costs, the lr that can be claimed
    plot_divergence(ax), plot_tradeoff(ax), plot_frontier(ax), plot_losses(run_id, ax)
    report(), latex(), save_figures(folder)             # report.html; a table and figures for a paper

What cannot be done is a ValueError; `RecordError` is one, of a folder that holds no record. docs/python.md has
every function. Importing this needs the standard library alone.
"""

from typing import TYPE_CHECKING, Any

from study.config import Arm, EdgeSearch, QualitySearch, Recipe, Rule, Study, log_grid
from study.definition.family import Family, Member, WeightsOf

if TYPE_CHECKING:
    from study.api.comparison import Comparison, compare
    from study.api.merging import merge
    from study.api.result import Result, open
    from study.api.running import run
    from study.loops.definition import Loop
    from study.monitor import Monitor
    from study.record.definition import RecordError

__version__ = "0.1.0"

LATER = {
    "Comparison": "study.api.comparison",
    "Loop": "study.loops.definition",
    "Monitor": "study.monitor",
    "RecordError": "study.record.definition",
    "Result": "study.api.result",
    "compare": "study.api.comparison",
    "merge": "study.api.merging",
    "open": "study.api.result",
    "run": "study.api.running",
}
"""Names that are imported when they are first used, since their modules take time."""

__all__ = [
    "Arm",
    "Comparison",
    "EdgeSearch",
    "Family",
    "Loop",
    "Member",
    "Monitor",
    "QualitySearch",
    "Recipe",
    "RecordError",
    "Result",
    "Rule",
    "Study",
    "WeightsOf",
    "compare",
    "log_grid",
    "merge",
    "open",
    "run",
]


def __dir__() -> list[str]:
    """Return all names, so that `help(study)` shows the functions that are imported later."""
    return sorted({*globals(), *LATER})


def __getattr__(name: str) -> Any:
    if name not in LATER:
        raise AttributeError(f"module 'study' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(LATER[name]), name)

"""A study draws runs from search spaces, trains models, and records the outcome of each.

    from study import Arm, Monitor, Study, log_grid

`Monitor` needs numpy, all else the standard library alone.
"""

from typing import TYPE_CHECKING, Any

from study.config import Arm, EdgeSearch, QualitySearch, Recipe, Rule, Study, log_grid
from study.definition.family import Family, Member, WeightsOf

if TYPE_CHECKING:
    from study.loops.definition import Loop
    from study.monitor import Monitor

__version__ = "0.1.0"

__all__ = [
    "Arm",
    "EdgeSearch",
    "Family",
    "Loop",
    "Member",
    "Monitor",
    "QualitySearch",
    "Recipe",
    "Rule",
    "Study",
    "WeightsOf",
    "log_grid",
]


def __getattr__(name: str) -> Any:
    if name == "Monitor":
        from study.monitor import Monitor

        return Monitor
    if name == "Loop":
        from study.loops.definition import Loop

        return Loop
    raise AttributeError(f"module 'study' has no attribute {name!r}")

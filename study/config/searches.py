"""What a search looks for, and with how many runs."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from study.config.checks import check_number, check_share, need, whole
from study.config.shown import code_html

JUDGED_FROM = 10**6
"""A search for the best quality tunes on smaller seeds, and judges its winners on seeds from here on."""


@dataclass(frozen=True, kw_only=True)
class EdgeSearch:
    """Find the edge of each curve (model and arm) by training where it is uncertain: `study.search.edge_search`.

    Each curve starts on the ladder `Study.lrs`. Its runs take one seed each, from the first of `Study.seeds` upward.

    Args:
        level: P(divergence) at the edge.
        precision: stop when the upper end of the 95% interval is at most this times its lower end.
        budget: most runs of a curve.
    """

    kind: ClassVar[str] = "edges"

    level: float = 0.5
    precision: float = 1.25
    budget: int = 320

    _repr_html_ = code_html

    def __post_init__(self) -> None:
        check_share(self.level, "level")
        check_number(self.precision, "precision")
        object.__setattr__(self, "budget", whole(self.budget, "budget"))
        need(1.02 <= self.precision < math.inf, f"need precision >= 1.02, got precision={self.precision:g}")
        need(self.budget >= 1, f"need budget >= 1, got budget={self.budget}")


@dataclass(frozen=True, kw_only=True)
class QualitySearch:
    """Find each arm's best quality where P(divergence) <= risk: `study.search.quality_search`.

    `Study.lrs` span the range of the lr. `Study.seeds` are those that a proposal is first trained with. Ranges are
    searched on a logarithmic scale.

    Args:
        ranges: method -> threshold -> (low, high). Equal ends fix a threshold; one without a range keeps its value.
        risk: largest share of a cell's runs that may diverge.
        task: the task whose gain is maximized; None is the first.
        budget: runs that tune an arm, the same for each.
        batch: cells of a round. A search spends its budget in whole rounds.
        judged: fresh seeds of each winner.
    """

    kind: ClassVar[str] = "quality"

    ranges: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)
    risk: float = 0.05
    task: str | None = None
    budget: int = 320
    batch: int = 8
    judged: int = 32

    _repr_html_ = code_html

    def __post_init__(self) -> None:
        check_number(self.risk, "risk")
        need(isinstance(self.task, str | None), f"task is the name of a task, got {self.task!r}")
        for name in ("budget", "batch", "judged"):
            object.__setattr__(self, name, whole(getattr(self, name), name))
        need(0 <= self.risk < 1, f"need 0 <= risk < 1, got risk={self.risk:g}")
        need(self.batch >= 2, f"need batch >= 2, got batch={self.batch}")
        need(self.budget >= 1, f"need budget >= 1, got budget={self.budget}")
        need(self.judged >= 2, f"need judged >= 2, got judged={self.judged}")
        need(isinstance(self.ranges, Mapping), f"ranges needs a dict, got {self.ranges!r}")
        for method, ranges in self.ranges.items():
            need(isinstance(ranges, Mapping), f"ranges of {method} needs a dict, got {ranges!r}")
            for name, ends in ranges.items():
                is_pair = isinstance(ends, tuple | list) and len(ends) == 2
                need(is_pair, f"{method}.{name} needs (low, high), got {ends!r}")
                low, high = ends
                for end in ends:
                    check_number(end, f"{method}.{name}")
                said = f"{method}.{name}={low:g},{high:g}"
                need(0 < low <= high and math.isfinite(high), f"need 0 < low <= high, got {said}")
        pairs = {m: {name: (float(a), float(b)) for name, (a, b) in own.items()} for m, own in self.ranges.items()}
        object.__setattr__(self, "ranges", pairs)  # JSON has lists, and whole numbers


Search = EdgeSearch | QualitySearch
SEARCHES: dict[str, type[Search]] = {search.kind: search for search in (EdgeSearch, QualitySearch)}

"""Published range tests, made by hand."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from analysis.findings import range_tests
from analysis.stats.range_rules import RULES


def write_range_rows(folder: Path, model: str, edges: Mapping[str, float]) -> None:
    """Write the range tests of three seeds of each curve, on both ramps of the figure.

    Each rule suggests a hundredth of the curve's edge. On the slow ramp the loss explodes at twice the edge. On the
    other ramp it never does, nor where the edge is infinite.
    """
    rows = []
    for ramp in (range_tests.SLOW, range_tests.LIGHTNINGS):
        for curve, edge in edges.items():
            explodes = 2 * edge if ramp is range_tests.SLOW else float("inf")
            suggested = dict.fromkeys(RULES, min(edge, 0.6) / 100) | {"explosion": explodes}
            rows += [
                {"model": model, "curve": curve, "method": curve, **ramp, "seed": seed, **suggested}
                for seed in range(3)
            ]
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(folder / range_tests.FILE, index=False)

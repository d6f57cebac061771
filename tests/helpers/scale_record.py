"""Records of a study whose edges follow a known power law in a size."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from records import make_definition, make_row

from study.config import Arm
from study.record.definition import Definition, open_study
from study.record.tables import write_trial

LRS = tuple(float(f"{lr:.3g}") for lr in np.geomspace(0.02, 5, 25))


def write_sizes(
    folder: Path,
    edges: Mapping[str, Mapping[str, float]],
    *,
    lrs: Sequence[float] = LRS,
    seeds: int = 8,
    spread: float = 0.03,
    name: str = "scale",
    options: Mapping[str, Mapping[str, float]] | None = None,
    **changes: Any,
) -> Definition:
    """Write a record: model -> method -> LR50. A seed diverges from a threshold of its own on, the same everywhere.

    options: model -> threshold columns of its arms, for a loop whose size is an option.
    """
    arms = tuple(Arm(method) for method in dict.fromkeys(method for own in edges.values() for method in own))
    values: dict[str, Any] = {
        "name": name,
        "models": tuple(edges),
        "arms": arms,
        "lrs": tuple(lrs),
        "seeds": tuple(range(seeds)),
    }
    definition = open_study(folder, make_definition(**values | changes))
    shift = np.random.default_rng(0).normal(0, spread, seeds)
    rows = []
    for model, own in edges.items():
        for method, edge in own.items():
            for seed in range(seeds):
                for lr in lrs:
                    diverged = lr >= edge * 10 ** shift[seed]
                    own_options = dict((options or {}).get(model, {}))
                    changed = {"study": name, "model": model, "method": method, "thresholds": json.dumps(own_options)}
                    changed |= {"outcome": "diverged" if diverged else "completed"}
                    changed |= {
                        "reason": "collapsed" if diverged else None,
                        "diverged_at_step": 3 if diverged else None,
                    }
                    run = definition.study.run(definition.data["content"], model, Arm(method, own_options), lr, seed)
                    rows.append(make_row(lr, seed, run_id=run.id, **changed))
    write_trial(folder, "all", rows, [])
    return definition


def power_law(
    sizes: Sequence[float], edge: float, exponent: float, key: str = "ranker depth", **methods: float
) -> dict:
    """Return model -> method -> LR50 for `write_sizes`. methods: edge at size 1 of each further method."""
    name, option = key.split()
    return {
        f"{name} {option}={size:g}": {m: e * size**exponent for m, e in ({"none": edge} | methods).items()}
        for size in sizes
    }


def points(
    sizes: Sequence[float],
    edges: Sequence[float],
    error: float | Sequence[float] = 0.03,
    *,
    curve: str = "none",
    level: float = 0.5,
    lr_max: float = math.inf,
    lr_min: float = 0.0,
) -> pd.DataFrame:
    """Return a line as `analysis.stats.scale` takes it. error: standard deviation of the log edges."""
    errors = np.broadcast_to(np.asarray(error, float), len(sizes))
    rows = []
    for size, edge, own in zip(sizes, edges, errors, strict=True):
        row = {"model": "ranker", "curve": curve, "level": level, "method": curve, "size": float(size), "edge": edge}
        row |= {"low": edge * math.exp(-1.96 * own), "high": edge * math.exp(1.96 * own), "status": "reached"}
        row |= {"lr_min": lr_min or 0.001, "lr_max": lr_max if math.isfinite(lr_max) else 100.0}
        if edge > lr_max:
            row |= {"edge": math.nan, "low": lr_max, "high": math.inf, "status": "not reached"}
        if edge < lr_min:
            row |= {"edge": math.nan, "low": 0.0, "high": lr_min, "status": "below the range"}
        rows.append(row)
    return pd.DataFrame(rows)

"""Which code of the user's own modules trained the recorded runs (`study.definition.own_code`)."""

import json

import pandas as pd


def code_of(row_code: object) -> dict[str, str]:
    """Return own module -> hash of its code, from the column `own_code` of one run; empty where none is recorded."""
    return json.loads(row_code) if isinstance(row_code, str) else {}


def code_counts(runs: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Return own module -> hash of its code -> number of runs, the most frequent first.

    Args:
        runs: One row a run. Runs of an older version have no hash, and count nowhere.
    """
    found: dict[str, dict[str, int]] = {}
    texts = runs["own_code"].dropna().value_counts() if "own_code" in runs else pd.Series(dtype="int64")
    for text, n in texts.items():
        for module, code in code_of(text).items():
            counts = found.setdefault(module, {})
            counts[code] = counts.get(code, 0) + int(n)
    return {module: dict(sorted(counts.items(), key=lambda c: -c[1])) for module, counts in found.items()}

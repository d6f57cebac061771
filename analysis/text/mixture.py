"""Sentences about a record whose runs were trained by different code, or on different processors."""

import pandas as pd

from study.record.recorded_code import code_counts
from study.text.wording import count

SHOWN = 12
"""Digits of a hash."""

ARCHITECTURES = ("x86_64", "AMD64", "aarch64", "arm64", "arm", "i386")
"""What older records hold in place of a processor's name."""


def mixture_notes(every: pd.DataFrame) -> list[str]:
    """Return both: what `code_notes` and `processor_notes` say, a paragraph each."""
    return [f"{note}." for note in code_notes(every)] + processor_notes(every)


def code_notes(every: pd.DataFrame) -> list[str]:
    """Return a sentence for each of the user's own modules whose runs were trained by several codes.

    Args:
        every: One row a run, including the control.
    """
    notes = []
    for module, codes in sorted(code_counts(every).items()):
        listed = ", ".join(f"{count(n, 'run')} by code {code[:SHOWN]}" for code, n in codes.items())
        notes += [f"{module} changed between the runs: {listed}"] if len(codes) > 1 else []
    return notes


def processor_notes(every: pd.DataFrame) -> list[str]:
    """Return a sentence where runs were trained on several types of processor; else nothing.

    Args:
        every: One row a run, including the control.
    """
    counts = {str(name): int(n) for name, n in every["device"].dropna().value_counts().items()}
    named = {name: n for name, n in counts.items() if name not in ARCHITECTURES}
    if len(named) < 2:
        return []
    listed = ", ".join(f"{count(n, 'run')} on {name}" for name, n in named.items())
    return [f"Trained on several types of processor: {listed}. Runs repeat bit for bit on one type alone."]

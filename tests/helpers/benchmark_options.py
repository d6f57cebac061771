"""What benchmarks share: the data that are asked for, and numbers in their output."""

import argparse
from pathlib import Path

from study import data
from study.data._dataset import Log


def log_of(asked: argparse.Namespace, cache: Path) -> Log:
    """Return the data that `--data`, `--data-dir` and `--rows` ask for. Raises ValueError."""
    of_kuairand = asked.data == "kuairand"
    options = {"dir": str(asked.data_dir.resolve())} if of_kuairand else {}
    options |= {"rows": asked.rows} if asked.rows else {}
    try:
        return data.load(asked.data, options, cache)
    except ValueError as error:
        hint = "; --data-dir names the folder that is read here" if of_kuairand else ""
        raise ValueError(f"{error}{hint}") from None


def digits(number: float) -> str:
    """Return a number with two significant digits, and all those before the point: `0.043`, `1,234`."""
    return f"{number:.2g}" if number < 10 else f"{number:,.0f}"

"""Published studies: the rows behind a page of findings, small enough for the repository.

    python -m analysis.findings.published DIR docs/results/NAME [--signals]

docs/results/NAME/
    study.json       the definition, without the folder of its data
    runs.parquet     one row a run, as `study report` writes it; no per-step losses
    gains.parquet    of a search for the best quality: the gain of each run (`analysis.stats.best.gains`)
    scale_*.csv      of a study or family for which `study scale --at` was called: its edges by size, predictions
    signals.parquet  with --signals: the signals that tables and figures use (`analysis.stats.signals.condensed`),
                     to four digits

A family has family.json and such a folder for each member.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.loading import FamilyMember, cells_of, read_family
from analysis.stats import signals
from analysis.stats.best import gains
from analysis.stats.scale import ScaleTables, scale_tables
from study.config import QualitySearch
from study.record.confirmations import read_confirmations
from study.record.definition import Definition, RecordError, copy_definition, read_definition, study_exists
from study.record.tables import read_losses

DIGITS = 4
"""Digits of a published signal: enough for statistics over runs, and a fraction of the bytes."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """A published study.

    Attributes:
        definition: The study.
        runs: One row a run, as `analysis.load` returns them.
        control: Number of runs of the control.
        tuned: Number of runs that a search used for tuning alone.
    """

    definition: Definition
    runs: pd.DataFrame
    control: int
    tuned: int


def read(folder: Path) -> Published:
    """Return a published study.

    Raises:
        RecordError: If there is none.
    """
    definition = read_definition(folder)
    every = every_run(folder)
    runs = cells_of(every, definition, read_confirmations(folder))
    control = (every["role"] == "control").tolist().count(True)
    tuned = len(every) - control - len(runs)
    return Published(definition=definition, runs=runs, control=control, tuned=tuned)


def read_gains(folder: Path) -> pd.DataFrame:
    """Return the gains of a search for the best quality: columns run_id, gain.

    Raises:
        RecordError: If none are published.
    """
    return _table(folder / "gains.parquet")


def every_run(folder: Path) -> pd.DataFrame:
    """Return one row a run, including tuning and control.

    Raises:
        RecordError: If there is no published study.
    """
    return _table(folder / "runs.parquet")


def read_signals(folder: Path) -> pd.DataFrame:
    """Return the signals of a study (`analysis.stats.signals.condensed`).

    Raises:
        RecordError: If none are published.
    """
    return _table(folder / "signals.parquet")


def read_scale(folder: Path) -> ScaleTables:
    """Return the edges of a study against a size, fitted anew, and predicted where `study scale --at` predicted them.

    Raises:
        RecordError: If none are published.
    """
    try:
        points, predicted = (pd.read_csv(folder / file) for file in SCALE_FILES)
    except (OSError, ValueError) as error:
        raise RecordError(f"cannot read the edges by size in {folder} ({error})") from error
    points["high"] = points["high"].fillna(math.inf)
    return scale_tables(str(points["axis"].iloc[0]), points, sorted(set(predicted["size"])))


SCALE_FILES = ("scale_points.csv", "scale_predictions.csv")


def _table(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise RecordError(f"cannot read {path} ({error})") from error


def is_family(folder: Path) -> bool:
    return (folder / "family.json").is_file()


def family_members(folder: Path) -> list[FamilyMember]:
    """Return the members of a published family.

    Raises:
        RecordError: If there is none.
    """
    return read_family(folder)[1]


def publish(study: Path, into: Path, *, with_signals: bool = False) -> None:
    """Copy what a page needs of a study or of a family.

    Args:
        study: The folder of the study or family, which has a report.
        into: The folder to write.
        with_signals: Whether to publish its signals.

    Raises:
        RecordError: If there is no report; nothing is written then.
    """
    if is_family(study):
        members = [m for m in read_family(study)[1] if study_exists(m.folder)]
        for member in members:
            _rows_of(member.folder)
        for member in members:
            publish(member.folder, into / member.label)
        (into / "family.json").write_bytes((study / "family.json").read_bytes())
        _copy_scale(study, into)
        return
    rows = _rows_of(study)
    watched = signals.watched(study) if with_signals else None
    definition, every, gain = read_definition(study), pd.read_parquet(rows), None
    if isinstance(definition.study.search, QualitySearch):
        gain = gains(every, read_losses(study), definition)
    into.mkdir(parents=True, exist_ok=True)
    copy_definition(study, into)
    _write(every, into / "runs.parquet")
    _copy_scale(study, into)
    if gain is not None:
        _write(pd.DataFrame({"run_id": list(gain), "gain": list(gain.values())}), into / "gains.parquet")
    if watched is not None:
        write_signals(watched, into)


def _copy_scale(study: Path, into: Path) -> None:
    files = [study / "tables" / name for name in SCALE_FILES]
    for file in files if all(file.is_file() for file in files) else ():
        (into / file.name).write_bytes(file.read_bytes())


def write_signals(watched: pd.DataFrame, into: Path) -> None:
    """Publish signals, as `analysis.stats.signals.watched` returns them."""
    _write(_rounded(signals.condensed(watched)), into / "signals.parquet")


def _write(table: pd.DataFrame, path: Path) -> None:
    table.to_parquet(path, index=False, compression="zstd", compression_level=19)


def _rows_of(study: Path) -> Path:
    rows = study / "runs.parquet"
    if not rows.is_file():
        raise RecordError(f"{study} has no runs.parquet; study report {study} writes it")
    return rows


def _rounded(table: pd.DataFrame) -> pd.DataFrame:
    """The signals with `DIGITS` digits, as float32."""
    rounded = table.copy()
    for name in (name for name in signals.SIGNALS if name != "lr"):
        values = table[name].to_numpy(dtype=float, na_value=np.nan)
        rounded[name] = np.array([float(f"{value:.{DIGITS}g}") for value in values], dtype=np.float32)
    return rounded


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.findings.published", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("study", type=Path, metavar="DIR", help="a study's or a family's folder")
    parser.add_argument("into", type=Path, metavar="PATH", help="where to publish it")
    parser.add_argument("--signals", action="store_true", help="publish the signals of study signals too")
    options = parser.parse_args(arguments)
    try:
        publish(options.study, options.into, with_signals=options.signals)
    except (OSError, ValueError) as error:
        print(f"published: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

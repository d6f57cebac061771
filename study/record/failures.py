"""`failures/`: why runs are missing."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from study.record import checksums, files, validation
from study.record.tables import recorded_ids
from study.storage import stores


def write_failure(folder: Path, trial: str, run_ids: Sequence[str], reason: str) -> None:
    """Record why the runs of a trial are missing. They stay missing until a later trial records them."""
    content = checksums.json_bytes({"run_ids": list(run_ids), "reason": reason})
    stores.store_for(folder).put(f"failures/{trial}.json", content)


def read_failures(folder: Path, recorded: Collection[str] | None = None) -> dict[str, str]:
    """Return run id -> reason for every run that failed and was not recorded since.

    Args:
        folder: the study's folder.
        recorded: ids of the recorded runs, if the caller has them.
    """
    reasons: dict[str, str] = {}
    for _, content in files.read_each(folder, "failures", "json", _parse):
        reasons |= content
    done = recorded_ids(folder) if recorded is None else recorded
    return {run: reason for run, reason in reasons.items() if run not in done}


def _parse(content: bytes) -> dict[str, str]:
    found: dict[str, Any] = checksums.read_json(content)
    validation.validate_failure(found)
    return dict.fromkeys(map(str, found["run_ids"]), str(found["reason"]))

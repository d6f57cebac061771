"""`failures/`: why runs are missing."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from study.config import Run
from study.record import checksums, files, validation
from study.record.tables import recorded_ids
from study.storage import stores
from study.text.console import MAX_LINE_LENGTH, one_line


@dataclass(frozen=True, kw_only=True)
class FailedRun:
    """A run that failed and was not recorded since.

    Args:
        run_id: its id.
        reason: why it is missing, in a line that may be cut.
        about: its model, method, options, lr and seed; empty in a file of an older version.
    """

    run_id: str
    reason: str
    about: Mapping[str, Any] = field(default_factory=dict)


def write_failure(folder: Path, trial: str, runs: Sequence[Run | str], reason: str) -> None:
    """Record why the runs of a trial are missing. They stay missing until a later trial records them.

    Args:
        folder: the study's folder.
        trial: names the file.
        runs: the runs. Ids are enough for planned runs, but not for those of a search, whose lrs no plan holds.
        reason: why they failed.
    """
    content: dict[str, Any] = {"run_ids": [run if isinstance(run, str) else run.id for run in runs], "reason": reason}
    known = [run for run in runs if isinstance(run, Run)]
    if known:
        content["runs"] = [
            {"model": run.model, "method": run.method, "options": run.options, "lr": run.lr, "seed": run.seed}
            for run in known
        ]
    stores.store_for(folder).put(f"failures/{trial}.json", checksums.json_bytes(content))


def read_failures(folder: Path, recorded: Collection[str] | None = None) -> dict[str, str]:
    """Return run id -> reason for every run that failed and was not recorded since.

    Args:
        folder: the study's folder.
        recorded: ids of the recorded runs, if the caller has them.
    """
    return {run.run_id: run.reason for run in read_failed_runs(folder, recorded)}


def read_failed_runs(folder: Path, recorded: Collection[str] | None = None) -> list[FailedRun]:
    """Return every run that failed and was not recorded since, once.

    Args:
        folder: the study's folder.
        recorded: ids of the recorded runs, if the caller has them.
    """
    runs = {run.run_id: run for _, found in files.read_each(folder, "failures", "json", parse) for run in found}
    done = (recorded_ids(folder) if recorded is None else recorded) if runs else ()
    return [run for run_id, run in runs.items() if run_id not in done]


def parse(content: bytes) -> list[FailedRun]:
    """Return the runs of a file of `failures/`. Raises ValueError if it is bad."""
    found: dict[str, Any] = checksums.read_json(content)
    validation.validate_failure(found)
    return list(_runs(found))


def _runs(found: Mapping[str, Any]) -> Iterator[FailedRun]:
    abouts = found.get("runs") or [{}] * len(found["run_ids"])
    reason = one_line(found["reason"])[:MAX_LINE_LENGTH]
    for run_id, about in zip(found["run_ids"], abouts, strict=True):
        yield FailedRun(run_id=str(run_id), reason=reason, about=about)

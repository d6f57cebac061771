"""The user's own modules that changed since the runs of a record were trained (`study.definition.own_code`)."""

from pathlib import Path
from typing import TYPE_CHECKING

from study.config import Study, control_of, runs_of
from study.definition.own_code import SHOWN
from study.record import tables
from study.record.confirmations import read_confirmations
from study.record.definition import study_exists
from study.record.recorded_code import code_counts
from study.text.wording import count
from study.trainers.protocol import Trainer

if TYPE_CHECKING:
    import pandas as pd

ACCEPT = "--accept-changed-code"


def refuse(folder: Path, study: Study, trainer: Trainer, *, accepted: bool, confirms: bool = False) -> None:
    """Raise ValueError if new runs of a study would share its cells with runs that other code trained.

    Args:
        folder: the study's folder.
        study: what is to be trained.
        trainer: of the study.
        accepted: whether the user accepts that.
        confirms: whether fresh seeds are to be trained.
    """
    if accepted or not trainer.own_code_of(study) or not study_exists(folder):
        return
    runs = tables.read_runs(folder)
    if (changed := changes(study, trainer, runs)) and (confirms or not _is_whole(folder, study, trainer, runs)):
        ways = f"train into another folder (study run --out), or mix both with {ACCEPT}"
        raise ValueError(f"{'; '.join(changed)}: {ways}")


def _is_whole(folder: Path, study: Study, trainer: Trainer, runs: "pd.DataFrame") -> bool:
    """Return whether all runs of a study and its confirmations are recorded; False for a search, which may go on."""
    if study.search:
        return False
    parts = [study, *(earlier.part_of(study) for earlier in read_confirmations(folder))]
    planned = [run.id for part in parts for run in runs_of(part, trainer.content)]
    return set(runs["run_id"]).issuperset([*planned, *(run.id for run in control_of(study, trainer.content))])


def changes(study: Study, trainer: Trainer, runs: "pd.DataFrame") -> list[str]:
    """Return a clause for each own module that a study needs, and whose code trained none of the recorded runs.

    Where some of the runs have the present code, the change was accepted before: the report says so.
    """
    recorded, found = code_counts(runs), []
    for module, now in trainer.own_code_of(study).items():
        codes = recorded.get(module, {})
        if codes and now not in codes:
            then = ", ".join(f"{count(n, 'run')} by code {code[:SHOWN]}" for code, n in codes.items())
            found.append(f"{module} changed: {then} recorded, and its code is {now[:SHOWN]} now")
    return found

"""`study confirm`: train fresh seeds at one learning rate, and say what they claim."""

from pathlib import Path

from study.commands.imported_study import is_of_arm
from study.commands.paths import typed_command, typed_path
from study.commands.recommend import Claim, recommend
from study.commands.request import RunRequest, validate_study
from study.commands.run import train
from study.config import IMPORTED
from study.config.shown import arm_label
from study.record.confirmations import Confirmation, write_confirmation
from study.record.definition import Definition, check_not_a_view, read_definition
from study.record.tables import check_not_published, recorded_ids
from study.search.confirmation import ConfirmRequest
from study.storage.lock import locked
from study.storage.stores import cache_folder
from study.text.console import show
from study.text.wording import count
from study.trainers.protocol import open_trainer


def confirm(folder: Path, request: RunRequest, wanted: ConfirmRequest, claim: Claim) -> Path:
    """Choose fresh seeds, train them, report, and print the claim. Returns the study's folder.

    Of an imported record, it prints which runs the user has to train.

    Args:
        folder: the study's folder.
        request: where and how to train.
        wanted: what to confirm.
        claim: risk and confidence.
    """
    from analysis.stats import recommend as statistics
    from study.search import confirmation as confirmations

    definition = read_definition(folder)
    statistics.checked(definition, claim.risk, claim.confidence, claim.quality)
    study = validate_study(definition.study)
    confirmation = confirmations.named(folder, definition, wanted, risk=claim.risk, confidence=claim.confidence)
    notes = (
        confirmations.above_all(folder, definition, confirmation),
        confirmations.too_few(confirmation, claim.risk, claim.confidence),
    )
    for note in filter(None, notes):
        show(note)
    if study.trainer == IMPORTED:
        show(_name_only(folder, definition, confirmation))
        return folder
    train(request, study, open_trainer(study, cache_folder()), folder, confirmation)
    show(f"\n{recommend(folder, claim)}")
    return folder


def _name_only(folder: Path, definition: Definition, confirmation: Confirmation) -> str:
    """Write a confirmation of an imported record, and return which runs the user has to train and import."""
    from analysis.report.numbers import ranges

    check_not_a_view(folder)
    check_not_published(folder)
    with locked(folder):
        write_confirmation(folder, confirmation)
    recorded = recorded_ids(folder)
    lines = []
    for arm in confirmation.arms:
        seeds = [run.seed for run in confirmation.runs(definition) if is_of_arm(run, arm) and run.id not in recorded]
        if seeds:
            fresh = ranges(seeds).replace(" ", "")
            runs = count(len(seeds), "run")
            lines.append(f"  {arm_label(arm)}: lr {confirmation.lr:g}, seeds {fresh} ({runs})")
    shown = typed_path(folder)
    if not lines:
        return f"all runs of this confirmation are recorded; {typed_command()} recommend {shown} judges them"
    return "\n".join(
        [
            "Train these runs, named now, and import them:",
            *lines,
            f"  {typed_command()} import FILE ... --out {shown}    (options as in the first import)",
        ]
    )

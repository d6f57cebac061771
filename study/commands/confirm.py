"""`study confirm`: train fresh seeds at one learning rate, and say what they claim."""

from pathlib import Path

from study.commands.recommend import Claim, recommend
from study.commands.request import RunRequest, validate_study
from study.commands.run import train
from study.record.definition import read_definition
from study.search.confirmation import ConfirmRequest
from study.storage.stores import cache_folder
from study.trainers.protocol import open_trainer


def confirm(folder: Path, request: RunRequest, wanted: ConfirmRequest, claim: Claim) -> Path:
    """Choose fresh seeds, train them, report, and print the claim. Returns the study's folder.

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
    if note := confirmations.too_few(confirmation, claim.risk, claim.confidence):
        print(note, flush=True)
    train(request, study, open_trainer(study, cache_folder()), folder, confirmation)
    print(f"\n{recommend(folder, claim)}")
    return folder

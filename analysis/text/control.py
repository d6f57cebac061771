"""Sentences about a control that gave no reference, so that the study stopped."""

from pathlib import Path

import pandas as pd

from study.config import IMPORTED, control_of
from study.record import tables
from study.record.definition import Definition, RecordError
from study.record.references import references


def control_notes(definition: Definition, folder: Path, every: pd.DataFrame) -> list[str]:
    """Return a sentence for each model whose study stopped after its control, and the ways on.

    Args:
        definition: The study.
        folder: Its folder.
        every: One row a run, including the control.
    """
    study, data, notes = definition.study, definition.data, []
    recorded = set(every["run_id"])
    began = set(every.loc[every["role"] == "cell", "model"])
    controls = {
        model: [run.id for run in control_of(study, data["content"], [model])]
        for model in (study.models if study.trainer != IMPORTED else ())
        if model not in began
    }
    whole = {model: ids for model, ids in controls.items() if recorded.issuperset(ids)}
    losses = tables.read_losses(folder, [run for ids in whole.values() for run in ids]) if whole else None
    for model in whole:
        try:
            references(study, data, folder, [model], losses=losses, runs=every)
        except RecordError:
            continue  # its losses are not there
        except ValueError as error:
            notes.append(f"{model}: the study stopped after its control: {error}.")
    if notes:
        also = "" if began else ", or delete the folder, which holds runs of the control alone"
        notes.append(f"A study keeps its recipe, rule and control_lrs: for the change choose another --out{also}.")
    return notes

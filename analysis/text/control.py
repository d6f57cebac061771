"""Sentences about a control that gave no reference, so that the study stopped, or a weak one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from study.config import IMPORTED, Study
from study.record import tables
from study.record.definition import Definition, RecordError
from study.record.references import control_ids, references

MUCH = 2.0
"""Share of the reference gain: where the median run of a cell keeps more, the control learned too little."""

ERRORS = 3.0
"""Gains are noisy where `Rule.kept` is fewer standard errors of g."""


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
        model: control_ids(study, data["content"], model, recorded)
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
        notes.append(f"A study keeps its recipe, rule and control_lrs: for the change choose another folder{also}.")
    return notes


def reference_notes(
    study: Study, every: pd.DataFrame, scored: pd.DataFrame, reference: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """Return a sentence for each model whose control learned little beside its runs, or whose gains are noisy.

    Args:
        study: The study.
        every: One row a run, including the control.
        scored: `analysis.stats.quality.quality`.
        reference: Of the control, as in `analysis.report.page.write`.
    """
    notes, kept = [], study.rule.kept
    again = "A study keeps its settings, so choose another folder."
    for model, values in reference.items():
        ladder = every.loc[(every["role"] == "control") & (every["model"] == model), "lr"]
        most = float(scored.loc[scored["model"] == model, "kept"].max())
        if study.trainer != IMPORTED and most > MUCH:
            at, ways = "lr", ["more steps", "higher control_lrs (--set control_lrs=...)"]
            if values["lr"] == ladder.max():
                at, ways = "its highest lr,", ways[::-1]
            notes.append(
                f"{model}: the control learned little: runs keep up to {most:.2g} times its gain "
                f"({values['gain']:.2g}, at {at} {values['lr']:g}). So a run counts as diverged only below "
                f"{100 * kept / most:.2g}% of what others learn. Set {', or '.join(ways)}. {again}"
            )
        if values["noise"] is not None and ERRORS * (noise := values["noise"] / values["gain"]) > kept:
            notes.append(
                f"{model}: gains are noisy: the standard error of a run's g is {noise:.2g} of the reference gain, and "
                f"a run below {kept:g} of it counts as diverged. Single runs then diverge or not by chance, and micro "
                f"divergence is mostly noise. Use a larger batch. {again}"
            )
    return notes

"""`study merge`: records of one study, trained in several folders, become one."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from study.commands.paths import typed_command, typed_path
from study.config import IMPORTED, EdgeSearch, QualitySearch, canonical_json, control_of, untreated
from study.record import merging
from study.record.confirmations import confirmed_ids
from study.record.definition import (
    Definition,
    RecordError,
    check_not_a_view,
    merge_axes,
    read_definition,
    study_exists,
    with_plan,
    write_definition,
)
from study.record.recorded_code import code_counts
from study.record.references import next_control, references
from study.record.tables import check_not_published, read_runs
from study.storage import stores
from study.storage.lock import locked
from study.text.wording import count

if TYPE_CHECKING:
    import pandas as pd

MOST_APART = 0.01
"""How far the reference gains of two controls may be apart, as a share. Processors differ in the last bits alone."""


def merge(folders: Sequence[Path], out: Path, *, accept_changed_code: bool = False) -> str:
    """Record the runs of several folders in another one. The folders stay as they are. Returns what was done, as text.

    It can be interrupted, and repeated when the folders have more runs.

    Args:
        folders: of the studies. Of a run that several trained, the first one's row counts.
        out: a new folder, or one that such runs were merged into before.
        accept_changed_code: merge runs that different code of the user's own modules trained.

    Raises:
        ValueError: the studies differ in more than their axes, or in how their runs were trained. Nothing is written.
    """
    _check_folders(folders, out)
    planned = None if study_exists(out) else _planned(folders, accept_changed_code)  # a refusal makes no folder
    out.mkdir(parents=True, exist_ok=True)
    with locked(out):
        if planned is None or study_exists(out):  # read under the lock: another process may have changed it before
            check_not_published(out)
            planned = _planned([out, *folders], accept_changed_code)
        united, tables, notes = planned
        tables = tables[-len(folders) :]
        notes += _trained_twice(tables)
        weights = merging.read_weights(folders)
        stores.probe(out)
        write_definition(out, with_plan(out, None, united))
        merging.write_weights(out, weights)
        for folder in folders:
            merging.copy_record(folder, out)
    return _summary(folders, out, tables, notes)


def _planned(every: Sequence[Path], accepted: bool) -> tuple[Definition, list["pd.DataFrame"], list[str]]:
    """The united definition, the runs of each folder, and notes. Raises ValueError if they cannot be merged."""
    definitions = [read_definition(folder) for folder in every]
    united = _united(every, definitions)
    tables = [read_runs(folder) for folder in every]
    # A bad file of a confirmation raises: it could hide one that failed.
    confirmed = set[str]().union(*map(confirmed_ids, every, definitions))
    _check_runs(every, definitions, tables, confirmed, accepted)
    return united, tables, [*_of_versions(definitions), *_of_controls(every, united, tables)]


def _check_folders(folders: Sequence[Path], out: Path) -> None:
    if len(folders) < 2:
        raise ValueError("a merge needs two folders or more, and another one for the new record")
    twice = [folder for folder, n in Counter(folders).items() if n > 1]
    if twice:
        raise ValueError(f"{stores.address(twice[0])} is named twice")
    if out in folders:
        raise ValueError(f"{stores.address(out)} is one of the folders, which stay as they are; choose another folder")
    for folder in (*folders, out):
        check_not_a_view(folder)
        if folder != out or study_exists(folder):
            check_not_published(folder)


def _united(folders: Sequence[Path], definitions: Sequence[Definition]) -> Definition:
    """The definition with the axes of all, and the plans of all, each with its own time."""
    united = definitions[0]
    for folder, definition in zip(folders[1:], definitions[1:], strict=True):
        advice = f"{stores.address(folder)} cannot be merged with it"
        united = merge_axes(united, definition, folders[0], advice)
        if _untreated_id(definition) != _untreated_id(united):
            arms = (untreated(one.study) for one in (united, definition))
            was, now = (canonical_json({"method": arm.method, **arm.options}) for arm in arms)
            raise RecordError(
                f"{stores.address(folders[0])} holds this study with another untreated arm (was {was}, is {now}), "
                f"which the control trains; {advice}"
            )
        if united.study.trainer == IMPORTED and definition.study.trainer_options != united.study.trainer_options:
            raise RecordError(f"{stores.address(folders[0])} and {stores.address(folder)} were imported in other ways")
    search = definitions[0].study.search
    if isinstance(search, QualitySearch) and isinstance(united.study.search, QualitySearch):
        search = dataclasses.replace(search, ranges=united.study.search.ranges)
    trainer_options = definitions[0].study.trainer_options
    study = dataclasses.replace(united.study, search=search, trainer_options=trainer_options)
    plans = sorted({plan for definition in definitions for plan in definition.plans})
    return dataclasses.replace(united, study=study, plans=tuple(plans))


def _untreated_id(definition: Definition) -> str:
    """The id of a run of the untreated arm. Where it is equal, all runs of the control are."""
    return definition.study.run(definition.data["content"], "any", untreated(definition.study), 1.0, 0).id


def _check_runs(
    folders: Sequence[Path],
    definitions: Sequence[Definition],
    tables: Sequence["pd.DataFrame"],
    confirmed: set[str],
    accepted: bool,
) -> None:
    """Raise ValueError if runs of several folders cannot stand in the same cells."""
    import pandas as pd

    from analysis.loading import threshold_columns

    known: dict[str, tuple[Path, set[str]]] = {}
    for folder, runs in zip(folders, tables, strict=True):
        for module, found in code_counts(runs).items():
            first, codes = known.setdefault(module, (folder, set(found)))
            if set(found) != codes and not accepted:
                raise ValueError(
                    f"{module} has other code in {stores.address(folder)} than in {stores.address(first)}; "
                    "merge them all the same with --accept-changed-code"
                )
    every: Any = pd.concat(tables)
    one_run = ["model", "method", "options", *threshold_columns(every), "lr", "seed"]
    ids = every.groupby(one_run, dropna=False)["run_id"].nunique()
    if twice := ids[ids > 1].index.tolist():
        model, method, *_, lr, seed = twice[0]
        raise ValueError(
            f"seed {seed} of {method} on {model} at lr {lr:g} has two ids, as of versions with other results, "
            "and would count twice; merge runs of one version"
        )
    if isinstance(definitions[0].study.search, EdgeSearch):
        # A confirmation is no part of the search, and may train one seed at several lrs.
        cells = every[(every["role"] == "cell") & ~every["run_id"].isin(list(confirmed))]
        lrs = cells.groupby(["model", "method", "options", *threshold_columns(cells), "seed"], dropna=False)[
            "lr"
        ].nunique()
        if several := lrs[lrs > 1].index.tolist():
            model, method, *_, seed = several[0]
            raise ValueError(
                f"the searches placed seed {seed} of {method} on {model} at several lrs: a curve has one run of a seed"
            )


def _of_versions(definitions: Sequence[Definition]) -> list[str]:
    """A note for each package of which the folders have several versions."""
    found: dict[str, dict[str, None]] = {}
    for definition in definitions:
        for name, version in definition.versions.items():
            found.setdefault(name, {})[version] = None
    return [f"note: trained with {name} {' and '.join(all_)}" for name, all_ in found.items() if len(all_) > 1]


def _of_controls(folders: Sequence[Path], united: Definition, tables: Sequence["pd.DataFrame"]) -> list[str]:
    """A note where the controls differ in bits. Raises ValueError where they learned another amount."""
    study, data, notes = united.study, united.data, []
    controls = {model: {run.id for run in control_of(study, data["content"], [model])} for model in study.models}
    found: dict[str, dict[Path, float]] = {model: {} for model in study.models}
    for folder, runs in zip(folders, tables, strict=True):
        recorded = set(runs["run_id"])
        whole = [model for model, control in controls.items() if control <= recorded]
        for model, reference in references(study, data, folder, whole, runs=runs).items():
            if not next_control(study, data["content"], model, reference, runs):  # else it judged nothing yet
                found[model][folder] = reference.gain
    for model, gains in found.items():
        low, high = min(gains.values(), default=0.0), max(gains.values(), default=0.0)
        if high - low > MOST_APART * high:
            told = ", ".join(f"{gain:.4g} in {stores.address(folder)}" for folder, gain in gains.items())
            raise ValueError(f"the control of {model} learned other amounts ({told}): the runs were judged differently")
        if high > low:
            notes.append(
                f"note: the control of {model} differs by {100 * (high / low - 1):.2g}% between folders, as on other "
                "kinds of processors; each run stays judged by its own, and new runs are by the first one's"
            )
    return notes


def _trained_twice(tables: Sequence["pd.DataFrame"]) -> list[str]:
    """A note on runs that several folders have: the first one's row counts."""
    outcomes: dict[str, object] = {}
    again, other = 0, 0
    for runs in tables:
        for run, outcome in zip(runs["run_id"], runs["outcome"].fillna(""), strict=True):
            again += run in outcomes
            other += outcomes.setdefault(run, outcome) != outcome
    if not again:
        return []
    differ = f"; {count(other, 'run')} of them ended otherwise in another folder" if other else ""
    return [f"note: {count(again, 'run')} in several folders, and counted once, as the first one recorded it{differ}"]


def _summary(folders: Sequence[Path], out: Path, tables: Sequence["pd.DataFrame"], notes: Sequence[str]) -> str:
    merged, shown = read_runs(out), typed_path(out)
    cells = merged["role"].tolist().count("cell")
    parts = ", ".join(
        f"{runs['role'].tolist().count('cell')} in {stores.address(folder)}"
        for folder, runs in zip(folders, tables, strict=True)
    )
    return "\n".join(
        [
            f"{read_definition(out).study.name}: {count(cells, 'run')} ({parts}), {len(merged) - cells} of the control",
            *notes,
            f"record: {shown}",
            f"  {typed_command()} report {shown}        {typed_command()} resume {shown} trains what no folder has",
        ]
    )

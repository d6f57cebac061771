"""The study that imported runs belong to: its axes, control, baseline and content."""

import dataclasses
import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from study.commands.import_request import ImportRequest
from study.commands.versions import versions
from study.config import CONTROL_SEEDS, IMPORTED, Arm, Run, Study, canonical_json, to_json
from study.loops.losses_table import History
from study.record.confirmations import Confirmation
from study.record.definition import Definition
from study.record.schema import check_tasks, check_thresholds
from study.record.validation import validate_study
from study.storage.untrusted_input import check_name

CONTROL_LRS = 3
"""The control is the first curve at so many of its lowest lrs."""


def definition_of(
    request: ImportRequest,
    name: str,
    tasks: Sequence[str],
    found: Sequence[History],
    cut: Sequence[str],
    horizon: int,
    earlier: Definition | None,
) -> Definition:
    """Return the definition of a new study, or the earlier one with the axes of these runs.

    Args:
        request: how runs are imported.
        name: of the source.
        tasks: names of the losses.
        found: the runs, each with a seed.
        cut: why each run is missing; empty if it is not.
        horizon: steps of a whole run.
        earlier: the definition of the record that the runs are added to; None for a new one.

    Raises:
        ValueError: the runs give no study, or the record was imported in another way.
    """
    arms = list({canonical_json(_arm_values(history.curve)): arm_of(history.curve) for history in found}.values())
    check_thresholds(sorted({n for arm in arms for n, v in arm.options.items() if not isinstance(v, str)}), "--curve")
    check_tasks(tasks)
    lrs, seeds = sorted({h.lr for h in found}), sorted({h.seed for h in found if h.seed is not None})
    how = {
        "planned": request.planned,
        "baseline": list(request.baseline) or ("column" if request.baseline_column else "first_losses"),
        "horizon": request.horizon,
        "ended": request.ended,
    }
    if earlier:
        _check_same(earlier, how, tasks)
        return dataclasses.replace(
            earlier,
            study=dataclasses.replace(
                earlier.study,
                arms=(*earlier.study.arms, *(arm for arm in arms if arm not in earlier.study.arms)),
                lrs=tuple(sorted({*earlier.study.lrs, *lrs})),
                seeds=tuple(sorted({*earlier.study.seeds, *seeds})),
            ),
        )
    if len(lrs) < 2:
        raise ValueError(f"the lr column {request.lr} is constant ({lrs[0]:g}); an edge needs runs at several lrs")
    control_lrs, control_seeds = _control_axes(found, cut)
    data = {
        "source": f"imported from {name}",
        "content": _content(found),
        "tasks": [
            {"name": task, "kind": "loss", "constant_loss": constant}
            for task, constant in zip(tasks, _constant_losses(request, found), strict=True)
        ],
    }
    first_step = min(int(history.step[0]) for history in found)
    name = request.name or name
    study = Study(
        name=name,
        models=(name,),
        arms=tuple(arms),
        lrs=tuple(lrs),
        seeds=tuple(seeds),
        trainer=IMPORTED,
        trainer_options=data | how | {"steps": horizon, "first_step": first_step, "control_seeds": control_seeds},
        control_lrs=control_lrs,
    )
    validate_study(to_json(study))
    return Definition(study=study, data=data, versions=versions())


def _check_same(earlier: Definition, how: Mapping[str, Any], tasks: Sequence[str]) -> None:
    if (known := [task["name"] for task in earlier.data["tasks"]]) != list(tasks):
        raise ValueError(f"the record has the losses {', '.join(known)}, not {', '.join(tasks)}")
    for option, value in how.items():
        if (was := earlier.study.trainer_options[option]) != value:
            if isinstance(value, bool):
                before = f"{'with' if was else 'without'} --{option}"
                raise ValueError(f"the record was imported {before}; do the same, or choose another folder")
            raise ValueError(
                f"the record was imported with {option} {was}, and now it is {value}; choose another folder"
            )


def _arm_values(curve: Mapping[str, Any]) -> list[Any]:
    return [[name, value] for name, value in curve.items()]


def arm_of(curve: Mapping[str, Any]) -> Arm:
    """Return the arm of a curve: the first text names it, and the other columns are its options."""
    named = next((name for name, value in curve.items() if isinstance(value, str)), None)
    options = {_short(name): value for name, value in curve.items() if name != named}
    return Arm("runs" if named is None else check_name(curve[named], f"a value of {named}"), options)


def _short(name: str) -> str:
    return name.removeprefix("params.").removeprefix("tags.")


def _content(found: Iterable[History]) -> str:
    """Return a hash of the runs. It enters their ids, and stays that of the first import."""
    digest = hashlib.sha256()
    for history in found:
        digest.update(canonical_json([_arm_values(history.curve), history.lr, history.seed]).encode())
        digest.update(history.step.tobytes() + history.loss.tobytes())
    return digest.hexdigest()


def _constant_losses(request: ImportRequest, found: Sequence[History]) -> list[float]:
    """Return the mean baseline of each task; 1 where it is the loss at initialization."""
    if request.baseline:
        return list(request.baseline)
    if not request.baseline_column:
        return [1.0] * len(request.loss)
    every = np.concatenate([history.baseline for history in found if history.baseline is not None])
    for column, values in zip(request.baseline_column, every.T, strict=True):
        if not np.isfinite(values).all() or values.mean() <= 0:
            raise ValueError(f"the column {column} is not a baseline: it must be finite, with a mean above 0")
    return [float(mean) for mean in every.mean(axis=0, dtype=np.float64)]


def _control_axes(found: Sequence[History], cut: Sequence[str]) -> tuple[tuple[float, ...], int]:
    """Return the lowest lrs at which the first curve has several runs, and how many runs of each are used."""
    first = _arm_values(found[0].curve)
    count: dict[float, int] = defaultdict(int)
    for history, why in zip(found, cut, strict=True):
        count[history.lr] += not why and _arm_values(history.curve) == first
    lrs = [lr for lr in sorted(count) if count[lr] >= 2][:CONTROL_LRS]
    if not lrs:
        raise ValueError("the control needs two or more runs of the first curve at one lr, and there are none")
    return tuple(lrs), min(len(CONTROL_SEEDS), *(count[lr] for lr in lrs))


def run_of(definition: Definition, history: History) -> Run:
    """Return the run of the study that an imported history is."""
    assert history.seed is not None
    study = definition.study
    return study.run(definition.data["content"], study.models[0], arm_of(history.curve), history.lr, history.seed)


def without_confirmed(
    definition: Definition, runs: Iterable[Run], earlier: Definition, confirmations: Iterable[Confirmation]
) -> Definition:
    """Return a definition without axes that only runs of confirmations have: they belong to no cell of the study.

    Args:
        definition: with the axes of all runs.
        runs: the imported runs.
        earlier: the definition before the import.
        confirmations: of the record.
    """
    named = {run.id for confirmation in confirmations for run in confirmation.runs(earlier)}
    own, old = [run for run in runs if run.id not in named], earlier.study
    study = dataclasses.replace(
        definition.study,
        arms=tuple(a for a in definition.study.arms if a in old.arms or any(is_of_arm(run, a) for run in own)),
        lrs=tuple(sorted({*old.lrs, *(run.lr for run in own)})),
        seeds=tuple(sorted({*old.seeds, *(run.seed for run in own)})),
    )
    return dataclasses.replace(definition, study=study)


def is_of_arm(run: Run, arm: Arm) -> bool:
    """Return whether a run is one of the arm."""
    return (run.method, run.options) == (arm.method, arm.options)

"""`study plan`: cells, runs, trials and expected time."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from study.commands import changed_code, search_start
from study.commands.progress import duration
from study.commands.recorded_lrs import recorded_lrs
from study.commands.remaining import RemainingWork, remaining_work
from study.commands.request import RunRequest, out_folder, study_and_trainer
from study.config import Arm, QualitySearch, Study, comparators, planned_contrasts
from study.config.shown import arm_label
from study.record import tables
from study.record.confirmations import read_confirmations
from study.record.definition import Definition, plan_hash, read_definition, study_exists, with_plan
from study.storage import stores
from study.storage.stores import cache_folder
from study.text.wording import count
from study.trainers.protocol import Trainer, open_trainer

if TYPE_CHECKING:
    import pandas as pd

START_UP_SECONDS = 12


def preview(request: RunRequest) -> str:
    """Return the text of `study plan`. Trains nothing, and writes only the cache of converted data."""
    return "\n".join(preview_lines(request))


def preview_lines(
    request: RunRequest, study: Study | None = None, *, weights_exist: bool = True, of_family: int = 0
) -> list[str]:
    """Return the lines of `preview`: a head, then lines that begin with a word.

    Args:
        request: the user's request.
        study: a study with the request applied; None is that of the search space.
        weights_exist: False if another study makes the weights from which its runs will start.
        of_family: contrasts that the members of its family plan; 0 if it belongs to none.
    """
    study, trainer = (study, open_trainer(study, cache_folder())) if study else study_and_trainer(request)
    folder = out_folder(request, study)
    study = recorded_lrs(study, folder)
    if not study.has_lrs:
        return _without_lrs(study, trainer, folder, of_family)
    exists = study_exists(folder)
    runs = tables.read_runs(folder) if exists else None
    recorded = set() if runs is None else set(runs["run_id"])
    parts = [study, *(confirmation.part_of(study) for confirmation in (read_confirmations(folder) if exists else []))]
    workers = request.workers or os.cpu_count() or 1
    work = remaining_work(parts, trainer, folder, recorded, workers=workers, stack=request.stack)
    data = trainer.description()
    before = read_definition(folder) if exists else None
    whole = with_plan(folder, before, Definition(study=study, data=data, versions={}))
    is_fixed = before is not None and whole.plans == before.plans
    head = [
        f"{study.name}: {_goal(study)} of {_methods(study.arms)}",
        f"  plan      {_fixed(whole, data, is_fixed) if weights_exist else 'fixed once its weights are made'}",
        *(f"  {word:9} {line}" for word, line in trainer.summary()),
        *([] if runs is None else _code(study, trainer, runs)),
    ]
    return [
        *head,
        *_counts(study, work),
        *_contrasts(study, of_family),
        *_outlook(work, workers, folder, trainer, runs),
    ]


def _without_lrs(study: Study, trainer: Trainer, folder: Path, of_family: int) -> list[str]:
    """The lines of a search that does not know yet where it begins."""
    search_start.check(study, trainer)
    arms = [arm for arm in study.arms if not study.lrs_of(arm)]
    ramp, curves = search_start.RAMP, count(len(study.models) * len(arms), "curve")
    return [
        f"{study.name}: {_goal(study)} of {_methods(study.arms)}",
        "  plan      fixed once range tests have set its lrs",
        *(f"  {word:9} {line}" for word, line in trainer.summary()),
        f"  lrs       around those at which the loss explodes in range tests of {curves} on this machine: 1 seed, "
        f"{ramp.steps} steps, lr {ramp.low:g} to {ramp.high:g}, then {len(search_start.SEEDS)} seeds over two decades",
        *_contrasts(study, of_family),
        f"  out       {stores.address(folder)}",
    ]


def _fixed(definition: Definition, data: Mapping[str, Any], is_fixed: bool) -> str:
    when = "when it is run"
    if is_fixed:
        when = definition.plans[-1][0] if definition.plans else "by a version that kept no time"
    return f"SHA-256 {plan_hash(definition.study, data)}, fixed {when}"


def _code(study: Study, trainer: Trainer, runs: "pd.DataFrame") -> list[str]:
    """Own modules whose code changed since runs were recorded, or between them."""
    from analysis.text.mixture import code_notes

    changed = [f"{line}; run needs {changed_code.ACCEPT}" for line in changed_code.changes(study, trainer, runs)]
    return [f"  code      {line}" for line in (*changed, *code_notes(runs))]


def _counts(study: Study, work: RemainingWork) -> list[str]:
    planned = work.plan
    control = f"  control   {planned.control_runs} runs, of which {work.control_runs} are to be trained first"
    if study.search:
        return [control, *(f"  {line}" for line in work.source.outline())]
    return [
        *_lrs(study),
        f"  seeds     {len(study.seeds)} ({study.seeds[0]} to {study.seeds[-1]})",
        f"  cells     {planned.cells}",
        f"  runs      {planned.runs}, of which {planned.recorded} are recorded",
        control,
        f"  trials    {count(planned.missing, 'run')} to train"
        + as_stacks(planned.missing, len(work.control) + len(planned.stacks)),
    ]


def _lrs(study: Study) -> list[str]:
    """The shared lrs, and a line for each arm with lrs of its own."""
    lines = []
    if not all(arm.lrs for arm in study.arms):
        lines.append(f"  lrs       {', '.join(f'{lr:g}' for lr in study.lrs)}")
    for arm in study.arms:
        if arm.lrs:
            lines.append(f"  lrs       {', '.join(f'{lr:g}' for lr in arm.lrs)} of {arm_label(arm)}")
    return lines


def _contrasts(study: Study, of_family: int) -> list[str]:
    """`  contrasts 4: layer_clip, agc, lamb, clippy against none; p is corrected over 4`."""
    planned = planned_contrasts(study)
    if not planned:
        return []
    models = len(study.models)
    of_models = f" on each of {models} models" if models > 1 else ""
    parts = []
    for comparator in comparators(study):
        arms = [arm for arm, other in planned if other == comparator]
        methods = _methods(arms)
        parts += [f"{methods} against {comparator}"] if methods else []
    count, of_members = models * len(planned), f"{of_family}, of all members" if of_family else ""
    corrected = f"; p is corrected over {of_members or count}" if of_family or count > 1 else ""
    return [f"  contrasts {count}: {'; '.join(parts)}{of_models}{corrected}"]


def as_stacks(runs: int, stacks: int) -> str:
    """Return ` as 3 stacks`, or nothing where each run is a stack."""
    return f" as {stacks} stacks" if stacks < runs else ""


def _outlook(
    work: RemainingWork, workers: int, folder: Path, trainer: Trainer, runs: "pd.DataFrame | None"
) -> list[str]:
    seconds, how = expected_seconds(work, workers, trainer, runs)
    time = "unknown" if seconds is None else duration(seconds)
    expected = how if seconds == 0 else f"{time} with {count(workers, 'trial')} at a time ({how})"
    return [
        *([f"  confirm   {work.confirmation_runs} runs of earlier confirmations"] if work.confirmation_runs else []),
        f"  expected  {expected}",
        f"  out       {stores.address(folder)}",
        *work.plan.limits.notes,
    ]


def expected_seconds(
    work: RemainingWork, workers: int, trainer: Trainer, runs: "pd.DataFrame | None"
) -> tuple[float | None, str]:
    """Return the seconds that training will take, and how they were estimated.

    They come from `runs`, the recorded ones, where these have the same models, or else from the trainer. None means
    that nothing is known.
    """
    stacks = len(work.control) + len(work.plan.stacks)
    at_a_time = max(1, min(workers, stacks)) if work.plan.stacks else workers
    to_train = Counter(work.source.left) + Counter(run.model for stack in work.control for run in stack.runs)
    if not to_train.total():
        return 0.0, "nothing is left to train"
    if runs is not None and set(to_train) <= set(runs["model"]):
        seconds = sum(n * runs.loc[runs["model"] == model, "seconds"].median() for model, n in to_train.items())
        return START_UP_SECONDS + seconds / at_a_time, "as the recorded runs took"
    of_run, how = trainer.expected_seconds(work.plan.limits)
    if not set(to_train) <= set(of_run):
        return None, "nothing is recorded yet"
    return START_UP_SECONDS + sum(n * of_run[model] for model, n in to_train.items()) / at_a_time, how


def _methods(arms: Iterable[Arm]) -> str:
    """`none, clippy (12 arms)`."""
    counts = Counter(arm.method for arm in arms)
    return ", ".join(method if n == 1 else f"{method} ({n} arms)" for method, n in counts.items())


def _goal(study: Study) -> str:
    return "the best quality" if isinstance(study.search, QualitySearch) else "P(divergence | lr)"

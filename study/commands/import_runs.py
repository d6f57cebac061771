"""`study import`: make a record of runs that exist, from a table of losses or an MLflow experiment."""

import dataclasses
import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from study.commands.import_request import MISSING, MLFLOW, ImportRequest
from study.commands.imported_study import definition_of, is_of_arm, run_of, without_confirmed
from study.commands.paths import study_folder, typed_command, typed_path
from study.config import CONTROL_SEEDS, IMPORTED, Rule, Run, canonical_json
from study.execution.trial import Trial, record
from study.loops.losses_table import Columns, History, histories, read_table, task_names
from study.outcomes.judge import exploded_steps
from study.outcomes.reference import Reference
from study.record import tables
from study.record.confirmations import read_confirmations
from study.record.definition import Definition, check_not_a_view, open_study, read_definition, study_exists
from study.record.failures import write_failure
from study.record.references import references
from study.record.repair import set_bad_files_aside
from study.storage.lock import locked
from study.storage.scratch import scratch_folder
from study.storage.stores import cache_folder
from study.text.wording import count
from study.trainers.protocol import TrainedRuns, Trainer, open_trainer

WHOLE = 0.9
"""A run that has this share of the horizon was not cut."""


@dataclass(frozen=True, kw_only=True)
class _Judged:
    """One imported run as it is recorded.

    exploded: it ended early, and its losses show why. cut: why it is missing; empty if it is not.
    """

    run: Run
    history: History
    exploded: bool
    cut: str


def import_runs(request: ImportRequest) -> str:
    """Record runs that exist, in a new study or in one that was imported before. Returns what was done, as text.

    Args:
        request: which runs, and how to judge them.

    Raises:
        ValueError: the runs cannot be read, or give no study; nothing is written. Or the folder holds another study.
    """
    found, name, notes = _read(request)
    folder = study_folder(request.out or f"results/{request.name or name}")
    check_not_a_view(folder)
    tables.check_not_published(folder)
    earlier = read_definition(folder) if study_exists(folder) else None
    if earlier and earlier.study.trainer != IMPORTED:
        raise ValueError(
            f"{folder} holds the study {earlier.study.name}, whose runs were trained; choose another folder"
        )
    found, more = _with_seeds(found, earlier)
    notes += more
    tasks, rule = task_names(request.loss), earlier.study.rule if earlier else Rule()
    found, ends, horizon = _until(found, request.horizon, earlier)
    early = [_is_early(history, end, horizon, rule) for history, end in zip(found, ends, strict=True)]
    cut = [
        f"cut while healthy, before step {horizon}" if reason == "healthy" and request.ended == MISSING else ""
        for reason in early
    ]
    if request.horizon is None and min(ends) < max(ends):
        notes.append(
            f"warning: the runs have {min(ends)} to {max(ends)} steps, and each is judged at its end (--horizon N "
            "judges all at one step)"
        )
    definition = definition_of(request, name, tasks, found, cut, horizon, earlier)
    trainer = open_trainer(definition.study, cache_folder())
    runs = [
        _Judged(run=run_of(definition, history), history=history, exploded=reason == "diverged", cut=why)
        for history, reason, why in zip(found, early, cut, strict=True)
    ]
    recorded = tables.recorded_ids(folder) if earlier else set()
    control = [one for one in _control_runs(definition, runs) if not earlier or one.run.id not in recorded]
    with scratch_folder("study-import-") as scratch:  # a control that learns nothing raises before anything is written
        if not earlier:
            open_study(scratch, definition)
            _record(control, definition, scratch, trainer, None)
            references(definition.study, definition.data, scratch, definition.study.models)
    with locked(folder):
        if earlier:
            own = [one.run for one in runs]
            definition = without_confirmed(definition, own, earlier, read_confirmations(folder))
        open_study(folder, definition)
        set_bad_files_aside(folder)
        _record(control, definition, folder, trainer, None)
        (reference,) = references(definition.study, definition.data, folder, definition.study.models).values()
        new = [one for one in runs if one.run.id not in recorded]
        _record([one for one in new if not one.cut], definition, folder, trainer, reference)
        _record_missing(new, folder)
    return _summary(definition, folder, runs, recorded, reference, notes)


def _read(request: ImportRequest) -> tuple[list[History], str, list[str]]:
    """Return the runs of the source, a name for the study, and notes."""
    columns = Columns(
        lr=request.lr,
        step=request.step,
        loss=request.loss,
        seed=request.seed,
        curve=request.curve,
        run=request.run,
        baseline=request.baseline_column,
    )
    if request.source == MLFLOW:
        from study.tracking import histories as of_mlflow

        assert request.experiment is not None
        table, columns, notes = of_mlflow.read_experiment(request.tracking_uri, request.experiment, columns)
        source, name = f"the experiment {request.experiment}", request.experiment
    else:
        path = Path(request.source).expanduser()
        table, notes, source, name = read_table(path), [], path.name, path.stem
    return histories(table, columns, source), name, notes


def _with_seeds(found: Sequence[History], earlier: Definition | None) -> tuple[list[History], list[str]]:
    """Give each run without a seed a seed of its own."""
    without = sum(history.seed is None for history in found)
    if not without:
        return list(found), []
    if earlier:
        raise ValueError("runs without a seed cannot be added to a record: it could not tell which of them it has")
    unused = iter(range(max((h.seed for h in found if h.seed is not None), default=-1) + 1, CONTROL_SEEDS[0]))
    seeded = [
        history if history.seed is not None else dataclasses.replace(history, seed=next(unused)) for history in found
    ]
    return seeded, [
        f"note: {count(without, 'run')} without a seed; each counts as a seed of its own, and no two are paired"
    ]


def _until(
    found: Sequence[History], horizon: int | None, earlier: Definition | None
) -> tuple[list[History], list[int], int]:
    """Return the runs until the horizon, how many steps each has, and the horizon: the longest run's end by default.

    Steps count from the lowest number of any run: logs start at 0 or at 1.
    """
    first = min(int(history.step[0]) for history in found)
    if earlier:
        first = earlier.study.trainer_options["first_step"]
    ends = [int(history.step[-1]) - first + 1 for history in found]
    if horizon is not None:
        if max(ends) < horizon * WHOLE and not earlier:
            raise ValueError(f"no run has {horizon} steps (--horizon); the longest has {max(ends)}")
        found = [_cut_at(history, first + horizon) for history in found]
        return found, [min(end, horizon) for end in ends], horizon
    return list(found), ends, earlier.study.trainer_options["steps"] if earlier else max(ends)


def _cut_at(history: History, stop: int) -> History:
    n = int(np.searchsorted(history.step, stop))
    if n == 0:
        raise ValueError(f"a run at lr {history.lr:g} logs its first loss at step {history.step[0]}, after the horizon")
    baseline = None if history.baseline is None else history.baseline[:n]
    return dataclasses.replace(history, step=history.step[:n], loss=history.loss[:n], baseline=baseline)


def _is_early(history: History, end: int, horizon: int, rule: Rule) -> str:
    """Return "healthy" or "diverged" for a run that ended early, and "" for any other."""
    if end >= WHOLE * horizon:
        return ""
    total = history.loss.astype(np.float64).sum(axis=1)
    if not np.isfinite(total).all():
        return "diverged"
    return "diverged" if exploded_steps(total, rule, step_T=history.step)[-1] else "healthy"


# The record


def _control_runs(definition: Definition, runs: Sequence[_Judged]) -> list[_Judged]:
    """Return the runs of the control: copies of the first curve's, under the reserved seeds."""
    study, found = definition.study, []
    for lr in study.control_lrs:
        own = [one for one in runs if one.run.lr == lr and not one.cut and is_of_arm(one.run, study.arms[0])]
        own.sort(key=lambda one: one.run.seed)
        for seed, one in zip(CONTROL_SEEDS[: study.trainer_options["control_seeds"]], own, strict=False):
            found.append(dataclasses.replace(one, run=dataclasses.replace(one.run, seed=seed)))
    return found


def _record(
    runs: Sequence[_Judged], definition: Definition, folder: Path, trainer: Trainer, reference: Reference | None
) -> None:
    """Write runs as trials: those of one cell that logged the same steps."""
    trials: dict[tuple, list[_Judged]] = defaultdict(list)
    for one in runs:
        key = one.run.method, canonical_json(one.run.options), one.run.lr, one.history.step.tobytes()
        trials[key].append(one)
    for together in trials.values():
        steps = together[0].history.step
        trained = TrainedRuns(
            loss=np.stack([one.history.loss for one in together]),
            baseline=_baseline(together, definition),
            steps=None if np.array_equal(steps, np.arange(len(steps))) else steps,
            finite=np.array([np.isfinite(one.history.loss).all() for one in together]),
            declared=np.array([one.exploded for one in together]),
            judged={"initial_loss": np.array([one.history.loss[0].astype(np.float64).sum() for one in together])},
            seconds=0.0,
        )
        trial = Trial(
            study=definition.study.name,
            runs=tuple(one.run for one in together),
            rule=definition.study.rule,
            reference=reference,
        )
        record(trial, trained, folder, trainer, _trial_name(together))


def _baseline(runs: Sequence[_Judged], definition: Definition) -> np.ndarray | None:
    baseline = definition.study.trainer_options["baseline"]
    if baseline == "first_losses":
        return None
    if baseline == "column":
        return np.stack([one.history.baseline for one in runs if one.history.baseline is not None])
    loss = np.stack([one.history.loss for one in runs])
    return np.broadcast_to(np.array(baseline, np.float32), loss.shape)


def _record_missing(runs: Sequence[_Judged], folder: Path) -> None:
    missing: dict[str, list[_Judged]] = defaultdict(list)
    for one in runs:
        if one.cut:
            missing[one.cut].append(one)
    for why, cut in missing.items():
        write_failure(folder, _trial_name(cut), [one.run for one in cut], why)


def _trial_name(runs: Iterable[_Judged]) -> str:
    return "import-" + hashlib.sha256("".join(one.run.id for one in runs).encode()).hexdigest()[:16]


# What was done


def _summary(
    definition: Definition,
    folder: Path,
    runs: Sequence[_Judged],
    recorded: set[str],
    reference: Reference,
    notes: Sequence[str],
) -> str:
    new = [one for one in runs if one.run.id not in recorded]
    cut = [one for one in new if one.cut]
    study, shown = definition.study, typed_path(folder)
    curves = len({(one.run.method, canonical_json(one.run.options)) for one in runs})
    lrs = len({one.run.lr for one in runs})
    lines = [
        f"{study.name}: {count(len(new) - len(cut), 'run')} imported, {count(curves, 'curve')} at {count(lrs, 'lr')}",
        *notes,
    ]
    if known := len(runs) - len(new):
        lines.append(f"note: {count(known, 'run')} recorded before, and unchanged")
    if cut:
        lines.append(
            f"note: {count(len(cut), 'run')} missing: {cut[0].cut} (--ended completed judges them at their end)"
        )
    control_lrs = ", ".join(f"{lr:g}" for lr in study.control_lrs)
    lines.append(
        f"control: {study.arms[0].method} at lr {control_lrs}, {study.trainer_options['control_seeds']} seeds each; "
        f"the reference is lr {reference.lr:g}"
    )
    if study.trainer_options["baseline"] == "first_losses":
        lines.append(
            "baseline: the loss at initialization, a weak one: a run that learns little passes as healthy; "
            "--baseline NUMBER, the loss of the best constant predictor, is better"
        )
    if not study.trainer_options["planned"]:
        lines.append("claims: none, these runs only nominate an lr (--planned: grid and seeds were fixed beforehand)")
    return "\n".join([*lines, f"record: {shown}", f"  {typed_command()} report {shown}"])

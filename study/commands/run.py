"""`study run` and `study resume`: train what the record lacks, then report and show it in MLflow."""

import contextlib
import dataclasses
import importlib
import shlex
import threading
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from study.commands import changed_code, search_start
from study.commands.paths import typed_command, typed_path
from study.commands.plan import as_stacks
from study.commands.progress import Progress
from study.commands.remaining import RemainingWork, remaining_work
from study.commands.report import report
from study.commands.request import (
    RunRequest,
    check_cluster_options,
    out_folder,
    pairs,
    study_and_trainer,
    validate_study,
)
from study.commands.versions import versions
from study.config import RANKER, Study
from study.execution import checkpoint, heartbeat, interrupts, preflight
from study.execution.planner import Stack, plan, stacks_of
from study.execution.work_queue import Job, TrainingFailedError
from study.outcomes.reference import Reference
from study.record import tables
from study.record.confirmations import Confirmation, read_confirmations, write_confirmation
from study.record.definition import Definition, check_not_a_view, open_study, read_definition
from study.record.failures import read_failures
from study.record.references import next_control, references
from study.record.repair import set_bad_files_aside
from study.storage import stores
from study.storage.lock import locked
from study.storage.stores import cache_folder
from study.text.console import in_notebook, show
from study.text.wording import count
from study.tracking.client import check_scheme
from study.trainers.protocol import Trainer, open_trainer

if TYPE_CHECKING:
    import pandas as pd

    from study.tracking.follower import Follower
    from study.tune.cluster import Cluster

CHECKPOINT_MINUTES = 10.0


class NothingTrainedError(TrainingFailedError):
    """Every run that a command trained has failed."""

    exit_code = 1


def run(request: RunRequest, study: Study | None = None, trainer: Trainer | None = None) -> Path:
    """Train the runs of a request that are not recorded, then report.

    Args:
        request: the user's request.
        study: a study with the request applied; None is that of the search space.
        trainer: of that study; None opens it.

    Returns:
        The study's folder.
    """
    if study is None:
        study, trainer = study_and_trainer(request)
    trainer, folder = trainer or open_trainer(study, cache_folder()), out_folder(request, study)
    if not study.has_lrs:
        _check(request, study, trainer, folder)
        study = validate_study(search_start.with_lrs(study, trainer, folder, request))
        trainer = open_trainer(study, cache_folder())
    return train(request, study, trainer, folder)


def say_reading() -> None:
    """Say in a notebook, where nothing else shows that it works, what happens before Ray starts."""
    if in_notebook():
        show("the data are read and the models checked")


def resume(folder: Path, request: RunRequest) -> Path:
    """Train the runs of a recorded study and its confirmations that are missing, then report."""
    study = validate_study(read_definition(folder).study)
    return train(request, study, open_trainer(study, cache_folder()), folder)


def train(
    request: RunRequest, study: Study, trainer: Trainer, folder: Path, confirmation: Confirmation | None = None
) -> Path:
    """Train the missing runs of a study, then report.

    Args:
        request: where and how to train.
        study: the validated study.
        trainer: of the study.
        folder: the study's folder.
        confirmation: train this one alone; None is the study and all of its confirmations.

    Returns:
        The study's folder.
    """
    from study.tracking.follower import Follower
    from study.tune import cluster as ray_cluster

    trainer.cuda_graphs = request.cuda_graphs == "on"
    _check(request, study, trainer, folder, confirms=confirmation is not None)
    plan(study, trainer, workers=1)  # raises for an unusable study before anything is written
    follower = Follower(folder, request.tracking_uri, runs=request.mlflow_runs)
    # Ray takes seconds to start. What the report needs is imported meanwhile.
    imports = threading.Thread(target=importlib.import_module, args=("analysis.report.page",))
    resume_command = f"{typed_command()} resume {typed_path(folder)}"
    resume_command += f" {changed_code.ACCEPT}" if request.accept_changed_code else ""
    with interrupts.with_resume_hint(resume_command) as hint, follower, contextlib.ExitStack() as held:
        imports.start()
        with ray_cluster.connected(
            request.address,
            workers=request.workers,
            gpu_fraction=request.gpu_fraction,
            trial=trainer.resources(),
            device=request.device,
            resources={name: float(n) for name, n in pairs(request.resources)},
            labels=dict(pairs(request.labels)),
            resume_hint=hint,
            study=study.name,
        ) as cluster:
            needs, cluster, runs = _open(study, trainer, folder, cluster, held)
            parts = _parts(study, folder, confirmation)
            hint.started = True
            recorded = _tidy(folder, runs)
            work = remaining_work(
                parts,
                trainer,
                folder,
                recorded,
                workers=cluster.workers,
                stack=request.stack,
                device_bytes=cluster.gpu_bytes,
            )
            show(_opening(study, work, cluster.workers, folder))
            failed = _train_stacks(
                request, study, trainer, folder, work, runs, needs, cluster, follower, resume_command
            )
        follower.update()
        imports.join()
        show(report(folder))
        show(_mirror(folder, follower, request))
    _refuse_only_failures(folder, recorded, failed)
    show(_next_steps(study, folder))
    return folder


def check_request(request: RunRequest) -> None:
    """Raise ValueError for options with which no study can be trained."""
    check_cluster_options(request)
    if request.tracking_uri:
        check_scheme(request.tracking_uri)


def _check(request: RunRequest, study: Study, trainer: Trainer, folder: Path, *, confirms: bool = False) -> None:
    """Raise what stops the command before anything is trained or written."""
    check_request(request)
    check_not_a_view(folder)
    tables.check_not_published(folder)
    trainer.check_folder(folder)
    changed_code.refuse(folder, study, trainer, accepted=request.accept_changed_code, confirms=confirms)


def _open(
    study: Study, trainer: Trainer, folder: Path, cluster: "Cluster", held: contextlib.ExitStack
) -> tuple[Any, "Cluster", "pd.DataFrame"]:
    """Lock the folder, check the nodes, and write the definition.

    Returns:
        What nodes need, those that have it, and the recorded runs.
    """
    from study.tune import cluster as ray_cluster
    from study.tune import node_check

    held.enter_context(locked(folder))
    needs = held.enter_context(preflight.needs(folder, study, trainer, cluster.device))
    cluster = node_check.check_nodes(needs, cluster) or cluster
    if cluster.gpu and not trainer.resources():
        cluster = dataclasses.replace(cluster, gpu_bytes=ray_cluster.gpu_bytes(cluster))
    open_study(folder, Definition(study=study, data=trainer.description(), versions=versions()))
    runs = set_bad_files_aside(folder)
    trainer.write_folder(folder)
    return needs, cluster, runs


def _parts(study: Study, folder: Path, confirmation: Confirmation | None) -> list[Study]:
    """What to train: the new confirmation, or the study and its earlier confirmations."""
    if confirmation:
        write_confirmation(folder, confirmation)
        return [confirmation.part_of(study)]
    return [study, *(earlier.part_of(study) for earlier in read_confirmations(folder))]


def _tidy(folder: Path, runs: "pd.DataFrame") -> set[str]:
    """Remove files of trials that have ended. Returns the ids of the recorded runs."""
    recorded = set(runs["run_id"])
    checkpoint.tidy(folder, recorded)
    heartbeat.tidy(folder)
    return recorded


def _train_stacks(
    request: RunRequest,
    study: Study,
    trainer: Trainer,
    folder: Path,
    work: RemainingWork,
    recorded: "pd.DataFrame",
    needs: Any,
    cluster: "Cluster",
    follower: "Follower",
    resume_command: str,
) -> int:
    """Train what is left. Returns how many runs failed."""
    from study.tune import runner

    data = trainer.description()
    checkpoints = checkpoint.checkpointed_stacks(folder)
    if checkpoints:
        show(f"{len(checkpoints)} stacks continue from their checkpoints")
    minutes = CHECKPOINT_MINUTES if request.checkpoint_minutes is None else request.checkpoint_minutes
    follower.update()
    with _progress(work, folder, checkpoints) as progress:

        def on_trial_end(stack: Stack, result: dict[str, float] | str) -> None:
            progress(stack, result)
            follower.update_if_due()

        def further_control(model: str, reference: Reference) -> tuple[Stack, ...]:
            runs = next_control(study, trainer.content, model, reference, recorded)
            if runs:
                tried = f"the control's gain still rises at lr {reference.lr:g}; lr {runs[0].lr:g} is tried too"
                progress.note(f"{model}: {tried}")
            stacks = stacks_of(runs, trainer, work.plan.limits, cluster.workers)
            progress.add_control(stacks)
            return stacks

        job = Job(
            study=study.name,
            folder=folder,
            rule=study.rule,
            control=work.control,
            source=work.source,
            references=references(study, data, folder, work.models_with_control, runs=recorded),
            reference=lambda model: references(study, data, folder, [model])[model],
            further_control=further_control,
            on_begin=progress.begin,
            on_trial_end=on_trial_end,
            on_message=progress.note,
            on_check=progress.check,
            checkpointed=tuple(checkpoints.values()),
            seconds_of_run=_seconds_of_run(recorded),
            trained=_trained(recorded),
            trial_seconds=None if request.trial_minutes is None else 60 * request.trial_minutes,
            checkpoint_seconds=60 * minutes,
            resume=resume_command,
        )
        runner.run(job, needs, cluster)
        return progress.failed


@contextlib.contextmanager
def _progress(work: RemainingWork, folder: Path, resumed: Collection[str]) -> Iterator[Progress]:
    progress = Progress(work.control, work.source, work.plan.limits.work_of_run, folder=folder, resumed=resumed)
    try:
        yield progress
    finally:
        progress.close()


def _refuse_only_failures(folder: Path, before: set[str], failed: int) -> None:
    """Raise NothingTrainedError if this command recorded no run of a cell, and `failed` of its runs failed."""
    if not failed:
        return
    runs = tables.read_runs(folder)
    trained, recorded = set(runs.loc[runs["role"] == "cell", "run_id"]) - before, set(runs["run_id"])
    if not trained and (reasons := Counter(read_failures(folder, recorded).values())):
        (reason, most), total = reasons.most_common(1)[0], reasons.total()
        raise NothingTrainedError(f"no run was trained: {most} of {total} failed with: {reason}")


def _mirror(folder: Path, follower: "Follower", request: RunRequest) -> str:
    """Complete the MLflow view. The record does not need it, so an error is a message."""
    from study.tracking.mirror import mirror

    try:
        return str(follower.finish() or mirror(folder, request.tracking_uri, runs=request.mlflow_runs))
    except ValueError as error:
        return f"MLflow was not updated: {error}. Later: study mlflow {shlex.quote(stores.address(folder))}"


def _seconds_of_run(recorded: "pd.DataFrame") -> dict[str, float]:
    """Model -> seconds of its slower recorded runs."""
    slower: Any = recorded.groupby("model")["seconds"].quantile(0.9)
    return {str(model): float(seconds) for model, seconds in slower.items()}


def _trained(recorded: "pd.DataFrame") -> set[tuple[str, str]]:
    """Return (model, method) of the recorded cells."""
    return set(recorded.loc[recorded["role"] == "cell", ["model", "method"]].itertuples(index=False, name=None))


def _opening(study: Study, work: RemainingWork, workers: int, folder: Path) -> str:
    planned, stacks = work.plan, len(work.plan.control) + len(work.plan.stacks)
    if study.search:
        left = sum(work.source.left.values())
        what = f"{study.name}: about {left} runs to train, and {work.control_runs} of the control first"
    else:
        what = (
            f"{study.name}: {count(planned.runs, 'run')} in {count(planned.cells, 'cell')}, {planned.recorded} "
            f"recorded; {planned.missing} to train (control included){as_stacks(planned.missing, stacks)}"
        )
    return "\n".join(
        [
            f"{what}, {workers} at a time",
            *([f"also {count(work.confirmation_runs, 'run')} of confirmations"] if work.confirmation_runs else []),
            *work.source.outline(),
            f"record: {stores.address(folder)}",
            *planned.limits.notes,
        ]
    )


def _next_steps(study: Study, folder: Path) -> str:
    from study.search.optuna_tpe import JOURNAL

    command, shown = typed_command(), typed_path(folder)
    steps = [f"  {command} ui {shown}        the curves in MLflow, side by side"]
    if (folder / JOURNAL).exists():
        steps.append(f"  optuna-dashboard {shown}/{JOURNAL}        every proposal")
    if study.trainer == RANKER and study.data == "synthetic":
        real = f"the same on real data ({command} data fetch kuairand)"
        steps.append(f"  {command} run lr_curve --data-dir DIR        {real}")
    return "\n".join(["", "Next:", *steps])

"""The main job: a search space becomes a record, a report and a view in MLflow. Knows who does what, and does nothing
itself."""

import contextlib
import dataclasses
import importlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import study as package
from study import data, plugins
from study.commands.progress import Progress, duration
from study.commands.rescore import references
from study.config import Family, QualitySearch, Study, control_of
from study.execution import checkpoint, heartbeat, interrupts, preflight
from study.execution.planner import Plan, Stack, plan
from study.execution.work_queue import Job
from study.execution.work_source import Planned, Source, Together
from study.record import tables
from study.record.confirmations import Confirmation, read_confirmations, write_confirmation
from study.record.definition import Definition, check_not_a_view, open_study, read_definition, study_exists
from study.record.failures import read_failures
from study.storage import stores
from study.storage.lock import locked
from study.storage.stores import StorageError, cache_folder
from study.trainers.protocol import Limits, Trainer, open_trainer

if TYPE_CHECKING:
    import pandas as pd

    from analysis.report.tables import ReportTables
    from study.search import confirmation as confirming
    from study.tracking.follower import Follower

CHECKPOINT_MINUTES = 10.0
VERSIONS = ("torch", "ray", "mlflow", "numpy", "pandas")


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """What a user asked for, as the command line has it. out: None is results/<study> in the current folder."""

    space: str
    data: str | None = None
    data_dir: str | None = None
    seeds: str | None = None
    settings: tuple[str, ...] = ()
    out: str | None = None
    address: str | None = None
    tracking_uri: str | None = None
    workers: int | None = None
    stack: int | None = None
    gpu_fraction: float = 1.0
    checkpoint_minutes: float | None = None
    trial_minutes: float | None = None
    level: float | None = None
    precision: float | None = None
    budget: int | None = None
    init_from: str | None = None
    init_accumulators: str | None = None


SEARCHED = ("level", "precision", "budget")


def study_of(asked: RunRequest) -> Study:
    """The search space with everything that was asked applied and checked. Raises ValueError in the user's words."""
    return _found(asked)[0]


def _found(asked: RunRequest) -> tuple[Study, Trainer]:
    """As `study_of`, and its trainer. A file of weights (`--init-from`) is read once, so that what was checked is what
    is trained from."""
    found = space(asked.space)
    if isinstance(found, Family):
        raise ValueError(f"{asked.space} is a family of studies, and this takes one study")
    study, where = applied(found, asked), init_from(asked)
    trainer, handed = open_trainer(study, cache_folder()), asked.init_accumulators == "handed"
    if where is not None:
        study = trainer.start_from(where, accumulators=handed)
    elif handed:
        raise ValueError("--init-accumulators handed needs the weights that they belong to: --init-from FILE")
    return study, trainer


def applied(study: Study, asked: RunRequest) -> Study:
    """The study with everything that was asked applied and checked, but weights to start from. Raises ValueError in the
    user's words."""
    return validated(changed(study, asked))


def validated(study: Study) -> Study:
    """The study in canonical form. Raises ValueError, in the user's words, on what its trainer or search cannot do."""
    trainer = open_trainer(study, cache_folder())
    study = trainer.validate(study)
    if isinstance(study.search, QualitySearch):
        from study.search import validation

        validation.check(study, trainer)
    return study


def changed(study: Study, asked: RunRequest) -> Study:
    """The study with the settings and options that were asked for, unchecked. Raises ValueError on what none can be."""
    from study import overrides as settings

    if asked.data and asked.data != study.data:
        # What is set is said of the source that was asked for, so it comes after.
        study = dataclasses.replace(study, data=asked.data, data_options=data.common_options(study.data_options))
    study = settings.apply(study, asked.settings)
    if asked.data_dir:
        folder = str(Path(asked.data_dir).expanduser().resolve())
        study = dataclasses.replace(study, data_options=study.data_options | {"dir": folder})
    if asked.seeds:
        study = dataclasses.replace(study, seeds=settings.seeds(asked.seeds))
    wanted = {name: value for name in SEARCHED if (value := getattr(asked, name)) is not None}
    return settings.with_search(study, wanted)


def init_from(asked: RunRequest) -> str | None:
    """The file of weights that was named, a path or a URL. ValueError for a relative path on a cluster, as in
    `out_folder`."""
    where = asked.init_from
    if not where:
        return None
    if _on_cluster(asked) and not (stores.is_url(where) or stores.folder_of(where).expanduser().is_absolute()):
        raise ValueError(f"on a cluster --init-from must be an absolute path or a URL, got {where}")
    return where


def space(name: str) -> Study | Family:
    """What a search space's file says. Raises ValueError where it says nothing of the kind."""
    found = plugins.load("search_spaces", name, "study", "study").study
    if not isinstance(found, Study | Family):
        raise ValueError(f"the `study` of {name} is no study.config.Study, and no Family")
    return found


def out_folder(asked: RunRequest, study: Study) -> Path:
    """Where the record goes: a folder, or the mirror of a URL. ValueError for a relative path on a cluster: its working
    folder is not the user's."""
    out = asked.out or f"results/{study.name}"
    if _on_cluster(asked) and not (stores.is_url(out) or stores.folder_of(out).is_absolute()):
        raise ValueError(f"on a cluster --out must be an absolute path or a URL, got {asked.out or 'none'}")
    return study_folder(out)


def _on_cluster(asked: RunRequest) -> bool:
    return bool(asked.address or os.environ.get("RAY_ADDRESS"))


def study_folder(where: str) -> Path:
    """The folder of a study as the user calls it: a path, or the URL of which it is the mirror."""
    return stores.folder_of(where).expanduser().resolve()


def preview(asked: RunRequest, study: Study | None = None) -> str:
    """What `study plan` says. Trains nothing and writes nothing but the cache of converted data. study: as `run`."""
    study, trainer = (study, open_trainer(study, cache_folder())) if study else _found(asked)
    folder = out_folder(asked, study)
    done = tables.recorded_ids(folder) if study_exists(folder) else set()
    workers = asked.workers or os.cpu_count() or 1
    named = read_confirmations(folder) if study_exists(folder) else []
    todos = []
    for part in (study, *(confirmation.part_of(study) for confirmation in named)):
        planned = plan(part, trainer, done, workers=workers, stack=asked.stack)
        todos.append(_todo(part, planned, folder, trainer, workers))
    todo = _together(todos)
    planned = todo.planned
    seconds, how = _expected(todo, workers, folder, trainer)
    first = sum(len(stack.runs) for stack in todo.control)
    head = [
        f"{study.name}: {_sought(study)} of {_methods(study)}",
        *(f"  {word:9} {line}" for word, line in trainer.summary()),
    ]
    control = f"  control   {planned.control_runs} runs, of which {first} are to be trained first"
    tail = [
        *([f"  beside    {todo.confirming} runs of confirmations, named before"] if todo.confirming else []),
        f"  expected  {'unknown' if seconds is None else duration(seconds)} with {workers} trials at a time ({how})",
        f"  out       {stores.address(folder)}",
        *planned.limits.notes,
    ]
    if study.search:
        return "\n".join([*head, control, *(f"  {line}" for line in todo.source.outline()), *tail])
    cells = [
        f"  lrs       {', '.join(f'{lr:g}' for lr in study.lrs)}",
        f"  seeds     {len(study.seeds)} ({study.seeds[0]} to {study.seeds[-1]})",
        f"  cells     {planned.cells}",
        f"  runs      {planned.runs}, of which {planned.recorded} are recorded",
        control,
        f"  trials    {len(todo.control) + len(planned.stacks)} stacks, {planned.missing} runs to train",
    ]
    return "\n".join([*head, *cells, *tail])


def _methods(study: Study) -> str:
    """`none, clippy (12 arms)`."""
    arms = Counter(arm.method for arm in study.arms)
    return ", ".join(method if n == 1 else f"{method} ({n} arms)" for method, n in arms.items())


def _sought(study: Study) -> str:
    return "the best quality" if isinstance(study.search, QualitySearch) else "P(divergence | lr)"


def run(asked: RunRequest, study: Study | None = None, trainer: Trainer | None = None) -> Path:
    """Train what the record lacks of what was asked, then report. Returns the study's folder. study: one to which all
    that was asked has been applied; None is that of the search space. trainer: of that study; None opens it."""
    if study is None:
        study, trainer = _found(asked)
    return _train(asked, study, trainer or open_trainer(study, cache_folder()), out_folder(asked, study))


def resume(folder: Path, asked: RunRequest) -> Path:
    """Train exactly what the study in the folder lacks, its confirmations among it, then report."""
    study = validated(read_definition(folder).study)
    return _train(asked, study, open_trainer(study, cache_folder()), folder)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What `study recommend` is to claim, and the quality beside it; see `analysis.stats.recommend`."""

    risk: float = 0.05
    confidence: float = 0.95
    quality: str | None = None


def confirm(folder: Path, asked: RunRequest, wish: "confirming.ConfirmRequest", claim: Claim) -> Path:
    """Name fresh seeds at one lr, train them, report, and say what they claim."""
    from analysis.stats import recommend as recommended
    from study.search import confirmation as confirming

    definition = read_definition(folder)
    recommended.checked(definition, claim.risk, claim.confidence, claim.quality)
    study = validated(definition.study)
    confirmation = confirming.named(folder, definition, wish, risk=claim.risk, confidence=claim.confidence)
    if note := confirming.too_few(confirmation, claim.risk, claim.confidence):
        print(note, flush=True)
    _train(asked, study, open_trainer(study, cache_folder()), folder, confirmation)
    print(f"\n{recommend(folder, claim)}")
    return folder


def recommend(folder: Path, claim: Claim, *, as_json: bool = False) -> str:
    """The largest lr that can be claimed, by curve, from the record alone: sentences, or JSON."""
    import analysis
    from analysis.stats import recommend as recommended
    from analysis.text import recommend as text

    table = recommended.recommend(
        analysis.load(folder),
        read_definition(folder),
        confirmations=read_confirmations(folder),
        risk=claim.risk,
        confidence=claim.confidence,
        quality=claim.quality,
    )
    if as_json:
        return json.dumps(text.json_records(table), indent=1, allow_nan=False)
    if table.empty:
        return "no runs recorded yet"
    lines = []
    for model in dict.fromkeys(table["model"]):
        of_model = table.loc[table["model"] == model]
        lines += [f"{model}:", *(f"  {sentence}" for sentence in text.sentences(of_model)), ""]
    if commands := text.commands(table, _shown(folder), _command()):
        lines += ["To claim what is nominated:", *(f"  {command}" for command in commands)]
    return "\n".join(lines).rstrip()


def rescore(folder: Path, rule: Sequence[str]) -> str:
    """Judge the recorded runs by another rule, without training. Returns how far each edge moves."""
    from study.commands import rescore as rescoring

    definition = read_definition(folder)
    path = rescoring.rescore(folder, rescoring.rule_of(definition.study, rule))
    return "\n".join([*rescoring.changes(folder, path), f"rescored: {path}", f"  {_command()} report {_shown(path)}"])


def report(folder: Path) -> str:
    """Write the report from the record alone. Returns what a terminal shows of it."""
    from analysis.report import page, terminal
    from analysis.report.tables import report_tables

    stores.store_for(folder).refresh("set_aside")
    found = report_tables(folder)
    try:
        losses = tables.read_losses(folder)
        path = page.write(found, _recorded_references(found, losses), _influence(found, losses), losses)
    except OSError as error:
        raise StorageError(f"cannot write the report to {folder} ({error.strerror or error})") from error
    stores.publish(folder)
    sent = "" if stores.address(folder) == str(folder) else f"\n        {stores.address(folder)}/{path.name}"
    lines = [terminal.text(found, _shown(folder), _command()), *_missing(folder, found), "", f"report: {path}{sent}"]
    return "\n".join(lines)


def _missing(folder: Path, found: "ReportTables") -> list[str]:
    """What failed, and is in no denominator."""
    failures = read_failures(folder, set(found.every["run_id"]))
    reasons = [f"  {n}: {reason}" for reason, n in Counter(failures.values()).most_common()]
    head = f"{len(failures)} runs are missing, and in no n above ({_command()} resume {_shown(folder)} tries again):"
    return ["", head, *reasons] if failures else []


def _influence(found: "ReportTables", losses: "pd.DataFrame") -> "pd.DataFrame | None":
    """How far each edge moves under other rules, as the report takes it: None where that cannot be said."""
    from study.commands import rescore as rescoring

    if found.best is not None:
        return None
    try:
        return rescoring.rule_influence(found.folder, fitted=found.fitted, every=found.every, losses=losses)
    except ValueError:
        return None  # without a control, or where nothing can be learned by a rule


def status(folder: Path, *, as_json: bool = False) -> str:
    """Runs done, training, diverged, failed and missing, by cell, and who trains them."""
    from study.commands import status as where

    found = where.read_status(folder)
    return where.as_json(found) if as_json else where.text(found)


def _train(
    asked: RunRequest,
    study: Study,
    trainer: Trainer,
    folder: Path,
    confirmation: Confirmation | None = None,
) -> Path:
    """Train what is missing of the study and of all its confirmations, or of this one alone; then report."""
    from study.tracking.follower import Follower
    from study.tune import cluster as ray_cluster
    from study.tune import node_check, runner

    check_not_a_view(folder)
    trainer.check_folder(folder)
    plan(study, trainer, workers=1)  # says what is wrong with the study before anything is written
    described = trainer.description()
    # Ray takes seconds to start. What the end of the study needs is imported meanwhile.
    follower = Follower(folder, asked.tracking_uri)
    ahead = threading.Thread(target=importlib.import_module, args=("analysis.report.page",))
    resume = f"{_command()} resume {_shown(folder)}"
    with interrupts.with_resume_hint(resume) as resume_hint, follower, contextlib.ExitStack() as held:
        ahead.start()
        with ray_cluster.connected(
            asked.address, workers=asked.workers, gpu_fraction=asked.gpu_fraction, resume_hint=resume_hint
        ) as cluster:
            held.enter_context(locked(folder))
            needs = held.enter_context(preflight.needs(folder, study, trainer))
            node_check.check_nodes(needs, cluster)
            open_study(folder, Definition(study=study, data=described, versions=_versions()))
            tables.check_files(folder)
            trainer.write_folder(folder)
            if confirmation:
                write_confirmation(folder, confirmation)
                parts = [confirmation.part_of(study)]
            else:
                parts = [study, *(named.part_of(study) for named in read_confirmations(folder))]
            resume_hint.started = True
            recorded, todos = tables.recorded_ids(folder), []
            checkpoint.tidy(folder, recorded)
            heartbeat.tidy(folder)
            for part in parts:
                planned = plan(
                    part,
                    trainer,
                    recorded,
                    workers=cluster.workers,
                    stack=asked.stack,
                    device_bytes=cluster.gpu_bytes,
                )
                todos.append(_todo(part, planned, folder, trainer, cluster.workers))
            todo = _together(todos)
            print(_opening(study, todo, cluster.workers, folder), flush=True)
            begun = checkpoint.begun(folder)
            if begun:
                print(
                    f"{len(begun)} {'stacks go' if len(begun) > 1 else 'stack goes'} on from where training was kept",
                    flush=True,
                )
            follower.update()
            with _told(todo, follower) as (told, noted):
                job = Job(
                    study=study.name,
                    folder=folder,
                    rule=study.rule,
                    control=todo.control,
                    source=todo.source,
                    references=references(study, described, folder, todo.models_with_control),
                    reference=lambda model: references(study, described, folder, [model])[model],
                    on_trial_end=told,
                    on_message=noted,
                    begun=tuple(begun.values()),
                    seconds_of_run=_seconds_of_run(folder),
                    trial_seconds=None if asked.trial_minutes is None else 60 * asked.trial_minutes,
                    checkpoint_seconds=60
                    * (CHECKPOINT_MINUTES if asked.checkpoint_minutes is None else asked.checkpoint_minutes),
                    resume=resume,
                )
                runner.run(job, needs, cluster)
        follower.update()
        ahead.join()
        print(report(folder), flush=True)
        print(_mirrored(folder, follower, asked.tracking_uri), flush=True)
    print(_closing(folder))
    return folder


@dataclass(frozen=True, kw_only=True)
class _Todo:
    """What is to be trained: stacks of the control, and all that the source hands out.

    confirming: how many of these runs are of confirmations that were named before, and lie beside the plan.
    """

    planned: Plan
    control: tuple[Stack, ...]
    source: Source
    confirming: int = 0

    @property
    def models_with_control(self) -> set[str]:
        """Models that have runs to train, and whose control is recorded."""
        return {m for m, runs in self.source.left.items() if runs} - {stack.runs[0].model for stack in self.control}


def _todo(study: Study, planned: Plan, folder: Path, trainer: Trainer, workers: int) -> _Todo:
    if study.search is None:
        return _Todo(planned=planned, control=planned.control, source=Planned(planned.stacks))
    source = _search(study, planned.limits, folder, trainer, workers)
    wanted = {model for model, runs in source.left.items() if runs}
    control = tuple(stack for stack in planned.control if stack.runs[0].model in wanted)
    return _Todo(planned=planned, control=control, source=source)


def _together(todos: Sequence[_Todo]) -> _Todo:
    """The parts of a study as one, the first of which has its numbers."""
    if len(todos) == 1:
        return todos[0]
    control = {stack.name: stack for todo in todos for stack in todo.control}
    source = Together(todo.source for todo in todos)
    beside = sum(todo.planned.missing - sum(len(s.runs) for s in todo.planned.control) for todo in todos[1:])
    return _Todo(planned=todos[0].planned, control=tuple(control.values()), source=source, confirming=beside)


def _search(study: Study, limits: Limits, folder: Path, trainer: Trainer, workers: int) -> Source:
    """The source of a study's search, as far as it has come by the record."""
    if isinstance(study.search, QualitySearch):
        from study.search import quality_search

        return quality_search.QualitySource(
            study,
            trainer.description(),
            folder,
            workers=workers,
            largest_stack=limits.largest_stack,
            trainer=trainer,
        )
    from study.search import edge_search

    return edge_search.source(
        study,
        trainer.content,
        folder,
        workers=workers,
        largest_stack=limits.largest_stack,
        kind_of=trainer.kind_of,
    )


@contextlib.contextmanager
def _told(todo: _Todo, follower: "Follower") -> Iterator[tuple[Callable[[Stack, Any], None], Callable[[str], None]]]:
    """Who is told of every trial that ends: the user, and MLflow; and who of what else is to be noted."""
    progress = Progress(todo.control, todo.source, todo.planned.limits.work_of_run)

    def told(stack: Stack, result: dict[str, float] | str) -> None:
        progress(stack, result)
        follower.update_if_due()

    try:
        yield told, progress.note
    finally:
        progress.close()


def _mirrored(folder: Path, follower: "Follower", uri: str | None) -> str:
    """The record is complete without MLflow: a tracking server that is away costs a sentence, not the study."""
    from study.tracking import mirror

    try:
        return str(follower.finish() or mirror.mirror(folder, uri))
    except ValueError as error:
        return f"MLflow was not updated: {error}. Later: study mlflow {stores.address(folder)}"


def _recorded_references(found: "ReportTables", losses: "pd.DataFrame") -> dict[str, dict[str, Any]]:
    """The references of the models whose control is recorded, as the report takes them."""
    definition, done, described = found.definition, set(found.every["run_id"]), {}
    for model in definition.study.models:
        if not all(r.id in done for r in control_of(definition.study, definition.data["content"]) if r.model == model):
            continue
        try:
            reference = references(
                definition.study, definition.data, found.folder, [model], losses=losses, runs=found.every
            )[model]
        except ValueError:
            continue  # the study stopped on it, and said so
        described[model] = {"lr": reference.lr, "gain": reference.gain} | {
            f"gain_{task['name']}": gain
            for task, gain in zip(definition.data["tasks"], reference.task_gain, strict=True)
        }
        described[model]["constant_loss"] = sum(task["constant_loss"] for task in definition.data["tasks"])
    return described


def _opening(study: Study, todo: _Todo, workers: int, folder: Path) -> str:
    planned, control = todo.planned, sum(len(stack.runs) for stack in todo.control)
    if study.search:
        what = f"{study.name}: about {sum(todo.source.left.values())} runs to train, and {control} of the control first"
    else:
        what = (
            f"{study.name}: {planned.runs} runs in {planned.cells} cells, {planned.recorded} recorded;"
            f" {planned.missing} to train (control included) as {len(planned.control) + len(planned.stacks)} stacks"
        )
    lines = [
        f"{what}, {workers} at a time",
        *([f"beside them: {todo.confirming} runs of confirmations"] if todo.confirming else []),
        *todo.source.outline(),
        f"record: {stores.address(folder)}",
        *planned.limits.notes,
    ]
    return "\n".join(lines)


def _closing(folder: Path) -> str:
    from study.search.optuna_tpe import JOURNAL

    command, shown = _command(), _shown(folder)
    return "\n".join(
        [
            "",
            "Next:",
            f"  {command} ui {shown}        the curves in MLflow, side by side",
            *([f"  optuna-dashboard {shown}/{JOURNAL}        every proposal"] if (folder / JOURNAL).exists() else []),
            f"  {command} run lr_curve --data-dir DIR        the same on real data ({command} data fetch kuairand)",
        ]
    )


def _shown(folder: Path) -> str:
    """A folder as it is typed from here; a URL for its mirror."""
    if (address := stores.address(folder)) != str(folder):
        return address
    here = os.path.relpath(folder)
    return here if len(here) < len(str(folder)) else str(folder)


def _command() -> str:
    """How this command is to be typed again."""
    typed = sys.argv[0]
    if not typed.endswith("study"):
        return "python -m study"
    return "study" if shutil.which("study") == os.path.abspath(typed) else os.path.relpath(typed)


def _seconds_of_run(folder: Path) -> dict[str, float]:
    """What a run took, by model, as far as runs are recorded: the slower ones."""
    slower: Any = tables.read_runs(folder).groupby("model")["seconds"].quantile(0.9)
    return {str(model): float(seconds) for model, seconds in slower.items()}


START_UP_SECONDS = 12


def _expected(todo: _Todo, workers: int, folder: Path, trainer: Trainer) -> tuple[float | None, str]:
    """Seconds that training will take, None where nothing is known, and how they were estimated: by what recorded runs
    of the same models took, or else by the trainer."""
    stacks = len(todo.control) + len(todo.planned.stacks)
    at_a_time = max(1, min(workers, stacks)) if todo.planned.stacks else workers
    to_train = Counter(todo.source.left) + Counter(run.model for stack in todo.control for run in stack.runs)
    runs = tables.read_runs(folder) if study_exists(folder) else None
    if runs is not None and set(to_train) <= set(runs["model"]):
        seconds = sum(n * runs.loc[runs["model"] == model, "seconds"].median() for model, n in to_train.items())
        return START_UP_SECONDS + seconds / at_a_time, "as the recorded runs took"
    of_run, how = trainer.expected_seconds(todo.planned.limits)
    if not set(to_train) <= set(of_run):
        return None, "nothing is recorded yet"
    return START_UP_SECONDS + sum(n * of_run[model] for model, n in to_train.items()) / at_a_time, how


def _versions() -> dict[str, str]:
    versions = {"study": package.__version__, "python": platform.python_version()}
    versions |= {name: importlib.metadata.version(name) for name in VERSIONS}
    checkout = commit()
    return versions | ({"commit": checkout} if checkout else {})


def commit() -> str | None:
    """The commit of this checkout, marked where files differ from it, or the submitter's; None where neither is."""
    if os.environ.get("STUDY_COMMIT"):
        return os.environ["STUDY_COMMIT"]
    here = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None

"""A small trained study, made once a session without a scheduler, for tests that use recorded runs."""

from pathlib import Path

import pytest

from study.commands.request import RunRequest, requested_study
from study.config import Study
from study.execution.planner import plan
from study.execution.trial import Trial, execute
from study.record.definition import Definition, open_study
from study.record.references import references
from study.trainers import warm_start
from study.trainers.protocol import open_trainer

DAYS = ("data.rows=40000", "batch=128", "models=small")
"""Settings of a study of ten days."""

SETTINGS = (*DAYS, "data.only_days=1-5", "methods=none,clippy,agc", "lr=0.1,1.7", "seeds=0-1")


def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp() / "cache_of_the_trained_study"


def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study with three methods at two lrs, some of whose runs diverge. Do not change it."""
    folder = tmp_path_factory.getbasetemp() / "trained_study"
    if not folder.exists():
        train(folder, cache(tmp_path_factory), SETTINGS)
    return folder


def train(
    folder: Path,
    cache: Path,
    settings: tuple[str, ...],
    init_from: Path | None = None,
    init_accumulators: str | None = None,
) -> None:
    """Train the control, then the cells, as `study run quick` does."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("STUDY_CACHE", str(cache))
        start = str(init_from) if init_from else None
        asked = RunRequest(space="quick", settings=settings, init_from=start, init_accumulators=init_accumulators)
        record(requested_study(asked), folder, cache, init_from)


def record(study: Study, folder: Path, cache: Path, init_from: Path | None = None) -> None:
    """Train and record every run of a study, the control first, in this process."""
    trainer = open_trainer(study, cache)
    described = trainer.description()
    open_study(folder, Definition(study=study, data=described, versions={}))
    if init_from:
        warm_start.keep(folder, warm_start.opened(init_from))
    planned = plan(study, trainer, workers=1)
    for stack in planned.control:
        trial = Trial(study=study.name, runs=stack.runs, rule=study.rule, reference=None)
        execute(trial, folder, trainer, stack.name)
    for stack in planned.stacks:
        model = stack.runs[0].model
        reference = references(study, described, folder, [model])[model]
        trial = Trial(study=study.name, runs=stack.runs, rule=study.rule, reference=reference)
        execute(trial, folder, trainer, stack.name)

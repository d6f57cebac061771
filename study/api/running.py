"""Runs a study from Python."""

from collections.abc import Iterable, Mapping
from typing import Any

from study.api.result import AnyPath, Result, check_requested, path_text, seeds_text
from study.config import Study
from study.tracking.choices import AUTO, RUNS


def run(
    what: Study | str,
    out: AnyPath | None = None,
    *,
    seeds: str | Iterable[int] | None = None,
    settings: Mapping[str, Any] | None = None,
    data: str | None = None,
    data_dir: AnyPath | None = None,
    address: str | None = None,
    workers: int | None = None,
    device: str | None = None,
    tracking_uri: str | None = None,
    mlflow_runs: str = AUTO,
    accept_changed_code: bool = False,
) -> Result:
    """Train the runs of a study that its folder lacks, report, and return the record.

    Args:
        what: A `Study`, or the name of a search space, such as "quick" or "my_package.my_space".
        out: Folder or URL of the record; None is results/<name of the study>.
        seeds, settings, data, data_dir: As the options of `study run` (`--set` for settings) change a search space. A
            `Study` has its own.
        address: Of a Ray cluster; None is this machine.
        workers: Trials at a time; None is one for each core, or for each share of a GPU.
        device: "cpu" or "cuda"; None is "cuda" where there are GPUs.
        tracking_uri: Of MLflow; None is a database in the folder.
        mlflow_runs: "all" shows each training run in MLflow, "none" none, "auto" those of studies of up to 500 runs.
        accept_changed_code: Go on although a module of your own has changed since runs of it were recorded.

    Raises:
        ValueError: The study cannot be run so, before anything is trained.
    """
    from study import plugins
    from study.commands import family as families
    from study.commands import run as command
    from study.commands.request import RunRequest, study_and_trainer, validate_study
    from study.storage.stores import cache_folder
    from study.trainers.protocol import open_trainer

    texts = {"address": address, "device": device, "tracking_uri": tracking_uri, "data": data}
    check_requested(workers=workers, accept_changed_code=accept_changed_code, **texts)
    if device not in (None, "cpu", "cuda"):
        raise ValueError(f"device is 'cpu' or 'cuda', got {device!r}")
    if not isinstance(settings, Mapping | None):
        raise ValueError(f"settings needs a dict, got {settings!r}")
    if empty := [key for key, value in (settings or {}).items() if not _value(value)]:
        raise ValueError(f"the setting {empty[0]} has no value")
    if mlflow_runs not in RUNS:
        raise ValueError(f"mlflow_runs is one of {', '.join(RUNS)}, got {mlflow_runs!r}")
    plugins.add_script_folder()
    seeds = seeds_text(seeds)
    changes = {"seeds": seeds, "settings": settings, "data": data, "data_dir": data_dir}
    request = RunRequest(
        space=what if isinstance(what, str) else "",
        seeds=seeds,
        settings=tuple(f"{key}={_value(value)}" for key, value in (settings or {}).items()),
        data=data,
        data_dir=None if data_dir is None else path_text(data_dir, "data_dir"),
        out=None if out is None else path_text(out, "out"),
        address=address,
        workers=workers,
        device=device,
        tracking_uri=tracking_uri,
        mlflow_runs=mlflow_runs,
        accept_changed_code=accept_changed_code,
    )
    command.say_reading()
    if isinstance(what, str):
        if family := families.requested_family(request):
            raise ValueError(f"{family[0].name} is a family of studies: `study run` trains it, or run its members")
        ready, trainer = study_and_trainer(request)
    elif isinstance(what, Study):
        if given := [name for name, value in changes.items() if value is not None]:
            raise ValueError(f"a Study has its own {', '.join(given)}: change it by dataclasses.replace")
        ready = validate_study(what)
        trainer = open_trainer(ready, cache_folder())
    else:
        raise ValueError(f"need a Study or the name of a search space, got {type(what).__name__}")
    return Result(command.run(request, ready, trainer))


def _value(value: Any) -> str:
    """Return a value as --set takes it: a list is separated by commas."""
    many = isinstance(value, Iterable) and not isinstance(value, str)
    return ",".join(map(str, value)) if many else str(value)

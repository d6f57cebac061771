"""What a user asked of `study run`, and the study that follows from it."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from study import data, plugins
from study.commands.paths import check_absolute, check_tracking_uri, data_folder, new_folder
from study.config import RANKER, QualitySearch, Study, has_grid, to_json
from study.definition import overrides
from study.definition.family import Family
from study.record.schema import check_thresholds
from study.record.validation import validate_study as validate_values
from study.storage.stores import cache_folder
from study.tracking.choices import AUTO
from study.trainers.protocol import Trainer, open_trainer

SEARCHED = ("level", "precision", "budget")


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """The options of `study run`, as `study.cli.parser` describes them. out: None is results/<study>."""

    space: str
    data: str | None = None
    data_dir: str | None = None
    seeds: str | None = None
    settings: tuple[str, ...] = ()
    out: str | None = None
    address: str | None = None
    tracking_uri: str | None = None
    mlflow_runs: str = AUTO
    workers: int | None = None
    stack: int | None = None
    device: str | None = None
    gpu_fraction: float = 1.0
    cuda_graphs: str = "on"
    resources: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    checkpoint_minutes: float | None = None
    trial_minutes: float | None = None
    accept_changed_code: bool = False
    level: float | None = None
    precision: float | None = None
    budget: int | None = None
    init_from: str | None = None
    init_accumulators: str | None = None


def pairs(words: Iterable[str]) -> list[tuple[str, str]]:
    """Return (key, value) of each `KEY=VALUE`."""
    return [(key, value) for key, _, value in (word.partition("=") for word in words)]


def check_cluster_options(request: RunRequest) -> None:
    """Raise ValueError for options of a cluster that contradict each other, or name no place there."""
    if request.device == "cuda" and request.gpu_fraction == 0:
        raise ValueError("--device cuda does not go with --gpu-fraction 0, which trains on CPUs")
    for option, words in (("--label", request.labels), ("--resources", request.resources)):
        keys = [key for key, _ in pairs(words)]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise ValueError(f"{option} {twice[0]} is given twice")
    check_tracking_uri(request.address, request.tracking_uri)


def requested_study(request: RunRequest) -> Study:
    """Return the search space with the request applied. Raises ValueError if it is not valid."""
    return study_and_trainer(request)[0]


def study_and_trainer(request: RunRequest) -> tuple[Study, Trainer]:
    """Return the requested study and its trainer.

    A file of weights (`--init-from`) is read once: runs start from the weights that were checked.

    Raises:
        ValueError: an option is not valid, or the space is a family of studies.
    """
    found = load_space(request.space)
    if isinstance(found, Family):
        raise ValueError(f"{request.space} is a family of studies, but one study is needed")
    study, weights = apply_request(found, request), weights_file(request)
    trainer, restore = open_trainer(study, cache_folder()), request.init_accumulators == "restore"
    if weights is not None:
        study = trainer.start_from(weights, accumulators=restore)
    elif restore:
        raise ValueError("--init-accumulators restore needs the weights that they belong to: --init-from FILE")
    return study, trainer


def apply_request(study: Study, request: RunRequest) -> Study:
    """Return the study with the request applied and validated, but for weights to start from."""
    return validate_study(change_study(study, request))


MAX_RUNS = 500_000
"""Most runs of a study without a search: all of them are planned at once."""


def validate_study(study: Study) -> Study:
    """Return the study in canonical form. Raises ValueError for what its trainer or search cannot do."""
    runs = study.cells * len(study.seeds)
    if has_grid(study) and runs > MAX_RUNS:
        raise ValueError(f"a study has at most {MAX_RUNS:,} runs, and these are {runs:,}")
    trainer = open_trainer(study, cache_folder())
    if isinstance(study.search, QualitySearch):
        from study.search import validation

        study = validation.with_fixed_options(study, trainer)
    study = trainer.validate(study)
    for method in dict.fromkeys(arm.method for arm in study.arms):
        check_thresholds(trainer.thresholds_of(method), f"the arm {method}")
    if study.has_lrs:  # range tests find those of others
        validate_values(to_json(study))  # else its record could not be read
    if isinstance(study.search, QualitySearch):
        from study.search import validation

        validation.check(study, trainer)
    return study


def change_study(study: Study, request: RunRequest) -> Study:
    """Return the study with the requested settings, before validation. Raises ValueError for wrong keys and values."""
    study = with_source(study, request)  # before --set, whose keys belong to the requested source
    own_folder = study.data_options.get("dir")
    if request.settings:
        options = {} if study.trainer == RANKER else open_trainer(study, cache_folder()).option_values()
        study = overrides.apply(study, request.settings, options)
    named = request.data_dir
    if not named and (folder := study.data_options.get("dir")) != own_folder:  # that of the space stays as it is
        named = folder if isinstance(folder, str) and "://" not in folder else None  # an own source may read others
    if named:
        check_absolute(request.address, "--data-dir", named)
        study = dataclasses.replace(study, data_options=study.data_options | {"dir": str(data_folder(named))})
    if request.seeds:
        study = dataclasses.replace(study, seeds=overrides.seeds(request.seeds))
    search = {name: value for name in SEARCHED if (value := getattr(request, name)) is not None}
    return overrides.with_search(study, search)


def check_data_options(study: Study) -> None:
    """Raise ValueError for options that a data source of ours does not have, or needs. Reads no data."""
    if study.trainer == RANKER and study.data in plugins.names("study.data"):
        data.check_options(study.data, study.data_options)


def with_source(study: Study, request: RunRequest) -> Study:
    """Return the study on the requested data source. Options of its own source are dropped with it."""
    if not request.data or request.data == study.data:
        return study
    return dataclasses.replace(study, data=request.data, data_options=data.common_options(study.data_options))


def weights_file(request: RunRequest) -> str | None:
    """Return the path or URL of `--init-from`. Raises ValueError for a relative path on a cluster."""
    check_absolute(request.address, "--init-from", request.init_from)
    return request.init_from or None


def load_space(name: str) -> Study | Family:
    """Return the study or family of a search space. Raises ValueError if its file defines none."""
    found = plugins.load("search_spaces", name, "study", "study").study
    if not isinstance(found, Study | Family):
        raise ValueError(f"the `study` of {name} is neither a study.Study nor a study.Family")
    return found


def out_folder(request: RunRequest, study: Study) -> Path:
    """Return the study's folder, or the mirror of its URL.

    Raises:
        ValueError: the path is relative on a cluster, where the working folder is not the user's.
    """
    if not request.out and (study.name in ("", ".", "..") or "/" in study.name):
        raise ValueError(f"the study's name {study.name!r} is no name of a folder: give --out")
    out = request.out or f"results/{study.name}"
    check_absolute(request.address, "--out", out, request.out or "none")
    return new_folder(out)

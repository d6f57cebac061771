"""What each command does. Heavy imports are inside, so that `study --help` is fast."""

import argparse
import dataclasses
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from study.cli.parser import run_words
from study.text import redaction
from study.text.console import show

if TYPE_CHECKING:
    from study.commands.recommend import Claim
    from study.commands.request import RunRequest

READING = ("spaces", "status", "report", "recommend", "rescore", "scale", "import", "merge", "mlflow", "ui")
"""Commands that read a record, which may be from somebody else. Only the others may import the user's own modules."""


def _request(options: argparse.Namespace) -> "RunRequest":
    from study.commands.request import RunRequest

    given: dict[str, Any] = {"space": ""}
    for name, value in vars(options).items():
        if name in RunRequest.__dataclass_fields__:
            given[name] = tuple(value) if isinstance(value, list) else value
    return RunRequest(**given)


def _claim(options: argparse.Namespace) -> "Claim":
    from study.commands.recommend import Claim

    return Claim(risk=options.risk, confidence=options.confidence, quality=options.quality)


def _folder(options: argparse.Namespace) -> Path:
    from study.commands.paths import study_folder

    return study_folder(options.dir)


def _list(package: str) -> None:
    """Print each plugin of a package with the first line of its module."""
    from study import plugins

    described = plugins.described(package)
    width = max(map(len, described), default=0)
    for name, text in described.items():
        show(f"  {name:{width}}  {text}")


def _spaces(_options: argparse.Namespace) -> None:
    packages = {"studies": "search_spaces", "methods": "study.methods", "models": "models", "data": "study.data"}
    for title, package in packages.items():
        show(f"{title}:")
        _list(package)


def _plan(options: argparse.Namespace) -> None:
    from study.commands import family as families
    from study.commands import plan

    request = _request(options)
    if found := families.requested_family(request):
        family, request = found
        show(families.preview(request, family))
    else:
        show(plan.preview(request))


def _run(options: argparse.Namespace) -> None:
    from study.commands import family as families
    from study.commands import run

    request = _request(options)
    if found := families.requested_family(request):
        family, request = found
        families.run(request, family)
    else:
        run.run(request)


def _range_test(options: argparse.Namespace) -> None:
    from study.commands.range_test import RangeRequest, range_test

    wanted = RangeRequest(
        low=options.low, high=options.high, steps=options.steps, seeds=options.range_seeds or RangeRequest.seeds
    )
    show(range_test(_request(options), wanted))


def _resume(options: argparse.Namespace) -> None:
    from study.commands import family, run

    folder = _folder(options)
    command = family if family.is_family(folder) else run
    command.resume(folder, _request(options))


def _status(options: argparse.Namespace) -> None:
    from study.commands import family, status

    folder = _folder(options)
    if not family.is_family(folder):
        show(status.status(folder, as_json=options.json))
        return
    if options.json:
        raise ValueError(f"{options.dir} holds a family of studies; --json takes one study")
    show(family.status(folder))


def _report(options: argparse.Namespace) -> None:
    from study.commands import family, report

    folder = _folder(options)
    formats = tuple(filter(None, (options.figures or "").split(",")))
    if options.figures is not None and not formats:
        raise ValueError("--figures needs formats, such as pdf,svg")
    if not family.is_family(folder):
        show(report.report(folder, formats, latex=options.latex))
        return
    if formats or options.latex:
        option = "--figures" if formats else "--latex"
        raise ValueError(f"{options.dir} holds a family of studies; {option} takes one study")
    show(family.report(folder))


def _recommend(options: argparse.Namespace) -> None:
    from study.commands.recommend import recommend

    show(recommend(_folder(options), _claim(options), as_json=options.json))


def _confirm(options: argparse.Namespace) -> None:
    from study.commands.confirm import confirm
    from study.search.confirmation import ConfirmRequest

    wanted = ConfirmRequest(lr=options.lr, seeds=options.seeds, methods=options.method, models=options.model)
    confirm(_folder(options), _request(options), wanted, _claim(options))


def _rescore(options: argparse.Namespace) -> None:
    from study.commands.rescore import rescore_and_compare

    show(rescore_and_compare(_folder(options), options.rule))


def _scale(options: argparse.Namespace) -> None:
    from study.commands.scale import scale

    show(scale(_folder(options), options.at, options.over, as_json=options.json))


def _import(options: argparse.Namespace) -> None:
    from study.commands.import_request import ImportRequest
    from study.commands.import_runs import import_runs

    given: dict[str, Any] = {}
    for name in ImportRequest.__dataclass_fields__:
        value = getattr(options, name)
        given[name] = tuple(value) if isinstance(value, list) else value
    show(import_runs(ImportRequest(**given)))


def _merge(options: argparse.Namespace) -> None:
    from study.commands.merge import merge
    from study.commands.paths import study_folder

    folders = [study_folder(where) for where in options.dirs]
    show(merge(folders, study_folder(options.out), accept_changed_code=options.accept_changed_code))


def _replay(options: argparse.Namespace) -> None:
    from study.replay import replay
    from study.storage import stores

    folder, every = _folder(options), options.sharpness_every
    show(
        replay.replay(
            folder, _run_id(folder, options), stores.cache_folder(), compare=options.compare, sharpness_every=every
        )
    )
    stores.publish(folder, ("replay/*/*",))


def _run_id(folder: Path, options: argparse.Namespace) -> str:
    from study.replay.export_weights import select_run

    named = {name: getattr(options, name) for name in ("lr", "method", "model", "seed")}
    return select_run(folder, run=options.run_id, **named)


def _export_weights(options: argparse.Namespace) -> None:
    from study.replay import export_weights
    from study.storage import stores
    from study.trainers import warm_start

    folder, cache = _folder(options), stores.cache_folder()
    run = _run_id(folder, options)
    out = options.out or str(folder / "weights" / f"{run[:12]}.safetensors")
    warm_start.check_replaceable(out)  # before the run is trained
    exported = export_weights.export_weights(folder, run, cache)
    show(f"{exported.text}\n{export_weights.write(exported.weights, out)}")
    if not options.out:
        stores.publish(folder, ("weights/*.safetensors",))


def _signals(options: argparse.Namespace) -> None:
    from analysis.report import signals
    from study.definition import overrides
    from study.replay.signals import observe_runs
    from study.storage import stores

    def on_progress(done: int, every: int) -> None:
        show(f"{done}/{every} runs observed")

    folder = _folder(options)
    observe_runs(
        folder,
        stores.cache_folder(),
        seeds=None if options.seeds is None else overrides.seeds(options.seeds),
        models=options.model.split(",") if options.model else None,
        only_methods=options.method.split(",") if options.method else None,
        sharpness_every=options.sharpness_every,
        workers=options.workers or os.cpu_count() or 1,
        on_progress=on_progress,
    )
    show(signals.write(folder))
    stores.publish(folder, ("signals/*",))


def _mlflow(options: argparse.Namespace) -> None:
    from study.tracking.mirror import mirror

    show(mirror(_folder(options), options.tracking_uri, runs=options.mlflow_runs))


def _ui(options: argparse.Namespace) -> None:
    from study.tracking.server import serve

    serve(_folder(options), port=options.port, uri=options.tracking_uri)


def _submit(options: argparse.Namespace) -> int:
    from study.commands import family as families
    from study.commands import request as requests
    from study.commands.versions import commit
    from study.tune import submit

    request = _request(options)
    if not options.address:
        raise ValueError("study submit needs --address, such as http://127.0.0.1:8265, or RAY_API_SERVER_ADDRESS")
    words = run_words(options)
    for word in words:
        if redaction.redacted(word) != word:
            raise ValueError(
                f"{redaction.redacted(word)} holds a secret, and everyone who sees the job can read it; leave it out, "
                "and set MLFLOW_TRACKING_URI, or the variable that holds the secret, where the cluster is started"
            )
    requests.check_cluster_options(request)
    if found := families.requested_family(request):
        family, request = found
        families.check(request, family)
        name = family.name
    else:
        if requests.weights_file(request):  # the file and the data are where the job runs
            request = dataclasses.replace(request, init_from=None, init_accumulators=None)
        study = requests.requested_study(request)
        requests.check_data_options(study)
        requests.out_folder(request, study)
        name = study.name
    return submit.submit(
        options.address, words, study=name, working_dir=options.working_dir, wait=not options.no_wait, commit=commit()
    )


def _data_list(_options: argparse.Namespace) -> None:
    _list("study.data")


def _data_fetch(options: argparse.Namespace) -> None:
    from study import data
    from study.commands.paths import data_folder

    show(data.fetch(options.name, data_folder(options.data_dir), progress=_show_bytes))


def _show_bytes(done: int, total: int) -> None:
    end = "\n" if done >= total else "\r"
    show(f"{done / 2**20:.1f} of {total / 2**20:.1f} MiB", end=end, file=sys.stderr)


def _data_check(options: argparse.Namespace) -> None:
    from study import data
    from study.commands.paths import data_folder
    from study.storage.stores import cache_folder

    where = {"dir": str(data_folder(options.data_dir))} if options.data_dir else {}
    show(data.check(options.name, where, cache_folder()))


VERBS: dict[str, Callable[[argparse.Namespace], int | None]] = {
    "spaces": _spaces,
    "plan": _plan,
    "run": _run,
    "range-test": _range_test,
    "resume": _resume,
    "status": _status,
    "report": _report,
    "recommend": _recommend,
    "confirm": _confirm,
    "rescore": _rescore,
    "scale": _scale,
    "import": _import,
    "merge": _merge,
    "replay": _replay,
    "export-weights": _export_weights,
    "signals": _signals,
    "submit": _submit,
    "mlflow": _mlflow,
    "ui": _ui,
    "data list": _data_list,
    "data fetch": _data_fetch,
    "data check": _data_check,
}

"""Weights that the runs of a family's member start from: those that a run of an earlier member leaves."""

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from study import data
from study.commands import request as requests
from study.commands.request import RunRequest
from study.config import CONTROL_LRS, Arm, QualitySearch, Run, Study
from study.data._dataset import Log
from study.definition.family import Member, WeightsOf
from study.record.definition import RecordError, read_definition, study_exists
from study.record.tables import read_runs
from study.storage import stores
from study.text.console import show

if TYPE_CHECKING:
    from study.training.weights import About, Weights

Requested: TypeAlias = tuple[Member, Study, RunRequest]
"""A member, its study with the request applied, and its own request."""


def check(of: WeightsOf, study: Study, members: Sequence[Requested]) -> str:
    """Return where a member's weights come from, for a plan. Raises ValueError if its runs cannot start from them."""
    from study.trainers import warm_start

    source, where = _source(of, members)
    _check_trained(of, source, where)
    log, rows = _log_and_rows(study)
    for model in source.models:
        try:
            about = _about(of, model, members)
            if of.accumulators and not warm_start.keeps_accumulators(about.method, about.options or {}):
                raise ValueError(f"{about.curve} keeps no accumulators of Adagrad that could be exported (its base)")
            warm_start.check(about, study, log, rows, accumulators=of.accumulators)
        except ValueError as error:
            raise ValueError(f"{study.name} cannot start from the weights of {of.member}: {error}") from error
    which = f"its {source.arms[0].method} at lr {of.lr:g}" if of.lr else "its control"
    which += "" if of.seed is None else f", seed {of.seed}"
    how = "as they are left" if of.accumulators else "fresh"
    return f"come from {of.member}, {which}, once that is trained; accumulators {how}"


def begun_study(member: Member, study: Study, request: RunRequest) -> Study | None:
    """Return a member's study with the weights that its record names; None if it has not begun with weights.

    Weights that are made again may differ in their last bits. With the recorded ones, recorded runs keep their ids.

    Raises:
        RecordError: its runs start from other weights, or with other accumulators, than the family now defines.
    """
    from study.trainers import warm_start

    folder, of = requests.out_folder(request, study), member.init_from
    if not of or not study_exists(folder):
        return None
    recipe = read_definition(folder).study.recipe
    if not recipe.init_from:
        return None
    if bool(recipe.init_accumulators) != of.accumulators:
        how = "as they were left" if recipe.init_accumulators else "fresh"
        raise RecordError(f"the runs in {folder} start with accumulators {how}; choose another folder")
    weights = {name: getattr(recipe, name) for name in ("init_from", "init_accumulators")}
    begun = dataclasses.replace(study, recipe=dataclasses.replace(study.recipe, **weights))
    if kept := _kept(folder, begun):
        for name in ("lr", "seed"):
            value = getattr(of, name)
            if value is not None and getattr(kept.about, name) != value:
                raise RecordError(
                    f"the runs in {folder} start from {warm_start.words(kept.about)}, and {member.label} asks for "
                    f"those of {name} {value:g}; choose another folder"
                )
    return begun


def started_study(
    folder: Path, member: Member, study: Study, request: RunRequest, members: Sequence[Requested]
) -> "tuple[Study, Weights]":
    """Return a member's study and the weights that its runs start from. Makes the weights if there are none.

    Raises:
        RecordError: the recorded weights are lost, and those that can be made have other bits.
    """
    from study.trainers import warm_start

    of, begun, where = member.init_from, begun_study(member, study, request), requests.out_folder(request, study)
    assert of
    if begun and (kept := _kept(where, begun)):
        return begun, kept
    start = weights_of_run(folder, member.label, of, members)
    started = warm_start.of(study, start, accumulators=of.accumulators)
    if begun and begun.recipe != started.recipe:
        raise RecordError(
            f"the weights from which the runs of {member.label} start are lost, and those that {of.member} leaves now "
            f"have other bits; put them back into {where}/{warm_start.FOLDER}, or choose another folder"
        )
    return started, start


def weights_of_run(folder: Path, label: str, of: WeightsOf, members: Sequence[Requested]) -> "Weights":
    """Return the weights for a member, from their file in the family's folder, or else by training the run again."""
    from study.replay import export_weights
    from study.trainers import warm_start

    source, where = _source(of, members)
    path = folder / f"{label}.weights.safetensors"
    run = _run(of, source, where)
    stores.store_for(folder).refresh(path.name)
    with contextlib.suppress(ValueError):  # an unreadable file is written again
        found = warm_start.opened(path)
        incomplete = of.accumulators and not found.accumulators
        if found.about.run_id == (run if isinstance(run, str) else run.id) and not incomplete:
            return found
    exported = export_weights.export_weights(where, run, stores.cache_folder())
    if exported.outcome == "diverged":
        raise ValueError(f"{label} cannot start from a run of {of.member} that diverged ({exported.text})")
    show(f"{of.member}: {exported.text}\n{export_weights.write(exported.weights, str(path))}\n")
    return exported.weights


def _kept(where: Path, begun: Study) -> "Weights | None":
    """The weights in a member's own folder; None if they are lost."""
    from study.trainers import warm_start

    try:
        return warm_start.kept(where, begun.recipe)
    except ValueError:
        return None


def _check_trained(of: WeightsOf, source: Study, where: Path) -> None:
    """Raise ValueError if the source neither has nor will have a run at the lr."""
    trained = source.lrs_of(source.arms[0])
    if of.lr is None or of.seed is not None or (of.lr in trained and not isinstance(source.search, QualitySearch)):
        return  # a run of a given seed is trained for its weights if it is not recorded
    recorded = set()
    if study_exists(where):
        runs = read_runs(where)
        recorded = set(runs.loc[(runs["role"] == "cell") & (runs["method"] == source.arms[0].method), "lr"])
    if of.lr not in recorded:
        lrs = ", ".join(f"{lr:g}" for lr in trained)
        raise ValueError(f"{of.member} trains no run at lr {of.lr:g}, whose weights are asked for; it trains {lrs}")


def _about(of: WeightsOf, model: str, members: Sequence[Requested]) -> "About":
    """Describe the weights that a run of this model will leave. The rows seen include those of its own start."""
    from study.replay import export_weights

    source = _source(of, members)[0]
    log, rows = _log_and_rows(source)
    before = next(member for member, _, _ in members if member.label == of.member).init_from
    start = _about(before, model, members) if before else None
    arm = source.arms[0] if of.lr else Arm(method="none")
    seed = source.seeds[0] if of.seed is None else of.seed
    run = source.run(log.content, model, arm, of.lr or CONTROL_LRS[0], seed)
    about = export_weights.about_of(run, log, rows, start)
    export_weights.check_form(about, run, log)
    return about


def _log_and_rows(study: Study) -> tuple[Log, data.Rows]:
    cache = stores.cache_folder()
    return data.load(study.data, study.data_options, cache), data.rows_of(study.data, study.data_options, cache)


def _source(of: WeightsOf, members: Sequence[Requested]) -> tuple[Study, Path]:
    """The study whose run leaves the weights, and its folder."""
    return next((study, requests.out_folder(own, study)) for member, study, own in members if member.label == of.member)


def _run(of: WeightsOf, source: Study, where: Path) -> str | Run:
    """The id of the recorded run, or the run of the requested seed."""
    from study import methods
    from study.replay import export_weights

    arm = source.arms[0]
    if of.seed is None or of.lr is None:
        return export_weights.select_run(where, lr=of.lr, arm=arm if of.lr else None)
    definition = read_definition(where)
    arm = Arm(method=arm.method, options=methods.check(arm.method, arm.options))
    return definition.study.run(definition.data["content"], source.models[0], arm, of.lr, of.seed)

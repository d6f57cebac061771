"""A family of studies as one thing to run: each a study of its own in its own folder, and one page over all of them.

DIR/family.json            name and members, in order
DIR/<label>/               the record of a member
DIR/<label>.weights.safetensors    what the runs of a member start from, where it is the weights of another's run
DIR/report.html            every member's edge, one below the other (`analysis.figures.forest`)
"""

import contextlib
import dataclasses
import inspect
import itertools
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from study import data, overrides, plugins
from study.commands import plan
from study.commands import request as requests
from study.commands import run as one_study
from study.commands import status as one_status
from study.commands.request import RunRequest
from study.config import CONTROL_LRS, Arm, QualitySearch, Run, Study
from study.data._dataset import Log
from study.family import Family, Member, WeightsOf
from study.record.definition import RecordError, read_definition, study_exists
from study.record.tables import read_runs
from study.storage import stores

if TYPE_CHECKING:
    from analysis.loading import FamilyMember
    from study.training.weights import About, Weights


def requested_family(asked: RunRequest) -> Family | None:
    """The family that a search space is, or None where it is one study."""
    found = requests.load_space(asked.space)
    return found if isinstance(found, Family) else None


def is_family(folder: Path) -> bool:
    """Whether a folder is a family's."""
    stores.store_for(folder).refresh("family.json")
    return (folder / "family.json").is_file()


def preview(asked: RunRequest, family: Family) -> str:
    """What `study plan` says of each member."""
    folder = _folder(asked, family)
    parts = [f"{family.name}: {len(family.members)} studies, one after another, in {stores.address(folder)}"]
    members = _members(asked, family)
    for member, study, own in members:
        parts.append(f"\n{member.label}: {member.words}")
        with _said_of(member):
            if member.init_from:
                said = _check_weights(member.init_from, study, members)
                if begun := _begun(member, study, own):
                    study, said = begun, f"lie in {stores.address(requests.out_folder(own, begun))}/init"
                parts.append(f"  weights   {said}")
            parts.append(plan.preview(own, study))
    return "\n".join(parts)


def run(asked: RunRequest, family: Family) -> Path:
    """Train what every member lacks, one after another, then report on all. Returns the family's folder.

    Everything that is wrong with any member is said before the first is trained.
    """
    folder, members = _folder(asked, family), list(_members(asked, family))
    for member, study, own in members:
        with _said_of(member):
            if member.init_from:
                _check_weights(member.init_from, study, members)
                study = _begun(member, study, own) or study
            plan.preview(own, study)
    _write(folder, family)
    for i, (member, study, own) in enumerate(members, 1):
        print(f"\n== {i} of {len(members)}: {member.words} ==\n", flush=True)
        trainer = None
        if member.init_from:
            from study.trainers import ranker

            study, start = _started(folder, member, study, own, members)
            trainer = ranker.Trainer(study, stores.cache_folder(), start=start)
        one_study.run(own, study, trainer)
    print(f"\n{report(folder)}", flush=True)
    return folder


def check(asked: RunRequest, family: Family) -> None:
    """Raises ValueError where no member could be what was asked; looks at no data."""
    _members(asked, family)


def resume(folder: Path, asked: RunRequest) -> Path:
    """Train exactly what the members that were begun lack, then report on all. What was never begun is not in any
    record: `study run` begins it."""
    name, shown = _read(folder)
    for i, member in enumerate(shown, 1):
        print(f"\n== {i} of {len(shown)}: {member.words} ==\n", flush=True)
        if study_exists(member.folder):
            one_study.resume(member.folder, asked)
        else:
            print(f"not begun: study run {name} --out {stores.address(folder)} begins it", flush=True)
    print(f"\n{report(folder)}", flush=True)
    return folder


def report(folder: Path) -> str:
    """Write the family's page from the members' records. Returns what a terminal shows of it."""
    from analysis.report import family as page
    from analysis.stats.forest import forest

    name, members = _read(folder)
    table = forest(members)
    path = page.write(folder, name, members, table)
    stores.publish(folder)
    said = page.text(table) if len(table) else "no runs recorded yet"
    return f"{name}\n\n{said}\n\nreport: {path}"


def status(folder: Path) -> str:
    """The status of every member."""
    return "\n\n".join(
        f"{m.words}\n{one_status.status(m.folder) if study_exists(m.folder) else 'not begun'}" for m in _read(folder)[1]
    )


@contextlib.contextmanager
def _said_of(member: Member) -> Iterator[None]:
    """What cannot be is said of the member whose study it is."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{member.label}: {error}") from error


def _folder(asked: RunRequest, family: Family) -> Path:
    return requests.out_folder(asked, dataclasses.replace(family.members[0].study, name=family.name))


def _members(asked: RunRequest, family: Family) -> list[tuple[Member, Study, RunRequest]]:
    """Each member, its study with all that was asked applied, and what is asked of it alone."""
    for option in ("init_from", "init_accumulators"):
        if getattr(asked, option):
            raise ValueError(
                f"--{option.replace('_', '-')} is of one study; {family.name} says itself which of its members start "
                "from weights, and how"
            )
    folder, asked_of = _folder(asked, family), []
    for member in family.members:
        source = asked.data or member.study.data
        takes_dir = (
            "dir" in inspect.signature(plugins.load("study.data", source, "data source", "load").load).parameters
        )
        own = dataclasses.replace(asked, out=f"{stores.address(folder)}/{member.label}")
        asked_of.append(dataclasses.replace(own, data_dir=asked.data_dir if takes_dir else None))
    check_changes(
        asked, family, [requests.change_study(m.study, own) for m, own in zip(family.members, asked_of, strict=True)]
    )
    return [(m, requests.apply_request(m.study, own), own) for m, own in zip(family.members, asked_of, strict=True)]


WHERE = ("lr", "seeds", "search")
"""Keys of where a study trains. Members may lose a difference in these: their words speak of what is trained."""


def check_changes(asked: RunRequest, family: Family, changed: Sequence[Study]) -> None:
    """Raises ValueError where what was asked takes away what a member changes, so that its words would not be true: a
    difference from the member that it is held against, or from another, of which it would be a second copy.

    changed: the members' studies with all that was asked.
    """
    labels = [member.label for member in family.members]
    before = {m.label: overrides.by_key(m.study) | {"init_from": m.init_from} for m in family.members}
    after = {
        m.label: overrides.by_key(study) | {"init_from": m.init_from}
        for m, study in zip(family.members, changed, strict=True)
    }
    lost: dict[str, list[str]] = {}
    for member in family.members:
        label, against = member.label, member.against or labels[0]
        for key in _differing(before[label], before[against]):
            if key not in WHERE and key not in _differing(after[label], after[against]):
                lost.setdefault(key, []).append(label)
    if lost:
        what = "; ".join(f"{key} of {', '.join(of)}" for key, of in lost.items())
        raise ValueError(
            f"{_causes(asked, lost)} would undo what members of {family.name} change ({what}), and their words would "
            "not be true; leave it out, or write a search space of your own"
        )
    for one, other in itertools.combinations(labels, 2):
        keys = _differing(before[one], before[other])
        if keys and not _differing(after[one], after[other]):
            raise ValueError(f"{_causes(asked, keys)} would make {one} and {other} of {family.name} the same study")


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    return [key for key in dict.fromkeys([*one, *other]) if one.get(key) != other.get(key)]


def _causes(asked: RunRequest, keys: Collection[str]) -> str:
    """What was asked of these keys, as it was typed."""
    found = [f"--set {setting}" for setting in asked.settings if overrides.key_of(setting) in keys]
    set_keys = {overrides.key_of(setting) for setting in asked.settings}
    of_source = {key for key in keys if key.partition(".")[0] == "data"} - set_keys
    if asked.data_dir and "data.dir" in of_source:
        found.append(f"--data-dir {asked.data_dir}")
    elif asked.data and of_source:
        found.append(f"--data {asked.data}")
    if asked.seeds and "seeds" in keys:
        found.append(f"--seeds {asked.seeds}")
    return " ".join(found) or "what is asked"


def _begun(member: Member, study: Study, own: RunRequest) -> Study | None:
    """A member's study from the weights that its record says its runs start from; None where it was never begun so.
    By that its runs are known again, and go on, even where weights that are made anew have other last bits."""
    folder = requests.out_folder(own, study)
    if not member.init_from or not study_exists(folder):
        return None
    recipe = read_definition(folder).study.recipe
    if not recipe.init_from:
        return None
    if bool(recipe.init_accumulators) != member.init_from.accumulators:
        was = "as they were left" if recipe.init_accumulators else "fresh"
        raise RecordError(f"the runs in {folder} start with accumulators {was}; choose another --out")
    names = ("init_from", "init_accumulators")
    started = dataclasses.replace(study.recipe, **{name: getattr(recipe, name) for name in names})
    begun = dataclasses.replace(study, recipe=started)
    if kept := _kept(folder, begun):
        _check_asked(member, folder, kept.about)
    return begun


def _check_asked(member: Member, folder: Path, about: "About") -> None:
    """Raises RecordError where a member's runs start from the weights of another run than is asked for."""
    from study.trainers import warm_start

    for name in ("lr", "seed"):
        value = getattr(member.init_from, name)
        if value is not None and getattr(about, name) != value:
            raise RecordError(
                f"the runs in {folder} start from {warm_start.words(about)}, and {member.label} asks for those of "
                f"{name} {value:g}; choose another --out"
            )


def _started(
    folder: Path, member: Member, study: Study, own: RunRequest, members: Sequence[tuple[Member, Study, RunRequest]]
) -> "tuple[Study, Weights]":
    """A member's study, and the weights from which its runs start: those that its own folder keeps, or else those of
    the family's folder, which may have to be made."""
    from study.trainers import warm_start

    of, begun, where = member.init_from, _begun(member, study, own), requests.out_folder(own, study)
    assert of
    if begun and (kept := _kept(where, begun)):
        return begun, kept
    start = _weights(folder, member.label, of, members)
    started = warm_start.of(study, start, accumulators=of.accumulators)
    if begun and begun.recipe != started.recipe:
        raise RecordError(
            f"the weights from which the runs of {member.label} start are lost, and those that {of.member} leaves now "
            f"have other bits; put them back into {where}/{warm_start.FOLDER}, or choose another --out"
        )
    return started, start


def _kept(where: Path, begun: Study) -> "Weights | None":
    """The weights that a member's own folder keeps; None where they are lost there."""
    from study.trainers import warm_start

    try:
        return warm_start.kept(where, begun.recipe)
    except ValueError:
        return None


def _check_weights(of: WeightsOf, study: Study, members: Sequence[tuple[Member, Study, RunRequest]]) -> str:
    """Where a member's weights come from, in words. Raises ValueError where its runs could not start from them, before
    there are any."""
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


def _check_trained(of: WeightsOf, source: Study, where: Path) -> None:
    """Raises ValueError where the source neither has nor will have a run of the lr that is asked for."""
    if of.lr is None or of.seed is not None or (of.lr in source.lrs and not isinstance(source.search, QualitySearch)):
        return  # what a seed names is trained for its weights where it is not recorded
    there = set()
    if study_exists(where):
        runs = read_runs(where)
        there = set(runs.loc[(runs["role"] == "cell") & (runs["method"] == source.arms[0].method), "lr"])
    if of.lr not in there:
        lrs = ", ".join(f"{lr:g}" for lr in source.lrs)
        raise ValueError(f"{of.member} trains no run at lr {of.lr:g}, whose weights are asked for; it trains {lrs}")


def _about(of: WeightsOf, model: str, members: Sequence[tuple[Member, Study, RunRequest]]) -> "About":
    """What the weights will be that a run of this model leaves. What it started from is in what it has seen."""
    from study.replay import export_weights

    source = _source(of, members)[0]
    log, rows = _log_and_rows(source)
    before = next(member for member, _, _ in members if member.label == of.member).init_from
    start = _about(before, model, members) if before else None
    arm = source.arms[0]
    seed = source.seeds[0] if of.seed is None else of.seed
    run = source.run(log.content, model, arm if of.lr else Arm(method="none"), of.lr or CONTROL_LRS[0], seed)
    about = export_weights.about_of(run, log, rows, start)
    export_weights.check_form(about, run, log)
    return about


def _log_and_rows(study: Study) -> tuple[Log, data.Rows]:
    cache = stores.cache_folder()
    return data.load(study.data, study.data_options, cache), data.rows_of(study.data, study.data_options, cache)


def _source(of: WeightsOf, members: Sequence[tuple[Member, Study, RunRequest]]) -> tuple[Study, Path]:
    """The study whose run leaves the weights, and its folder."""
    return next((study, requests.out_folder(own, study)) for member, study, own in members if member.label == of.member)


def _weights(folder: Path, label: str, of: WeightsOf, members: Sequence[tuple[Member, Study, RunRequest]]) -> "Weights":
    """The weights that a member starts from: of the file in the family's folder, which is made now where there is none
    of this run."""
    from study.replay import export_weights
    from study.trainers import warm_start

    source, where = _source(of, members)
    path = folder / f"{label}.weights.safetensors"
    run = _run(of, source, where)
    stores.store_for(folder).refresh(path.name)
    with contextlib.suppress(ValueError):  # one that does not read is made again
        found = warm_start.opened(path)
        lacks = of.accumulators and not found.accumulators
        if found.about.run_id == (run if isinstance(run, str) else run.id) and not lacks:
            return found
    exported = export_weights.export_weights(where, run, stores.cache_folder())
    if exported.outcome == "diverged":
        raise ValueError(f"{label} cannot start from a run of {of.member} that diverged ({exported.text})")
    print(f"{of.member}: {exported.text}\n{export_weights.write(exported.weights, str(path))}\n", flush=True)
    return exported.weights


def _run(of: WeightsOf, source: Study, where: Path) -> str | Run:
    """The run whose weights are asked for: the id of a recorded one, or one by its seed."""
    from study import methods
    from study.replay import export_weights

    arm = source.arms[0]
    if of.seed is None or of.lr is None:
        return export_weights.select_run(where, lr=of.lr, arm=arm if of.lr else None)
    definition = read_definition(where)
    arm = Arm(method=arm.method, options=methods.check(arm.method, arm.options))
    return definition.study.run(definition.data["content"], source.models[0], arm, of.lr, of.seed)


def _write(folder: Path, family: Family) -> None:
    from analysis.loading import FAMILY_FORMAT

    members = [
        {"label": m.label, "words": m.words, "against": m.against or family.members[0].label} for m in family.members
    ]
    content = json.dumps({"format": FAMILY_FORMAT, "name": family.name, "members": members}, indent=1) + "\n"
    if is_family(folder):
        before, _ = _read(folder)
        if before != family.name:
            raise RecordError(f"{folder} holds the family {before!r}, not {family.name!r}; choose another --out")
    if study_exists(folder):
        raise RecordError(f"{folder} holds a study, and no family; choose another --out")
    stores.store_for(folder).put("family.json", content.encode())


def _read(folder: Path) -> "tuple[str, list[FamilyMember]]":
    """The family's name, and its members, each in the folder that it has here."""
    from analysis.loading import read_family

    stores.store_for(folder).refresh("family.json")
    name, members = read_family(folder)
    here = [stores.folder_of(f"{stores.address(folder)}/{member.label}") for member in members]
    return name, [dataclasses.replace(member, folder=own) for member, own in zip(members, here, strict=True)]

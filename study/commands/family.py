"""Commands for a family of studies: each member is a study in its own folder, and one page shows them all.

DIR/family.json                    name and members, in order
DIR/<label>/                       the record of a member
DIR/<label>.weights.safetensors    weights that a member's runs start from (`study.commands.family_weights`)
DIR/report.html                    the edges of every member
"""

import contextlib
import dataclasses
import inspect
import itertools
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from study import plugins
from study.commands import changed_code, family_weights, plan, sizes
from study.commands import request as requests
from study.commands import run as one_study
from study.commands import status as one_status
from study.commands.paths import study_folder
from study.commands.request import RunRequest
from study.config import Study, planned_contrasts
from study.definition import overrides
from study.definition.family import Family, Member, of_settings
from study.execution.work_queue import TrainingFailedError
from study.record.definition import RecordError, read_definition, study_exists
from study.record.files import read_file
from study.storage import stores
from study.text.console import show
from study.trainers.protocol import open_trainer

if TYPE_CHECKING:
    from analysis.loading import FamilyMember
    from analysis.stats.scale import ScaleTables

FREE_KEYS = ("lr", "seeds", "search")
"""Keys that a request may make equal in all members: they say where a study trains, and `Member.words` what."""


def requested_family(request: RunRequest) -> tuple[Family, RunRequest] | None:
    """Return the family of a request, and the request for its members; None if it asks for one study.

    The search space is a family, or settings give several values to what a study has one of (`family.of_settings`).

    Raises:
        ValueError: settings vary what cannot be varied.
    """
    found = requests.load_space(request.space)
    if isinstance(found, Family):
        for setting in request.settings:
            if overrides.varied_values(found.members[0].study, setting):
                raise ValueError(f"{found.name} is a family already, so {overrides.key_of(setting)} takes one value")
        return found, request
    made, rest = of_settings(requests.with_source(found, request), request.settings)
    return made and (made, dataclasses.replace(request, settings=rest))


def is_family(folder: Path) -> bool:
    """Return whether a folder holds a family."""
    stores.store_for(folder).refresh("family.json")
    return read_file(folder, "family.json") is not None


def preview(request: RunRequest, family: Family) -> str:
    """Return the text of `study plan` for each member. What holds for most of them stands once."""
    folder = _folder(request, family)
    members, blocks = _members(request, family), []
    contrasts = sum(planned_count(study) for _, study, _ in members)
    for member, study, own in members:
        lines = []
        with _errors_of(member):
            begun = None
            if member.init_from:
                weights = family_weights.check(member.init_from, study, members)
                if begun := family_weights.begun_study(member, study, own):
                    study, weights = begun, f"in {stores.address(requests.out_folder(own, begun))}/init"
                lines.append(f"  weights   {weights}")
            exist = begun is not None or not member.init_from
            head, *more = plan.preview_lines(own, study, weights_exist=exist, of_family=contrasts)
            blocks.append([f"  measures  {head.partition(': ')[2]}", *lines, *more])
    of_most, own_lines = said_once(blocks)
    parts = [f"{family.name}: {len(family.members)} studies, one after another, in {stores.address(folder)}"]
    if of_most:
        parts += ["\nin each, unless it says otherwise:", *of_most]
    for member, lines in zip(family.members, own_lines, strict=True):
        parts += [f"\n{member.label}: {member.words}", *lines]
    return "\n".join(parts)


def said_once(blocks: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """Split the lines of several plans into those of most plans, and those in which each differs from them.

    Lines are compared by their first word. Only what every plan has can be left out of one.

    Args:
        blocks: the lines of each plan.
    """
    by_word: list[dict[str, list[str]]] = []
    for block in blocks:
        words: dict[str, list[str]] = {}
        for line in block:
            words.setdefault(line[:12] if line[:2] == "  " else line, []).append(line)
        by_word.append(words)
    of_most: dict[str, list[str]] = {}
    for word in by_word[0] if len(blocks) > 1 else ():
        every = [words[word] for words in by_word if word in words]
        most = max(every, key=every.count)
        if len(every) == len(blocks) and every.count(most) > len(blocks) / 2:
            of_most[word] = most
    own = [[line for word, lines in words.items() if of_most.get(word) != lines for line in lines] for words in by_word]
    return [line for lines in of_most.values() for line in lines], own


def run(request: RunRequest, family: Family) -> Path:
    """Train the missing runs of each member, then report on all. Every member is checked before the first is trained.

    Returns:
        The family's folder.
    """
    one_study.check_request(request)
    folder, members = _folder(request, family), _members(request, family)
    failed: dict[str, TrainingFailedError] = {}
    for member, study, own in members:
        with _errors_of(member):
            if member.init_from:
                family_weights.check(member.init_from, study, members)
                study = family_weights.begun_study(member, study, own) or study
            plan.preview_lines(own, study)
            _refuse_changed_code(requests.out_folder(own, study), own, study)
    _write(folder, family, {member.label: study for member, study, _ in members})
    for i, (member, study, own) in enumerate(members, 1):
        show(f"\n== {i} of {len(members)}: {member.words} ==\n")
        with _noted(failed, member.label):
            trainer = None
            if member.init_from:
                from study.trainers import ranker

                with _failed_source(failed, member.init_from.member):
                    study, start = family_weights.started_study(folder, member, study, own, members)
                trainer = ranker.Trainer(study, stores.cache_folder(), start=start)
            one_study.run(own, study, trainer)
    show(f"\n{report(folder)}")
    _refuse(failed)
    return folder


def check(request: RunRequest, family: Family) -> None:
    """Raise ValueError if the request is not valid for some member. Reads no data."""
    for member, study, _ in _members(request, family):
        with _errors_of(member):
            requests.check_data_options(study)


def resume(folder: Path, request: RunRequest) -> Path:
    """Train the missing runs of the members that have begun, then report on all. Returns the family's folder."""
    (_, members), failed = read_members(folder), dict[str, TrainingFailedError]()
    for member in members:
        if study_exists(member.folder):
            _refuse_changed_code(member.folder, request, requests.validate_study(read_definition(member.folder).study))
    for i, member in enumerate(members, 1):
        show(f"\n== {i} of {len(members)}: {member.words} ==\n")
        if study_exists(member.folder):
            with _noted(failed, member.label):
                one_study.resume(member.folder, request)
        else:
            show(f"not begun; repeat the `study run` that made {stores.address(folder)}, which begins it")
    show(f"\n{report(folder)}")
    _refuse(failed)
    return folder


@contextlib.contextmanager
def _noted(failed: dict[str, TrainingFailedError], label: str) -> Iterator[None]:
    """Note why a member failed: the others are trained all the same."""
    try:
        yield
    except TrainingFailedError as error:
        failed[label] = error
        show(str(error))


@contextlib.contextmanager
def _failed_source(failed: Mapping[str, TrainingFailedError], label: str) -> Iterator[None]:
    """Raise the kind of error of a failed member if the weights that it should leave cannot be had."""
    try:
        yield
    except Exception as error:
        if label not in failed:
            raise
        raise type(failed[label])(f"it cannot start from the weights of {label}, which failed ({error})") from error


def _refuse(failed: Mapping[str, TrainingFailedError]) -> None:
    """Raise the error with the highest exit code, with the reasons of all failed members."""
    if failed:
        worst = max(failed.values(), key=lambda error: error.exit_code)
        raise type(worst)("; ".join(f"{label}: {error}" for label, error in failed.items()))


def report(folder: Path) -> str:
    """Write the family's page from the members' records. Returns its text for a terminal."""
    from analysis.report import family as page
    from analysis.stats.forest import fitted_members, forest_of
    from analysis.stats.interactions import gains, interactions

    name, members = read_members(folder)
    fitted = fitted_members(members)
    table, of_methods = forest_of(fitted), gains(fitted)
    between = interactions(fitted, of_methods)
    path = page.write(folder, name, members, table, _sizes(folder, name, members), of_methods, between)
    stores.publish(folder)
    text = page.text(table, of_methods, between) if len(table) else "no runs recorded yet"
    return f"{name}\n\n{text}\n\nreport: {path}"


def _sizes(folder: Path, name: str, members: "Sequence[FamilyMember]") -> "ScaleTables | None":
    """The edges against a size; None if the members do not differ in one number alone."""
    try:
        return sizes.of_report(folder, *sizes.of_members(name, members))
    except ValueError:
        return None


def status(folder: Path) -> str:
    """Return the status of every member."""
    return "\n\n".join(
        f"{m.words}\n{one_status.status(m.folder) if study_exists(m.folder) else 'not begun'}"
        for m in read_members(folder)[1]
    )


def _refuse_changed_code(folder: Path, request: RunRequest, study: Study) -> None:
    trainer = open_trainer(study, stores.cache_folder())
    changed_code.refuse(folder, study, trainer, accepted=request.accept_changed_code)


@contextlib.contextmanager
def _errors_of(member: Member) -> Iterator[None]:
    """Name the member in a ValueError."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{member.label}: {error}") from error


def _folder(request: RunRequest, family: Family) -> Path:
    return requests.out_folder(request, dataclasses.replace(family.members[0].study, name=family.name))


def _members(request: RunRequest, family: Family) -> list[family_weights.Requested]:
    """Return each member with its study and its own request. Raises ValueError if the request is not valid."""
    for option in ("init_from", "init_accumulators"):
        if getattr(request, option):
            word, many = f"--{option.replace('_', '-')}", len(family.members)
            if any(member.init_from for member in family.members):
                raise ValueError(f"{word} is for one study; the members of {family.name} define their own weights")
            members = " | ".join(member.words for member in family.members)
            raise ValueError(
                f"{word} checks and keeps the weights of one study, and these are {many} ({members}): train each with "
                "an --out of its own"
            )
    folder, own = _folder(request, family), []
    for member in family.members:
        source = plugins.load("study.data", request.data or member.study.data, "data source", "load")
        takes_dir = "dir" in inspect.signature(source.load).parameters
        out = f"{stores.address(folder)}/{member.label}"
        own.append(dataclasses.replace(request, out=out, data_dir=request.data_dir if takes_dir else None))
    pairs = list(zip(family.members, own, strict=True))
    _check_differences(request, family, [requests.change_study(member.study, one) for member, one in pairs])
    return [(member, requests.apply_request(member.study, one), one) for member, one in pairs]


def _check_differences(request: RunRequest, family: Family, changed: Sequence[Study]) -> None:
    """Raise ValueError if a request removes what a member changes: its words would be wrong, or two would be equal.

    Args:
        request: the request.
        family: the family.
        changed: the members' studies with the request applied.
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
            if key not in FREE_KEYS and key not in _differing(after[label], after[against]):
                lost.setdefault(key, []).append(label)
    if lost:
        what = "; ".join(f"{key} of {', '.join(changing)}" for key, changing in lost.items())
        raise ValueError(
            f"{_typed(request, lost)} would undo what members of {family.name} change ({what}), and their words would "
            "be wrong; leave it out, or write a search space of your own"
        )
    for one, other in itertools.combinations(labels, 2):
        keys = _differing(before[one], before[other])
        if keys and not _differing(after[one], after[other]):
            raise ValueError(f"{_typed(request, keys)} would make {one} and {other} of {family.name} the same study")


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    return [key for key in dict.fromkeys([*one, *other]) if one.get(key) != other.get(key)]


def _typed(request: RunRequest, keys: Collection[str]) -> str:
    """Return the options of a request that change these keys, as they were typed."""
    found = [f"--set {setting}" for setting in request.settings if overrides.key_of(setting) in keys]
    set_keys = {overrides.key_of(setting) for setting in request.settings}
    of_source = {key for key in keys if key.partition(".")[0] == "data"} - set_keys
    if request.data_dir and "data.dir" in of_source:
        found.append(f"--data-dir {request.data_dir}")
    elif request.data and of_source:
        found.append(f"--data {request.data}")
    if request.seeds and "seeds" in keys:
        found.append(f"--seeds {request.seeds}")
    return " ".join(found) or "the request"


def _write(folder: Path, family: Family, studies: Mapping[str, Study]) -> None:
    """Write `family.json`. Raises RecordError if the folder holds something else.

    Args:
        folder: of the family.
        family: the family.
        studies: label -> the member's study with the request applied.
    """
    from analysis.loading import FAMILY_FORMAT

    before, recorded = read_members(folder) if is_family(folder) else (family.name, [])
    if before != family.name:
        raise RecordError(f"{folder} holds the family {before!r}, not {family.name!r}; choose another folder")
    if study_exists(folder):
        raise RecordError(f"{folder} holds a study, and no family; choose another folder")
    first = recorded[0].label if recorded else family.members[0].label
    members: dict[str, dict[str, Any]] = {  # it may grow
        m.label: {"label": m.label, "words": m.words, "against": m.against, "contrasts": m.contrasts} for m in recorded
    }
    for m in family.members:
        study = studies[m.label]
        own = {"label": m.label, "words": m.words, "against": m.against or first}
        members[m.label] = own | {"contrasts": planned_count(study)}
    content = (
        json.dumps({"format": FAMILY_FORMAT, "name": family.name, "members": [*members.values()]}, indent=1) + "\n"
    )
    stores.store_for(folder).put("family.json", content.encode())


def planned_count(study: Study) -> int:
    """Return how many contrasts a study plans, of all its models."""
    return len(study.models) * len(planned_contrasts(study))


def read_members(folder: Path) -> "tuple[str, list[FamilyMember]]":
    """Return the family's name and its members, with their local folders."""
    from analysis.loading import read_family

    stores.store_for(folder).refresh("family.json")
    name, members = read_family(folder)
    local = [study_folder(f"{stores.address(folder)}/{member.label}") for member in members]
    return name, [dataclasses.replace(member, folder=own) for member, own in zip(members, local, strict=True)]

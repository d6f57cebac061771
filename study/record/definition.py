"""`study.json`: what a study is. Its axes may grow; its name, data, recipe and rule may not change."""

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from study.config import (
    IMPORTED,
    RANKER,
    EdgeSearch,
    QualitySearch,
    Search,
    Study,
    canonical_json,
    comparators,
    study_from_json,
    to_json,
    united_arms,
)
from study.record import checksums, validation
from study.record.files import definition_text, origin_of
from study.storage import stores

FORMAT = 1


class RecordError(ValueError):
    """The record cannot be used. The message is one line for the user."""


@dataclass(frozen=True, kw_only=True)
class Definition:
    """The content of `study.json`.

    Args:
        study: axes, recipe, rule and search.
        data: facts about the data (`study.data.describe`).
        versions: package name -> version, of every package that training uses.
        plans: (time in UTC, `plan_hash`) of the plan and of each that extended it, oldest first. Each was fixed before
            its runs were trained. Empty in a record of an older version.
    """

    study: Study
    data: dict[str, Any]
    versions: dict[str, str]
    plans: tuple[tuple[str, str], ...] = ()


def plan_hash(study: Study, data: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a plan: the study and the content of its data, without the folder where the data lie.

    It is that of canonical JSON, so everyone who has `study.json` can compute it.
    """
    plan = {"study": to_json(study), "data": data["content"]}
    plan["study"]["data_options"].pop("dir", None)
    for axis in ("lrs", "seeds"):
        plan["study"][axis] = sorted(plan["study"][axis])
    return hashlib.sha256(canonical_json(plan).encode()).hexdigest()


def study_exists(folder: Path) -> bool:
    """Return whether the folder holds a study."""
    return definition_text(folder) is not None


def read_definition(folder: Path) -> Definition:
    """Return the definition of the study in a folder.

    Raises:
        RecordError: there is no study, or this version cannot read it.
        StorageError: it cannot be read now.
    """
    path, text = folder / "study.json", definition_text(folder)
    if text is None and (folder / "family.json").is_file():
        members = sorted(path.parent.name for path in folder.glob("*/study.json"))
        raise RecordError(f"{stores.address(folder)} holds a family of studies; name one of them: {', '.join(members)}")
    if text is None:
        raise RecordError(f"{stores.address(folder)} holds no study (no study.json)")
    try:
        content = checksums.read_json(text)
        if content["format"] != FORMAT:
            raise RecordError(f"{path} has format {content['format']!r}; this version reads format {FORMAT}")
        validation.validate_definition(content)
        return Definition(
            study=study_from_json(content["study"]),
            data=dict(content["data"]),
            versions=dict(content["versions"]),
            plans=tuple((time, digest) for time, digest in content.get("plans", ())),
        )
    except RecordError:
        raise
    except checksums.ChecksumError as error:
        advice = "move it away and repeat your `study run`, which keeps the recorded runs"
        raise RecordError(f"{path} is not a study's definition ({error}); {advice}") from error
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, OverflowError) as error:
        raise RecordError(f"{path} is not a study's definition ({error})") from error


def open_study(folder: Path, definition: Definition) -> Definition:
    """Create a study's folder, or extend the axes of the study that it holds.

    Args:
        folder: the study's folder.
        definition: the study to create, or the same study with other axes.

    Returns:
        The definition as written: the union of the old and the new axes.

    Raises:
        RecordError: the folder holds a study with another name, data, recipe or rule, or a rescored view of one.
            Nothing is changed.
        StorageError: the folder cannot be written.
    """
    check_not_a_view(folder)
    stores.probe(folder)
    before = read_definition(folder) if study_exists(folder) else None
    definition = with_plan(folder, before, definition)
    write_definition(folder, definition)
    return definition


def with_plan(folder: Path, before: Definition | None, definition: Definition) -> Definition:
    """Return what `open_study` would write, with the plan that would be fixed now. Raises as it does.

    Args:
        folder: the study's folder, for messages.
        before: the definition that it holds; None if it holds none.
        definition: the study as asked for.
    """
    if before:
        definition = merge_axes(before, definition, folder)
    if definition.study.trainer == IMPORTED:
        return definition  # its runs existed before
    digest = plan_hash(definition.study, definition.data)
    if digest in (known for _, known in definition.plans):
        return definition
    if before and plan_hash(before.study, before.data) == digest:
        return definition  # of an older version, which kept no plans
    fixed = datetime.now(UTC).isoformat(timespec="seconds")
    return dataclasses.replace(definition, plans=(*definition.plans, (fixed, digest)))


def write_definition(folder: Path, definition: Definition) -> None:
    """Write `study.json`."""
    content = {
        "format": FORMAT,
        "study": to_json(definition.study),
        "data": definition.data,
        "versions": definition.versions,
    }
    if definition.plans:
        content["plans"] = [list(plan) for plan in definition.plans]
    stores.store_for(folder).put("study.json", checksums.json_bytes(content))


def copy_definition(folder: Path, into: Path) -> None:
    """Copy `study.json` to another folder, without the local path of its data.

    Raises:
        RecordError: there is no study.
    """
    definition = read_definition(folder)
    options = {name: value for name, value in definition.study.data_options.items() if name != "dir"}
    study = dataclasses.replace(definition.study, data_options=options)
    write_definition(into, dataclasses.replace(definition, study=study))


def check_not_a_view(folder: Path) -> None:
    """Raise RecordError if the folder is a rescored view: such a folder is neither trained nor rescored."""
    if (origin := origin_of(folder)) != folder:
        raise RecordError(f"{folder} is {origin} judged by another rule; use {origin} instead")


def merge_axes(old: Definition, new: Definition, folder: Path, advice: str = "choose another folder") -> Definition:
    """Return the old definition with the union of the axes. Raises RecordError if anything else differs.

    Args:
        old: the definition in the folder.
        new: the other one.
        folder: for the message.
        advice: what to do, for the message.
    """
    if difference := _difference(old, new):
        raise RecordError(f"{stores.address(folder)} holds {difference}; {advice}")
    lrs = tuple(sorted(_union(old.study.lrs, new.study.lrs)))
    study = dataclasses.replace(
        old.study,
        models=_union(old.study.models, new.study.models),
        arms=united_arms([(arm, d.study.lrs_of(arm)) for d in (old, new) for arm in d.study.arms], lrs),
        lrs=lrs,
        seeds=tuple(sorted({*old.study.seeds, *new.study.seeds})),
        search=_with_ranges(old.study.search, new.study.search),
        trainer_options=new.study.trainer_options,  # the content says that runs are the same
    )
    data = new.data | old.data  # a newer version may describe more
    return dataclasses.replace(old, study=study, data=data)


DEFAULT = "the default"


def _with_ranges(old: Search | None, new: Search | None) -> Search | None:
    """The new search with the ranges of both. `_difference` has found no method with two."""
    if isinstance(old, QualitySearch) and isinstance(new, QualitySearch):
        return dataclasses.replace(new, ranges=old.ranges | new.ranges)
    return new


def _difference(old: Definition, new: Definition) -> str | None:
    """Return how the recorded study differs from the new one in more than its axes, for a message."""
    if old.study.name != new.study.name:
        return f"the study {old.study.name!r}, not {new.study.name!r}"
    if old.data["content"] != new.data["content"]:
        if old.study.trainer != RANKER:
            return "this study with another training loop"
        before, after = ({"data": one.study.data} | one.study.data_options for one in (old, new))
        keys = [key for key in before | after if before.get(key, DEFAULT) != after.get(key, DEFAULT)]
        was = [f"{key} was {before.get(key, DEFAULT)}, is {after.get(key, DEFAULT)}" for key in keys]
        return f"this study on other data ({'; '.join([old.study.data, *was])})"
    for part in ("trainer", "control_lrs"):
        before, after = getattr(old.study, part), getattr(new.study, part)
        if before != after:
            return f"this study with another {part} (was {before}, is {after})"
    before, after = (" and ".join(comparators(d.study)) for d in (old, new))
    if before != after:
        return f"this study, which plans to compare methods with {before}, not with {after}"
    if type(old.study.search) is not type(new.study.search):
        return "this study with another kind of search"
    if changed := _search_difference(old.study, new.study):
        return f"this search with {changed}"
    for part in ("recipe", "rule"):
        before, after = (dataclasses.asdict(getattr(d.study, part)) for d in (old, new))
        for name, what in (("init_from", "weights"), ("init_accumulators", "accumulators")):
            if before.get(name) != after.get(name):
                return f"this study from other {what} (--{name.replace('_', '-')})"
        changed = [f"{key} was {before[key]}, is {after[key]}" for key in before if before[key] != after[key]]
        if changed:
            return f"this study with another {part} ({'; '.join(changed)})"
    return None


def _search_difference(old: Study, new: Study) -> str:
    """Return how a search would train elsewhere, for a message; empty if the new one can continue the old one.

    Where it stops may change: the precision and budget of an edge search, the budget and judged seeds of a quality
    search. New models and arms have searches of their own.
    """
    was, now = old.search, new.search
    grids = [("lrs", old.lrs, new.lrs)]
    for arm in old.arms:
        same = [other for other in new.arms if (other.method, other.options) == (arm.method, arm.options)]
        grids += [
            (f"lrs of {arm.method}", old.lrs_of(arm), new.lrs_of(other)) for other in same if arm.lrs or other.lrs
        ]
    parts: list[tuple[str, Any, Any]] = [(name, _listed(before), _listed(after)) for name, before, after in grids]
    if isinstance(was, EdgeSearch) and isinstance(now, EdgeSearch):
        parts += [("level", was.level, now.level), ("first seed", min(old.seeds), min(new.seeds))]
    elif isinstance(was, QualitySearch) and isinstance(now, QualitySearch):
        parts += [(name, getattr(was, name), getattr(now, name)) for name in ("risk", "task", "batch")]
        parts += [("seeds", sorted(old.seeds), sorted(new.seeds))]
        of_new = {*(arm.method for arm in new.arms), *now.ranges}
        for method in dict.fromkeys([*(arm.method for arm in old.arms), *was.ranges]):
            if method in of_new:
                parts += [(f"range of {method}", was.ranges.get(method, {}), now.ranges.get(method, {}))]
    else:
        return ""
    return "; ".join(f"another {name} (was {before}, is {after})" for name, before, after in parts if before != after)


def _listed(lrs: tuple[float, ...]) -> str:
    return ", ".join(f"{lr:g}" for lr in lrs)


def _union(old: tuple, new: tuple) -> tuple:
    return old + tuple(value for value in new if value not in old)

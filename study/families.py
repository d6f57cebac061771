"""A family of studies as one thing to run: each a study of its own in its own folder, and one page over all of them.

DIR/family.json      name and members, in order
DIR/<label>/         the record of a member
DIR/report.html      every member's edge, one below the other (`analysis.forest`)
"""

import dataclasses
import inspect
import json
from pathlib import Path
from typing import TYPE_CHECKING

from study import driver, plugins, storage
from study.config import Family, Member, Study
from study.driver import Asked
from study.record import RecordError, exists

if TYPE_CHECKING:
    from analysis.forest import Shown


def asked_for(asked: Asked) -> Family | None:
    """The family that a search space is, or None where it is one study."""
    found = driver.space(asked.space)
    return found if isinstance(found, Family) else None


def holds(folder: Path) -> bool:
    """Whether a folder is a family's."""
    storage.at(folder).refresh("family.json")
    return (folder / "family.json").is_file()


def preview(asked: Asked, family: Family) -> str:
    """What `study plan` says of each member."""
    folder = _folder(asked, family)
    parts = [f"{family.name}: {len(family.members)} studies, one after another, in {storage.address(folder)}"]
    for member, study, own in _members(asked, family):
        parts.append(f"\n{member.label}: {member.words}\n{driver.preview(own, study)}")
    return "\n".join(parts)


def run(asked: Asked, family: Family) -> Path:
    """Train what every member lacks, one after another, then report on all. Returns the family's folder.

    Everything that is wrong with any member is said before the first is trained.
    """
    folder, members = _folder(asked, family), list(_members(asked, family))
    for _, study, own in members:
        driver.preview(own, study)
    _write(folder, family)
    for i, (member, study, own) in enumerate(members, 1):
        print(f"\n== {i} of {len(members)}: {member.words} ==\n", flush=True)
        driver.run(own, study)
    print(f"\n{report(folder)}", flush=True)
    return folder


def resume(folder: Path, asked: Asked) -> Path:
    """Train exactly what the members that were begun lack, then report on all. What was never begun is not in any
    record: `study run` begins it."""
    name, shown = _read(folder)
    for i, member in enumerate(shown, 1):
        print(f"\n== {i} of {len(shown)}: {member.words} ==\n", flush=True)
        if exists(member.folder):
            driver.resume(member.folder, asked)
        else:
            print(f"not begun: study run {name} --out {storage.address(folder)} begins it", flush=True)
    print(f"\n{report(folder)}", flush=True)
    return folder


def report(folder: Path) -> str:
    """Write the family's page from the members' records. Returns what a terminal shows of it."""
    from analysis import forest

    name, members = _read(folder)
    table = forest.forest(members)
    path = forest.write(folder, name, members, table)
    storage.publish(folder)
    said = forest.text(table) if len(table) else "no runs recorded yet"
    return f"{name}\n\n{said}\n\nreport: {path}"


def status(folder: Path) -> str:
    """The status of every member."""
    return "\n\n".join(
        f"{m.words}\n{driver.status(m.folder) if exists(m.folder) else 'not begun'}" for m in _read(folder)[1]
    )


def _folder(asked: Asked, family: Family) -> Path:
    return driver.out_folder(asked, dataclasses.replace(family.members[0].study, name=family.name))


def _members(asked: Asked, family: Family) -> list[tuple[Member, Study, Asked]]:
    """Each member, its study with all that was asked applied, and what is asked of it alone."""
    folder, found = _folder(asked, family), []
    for member in family.members:
        source = asked.data or member.study.data
        takes_dir = (
            "dir" in inspect.signature(plugins.load("study.data", source, "data source", "load").load).parameters
        )
        own = dataclasses.replace(asked, out=f"{storage.address(folder)}/{member.label}")
        own = dataclasses.replace(own, data_dir=asked.data_dir if takes_dir else None)
        found.append((member, driver.applied(member.study, own), own))
    return found


def _write(folder: Path, family: Family) -> None:
    from analysis.forest import FORMAT

    members = [
        {"label": m.label, "words": m.words, "against": m.against or family.members[0].label} for m in family.members
    ]
    content = json.dumps({"format": FORMAT, "name": family.name, "members": members}, indent=1) + "\n"
    if holds(folder):
        before, _ = _read(folder)
        if before != family.name:
            raise RecordError(f"{folder} holds the family {before!r}, not {family.name!r}; choose another --out")
    if exists(folder):
        raise RecordError(f"{folder} holds a study, and no family; choose another --out")
    storage.at(folder).put("family.json", content.encode())


def _read(folder: Path) -> "tuple[str, list[Shown]]":
    """The family's name, and its members, each in the folder that it has here."""
    from analysis import forest

    storage.at(folder).refresh("family.json")
    name, members = forest.members_of(folder)
    here = [storage.folder_of(f"{storage.address(folder)}/{member.label}") for member in members]
    return name, [dataclasses.replace(member, folder=own) for member, own in zip(members, here, strict=True)]

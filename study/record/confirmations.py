"""`confirm/`: runs that were named before they were trained, to confirm one lr on fresh seeds."""

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from study.config import Arm, Run, Study, arm_to_json, canonical_json
from study.record import checksums, files, validation
from study.record.definition import Definition, RecordError
from study.storage import stores


@dataclass(frozen=True, kw_only=True)
class Confirmation:
    """Runs that confirm an lr: fresh seeds for each of the models and arms, named before any of them is trained.

    Args:
        lr: the lr to confirm.
        seeds: fresh seeds.
        models, arms: every combination of these is trained.
        number: how many confirmations the study had before, from 0.
        study_seeds: how many seeds of its own the study had at that time.
    """

    lr: float
    seeds: tuple[int, ...]
    models: tuple[str, ...]
    arms: tuple[Arm, ...]
    number: int
    study_seeds: int

    @property
    def name(self) -> str:
        """The hash of lr, seeds, models and arms. Equal runs have equal names."""
        named = [self.lr, self.seeds, self.models, [[arm.method, arm.options] for arm in self.arms]]
        return hashlib.sha256(canonical_json(named).encode()).hexdigest()[:16]

    def part_of(self, study: Study) -> Study:
        """Return the confirmation as a study: every combination of its models, arms and seeds, at its lr."""
        return dataclasses.replace(
            study, models=self.models, arms=self.arms, lrs=(self.lr,), seeds=self.seeds, search=None, compare=()
        )

    def runs(self, definition: Definition) -> list[Run]:
        """Return its runs, ordered by model, arm and seed."""
        return [
            definition.study.run(definition.data["content"], model, arm, self.lr, seed)
            for model in self.models
            for arm in self.arms
            for seed in self.seeds
        ]


def write_confirmation(folder: Path, confirmation: Confirmation) -> None:
    """Write a confirmation, unless it is already there: a confirmation never changes."""
    name, store = f"confirm/{confirmation.name}.json", stores.store_for(folder)
    if store.get(name) is None:
        content = dataclasses.asdict(confirmation) | {"arms": [arm_to_json(arm) for arm in confirmation.arms]}
        store.put(name, checksums.json_bytes(content))


def read_confirmations(folder: Path) -> list[Confirmation]:
    """Return the confirmations of a study, in the order in which they were made.

    Raises:
        RecordError: a file is bad. To ignore it could hide a confirmation that failed.
        StorageError: a file cannot be read now.
    """
    found = [confirmation for _, confirmation in files.read_each(folder, "confirm", "json", parse, on_bad=_refuse)]
    return sorted(found, key=lambda confirmation: (confirmation.number, confirmation.name))


def confirmed_ids(folder: Path, definition: Definition) -> set[str]:
    """Return the ids of the runs that the confirmations of a study name. Raises as `read_confirmations`.

    Args:
        folder: of the study.
        definition: of the study.
    """
    return {run.id for confirmation in read_confirmations(folder) for run in confirmation.runs(definition)}


def _refuse(_folder: Path, path: Path, reason: str) -> None:
    raise RecordError(f"{path} cannot be read ({reason})")


def parse(content: bytes) -> Confirmation:
    """Return the content of a file of `confirm/`. Raises ValueError if it is bad."""
    found: dict[str, Any] = checksums.read_json(content)
    validation.validate_confirmation(found)
    found |= {key: tuple(found[key]) for key in ("seeds", "models")}
    found["arms"] = tuple(Arm(method=arm["method"], options=arm["options"]) for arm in found["arms"])
    return Confirmation(**found)

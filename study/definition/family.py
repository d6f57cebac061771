"""A family: studies that differ in one part that a single study does not vary, such as the recipe, data or model."""

import dataclasses
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from study.config import CONTROL_SEEDS, QualitySearch, Study, check_lr
from study.config.checks import need
from study.definition import overrides


@dataclass(frozen=True, kw_only=True)
class WeightsOf:
    """The final weights of a run of another member, from which a member's runs start.

    Args:
        member: label of the other member. The run is one of its first arm.
        lr: of that run; None is the control at its reference lr.
        seed: of that run; None is the lowest one recorded at this lr. If the member's record lacks the run, it is
            trained for its weights alone.
        accumulators: also restore Adagrad's accumulators; otherwise they start fresh.
    """

    member: str
    lr: float | None = None
    seed: int | None = None
    accumulators: bool = False

    def __post_init__(self) -> None:
        if self.lr is not None:
            check_lr(self.lr)
        if self.seed is not None:
            need(self.lr is not None, f"weights of seed {self.seed} of {self.member} need an lr beside it")
            need(0 <= self.seed < CONTROL_SEEDS[0], f"need 0 <= seed < {CONTROL_SEEDS[0]}, got seed={self.seed}")


@dataclass(frozen=True, kw_only=True)
class Member:
    """A study of a family.

    Args:
        label: name of its folder.
        words: what it changes, for people.
        study: the study.
        against: label of the member that it is compared with; empty is the first.
        init_from: weights that its runs start from; None draws them by seed.
    """

    label: str
    words: str
    study: Study
    against: str = ""
    init_from: WeightsOf | None = None

    def __post_init__(self) -> None:
        need(
            self.label.replace("_", "").isalnum() and self.label.isascii(),
            f"a member's label names a folder: letters, digits and underscores; got {self.label!r}",
        )


@dataclass(frozen=True, kw_only=True)
class Family:
    """Studies that are trained one after another and shown on one page."""

    name: str
    members: tuple[Member, ...]

    def __post_init__(self) -> None:
        labels = [member.label for member in self.members]
        need(len(labels) > 0, "need at least one member of a family")
        twice = sorted({label for label in labels if labels.count(label) > 1})
        need(not twice, f"a family names {', '.join(twice)} twice")
        unknown = sorted({m.against for m in self.members if m.against} - set(labels))
        need(not unknown, f"members of {self.name} are compared with {', '.join(unknown)}, which it does not have")
        for i, member in enumerate(self.members):
            if (start := member.init_from) and start.member not in labels[:i]:
                raise ValueError(f"{member.label} starts from weights of {start.member!r}, which is no earlier member")


def of_settings(study: Study, settings: Sequence[str]) -> tuple[Family | None, tuple[str, ...]]:
    """Return the family that settings make with several values of the recipe or of the data, and the other settings.

    `warmup=0,20` makes two members, `warmup_0` and `warmup_20`. Two such settings make every combination. Each member
    is compared with the first. None if no setting has several values.

    Raises:
        ValueError: a value is not valid or stands twice, or the study is a search for the best quality.
    """
    varied = {
        key: values
        for setting in settings
        if (values := overrides.varied_values(study, setting))
        for key in [overrides.key_of(setting)]
    }
    rest = tuple(setting for setting in settings if not overrides.varied_values(study, setting))
    if not varied:
        return None, rest
    if isinstance(study.search, QualitySearch):
        raise ValueError(f"{study.name} searches for the best quality, so {next(iter(varied))} takes one value")
    for key, values in varied.items():
        twice = sorted({value for value in values if values.count(value) > 1})
        need(not twice, f"{key} names {', '.join(twice)} twice")
    names = [key.rpartition(".")[2] for key in varied]
    of_recipe = [setting for setting in rest if overrides.key_of(setting) in overrides.recipe_keys()]
    members, made = [], list[Study]()
    for values in itertools.product(*varied.values()):
        # One with the other: a final_factor needs its schedule.
        own = [f"{key}={value}" for key, value in zip(varied, values, strict=True)]
        changed = overrides.apply(study, [*of_recipe, *own])
        need(all(changed != other for other in made), f"{' and '.join(own)} makes a member that is there already")
        made.append(changed)
        pairs = list(zip(names, values, strict=True))
        label = "_".join(f"{name}_{re.sub(r'[^A-Za-z0-9]', '_', value)}" for name, value in pairs)
        member = dataclasses.replace(changed, name=f"{study.name}_{label}")
        members.append(Member(label=label, words=", ".join(f"{name} {value}" for name, value in pairs), study=member))
    return Family(name="_".join([study.name, *names]), members=tuple(members)), rest

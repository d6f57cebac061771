"""The runs of a confirmation: fresh seeds at one lr, named before they are trained."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.loading import cells_of
from analysis.stats import claims, recommend
from analysis.stats.intervals import upper_bound
from analysis.stats.missing import failed_runs
from study.config import Arm, EdgeSearch, QualitySearch, check_lr
from study.definition import overrides
from study.record import tables
from study.record.confirmations import Confirmation, read_confirmations
from study.record.definition import Definition
from study.text.wording import count, quoted


@dataclass(frozen=True, kw_only=True)
class ConfirmRequest:
    """What the command line asks to confirm.

    Attributes:
        lr: The learning rate.
        seeds: As `study.definition.overrides.seeds` reads them. None: above all seeds of the study, as many as the
            risk and confidence need for every curve; or those of the same confirmation if it is named and incomplete.
        methods: Names of methods or curves (`clippy rel=0.1`), separated by commas. None: all.
        models: Names, separated by commas. None: all.
    """

    lr: float
    seeds: str | None = None
    methods: str | None = None
    models: str | None = None


def named(
    folder: Path, definition: Definition, request: ConfirmRequest, *, risk: float, confidence: float
) -> Confirmation:
    """Return the confirmation that is requested. Writes nothing.

    Raises:
        ValueError: If a seed was used, the study has no such name, or the study searches for the best quality, which
            judges its own winners.
    """
    study = definition.study
    if isinstance(study.search, QualitySearch):
        raise ValueError(f"{study.name} judges its own winners on fresh seeds; there is nothing to confirm")
    check_lr(request.lr)
    lr = float(request.lr)
    runs = tables.read_runs(folder)
    known = read_confirmations(folder)
    arms = _arms(definition, cells_of(runs, definition), request.methods)
    chosen = _chosen("model", request.models, study.models)
    done = set(runs["run_id"])
    for confirmation in known if request.seeds is None else ():
        same = (confirmation.lr, confirmation.models, confirmation.arms) == (lr, chosen, arms)
        if same and not {run.id for run in confirmation.runs(definition)} <= done:
            return confirmation
    cells = runs.loc[runs["role"] == "cell"]
    failed = failed_runs(folder, definition, cells)
    tried = [*cells["seed"].tolist(), *failed["seed"].tolist()]
    used = {*study.seeds, *tried, *(seed for confirmation in known for seed in confirmation.seeds)}
    if request.seeds is None:
        reserved = [min(study.seeds) + study.search.budget] if isinstance(study.search, EdgeSearch) else []
        first = max([seed + 1 for seed in used] + reserved)
        table = recommend.recommend(
            cells, definition, confirmations=known, risk=risk, confidence=confidence, failed=failed
        )
        asked = table.loc[table["model"].isin(list(chosen)) & table["method"].isin([arm.method for arm in arms])]
        fewest = claims.seeds_needed(risk, 1 - confidence)
        more = max([int(n) for n in asked["more_if_clean"].dropna()] or ([fewest] if fewest else []), default=None)
        if more is None:
            raise ValueError(f"no number of seeds up to {claims.MOST_SEEDS:,} claims a risk of {risk:g}")
        wanted = tuple(range(first, first + more))
    else:
        wanted = tuple(sorted(overrides.seeds(request.seeds)))
    found = Confirmation(lr=lr, seeds=wanted, models=chosen, arms=arms, number=len(known), study_seeds=len(study.seeds))
    for confirmation in known:
        if confirmation.name == found.name:
            return confirmation
    if again := sorted(used & set(wanted)):
        raise ValueError(
            f"the study has used {_ranges(again)}; a confirmation needs fresh seeds, from {max(used) + 1} upward"
        )
    found.part_of(study)  # raises if a seed is not allowed
    return found


def too_few(confirmation: Confirmation, risk: float, confidence: float) -> str | None:
    """Return a note if the seeds cannot claim the risk even if none diverges, else None."""
    fewest, seeds = claims.seeds_needed(risk, 1 - confidence), len(confirmation.seeds)
    if fewest is None or seeds >= fewest:
        return None
    bound = upper_bound(0, seeds, confidence)
    return (
        f"note: {count(seeds, 'seed')} cannot claim a risk of {100 * risk:g}%: even if none diverges, "
        f"they bound it at {100 * bound:.2g}%; {fewest} would do"
    )


def above_all(folder: Path, definition: Definition, confirmation: Confirmation) -> str | None:
    """Return a note if the lr lies above all that the study plans or has trained for these methods, else None."""
    study, runs = definition.study, tables.read_runs(folder)
    planned = [study.lrs_of(arm) for arm in study.arms if Arm(arm.method, arm.options) in confirmation.arms]
    of_methods = (runs["role"] == "cell") & runs["method"].isin([arm.method for arm in confirmation.arms])
    highest = max([*itertools.chain(*planned), *runs.loc[of_methods, "lr"].tolist()], default=confirmation.lr)
    if confirmation.lr <= highest:
        return None
    return f"note: lr {confirmation.lr:g} lies above the highest lr of the study, {highest:g}"


def _arms(definition: Definition, runs, methods: str | None) -> tuple[Arm, ...]:
    study = definition.study
    arms = tuple(Arm(arm.method, arm.options) for arm in study.arms)  # a confirmation has one lr
    if methods is None:
        return arms
    of_name: dict[str, list[Arm]] = {}
    for arm in arms:
        of_name.setdefault(arm.method, []).append(arm)
    for curve, of_curve in runs.groupby("curve", sort=True):
        first = of_curve.iloc[0]
        for arm in arms:
            run = study.run(first["data"], first["model"], arm, float(first["lr"]), int(first["seed"]))
            if run.id == first["run_id"]:
                of_name.setdefault(str(curve), [arm])
    names = _chosen("method", methods, list(of_name))
    return tuple(arm for arm in arms if any(arm in of_name[name] for name in names))


def _chosen(kind: str, asked: str | None, known: Sequence[str]) -> tuple[str, ...]:
    if asked is None:
        return tuple(known)
    names = [name.strip() for name in asked.split(",")]
    for name in names:
        if name not in known:
            raise ValueError(f"the study has no {kind} {name!r}; it has {quoted(known)}")
    return tuple(name for name in known if name in names)


def _ranges(seeds: Sequence[int]) -> str:
    """`seed 7`, or `seeds 0 to 7`."""
    if len(seeds) == 1:
        return f"seed {seeds[0]}"
    whole = seeds[-1] - seeds[0] + 1 == len(seeds)
    return f"seeds {seeds[0]} to {seeds[-1]}" if whole else f"{len(seeds)} of these seeds, such as {seeds[0]}"

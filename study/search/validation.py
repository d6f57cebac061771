"""Checks of a search for quality, and what its budget allows: rounds, seeds and runs."""

import itertools
from dataclasses import replace

from study.config import JUDGED_FROM, QualitySearch, Study
from study.trainers.protocol import Trainer

SPREAD_ROUNDS = 2
"""First rounds, whose cells are spread evenly over the ranges."""


def check(study: Study, trainer: Trainer) -> None:
    """Check that a search for quality can be run.

    Args:
        study: A study whose search is a `QualitySearch`.
        trainer: Of the study.

    Raises:
        ValueError: If the budget fills no round, tuning would take the seeds for judging, or a range names no method or
            threshold or holds a value that the method rejects.
    """
    search = study.search
    assert isinstance(search, QualitySearch)
    # A narrowed study may leave out methods that have ranges, but an unknown name is a mistake.
    for method in set(search.ranges) - {arm.method for arm in study.arms}:
        trainer.thresholds_of(method)
    if rounds_of(study) < 1:
        raise ValueError(
            f"a budget of {search.budget} runs fills no round of {search.batch} cells of {len(study.seeds)} seeds"
        )
    last = max(seeds_of_round(study, rounds_of(study) - 1))
    if last >= JUDGED_FROM:
        raise ValueError(f"seeds from {JUDGED_FROM} on are for judging; tuning would take seed {last}")
    for arm in study.arms:
        thresholds = trainer.thresholds_of(arm.method)
        for name, ends in search.ranges.get(arm.method, {}).items():
            if name not in thresholds:
                known = ", ".join(thresholds) or "none"
                raise ValueError(f"{arm.method} has no threshold {name!r} to be tuned; it has {known}")
            if name in arm.options:
                raise ValueError(f"{arm.method}.{name} is tuned, and cannot be {arm.options[name]:g} as well")
            for end in ends:
                trainer.canonical_options(arm.method, {**arm.options, name: end})


def with_fixed_options(study: Study, trainer: Trainer) -> Study:
    """Return the study in which an option that is no threshold, and has one value as its range, belongs to its arms.

    Raises:
        ValueError: If an arm has another value of such an option, or the method has no such option.
    """
    search = study.search
    assert isinstance(search, QualitySearch)
    ranges, arms = {}, list(study.arms)
    for method, own in search.ranges.items():
        known = trainer.thresholds_of(method)
        fixed = {name: low for name, (low, high) in own.items() if name not in known and low == high}
        ranges[method] = {name: ends for name, ends in own.items() if name not in fixed}
        options = {name: int(value) if value.is_integer() else value for name, value in fixed.items()}
        of_method = [arm for arm in arms if arm.method == method]
        for arm, (name, value) in itertools.product(of_method, options.items()):
            if arm.options.get(name, value) != value:
                raise ValueError(f"{method}.{name} is fixed at {value:g}, and cannot be {arm.options[name]} as well")
        if options and not of_method:  # a method that is left out of the study: a misspelt name is a mistake
            trainer.canonical_options(method, options)
        arms = [replace(arm, options=arm.options | options) if arm.method == method else arm for arm in arms]
    ranges = {method: own for method, own in ranges.items() if own or not search.ranges[method]}
    return replace(study, arms=tuple(arms), search=replace(search, ranges=ranges))


def rounds_of(study: Study) -> int:
    """Return the rounds of an arm's tuning: as many as the budget fills."""
    search = study.search
    assert isinstance(search, QualitySearch)
    return search.budget // (search.batch * len(study.seeds))


def runs_at_most(study: Study) -> int:
    """Return the most runs that the search trains in the whole study, without the control."""
    search = study.search
    assert isinstance(search, QualitySearch)
    of_arm = rounds_of(study) * search.batch * len(study.seeds) + search.judged
    return len(study.models) * len(study.arms) * of_arm


def seeds_of_round(study: Study, number: int) -> tuple[int, ...]:
    """Return the seeds on which a round tests its leaders. New cells take the study's own seeds."""
    block = number - SPREAD_ROUNDS + 1
    if block < 1:
        return tuple(study.seeds)
    first = max(study.seeds) + 1 + (block - 1) * len(study.seeds)
    return tuple(range(first, first + len(study.seeds)))

"""What a study plans: its runs, its control and its contrasts."""

from collections.abc import Iterator, Sequence

from study.config.identity import RANKER
from study.config.runs import CONTROL_SEEDS, Arm, Run
from study.config.searches import EdgeSearch, QualitySearch
from study.config.study import IMPORTED, Study

CONTROL_LRS = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16)
"""Learning rates of a ranker's control. It may grow (`further_control`)."""

HIGHEST_CONTROL_LR = 100.0
"""A control does not grow above this lr."""


def runs_of(study: Study, data: str) -> list[Run]:
    """Return every run of the study's cells, curve by curve. `data` is the content hash of the data."""
    return [
        study.run(data, model, arm, lr, seed)
        for model in study.models
        for arm in study.arms
        for seed in study.seeds
        for lr in study.lrs_of(arm)
    ]


def planned_ids(study: Study, data: str) -> Iterator[tuple[str, Arm, float, int, str]]:
    """Yield model, arm, lr, seed and id of each run, in a tenth of the time that `runs_of` takes.

    They come in another order than `runs_of`: cell by cell.
    """
    for model in study.models:
        for arm in study.arms:
            lrs = study.lrs_of(arm)
            run_id = study.run(data, model, arm, lrs[0], study.seeds[0]).ids_like()
            for lr in lrs:
                for seed in study.seeds:
                    yield model, arm, lr, seed, run_id(lr, seed)


def untreated(study: Study) -> Arm:
    """Return the arm of the control: the method `none` for rankers, else the study's first arm."""
    return Arm("none") if study.trainer == RANKER else study.arms[0]


def comparators(study: Study) -> tuple[str, ...]:
    """Return the methods that the others are compared with: `compare`, or else the untreated one."""
    return study.compare or (untreated(study).method,)


def planned_contrasts(study: Study) -> list[tuple[Arm, str]]:
    """Return (arm, comparator) of each contrast that the study plans, for one model.

    Two comparators are compared once. A search for the best quality measures no edges, and plans none.
    """
    methods, before, planned = {arm.method for arm in study.arms}, set(), []
    for comparator in comparators(study):
        before.add(comparator)
        if comparator in methods and not isinstance(study.search, QualitySearch):
            planned += [(arm, comparator) for arm in study.arms if arm.method not in before]
    return planned


def nominates_only(study: Study) -> bool:
    """Return whether outcomes may have decided which runs there are, so that they can claim nothing.

    True of a search for edges, and of imported runs unless they were planned beforehand.
    """
    imported = study.trainer == IMPORTED and not study.trainer_options.get("planned")
    return imported or isinstance(study.search, EdgeSearch)


def has_grid(study: Study) -> bool:
    """Return whether every combination of the study's axes is one of its runs."""
    return study.search is None and study.trainer != IMPORTED


def control_of(study: Study, data: str, models: Sequence[str] | None = None) -> list[Run]:
    """Return the control's runs, for each model: the untreated arm at low learning rates, with reserved seeds.

    Runs of lrs by which it grows (`further_control`) are not among them. An imported record may have fewer of these
    seeds (`control_seeds` of its options).

    Args:
        study: The study.
        data: Content hash of the data.
        models: Some of the study's models; None is all of them.
    """
    arm = untreated(study)
    seeds = study.trainer_options.get("control_seeds") if study.trainer == IMPORTED else None
    return [
        study.run(data, model, arm, lr, seed)
        for model in (study.models if models is None else models)
        for seed in CONTROL_SEEDS[:seeds]
        for lr in study.control_lrs or CONTROL_LRS
    ]


def further_control(study: Study, data: str, model: str) -> Iterator[list[Run]]:
    """Yield the runs of each lr by which a model's control may grow, the lowest lr first.

    There are none where `control_lrs` sets the ladder, nor for another trainer than rankers.
    """
    if study.trainer != RANKER or study.control_lrs:
        return
    arm, lr = untreated(study), CONTROL_LRS[-1]
    while (lr := 2 * lr) <= HIGHEST_CONTROL_LR:
        yield [study.run(data, model, arm, lr, seed) for seed in CONTROL_SEEDS]

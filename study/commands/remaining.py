"""What a study has left to train: stacks of the control, and a source of all other stacks."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from study.config import QualitySearch, Study
from study.execution.planner import Plan, Stack, plan
from study.execution.work_source import CombinedSource, Planned, Source
from study.trainers.protocol import Limits, Trainer


@dataclass(frozen=True, kw_only=True)
class RemainingWork:
    """Stacks to train.

    plan: of the study. control: stacks that are trained first. source: gives the other stacks. confirmation_runs: how
    many of them belong to earlier confirmations.
    """

    plan: Plan
    control: tuple[Stack, ...]
    source: Source
    confirmation_runs: int = 0

    @property
    def control_runs(self) -> int:
        """Runs of the control that are not recorded."""
        return sum(len(stack.runs) for stack in self.control)

    @property
    def models_with_control(self) -> set[str]:
        """Models that have runs to train, and whose control is recorded."""
        return {m for m, runs in self.source.left.items() if runs} - {stack.runs[0].model for stack in self.control}


def remaining_work(
    parts: Sequence[Study],
    trainer: Trainer,
    folder: Path,
    recorded: set[str],
    *,
    workers: int,
    stack: int | None = None,
    device_bytes: int | None = None,
) -> RemainingWork:
    """Return what the parts of a study have left to train.

    Args:
        parts: the study itself, or first the study and then its confirmations.
        trainer: of the study.
        folder: the study's folder; a search continues from its record.
        recorded: ids of recorded runs.
        workers: trials at a time.
        stack: most runs of a stack; None is the trainer's choice.
        device_bytes: GPU memory of one trial; None is a CPU.
    """
    found = []
    for part in parts:
        planned = plan(part, trainer, recorded, workers=workers, stack=stack, device_bytes=device_bytes)
        found.append(_of_part(part, planned, folder, trainer, workers))
    if len(found) == 1:
        return found[0]
    control = {stack.name: stack for work in found for stack in work.control}
    confirmation_runs = sum(work.plan.missing - sum(len(s.runs) for s in work.plan.control) for work in found[1:])
    return RemainingWork(
        plan=found[0].plan,
        control=tuple(control.values()),
        source=CombinedSource(work.source for work in found),
        confirmation_runs=confirmation_runs,
    )


def _of_part(study: Study, planned: Plan, folder: Path, trainer: Trainer, workers: int) -> RemainingWork:
    if study.search is None:
        return RemainingWork(plan=planned, control=planned.control, source=Planned(planned.stacks))
    source = _search(study, planned.limits, folder, trainer, workers)
    models = {model for model, runs in source.left.items() if runs}
    control = tuple(stack for stack in planned.control if stack.runs[0].model in models)
    return RemainingWork(plan=planned, control=control, source=source)


def _search(study: Study, limits: Limits, folder: Path, trainer: Trainer, workers: int) -> Source:
    """The source of a search, continued from the record."""
    if isinstance(study.search, QualitySearch):
        from study.search import quality_search

        return quality_search.QualitySource(
            study,
            trainer.description(),
            folder,
            workers=workers,
            largest_stack=limits.largest_stack,
            trainer=trainer,
        )
    from study.search import edge_search

    return edge_search.source(
        study,
        trainer.content,
        folder,
        workers=workers,
        largest_stack=limits.largest_stack,
        kind_of=trainer.kind_of,
    )

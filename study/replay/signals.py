"""Train many recorded runs again and observe signals that may foretell divergence.

    DIR/signals/<name>.parquet    one row a run and step, with the onset (`analysis.stats.signals`)

None of it is part of the record.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from study.config import Run
from study.execution.planner import Stack
from study.execution.processes import parallel_map
from study.record.definition import read_definition
from study.record.files import read_beside
from study.record.tables import read_runs
from study.replay.probe import Probe, write_parquet
from study.replay.recorded_study import changed_code_text, load_study, run_of, train_again
from study.trainers.ranker import Trainer

WARM_UP_STEPS = 40
"""First steps, with sharpness at every other step: most divergences begin there."""

HELD_ROWS = 512
SHARPNESS_TOLERANCE = 0.03
STACK_SIZE = 16


def observe_runs(
    folder: Path,
    cache: Path,
    *,
    seeds: Sequence[int] | None = None,
    models: Sequence[str] | None = None,
    only_methods: Sequence[str] | None = None,
    sharpness_every: int = 40,
    workers: int = 1,
    on_progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> int:
    """Observe every recorded run of the study's cells that was not observed yet.

    Args:
        folder: The folder of the study.
        cache: The folder of prepared data.
        seeds: Restrict to these seeds.
        models: Restrict to these models.
        only_methods: Restrict to these methods.
        sharpness_every: Steps between two computations of the sharpness, after the first steps.
        workers: Processes at a time.
        on_progress: Called with (runs done, all runs) after each stack.

    Returns:
        The number of these runs that are now observed.

    Raises:
        ValueError: If there are no such runs.
    """
    study = read_definition(folder).study
    table = read_runs(folder)
    table = table.loc[table["role"] == "cell"]
    for column, wanted in (("seed", seeds), ("model", models), ("method", only_methods)):
        if wanted is not None:
            table = table.loc[table[column].isin(list(wanted))]
    if table.empty:
        raise ValueError(f"{folder} holds no such runs")
    seen = observed(folder)
    table = table.assign(raised=table["raised"].notna() if "raised" in table else False)
    kinds = table.drop_duplicates([name for name in ("model", "method", "own_code") if name in table])
    for text in {changed_code_text(row, study) for row in kinds.to_dict("records")} - {""}:
        warnings.warn(text, stacklevel=2)
    runs = [(run_of(row, study), row["raised"]) for row in table.to_dict("records") if row["run_id"] not in seen]
    stacks = [[run] for run, raised in runs if raised]  # it would take others along
    stacks += _stacks([run for run, raised in runs if not raised], Trainer(study, cache))
    done = len(table) - len(runs)
    on_progress(done, len(table))
    with parallel_map(min(workers, len(stacks) or 1)) as each:
        jobs = [(folder, stack, cache, sharpness_every) for stack in stacks]
        for observed_runs in each(observe_stack, *zip(*jobs, strict=True)) if jobs else ():
            done += observed_runs
            on_progress(done, len(table))
    return done


def observe_stack(folder: Path, runs: Sequence[Run], cache: Path, sharpness_every: int) -> int:
    """Train runs that can share a stack again and write their signals; returns how many runs these are."""
    recorded = load_study(folder, cache, sorted({run.model for run in runs}))
    probe = Probe(
        recorded.log,
        sharpness_at=lambda step: step % 2 == 0 if step < WARM_UP_STEPS else step % sharpness_every == 0,
        blocks=False,
        layers=False,
        tolerance=SHARPNESS_TOLERANCE,
        held_rows=HELD_ROWS,
    )
    trained = train_again(runs, recorded.log, on_update=probe, start=recorded.start)
    table = probe.table().drop(columns="layer").set_index(["run_id", "step"])
    parts = []
    for r, run in enumerate(runs):
        moments = recorded.moments(trained.loss[r], trained.constant[r], run.model)
        gain_T = recorded.gains(trained.loss[r][None], trained.constant[r][None], run.model)[0]
        own = table.loc[run.id]
        own = own.assign(  # a run that raised has fewer steps
            loss=trained.loss[r].sum(1)[own.index],
            constant=trained.constant[r].sum(1)[own.index],
            gain=gain_T[own.index],
            onset=None if moments is None else moments.rising,
            gone=None if moments is None else moments.gone,
        )
        parts.append(own.reset_index().assign(run_id=run.id))
    path = folder / "signals" / f"{Stack(runs=tuple(runs)).name}.parquet"
    path.parent.mkdir(exist_ok=True)
    whole = pd.concat(parts, ignore_index=True)
    write_parquet(path, whole.assign(**{name: whole[name].astype("Float64") for name in ("onset", "gone")}))
    return len(runs)


def observed(folder: Path) -> set[str]:
    """Return the ids of the runs whose signals are there."""
    contents = (content for _, content in read_beside(folder, "signals", "parquet"))
    tables = (pq.read_table(pa.BufferReader(content), columns=["run_id"]) for content in contents)
    return {run for table in tables for run in table["run_id"].unique().to_pylist()}


def _stacks(runs: Sequence[Run], trainer: Trainer) -> Iterator[list[Run]]:
    """Runs that can share a stack, those of a seed beside each other, at most `STACK_SIZE` at a time."""
    by_kind: dict[tuple[str, str], list[Run]] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        by_kind.setdefault((run.model, trainer.kind_of(run)), []).append(run)
    for of_kind in by_kind.values():
        for start in range(0, len(of_kind), STACK_SIZE):
            yield of_kind[start : start + STACK_SIZE]

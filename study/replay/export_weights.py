"""`study weights`: the weights that a recorded run left, by training it once more; what the next day's runs start from.

The run is checked against the record, bit for bit, as a replay's is. Nothing here is part of the record.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from study import data, methods
from study.commands.rescore import references
from study.config import Arm, Run
from study.data import Rows
from study.data._dataset import Log
from study.execution import warm_start
from study.execution.trial import outcomes_of
from study.outcomes import judge
from study.record import tables as record
from study.record.definition import Definition, read_definition
from study.replay.replay import data_of, difference, run_named, run_of, said_of_bits
from study.training import weights
from study.training.embeddings import Tables
from study.training.networks import Stacked, network_of_seed, spec_of
from study.training.trainer import Trained, steps_of, train
from study.training.weights import About, Weights


@dataclass(frozen=True, kw_only=True)
class Handed:
    """What a run left. outcome: of this training, by the study's rule. said: what it was, and whether its losses are
    the recorded ones."""

    weights: Weights
    outcome: str
    said: str


def hand_on(folder: Path, run: str | Run, cache: Path) -> Handed:
    """Train a run of a study for the weights that it leaves: a recorded one, by its id, which is compared with the
    record, or one that the study may not have.

    Raises ValueError where it leaves nothing to start from.
    """
    definition, log = data_of(folder, cache)
    recorded = record.read_runs(folder).set_index("run_id", drop=False)
    run_id = run if isinstance(run, str) else run.id
    row = recorded.loc[run_id].to_dict() if run_id in recorded.index else None
    if isinstance(run, str):
        run = run_of(recorded.loc[run].to_dict(), definition.study)
    start = warm_start.kept(folder, run.recipe)
    rows_of_log = data.rows_of(definition.study.data, definition.study.data_options, cache)
    about = about_of(run, log, rows_of_log, start.about if start else None)
    check_form(about, run, log)
    reference = references(definition.study, definition.data, folder, [run.model])[run.model]
    arrays: dict[str, np.ndarray] = {}

    trained = train([run], log, start=start, ended=lambda *stack: arrays.update(arrays_of(*stack)))
    try:
        left = weights.checked(about, arrays)
    except ValueError as error:
        raise ValueError(f"run {run_id[:12]} leaves no weights to start from: {error}") from error
    outcome = outcomes_of(trained, log, reference, definition.study.rule)[0].outcome
    said = f"{about.curve} at lr {run.lr:g}, seed {run.seed}: {_compared(folder, row, log, trained, outcome)}"
    return Handed(weights=left, outcome=outcome, said=said)


def _compared(folder: Path, row: dict[str, Any] | None, log: Log, trained: Trained, outcome: str) -> str:
    """What became of a run, and whether its losses are those of its row in the record, if there is one."""
    if row is None:
        return f"{outcome}; not in the record, and trained for its weights alone"
    tasks = [task.name for task in log.tasks]
    _, before, _, _ = judge.stack_losses(record.read_losses(folder, [row["run_id"]]), tasks)
    bits = said_of_bits(difference(before[0], trained.loss[0]), f"{row['version']} on {row['device']}")
    was, expected = str(row["outcome"]), row["outcome"]
    if row["role"] == "control":  # not judged in the record: it is what others are held against
        was, expected = "of the control", "completed"
    if outcome != expected:
        was = f"{was} in the record, {outcome} now"
    return f"{was}; {bits}"


def about_of(run: Run, log: Log, rows: Rows, start: About | None) -> About:
    """What the weights will be that a run leaves. start: what it starts from."""
    return warm_start.about_of(run, log, rows, steps_of(run.recipe, log.train_rows), start)


def check_form(about: About, run: Run, log: Log) -> None:
    """Raises ValueError where a file could not hold what the run will leave: known before it is trained."""
    network = network_of_seed(run.model, spec_of(log, run.recipe), 0)
    precision = np.dtype(run.recipe.precision)

    def to_be(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        return np.broadcast_to(np.zeros((), dtype), shape)

    arrays = {f"parameter/{name}": to_be(tuple(x.shape), precision) for name, x in network.named_parameters()}
    for name, x in network.named_buffers():
        own = x.numpy().dtype
        arrays[f"buffer/{name}"] = to_be(tuple(x.shape), precision if own.kind == "f" else own)
    kept = warm_start.keeps_accumulators(run.method, run.options)
    if kept:
        arrays |= {f"accumulator/{name}": to_be(tuple(x.shape), precision) for name, x in network.named_parameters()}
    for kind in ("table", "table_accumulator") if kept else ("table",):
        arrays |= {f"{kind}/{f}": to_be((n, about.embedding_dim), precision) for f, n in enumerate(about.vocabulary)}
    try:
        weights.check_form(about, arrays)
    except ValueError as error:
        raise ValueError(f"the weights of {run.model} cannot be handed on: {error}") from error


def arrays_of(network: Stacked, tables: Tables, accumulators: Callable[[int], dict[str, Tensor]]) -> dict[str, Any]:
    """Copies of the weights of a stack's first run, and of its accumulators, by their names in a file."""
    tensors = network.weights_of_run(0) | accumulators(0)
    tensors |= {f"table/{f}": rows[0, 0] for f, rows in enumerate(tables.of_feature(tables.weight))}
    return {name: np.array(x.detach().numpy()) for name, x in tensors.items()}


def chosen(
    folder: Path,
    *,
    run: str | None = None,
    lr: float | None = None,
    method: str | None = None,
    model: str | None = None,
    arm: Arm | None = None,
) -> str:
    """The id of the run that is asked for: by how its id begins, or the lowest seed at an lr, or, where neither is
    said, the lowest seed of the control at the lr that is its reference.

    method, model: where the study has more than one. arm: in place of a method, where the study may have it with
    several options. Raises ValueError where it has no such run, or several that differ in more than the seed.
    """
    if run is not None:
        if lr is not None or method or model:
            raise ValueError("a run by its id has an lr, a method and a model: name no others beside it")
        return run_named(folder, run)
    definition = read_definition(folder)
    study = definition.study
    model = _one_of("model", model, study.models)
    table = record.read_runs(folder)
    table = table.loc[table["model"] == model]
    if lr is None:
        if method:
            raise ValueError(f"the control is untreated; of {method}, name an lr too")
        wanted = references(study, definition.data, folder, [model])[model].lr
        found = table.loc[(table["role"] == "control") & (table["lr"] == wanted)]
        return _lowest_seed(found)
    method = arm.method if arm else _one_of("method", method, tuple(dict.fromkeys(arm.method for arm in study.arms)))
    cells = table.loc[(table["role"] == "cell") & (table["method"] == method)]
    found = _of_one_arm(cells.loc[cells["lr"] == lr], definition, arm)
    if found.empty:
        lrs = ", ".join(f"{other:g}" for other in sorted(set(cells["lr"]))) or "none yet"
        raise ValueError(f"{folder} has no recorded run of {model} with {method} at lr {lr:g}; it has {lrs}")
    return _lowest_seed(found)


def _of_one_arm(cells: pd.DataFrame, definition: Definition, arm: Arm | None) -> pd.DataFrame:
    """The runs of an arm. ValueError where none is named and there are several."""
    of_run = [run_of(row, definition.study).options for row in cells.to_dict("records")]
    wanted = methods.check(arm.method, arm.options) if arm else next(iter(of_run), {})
    own = [options == wanted for options in of_run]
    if not arm and not all(own):
        some = sorted({_curve(options) for options in of_run})
        raise ValueError(
            f"{len(some)} arms of {cells['method'].iloc[0]} have runs at lr {cells['lr'].iloc[0]:g} "
            f"({'; '.join(some)[:200]}); name the run by its id, which runs.parquet beside the report has"
        )
    return cells.loc[np.array(own, dtype=bool)]


def _curve(options: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in sorted(options.items())) or "as it is"


def _lowest_seed(found: pd.DataFrame) -> str:
    return str(found.sort_values(["seed", "run_id"])["run_id"].iloc[0])


def _one_of(what: str, wanted: str | None, known: tuple[str, ...]) -> str:
    if wanted is None and len(known) > 1:
        raise ValueError(f"the study has more than one {what}; say --{what} with one of {', '.join(known)}")
    if wanted is not None and wanted not in known:
        raise ValueError(f"the study has no {what} {wanted!r}; it has {', '.join(known)}")
    return wanted or next(iter(known))


def write(left: Weights, where: str) -> str:
    """Write the file, whole. where: a path, or a URL of an object store. Returns what to say of it."""
    content = left.written()
    store, name = warm_start.place(where)
    store.put(name, content)
    network = sum(array.size for kind in ("parameter", "buffer") for array in left.network(kind).values())
    rows = sum(len(table) for table in left.tables)
    held = f"{network:,} numbers of the network and {rows:,} embedding rows"
    held += ", with Adagrad's accumulators" if left.accumulators else ""
    return "\n".join(
        [
            f"weights of {warm_start.words(left.about)}",
            f"  {where}: {held}, {len(content) / 2**20:.1f} MiB, content {left.content[:12]}",
        ]
    )

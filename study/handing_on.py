"""`study weights`: the weights that a recorded run left, by training it once more; what the next day's runs start from.

The run is checked against the record, bit for bit, as a replay's is. Nothing here is part of the record.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from study import data, divergence, record, storage, warm_start, weights
from study.embeddings import Tables
from study.networks import Stacked
from study.replaying import data_of, difference, run_named, run_of, said_of_bits
from study.rescoring import references
from study.training import train
from study.weights import Weights


@dataclass(frozen=True, kw_only=True)
class Handed:
    """What a run left. outcome: the recorded one; None of a run of the control, which is not judged. said: what it was,
    and whether its losses are the recorded ones."""

    weights: Weights
    outcome: str | None
    said: str


def hand_on(folder: Path, run_id: str, cache: Path) -> Handed:
    """Train a recorded run again, for the weights that it leaves.

    Raises ValueError where there is no such run, or it leaves nothing to start from.
    """
    definition, log = data_of(folder, cache)
    row = record.read_runs(folder).set_index("run_id", drop=False).loc[run_id].to_dict()
    run = run_of(row, definition.study)
    start = warm_start.kept(folder, run.recipe)
    arrays: dict[str, np.ndarray] = {}

    trained = train([run], log, start=start, ended=lambda *stack: arrays.update(arrays_of(*stack)))
    rows_of_log = data.rows_of(definition.study.data, definition.study.data_options, cache)
    about = warm_start.about_of(run, log, rows_of_log, trained.loss.shape[1], start.about if start else None)
    try:
        left = weights.checked(about, arrays)
    except ValueError as error:
        raise ValueError(f"run {run_id[:12]} leaves no weights to start from: {error}") from error
    tasks = [task.name for task in log.tasks]
    _, before, _, _ = divergence.stack_losses(record.read_losses(folder, [run_id]), tasks)
    bits = said_of_bits(difference(before[0], trained.loss[0]), f"{row['version']} on {row['device']}")
    outcome = None if row["role"] == "control" else str(row["outcome"])
    said = f"{run.method} at lr {run.lr:g}, seed {run.seed}: {outcome or 'of the control'}; {bits}"
    return Handed(weights=left, outcome=outcome, said=said)


def arrays_of(network: Stacked, tables: Tables) -> dict[str, np.ndarray]:
    """Copies of the weights of a stack's first run, by their names in a file."""
    arrays = {name: np.array(x.detach().numpy()) for name, x in network.weights_of_run(0).items()}
    return arrays | {f"table/{f}": np.array(rows[0, 0].numpy()) for f, rows in enumerate(tables.of_feature())}


def chosen(
    folder: Path,
    *,
    run: str | None = None,
    lr: float | None = None,
    method: str | None = None,
    model: str | None = None,
) -> str:
    """The id of the run that is asked for: by how its id begins, or the lowest seed at an lr, or, where neither is
    said, the lowest seed of the control at the lr that is its reference.

    method, model: where the study has more than one. Raises ValueError where it has no such run.
    """
    if run is not None:
        if lr is not None or method or model:
            raise ValueError("a run by its id has an lr, a method and a model: name no others beside it")
        return run_named(folder, run)
    definition = record.read_definition(folder)
    study = definition.study
    model = _one_of("model", model, study.models)
    table = record.read_runs(folder)
    table = table.loc[table["model"] == model]
    if lr is None:
        if method:
            raise ValueError(f"the control is untreated; of {method}, name an lr too")
        wanted = references(study, definition.data, folder, [model])[model].lr
        found = table.loc[(table["role"] == "control") & (table["lr"] == wanted)]
    else:
        method = _one_of("method", method, tuple(dict.fromkeys(arm.method for arm in study.arms)))
        cells = table.loc[(table["role"] == "cell") & (table["method"] == method)]
        found = cells.loc[cells["lr"] == lr]
        if found.empty:
            lrs = ", ".join(f"{other:g}" for other in sorted(set(cells["lr"]))) or "none yet"
            raise ValueError(f"{folder} has no recorded run of {model} with {method} at lr {lr:g}; it has {lrs}")
    return str(_lowest_seed(found))


def _lowest_seed(found: pd.DataFrame) -> str:
    return found.sort_values(["seed", "run_id"])["run_id"].iloc[0]


def _one_of(what: str, wanted: str | None, known: tuple[str, ...]) -> str:
    if wanted is None and len(known) > 1:
        raise ValueError(f"the study has more than one {what}; say --{what} with one of {', '.join(known)}")
    if wanted is not None and wanted not in known:
        raise ValueError(f"the study has no {what} {wanted!r}; it has {', '.join(known)}")
    return wanted or next(iter(known))


def write(left: Weights, path: Path) -> str:
    """Write the file, whole. Returns what to say of it."""
    content = left.written()
    storage.at(path.parent).put(path.name, content)
    network = sum(array.size for name, array in left.arrays.items() if not name.startswith("table/"))
    rows = sum(len(table) for table in left.tables)
    held = f"{network:,} numbers of the network and {rows:,} embedding rows"
    return "\n".join(
        [
            f"weights of {warm_start.words(left.about)}",
            f"  {path}: {held}, {len(content) / 2**20:.1f} MiB, content {left.content[:12]}",
        ]
    )

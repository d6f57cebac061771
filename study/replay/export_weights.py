"""Export the final weights of a recorded run, for other runs to start from, by training it again.

Its losses are compared with the record, bit for bit. None of it is part of the record.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from study import data, methods
from study.config import Arm, Run, Study, steps_of
from study.data import Rows
from study.data._dataset import Log
from study.record.definition import Definition, read_definition
from study.record.references import references
from study.record.tables import read_runs
from study.replay.recorded_study import (
    bits_text,
    changed_code_text,
    find_run,
    first_difference,
    load_data,
    outcomes_of,
    recorded_losses,
    run_of,
    train_again,
)
from study.text.wording import quoted
from study.trainers import warm_start, weights_file
from study.training import weights
from study.training.embeddings import EmbeddingTables
from study.training.networks import StackedNetworks, constants, network_of_seed, spec_of, trained_parameters
from study.training.trainer import Trained
from study.training.weights import About, Weights


@dataclass(frozen=True, kw_only=True)
class ExportedWeights:
    """The final weights of a run.

    Attributes:
        weights: The weights.
        outcome: The outcome of this training, by the study's rule.
        text: What was trained, and whether its losses are the recorded ones.
    """

    weights: Weights
    outcome: str
    text: str


def export_weights(folder: Path, run: str | Run, cache: Path) -> ExportedWeights:
    """Train a run of a study and return its final weights.

    Args:
        folder: The folder of the study.
        run: The id of a recorded run, whose losses are compared with the record, or a run that may not be recorded.
        cache: The folder of prepared data.

    Raises:
        ValueError: If the run leaves no weights to start from.
    """
    definition, log = load_data(folder, cache)
    recorded = read_runs(folder).set_index("run_id", drop=False)
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

    trained = train_again([run], log, start=start, on_end=lambda *stack: arrays.update(arrays_of(*stack)))
    try:
        if not arrays:
            raise ValueError("it raised before its end, since it is not finite")
        final = weights.validate(about, arrays)
    except ValueError as error:
        raise ValueError(f"run {run_id[:12]} leaves no weights to start from: {error}") from error
    outcome = outcomes_of(trained, log, reference, definition.study.rule)[0].outcome
    compared = _compared(folder, row, definition.study, log, trained, outcome)
    text = f"{about.curve} at lr {run.lr:g}, seed {run.seed}: {compared}"
    return ExportedWeights(weights=final, outcome=outcome, text=text)


def _compared(folder: Path, row: dict[str, Any] | None, study: Study, log: Log, trained: Trained, outcome: str) -> str:
    """The outcome of a run, and whether its losses are those of its row in the record."""
    if row is None:
        return f"{outcome}; not in the record, trained for its weights alone"
    before_TK, _ = recorded_losses(folder, row["run_id"], [task.name for task in log.tasks])
    differs, by = first_difference(before_TK, trained.loss[0]), f"{row['version']} on {row['device']}"
    bits = bits_text(differs, by, changed_code_text(row, study))
    was, expected = str(row["outcome"]), row["outcome"]
    if row["role"] == "control":  # the record does not judge the control
        was, expected = "of the control", "completed"
    if outcome != expected:
        was = f"{was} in the record, {outcome} now"
    return f"{was}; {bits}"


def about_of(run: Run, log: Log, rows: Rows, start: About | None) -> About:
    """Return the description of the weights that a run leaves.

    Args:
        run: The run.
        log: The data.
        rows: Which rows of the source the data hold.
        start: The description of the weights that the run starts from.
    """
    return warm_start.about_of(run, log, rows, steps_of(run.recipe, log.train_rows), start)


def check_form(about: About, run: Run, log: Log) -> None:
    """Check, before a run is trained, that a file can hold its weights.

    Raises:
        ValueError: If it cannot.
    """
    network = network_of_seed(run.model, spec_of(log, run.recipe), 0)
    precision = np.dtype(run.recipe.precision)

    def empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        return np.broadcast_to(np.zeros((), dtype), shape)

    trained = trained_parameters(network)
    arrays = {f"parameter/{name}": empty(tuple(x.shape), precision) for name, x in trained.items()}
    for name, x in constants(network).items():
        own = x.numpy().dtype
        arrays[f"buffer/{name}"] = empty(tuple(x.shape), precision if own.kind == "f" else own)
    kept = warm_start.keeps_accumulators(run.method, run.options)
    if kept:
        arrays |= {f"accumulator/{name}": empty(tuple(x.shape), precision) for name, x in trained.items()}
    for kind in ("table", "table_accumulator") if kept else ("table",):
        arrays |= {f"{kind}/{f}": empty((n, about.embedding_dim), precision) for f, n in enumerate(about.vocabulary)}
    try:
        weights.check_form(about, arrays)
    except ValueError as error:
        raise ValueError(f"the weights of {run.model} cannot be exported: {error}") from error


def arrays_of(
    network: StackedNetworks, tables: EmbeddingTables, accumulators: Callable[[int], dict[str, Tensor]]
) -> dict[str, Any]:
    """Return copies of the weights and accumulators of a stack's first run, by their names in a file."""
    tensors = network.weights_of_run(0) | accumulators(0)
    tensors |= {f"table/{f}": rows[0, 0] for f, rows in enumerate(tables.of_feature(tables.weight))}
    return {name: np.array(x.detach().numpy()) for name, x in tensors.items()}


def select_run(
    folder: Path,
    *,
    run: str | None = None,
    lr: float | None = None,
    method: str | None = None,
    model: str | None = None,
    seed: int | None = None,
    arm: Arm | None = None,
) -> str:
    """Return the id of a recorded run.

    Args:
        folder: The folder of the study.
        run: How its id begins.
        lr: Its lr. Without `run` and `lr`: a run of the control at its safe lr.
        method: The method, if the study has several.
        model: The model, if the study has several.
        seed: Its seed; None is the lowest.
        arm: Method and options, if the study may have the method with several options.

    Raises:
        ValueError: If there is no such run, or there are several that differ in more than the seed.
    """
    if run is not None:
        if lr is not None or method or model or seed is not None:
            raise ValueError("a run id already determines lr, method, model and seed; leave these out")
        return find_run(folder, run)
    definition = read_definition(folder)
    study = definition.study
    model = _one_of("model", model, study.models)
    table = read_runs(folder)
    table = table.loc[table["model"] == model]
    if lr is None:
        if method:
            raise ValueError(f"the control has no method; for a run of {method}, give an lr too")
        wanted = references(study, definition.data, folder, [model])[model].lr
        found = table.loc[(table["role"] == "control") & (table["lr"] == wanted)]
        return _of_seed(found, seed)
    method = arm.method if arm else _one_of("method", method, tuple(dict.fromkeys(arm.method for arm in study.arms)))
    cells = table.loc[(table["role"] == "cell") & (table["method"] == method)]
    found = _of_one_arm(cells.loc[cells["lr"] == lr], definition, arm)
    if found.empty:
        lrs = ", ".join(f"{other:g}" for other in sorted(set(cells["lr"]))) or "none yet"
        raise ValueError(f"{folder} has no recorded run of {model} with {method} at lr {lr:g}; it has {lrs}")
    return _of_seed(found, seed)


def _of_one_arm(cells: pd.DataFrame, definition: Definition, arm: Arm | None) -> pd.DataFrame:
    """The runs of an arm; ValueError if no arm is given and there are several."""
    of_run = [run_of(row, definition.study).options for row in cells.to_dict("records")]
    wanted = methods.check(arm.method, arm.options) if arm else next(iter(of_run), {})
    own = [options == wanted for options in of_run]
    if not arm and not all(own):
        some = sorted({_curve(options) for options in of_run})
        raise ValueError(
            f"{len(some)} arms of {cells['method'].iloc[0]} have runs at lr {cells['lr'].iloc[0]:g} "
            f"({'; '.join(some)[:200]}); give the run's id, which runs.parquet has"
        )
    return cells.loc[np.array(own, dtype=bool)]


def _curve(options: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in sorted(options.items())) or "defaults"


def _of_seed(found: pd.DataFrame, seed: int | None) -> str:
    """The id of the run of a seed; None is the lowest."""
    seeds = sorted(set(found["seed"]))
    if seed is not None and seed not in seeds:
        raise ValueError(f"no recorded run there has seed {seed}; recorded are {', '.join(map(str, seeds))}")
    of_seed = found.loc[found["seed"] == (seeds[0] if seed is None else seed)]
    return str(of_seed["run_id"].min())


def _one_of(what: str, wanted: str | None, known: tuple[str, ...]) -> str:
    if wanted is None and len(known) > 1:
        raise ValueError(f"the study has several: choose one by --{what}: {', '.join(known)}")
    if wanted is not None and wanted not in known:
        raise ValueError(f"the study has no {what} {wanted!r}; it has {quoted(known)}")
    return wanted or next(iter(known))


def write(exported: Weights, where: str) -> str:
    """Write weights to a file, completely or not at all.

    Args:
        exported: The weights.
        where: A path, or a URL of an object store.

    Returns:
        What a terminal prints.
    """
    content = weights_file.to_bytes(exported)
    store, name = warm_start.place(where)
    store.put(name, content)
    network = sum(array.size for kind in ("parameter", "buffer") for array in exported.network(kind).values())
    rows = sum(len(table) for table in exported.tables)
    parts = f"{network:,} numbers of the network and {rows:,} embedding rows"
    parts += ", with Adagrad's accumulators" if exported.accumulators else ""
    return "\n".join(
        [
            f"weights of {warm_start.words(exported.about)}",
            f"  {where}: {parts}, {len(content) / 2**20:.1f} MiB, content {exported.content[:12]}",
        ]
    )

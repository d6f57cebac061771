"""The record of a study: the durable table of runs, and the loss of every step. Everything else is a view of it.

    DIR/study.json             the definition (axes, recipe, rule), what the data were, versions
    DIR/runs/<trial>.parquet   one row a run, one file a trial
    DIR/losses/<trial>.parquet per-step losses of the same runs, one row a run and task
    DIR/failures/<trial>.json  why runs are missing
    DIR/confirm/<hash>.json    runs that were named before they were trained: fresh seeds at one lr
    DIR/init/<content>.zip     the weights that every run starts from (`study.execution.warm_start`), where these are
    not random DIR/set_aside/             files that did not read, kept as they were found
    DIR/rescored/<hash>/       the same runs judged by another rule: a view, which reads as a study and trains nothing

A file is written whole (`study.storage.stores`) and holds its own hash (`study.record.checksums`); a trial's losses
come before its rows, so rows that are there have their losses. DIR may mirror an object store: what is read is brought
up to date, and what is written goes there. Reading runs no code: Parquet and JSON only.
"""

import dataclasses
import hashlib
import json
import shutil
import uuid
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from study.config import Arm, Rule, Run, Study, canonical_json, search_changed, study_from_json, to_json
from study.record import checksums, validation
from study.storage import stores

FORMAT = 1

UNREADABLE = (OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError, pa.ArrowException)
T = TypeVar("T")

COLUMNS = pa.schema(
    [
        ("run_id", pa.string()),
        ("study", pa.string()),
        ("data", pa.string()),
        ("model", pa.string()),
        ("method", pa.string()),
        ("options", pa.string()),  # JSON: the method's options that are not numbers and not at their default
        ("thresholds", pa.string()),  # JSON: every threshold of the method; read back as one column each
        ("lr", pa.float64()),
        ("seed", pa.int64()),
        ("role", pa.string()),  # cell | control
        ("outcome", pa.string()),  # completed | diverged | undertrained; null for the control
        ("reason", pa.string()),  # nonfinite | collapsed | never_learned; null unless diverged
        ("diverged_at_step", pa.int64()),
        ("micro_episodes", pa.int64()),
        ("episodes", pa.string()),  # JSON: [[start, depth, length], ...]
        ("spikes", pa.int64()),
        ("final_loss", pa.float64()),  # mean training loss of the last steps; null where it is not finite
        ("kept", pa.float64()),
        ("moved", pa.float64()),  # L2 norm of the change of all network parameters; null where not finite or went back
        ("steps", pa.int64()),
        ("seconds", pa.float64()),
        ("device", pa.string()),
        ("version", pa.string()),
    ]
)
"""One row a run. Beside these stand, per task: `kept_<task>` and `auc_<task>` or `rmse_<task>` (float64, null where
not finite or not learnable) and `diverged_<task>` (bool, null where the task is not learnable)."""

COUNTS = ("rollbacks", "skipped_steps")
"""What methods that act on whole runs did to them, int64: columns of such runs alone."""

PER_TASK = {"kept_": pa.float64(), "diverged_": pa.bool_(), "auc_": pa.float64(), "rmse_": pa.float64()}

LOSSES = pa.schema(
    [
        ("run_id", pa.string()),  # null: the best constant predictor, on the batches of this seed
        ("seed", pa.int64()),
        ("task", pa.string()),
        ("loss", pa.list_(pa.float32())),  # one value a step, before its update
    ]
)

OUTCOMES = ("completed", "diverged", "undertrained")


class RecordError(ValueError):
    """A record that cannot be used, in words for its user."""


@dataclass(frozen=True, kw_only=True)
class Definition:
    """What `study.json` holds. data: facts of the data (`describe_data`); versions: of everything that trains."""

    study: Study
    data: dict[str, Any]
    versions: dict[str, str]


def exists(folder: Path) -> bool:
    stores.at(folder).refresh("study.json")
    return (folder / "study.json").exists()


def read_definition(folder: Path) -> Definition:
    """Raises RecordError where there is no study, or one that this version cannot read."""
    path = folder / "study.json"
    if not exists(folder):
        raise RecordError(f"{stores.address(folder)} holds no study (no study.json)")
    try:
        content = checksums.read_json(path.read_bytes())
        if content["format"] != FORMAT:
            raise RecordError(f"{path} has format {content['format']!r}; this version reads format {FORMAT}")
        validation.definition(content)
        return Definition(
            study=study_from_json(content["study"]), data=dict(content["data"]), versions=dict(content["versions"])
        )
    except RecordError:
        raise
    except checksums.BrokenError as error:
        again = "move it away and give its `study run` again, which keeps the runs"
        raise RecordError(f"{path} is not a study's definition ({error}); {again}") from error
    except (OSError, KeyError, TypeError, ValueError, AttributeError, RecursionError, OverflowError) as error:
        raise RecordError(f"{path} is not a study's definition ({error})") from error


def open_study(folder: Path, definition: Definition) -> Definition:
    """Create the study's folder, or grow the axes of the study that it holds.

    Returns the definition as it now stands: the union of the axes. Raises RecordError, and changes nothing, where the
    folder cannot be written, holds a study with another name, data, recipe or rule, or is a view of one.
    """
    refuse_view(folder)
    stores.probe(folder)
    if exists(folder):
        definition = _grown(read_definition(folder), definition, folder)
    _write_definition(folder, definition)
    return definition


def _write_definition(folder: Path, definition: Definition) -> None:
    content = {
        "format": FORMAT,
        "study": to_json(definition.study),
        "data": definition.data,
        "versions": definition.versions,
    }
    stores.at(folder).put("study.json", checksums.json_text(content))


def copy_definition(folder: Path, into: Path) -> None:
    """Write a study's definition into another folder, without the place where its data were read. Raises RecordError
    where there is no study."""
    definition = read_definition(folder)
    options = {name: value for name, value in definition.study.data_options.items() if name != "dir"}
    _write_definition(
        into, dataclasses.replace(definition, study=dataclasses.replace(definition.study, data_options=options))
    )


def _grown(old: Definition, new: Definition, where: Path) -> Definition:
    folder = stores.address(where)
    if old.study.name != new.study.name:
        raise RecordError(f"{folder} holds the study {old.study.name!r}, not {new.study.name!r}; choose another --out")
    if old.data["content"] != new.data["content"]:
        raise RecordError(f"{folder} holds this study on other data ({old.study.data}); choose another --out")
    if type(old.study.search) is not type(new.study.search):
        raise RecordError(f"{folder} holds this study with another kind of search; choose another --out")
    if changed := search_changed(old.study, new.study):
        raise RecordError(f"{folder} holds this search with {changed}; choose another --out")
    for part in ("recipe", "rule"):
        before, after = (dataclasses.asdict(getattr(d.study, part)) for d in (old, new))
        for name, what in (("init_from", "weights"), ("init_accumulators", "accumulators")):
            if before.get(name) != after.get(name):
                option = f"--{name.replace('_', '-')}"
                raise RecordError(f"{folder} holds this study from other {what} ({option}); choose another --out")
        changed = [f"{key} was {before[key]}, is {after[key]}" for key in before if before[key] != after[key]]
        if changed:
            raise RecordError(
                f"{folder} holds this study with another {part} ({'; '.join(changed)}); choose another --out"
            )
    return dataclasses.replace(
        old,
        study=dataclasses.replace(
            old.study,
            models=_union(old.study.models, new.study.models),
            arms=_union(old.study.arms, new.study.arms),
            lrs=tuple(sorted(_union(old.study.lrs, new.study.lrs))),
            seeds=tuple(sorted(_union(old.study.seeds, new.study.seeds))),
            search=new.study.search,
        ),
    )


def _union(old: tuple, new: tuple) -> tuple:
    return old + tuple(value for value in new if value not in old)


def write_trial(
    where: Path | str,
    trial: str,
    rows: Sequence[Mapping[str, Any]],
    losses: Sequence[Mapping[str, Any]],
) -> None:
    """Record the runs of one trial: their losses, then their rows. Safe to repeat and to interrupt.

    where: the study's folder or, on a machine that has no mirror of it, its `storage.address`. rows: one mapping a run
    with the columns of `COLUMNS` and those per task. losses: mappings as in `LOSSES`.
    """
    extra = sorted({key for row in rows for key in row} - set(COLUMNS.names))
    schema = pa.schema([*COLUMNS, *((name, _task_column_type(name)) for name in extra)])
    table = pa.Table.from_pylist([{name: row.get(name) for name in schema.names} for row in rows], schema=schema)
    store = stores.at(where)
    store.put(f"losses/{trial}.parquet", checksums.parquet(pa.Table.from_pylist(list(losses), schema=LOSSES)))
    store.put(f"runs/{trial}.parquet", checksums.parquet(table))


def read_runs(folder: Path, trials: Collection[str] | None = None) -> pd.DataFrame:
    """The table of runs, control included, one row a run, each threshold a column; sorted, so that equal records give
    equal tables. A file that does not read is moved to `set_aside/`, and a warning says so: its runs are missing.
    trials: the runs of these alone; None is all.

    Raises RecordError where there is no study.
    """
    read_definition(folder)
    tables = [table for _, table in _readable(folder, "runs", COLUMNS, trials)]
    if tables:  # one table before it is pandas': a file of its own takes milliseconds, and there are hundreds
        frame = pa.concat_tables(tables, promote_options="default").to_pandas(types_mapper=_nullable)
    else:
        frame = pd.DataFrame({f.name: pd.Series(dtype=_pandas_type(f.type)) for f in COLUMNS})
    frame = frame.drop_duplicates("run_id", keep="first")
    # Files of the control lack columns that others have: the order in which they are read must not show.
    frame = frame.reindex(columns=[*COLUMNS.names, *sorted(set(frame.columns) - set(COLUMNS.names))])
    thresholds = [json.loads(text) for text in frame.pop("thresholds")]
    for name in sorted({key for values in thresholds for key in values}):
        column = np.array([values.get(name, np.nan) for values in thresholds], np.float64)
        frame.insert(list(frame.columns).index("lr"), name, column)
    if COUNTS[0] in frame:  # an older record holds a distance for these runs too, and theirs says nothing
        frame["moved"] = frame["moved"].mask(frame[COUNTS[0]].fillna(0) > 0)
    return frame.sort_values(["role", "model", "method", "options", "lr", "seed", "run_id"], ignore_index=True)


def recorded_ids(folder: Path) -> set[str]:
    """Ids of the runs that need not be trained again."""
    return {run for _, table in _readable(folder, "runs", COLUMNS) for run in table["run_id"].to_pylist()}


def diverged_in(folder: Path, trial: str) -> dict[str, bool]:
    """Whether the runs of a trial diverged, by id. Nothing where its file does not read."""
    return {
        run: outcome == "diverged"
        for _, table in _readable(folder, "runs", COLUMNS, [trial])
        for run, outcome in zip(table["run_id"].to_pylist(), table["outcome"].to_pylist(), strict=True)
    }


def read_losses(
    folder: Path, run_ids: Iterable[str] | None = None, trials: Collection[str] | None = None
) -> pd.DataFrame:
    """Per-step losses: one row a run and task with columns run_id, seed, task, loss (float32 array over steps) and
    constant (the same of the best constant predictor on the same batches). run_ids, trials: only of these runs, and of
    these trials; None is all."""
    wanted = None if run_ids is None else set(run_ids)
    parts = []
    for path, table in _readable(folder, "losses", LOSSES, trials):
        frame = table.to_pandas()
        constants = frame[frame["run_id"].isna()].set_index(["seed", "task"])["loss"]
        frame = frame[frame["run_id"].notna()]
        if wanted is not None:
            frame = frame[frame["run_id"].isin(wanted)]
        if frame.empty:
            continue
        keys = list(zip(frame["seed"], frame["task"], strict=True))
        if not set(keys) <= set(constants.index):
            _set_aside(folder, path, "the constant predictor's losses are missing")
            continue
        parts.append(frame.assign(constant=[constants[key] for key in keys]))
    if not parts:
        return pd.DataFrame({"run_id": [], "seed": [], "task": [], "loss": [], "constant": []})
    return pd.concat(parts).drop_duplicates(["run_id", "task"], ignore_index=True)


SHARED = ("losses", "failures", "confirm", "init")
"""What a view has in common with its study."""


def write_view(folder: Path, rule: Rule, columns: Mapping[str, Mapping[str, Any]]) -> Path:
    """The study's record with some columns of its runs replaced, in `rescored/<hash of the rule>/`, which is returned.

    It reads as a study with this rule. Losses, failures, confirmations and the weights that runs start from are the
    study's own, by a link, or copied where the file system has none. Safe to repeat: what is there is brought up to
    date.

    columns: run id -> name of a column -> value, for every recorded run.
    """
    definition = read_definition(folder)
    name = hashlib.sha256(canonical_json(dataclasses.asdict(rule)).encode()).hexdigest()[:12]
    view = folder / "rescored" / name
    (view / "runs").mkdir(parents=True, exist_ok=True)
    if content := definition.study.recipe.init_from:  # of a store, no mirror has them otherwise
        stores.at(folder).fetch([f"init/{content}.zip"])
    for shared in SHARED:
        _share(folder / shared, view / shared)
    tables = dict(_readable(folder, "runs", COLUMNS))
    for path, table in tables.items():
        replaced = [row | columns[row["run_id"]] for row in table.to_pylist()]
        stores.at(view).put(f"runs/{path.name}", checksums.parquet(pa.Table.from_pylist(replaced, schema=table.schema)))
    for path in set((view / "runs").glob("*.parquet")) - {view / "runs" / path.name for path in tables}:
        path.unlink()
    _write_definition(view, dataclasses.replace(definition, study=dataclasses.replace(definition.study, rule=rule)))
    return view


def refuse_view(folder: Path) -> None:
    """Raises RecordError where the folder is a view of a study: nothing is trained there, or judged again."""
    folder = folder.resolve()
    origin = folder.parent.parent
    if folder.parent.name == "rescored" and exists(origin):
        raise RecordError(f"{folder} is {origin} judged by another rule; train there, and rescore that")


def _share(original: Path, shared: Path) -> None:
    if shared.is_symlink():
        return
    try:
        shared.symlink_to(Path("..", "..", original.name), target_is_directory=True)
    except (OSError, NotImplementedError):
        if original.is_dir():
            shutil.copytree(original, shared, dirs_exist_ok=True)


def write_failure(folder: Path, trial: str, run_ids: Sequence[str], reason: str) -> None:
    """Say why the runs of a trial are missing. The runs stay missing until a later trial records them."""
    content = checksums.json_text({"run_ids": list(run_ids), "reason": reason})
    stores.at(folder).put(f"failures/{trial}.json", content)


def read_failures(folder: Path, recorded: Collection[str] | None = None) -> dict[str, str]:
    """Why runs are missing: run id -> reason, without those that were recorded since. recorded: their ids, where they
    are known."""
    reasons = {}
    for _, content in _each_readable(folder, "failures", "json", _failure):
        reasons |= content
    done = recorded_ids(folder) if recorded is None else recorded
    return {run: reason for run, reason in reasons.items() if run not in done}


def _failure(content: bytes) -> dict[str, str]:
    found = checksums.read_json(content)
    validation.failure(found)
    return dict.fromkeys(map(str, found["run_ids"]), str(found["reason"]))


@dataclass(frozen=True, kw_only=True)
class Confirmation:
    """Runs that are to confirm an lr: fresh seeds, for every one of the models and arms, named before any is trained.

    number: how many were named before, from 0. study_seeds: how many seeds of its own the study had by then.
    """

    lr: float
    seeds: tuple[int, ...]
    models: tuple[str, ...]
    arms: tuple[Arm, ...]
    number: int
    study_seeds: int

    @property
    def name(self) -> str:
        """The hash of what is named; the same runs named again have the same name."""
        named = [self.lr, self.seeds, self.models, [[arm.method, arm.options] for arm in self.arms]]
        return hashlib.sha256(canonical_json(named).encode()).hexdigest()[:16]

    def part_of(self, study: Study) -> Study:
        """What it names, as a study: every combination of its models, arms and seeds, at its lr."""
        return dataclasses.replace(
            study, models=self.models, arms=self.arms, lrs=(self.lr,), seeds=self.seeds, search=None
        )

    def runs(self, definition: Definition) -> list[Run]:
        """The runs that it names, model by model and arm by arm."""
        return [
            Run(
                data=definition.data["content"],
                model=model,
                method=arm.method,
                options=arm.options,
                lr=self.lr,
                seed=seed,
                recipe=definition.study.recipe,
            )
            for model in self.models
            for arm in self.arms
            for seed in self.seeds
        ]


def write_confirmation(folder: Path, confirmation: Confirmation) -> None:
    """Name the runs of a confirmation. What was named stays named: a file that is there is left as it is."""
    name, store = f"confirm/{confirmation.name}.json", stores.at(folder)
    if store.get(name) is None:
        store.put(name, checksums.json_text(dataclasses.asdict(confirmation)))


def read_confirmations(folder: Path) -> list[Confirmation]:
    """Every confirmation of the study, in the order in which they were named.

    Raises RecordError where a file does not read: a claim that leaves out a failed confirmation would be none.
    """
    stores.at(folder).refresh("confirm")
    found = []
    for path in sorted((folder / "confirm").glob("*.json")):
        try:
            content: dict[str, Any] = checksums.read_json(path.read_bytes())
            validation.confirmation(content)
            content |= {key: tuple(content[key]) for key in ("seeds", "models")}
            content["arms"] = tuple(Arm(**arm) for arm in content["arms"])
            found.append(Confirmation(**content))
        except UNREADABLE as error:
            raise RecordError(f"{path} does not read ({error})") from error
    return sorted(found, key=lambda confirmation: (confirmation.number, confirmation.name))


def check(folder: Path) -> None:
    """Read every file of the record to its last byte, so that what is broken is set aside before a study goes on."""
    for _ in _each_readable(folder, "losses", "parquet", _table_of(LOSSES)):
        pass
    for _ in _readable(folder, "runs", COLUMNS):
        pass


def _readable(
    folder: Path, kind: str, schema: pa.Schema, trials: Collection[str] | None = None
) -> Iterator[tuple[Path, pa.Table]]:
    read = _table_of(schema)
    if kind == "losses":
        yield from _each_readable(folder, kind, "parquet", read, trials)
        return
    for path, table in _each_readable(folder, kind, "parquet", read, trials):
        try:
            _check_losses_of(path)
        except (OSError, ValueError, pa.ArrowException) as error:
            _set_aside(folder, path, str(error).splitlines()[0])
        else:
            yield path, table


def _each_readable(
    folder: Path,
    kind: str,
    ending: str,
    read: Callable[[bytes], T],
    trials: Collection[str] | None = None,
) -> Iterator[tuple[Path, T]]:
    """Each file of a kind with what `read` makes of its content. One that does not read is set aside, and said."""
    store = stores.at(folder)
    if trials is None:
        store.refresh(*(("runs", "losses") if ending == "parquet" else (kind,)))
    else:
        store.fetch([f"{part}/{trial}.parquet" for part in ("losses", "runs") for trial in trials])
    every = sorted((folder / kind).glob(f"[!.]*.{ending}"))
    for path in every if trials is None else [path for path in every if path.stem in trials]:
        try:
            try:
                found = read(path.read_bytes())
            except UNREADABLE:
                store.fetch([f"{kind}/{path.name}"], anew=True)  # was it the mirror that broke?
                found = read(path.read_bytes())
        except FileNotFoundError:
            continue  # another process has set it aside
        except UNREADABLE as error:
            _set_aside(folder, path, (str(error).splitlines() or [type(error).__name__])[0])
        else:
            yield path, found


def _table_of(schema: pa.Schema) -> Callable[[bytes], pa.Table]:
    def read(content: bytes) -> pa.Table:
        table = checksums.read_parquet(content)
        names = table.column_names
        wrong = [f.name for f in schema if f.name not in names or table.schema.field(f.name).type != f.type]
        if wrong:
            raise ValueError(f"not a record's file: columns {', '.join(wrong)}")
        if schema is COLUMNS:
            validation.runs(table)
        return table

    return read


def _check_losses_of(path: Path) -> None:
    """Rows count only with their losses: without, the runs could not be judged again. Reads no more than the footer."""
    losses = path.parent.parent / "losses" / path.name
    if not losses.exists():
        raise ValueError("the losses of its runs are missing")
    try:
        pq.read_schema(losses)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ValueError(f"{losses} does not read: {str(error).splitlines()[0]}") from error


def _set_aside(folder: Path, path: Path, why: str) -> None:
    name = f"set_aside/{path.parent.name}-{path.stem}-{uuid.uuid4().hex[:8]}{path.suffix}"
    try:
        stores.at(folder).set_aside(path, name)
        where = f"set aside as {stores.address(folder)}/{name}"
    except (OSError, stores.StorageError):
        where = "left where it is, and not used"
    warnings.warn(f"{path} does not read ({why}); {where}; its runs count as missing", RuntimeWarning, stacklevel=3)


def _task_column_type(name: str) -> pa.DataType:
    if name in COUNTS:
        return pa.int64()
    for prefix, kind in PER_TASK.items():
        if name.startswith(prefix):
            return kind
    raise AssertionError(f"{name} is not a column of the record")


def _nullable(kind: pa.DataType) -> Any:
    return {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}.get(kind)


def _pandas_type(kind: pa.DataType) -> Any:
    return _nullable(kind) or ("float64" if pa.types.is_floating(kind) else "str")

"""Studies whose runs start from weights: checks of the weights, and their file in the study's folder.

    DIR/init/<content>.safetensors    the weights that every run of a study starts from (`study.trainers.weights_file`)

The study keeps its own copy, so the user's file is needed only when it begins: resume, replay and other machines read
the copy.
"""

import contextlib
import functools
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from study import data, methods
from study.config import Recipe, Run, Study
from study.data import Rows
from study.data._dataset import Log
from study.record.files import origin_of
from study.storage import stores
from study.storage.untrusted_input import MAX_FILE_BYTES, open_named
from study.trainers import weights_file
from study.training.networks import network_of_weights, spec_of
from study.training.weights import About, Weights

FOLDER = "init"


def place(where: str) -> tuple[stores.Store, str]:
    """Return the store of a file of weights and its name there, without any access.

    Args:
        where: A path, or a URL.

    Raises:
        ValueError: The URL names no file of an object store.
    """
    if stores.is_url(where):
        folder, _, name = where.rpartition("/")
        if not name or not stores.is_url(folder):
            raise ValueError(f"need a file, such as s3://bucket/prefix/weights.safetensors, got {where}")
        return stores.store_for(folder), name
    path = stores.folder_of(where).expanduser().absolute()
    return stores.store_for(path.parent), path.name


def check_replaceable(where: str) -> None:
    """Raise ValueError if weights cannot be written to a path or URL: it names no file, or a pipe or device."""
    store, name = place(where)
    if isinstance(store, stores.LocalStore) and (path := store.folder / name).exists() and not path.is_file():
        raise ValueError(f"{where} is no regular file, and is not replaced")


def opened(where: Path | str) -> Weights:
    """Return the weights in a file, by its path or URL. Raises ValueError if it holds none."""
    store, name = place(str(where))
    try:
        return weights_file.read(_content(store, name))
    except OSError as error:
        raise ValueError(f"{where} cannot be read ({error.strerror or error})") from error
    except stores.StorageError:
        raise
    except ValueError as error:
        raise ValueError(f"{where} holds no weights that can be used: {error}") from error


def _content(store: stores.Store, name: str) -> bytes:
    if isinstance(store, stores.LocalStore):
        with open_named(store.folder / name) as file:
            return file.read()
    content = store.get(name, MAX_FILE_BYTES + 1)
    if content is None:
        raise stores.StorageError(f"{store.url}/{name} is not there")
    return content


def starting_from(where: str, study: Study, cache: Path, *, accumulators: bool = False) -> tuple[Study, Weights]:
    """Return the study whose runs start from the weights in a file, and the weights.

    Args:
        where: A path, or a URL.
        study: The study that starts from random weights.
        cache: The folder of converted data.
        accumulators: Whether the runs start from Adagrad's accumulators in the file too.

    Raises:
        ValueError: The runs cannot start from these weights.
    """
    start = opened(where)
    log = data.load(study.data, study.data_options, cache)
    try:
        if accumulators and not start.accumulators:
            raise ValueError("it holds no accumulators; `study export-weights` of this version writes them")
        check(start.about, study, log, data.rows_of(study.data, study.data_options, cache), accumulators=accumulators)
        network_of_weights(start.about.model, spec_of(log, study.recipe), start)
    except ValueError as error:
        raise ValueError(f"no run of {study.name} can start from {where}: {error}") from error
    return of(study, start, accumulators=accumulators), start


def of(study: Study, start: Weights, *, accumulators: bool = False) -> Study:
    """Return the study whose runs start from these weights, and from their accumulators if asked."""
    hash_of_accumulators = start.accumulators if accumulators else ""
    recipe = replace(study.recipe, init_from=start.content, init_accumulators=hash_of_accumulators)
    return replace(study, recipe=recipe)


def check(about: About, study: Study, log: Log, rows: Rows, *, accumulators: bool = False) -> None:
    """Raise ValueError if runs of the study cannot start from the described weights.

    The network, features, id codes and tasks must be equal, and the weights must not have been trained on the rows. If
    `accumulators`, each method and the embeddings must keep Adagrad's accumulators.
    """
    if accumulators:
        _check_accumulators(about, study)
    if others := [model for model in study.models if model != about.model]:
        choice = shlex.quote(f"models={about.model}")
        raise ValueError(f"they are of {about.model}, and it trains {', '.join(others)} (--set {choice})")
    for what, was, now in (
        ("embedding_dim", about.embedding_dim, study.recipe.embedding_dim),
        ("precision", about.precision, study.recipe.precision),
    ):
        if was != now:
            raise ValueError(f"they have {what}={was}, and it trains with {what}={now} (--set {what}={was})")
    for what, was, now in (
        ("id features", about.id_names, log.id_names),
        ("number features", about.number_names, log.number_names),
        ("tasks", about.tasks, tuple(task.name for task in log.tasks)),
    ):
        if was != now:
            differing = sorted(set(was) ^ set(now)) or ["their order"]
            raise ValueError(f"they are of other {what} than its data have (differing: {', '.join(differing[:3])})")
    if (about.whole, about.vocabulary) != (rows.whole, log.vocabulary):
        raise ValueError("their embedding rows belong to the codes of other data; both must be days of one log")
    if about.saw(rows.first, rows.last):
        if about.seen is None or rows.first is None:
            raise ValueError("they have seen the very rows that it trains on")
        raise ValueError(
            f"they have seen {about.days_seen()} of its log, and it trains and judges on days {rows.first} to "
            f"{rows.last}; choose days that they have not seen, by --set data.only_days=FIRST-LAST"
        )


def _check_accumulators(about: About, study: Study) -> None:
    for arm in study.arms:
        if not keeps_accumulators(arm.method, arm.options):
            raise ValueError(f"{about.curve} left accumulators of Adagrad, and {arm.method} here keeps none (its base)")
    if about.embeddings != study.recipe.embeddings:
        raise ValueError(
            f"their tables were trained with embeddings={about.embeddings or 'unknown'}, and these are with "
            f"embeddings={study.recipe.embeddings}: other accumulators"
        )
    fresh = Recipe().initial_accumulator
    if study.recipe.initial_accumulator != fresh:
        raise ValueError(
            f"initial_accumulator={study.recipe.initial_accumulator:g} has no meaning where accumulators are handed on"
        )


def keeps_accumulators(method: str, options: Mapping[str, Any]) -> bool:
    """Return whether a method keeps Adagrad's accumulator of each weight."""
    return "accumulator" in methods.build(method, 0.1, methods.check(method, options)).init(torch.zeros(1, 1))


def about_of(run: Run, log: Log, rows: Rows, steps: int, start: About | None = None) -> About:
    """Return the description of the final weights of a run; `start` describes those it started from."""
    seen: tuple[tuple[int, int], ...] | None = None
    if rows.first is not None and rows.last is not None and not (start and start.seen is None):
        before = start.seen if start and start.seen else ()
        seen = (*before, (rows.first, rows.last - 1))
    return About(
        model=run.model,
        embedding_dim=run.recipe.embedding_dim,
        precision=run.recipe.precision,
        id_names=log.id_names,
        vocabulary=log.vocabulary,
        number_names=log.number_names,
        tasks=tuple(task.name for task in log.tasks),
        whole=rows.whole,
        seen=seen,
        run_id=run.id,
        method=run.method,
        options=run.options,
        lr=run.lr,
        seed=run.seed,
        steps=steps,
        data=log.content,
        embeddings=run.recipe.embeddings,
    )


def words(about: About) -> str:
    """Return `small_dcn, agc max_ratio=0.05 at lr 0.1, seed 0, trained on days 1 to 6 (run 0123456789ab)`."""
    run = f"{about.model}, {about.curve} at lr {about.lr:g}, seed {about.seed}"
    return f"{run}, trained on {about.days_seen()} (run {about.run_id[:12]})"


def keep(folder: Path, start: Weights) -> None:
    """Write the study's copy of the weights. Raises StorageError."""
    store, name = stores.store_for(folder), f"{FOLDER}/{start.content}{weights_file.SUFFIX}"
    there = store.get(name)
    with contextlib.suppress(ValueError):
        if there is not None and _known(weights_file.read(there)) == _known(start):
            return
    store.put(name, weights_file.to_bytes(start))


def kept(where: Path | str, recipe: Recipe) -> Weights | None:
    """Return the study's copy of the weights that runs of this recipe start from; None if they start from random ones.

    Raises:
        ValueError: The copy is not there, or holds other weights.
    """
    return _kept(str(where), recipe.init_from, recipe.init_accumulators) if recipe.init_from else None


def _known(start: Weights) -> tuple[str, str]:
    return start.content, start.accumulators


@functools.lru_cache(maxsize=1)
def _kept(where: str, content: str, accumulators: str) -> Weights:
    address = where if stores.is_url(where) else origin_of(Path(where))
    again = "give its `study run ... --init-from FILE` again"
    store = stores.store_for(address)
    names = (f"{FOLDER}/{content}{suffix}" for suffix in (weights_file.SUFFIX, weights_file.OLD_SUFFIX))
    file = next((found for name in names if (found := store.get(name)) is not None), None)
    if file is None:
        raise ValueError(f"the weights that its runs start from are not in {where}/{FOLDER}; {again}")
    try:
        found = weights_file.read(file)
        if found.content != content or accumulators not in ("", found.accumulators):
            raise ValueError("they are others than its runs start from")
    except ValueError as error:
        raise ValueError(f"{where}/{FOLDER}/{content[:12]}... cannot be used: {error}; {again}") from error
    return found

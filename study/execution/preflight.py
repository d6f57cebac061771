"""What a machine of a cluster needs for a study: to see the study's folder, and to have its data. Knows no scheduler.

The driver leaves a sign in the study's folder for as long as it trains: a machine that finds it shares the folder,
whatever lies at that path elsewhere. Data come to a machine once, however many workers it has: as the memory maps of
the converted log, which its workers share. They are opened where the driver has them (a shared cache), or in the
machine's own cache; where they are in neither, one worker converts the machine's own data path, and the others wait.

    DIR/nodes/<sign>           of the driver
    DIR/nodes/<sign>-<hash>    of a machine that has found it
"""

import contextlib
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from study import data
from study.data._dataset import Log
from study.storage import stores
from study.storage.stores import StorageError, cache_folder

SIGNS = "nodes"

SIGN_SECONDS = 5
"""How long a network file system may take to show what another machine wrote."""


class NodeError(ValueError):
    """A machine that cannot take part, in words that follow its name."""


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a study's trials need on every machine. where: the study's folder, or its URL. sign: of the driver, there.
    converted: where it has the log."""

    where: str
    sign: str
    source: str
    options: dict[str, Any]
    content: str
    converted: str


@contextlib.contextmanager
def needs(folder: Path, source: str, options: dict[str, Any], log: Log) -> Iterator[Needs]:
    """What the machines need, with the driver's sign in the folder meanwhile. The caller holds the folder's lock.

    Raises StorageError where the folder cannot be written.
    """
    remove_signs(folder)  # of a driver that was killed
    converted = data.place(log)
    assert converted, "data.load maps its arrays"
    sign = f"{SIGNS}/{uuid.uuid4().hex}"
    stores.store_for(folder).put(sign, b"the driver\n")
    try:
        yield Needs(
            where=stores.address(folder),
            sign=sign,
            source=source,
            options=options,
            content=log.content,
            converted=str(converted),
        )
    finally:
        remove_signs(folder)


def remove_signs(folder: Path) -> None:
    store = stores.store_for(folder)
    with contextlib.suppress(StorageError):
        for name in store.names(SIGNS):
            store.delete(f"{SIGNS}/{name}")
    with contextlib.suppress(OSError):
        (folder / SIGNS).rmdir()


def answer(needs: Needs) -> str:
    """On a machine: find the driver's sign, and leave one of its own, whose name is returned. Raises NodeError."""
    see(needs)
    sign = f"{needs.sign}-{uuid.uuid4().hex}"
    try:
        stores.store_for(needs.where).put(sign, b"a machine\n")
    except StorageError as error:
        raise NodeError(str(error)) from error
    return sign


def see(needs: Needs) -> None:
    """Raises NodeError where this machine does not share the study's folder with the driver."""
    try:
        seen = appears(needs, needs.sign)
    except StorageError as error:
        raise NodeError(str(error)) from error
    if not seen:
        raise NodeError(f"does not see the study's folder {needs.where}; mount it there, or choose another --out")


def appears(needs: Needs, sign: str) -> bool:
    """Whether the sign is there, or comes within the time that a network file system may take."""
    store, end = stores.store_for(needs.where), time.monotonic() + SIGN_SECONDS
    while store.get(sign) is None:
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
    return True


def log_here(needs: Needs) -> Log:
    """The study's data on this machine, memory-mapped. Raises NodeError where it has none, or others."""
    cache, converted = cache_folder(), Path(needs.converted)
    for folder in (converted, cache / converted.name):
        if (log := data.opened(folder, needs.content)) is not None:
            return log
    try:
        log = data.load(needs.source, needs.options, cache)
    except ValueError as error:
        raise NodeError(f"cannot read the study's data: {error}") from error
    if log.content != needs.content:
        where = f" in {needs.options['dir']}" if "dir" in needs.options else ""
        raise NodeError(f"has other data{where} than the machine that runs the study")
    return log


_ready: tuple[Needs, Log] | None = None


def ready(needs: Needs) -> Log:
    """The study's data, in a worker that sees the study's folder; looked for once a process. Raises NodeError."""
    global _ready
    if _ready is None or _ready[0] != needs:
        see(needs)
        _ready = needs, log_here(needs)
    return _ready[1]

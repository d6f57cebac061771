"""What a machine of a cluster needs for a study: the study's folder, and what the trainer reads. Knows no scheduler.

The driver keeps a file in the study's folder while it trains: a machine that finds it shares the folder. Each machine
then opens the trainer by itself, with hints from the driver. A ranker's data come to a machine once, however many
workers it has: they are memory maps, which its workers share.

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

from study import plugins
from study.config import Study
from study.storage import stores
from study.storage.stores import StorageError, cache_folder
from study.trainers.protocol import Trainer, open_trainer

SIGNS = "nodes"

SIGN_SECONDS = 5
"""How long a network file system may take to show what another machine wrote."""


class NodeError(ValueError):
    """A machine that cannot take part. The message is what follows its name in a sentence."""


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a study's trials need on every machine.

    Args:
        where: the study's folder, or its URL.
        sign: name of the driver's file there.
        study: the study, whose trainer each machine opens.
        content: the content hash that the trainer must have.
        hints: `Trainer.hints` of the driver.
        own_code: `Trainer.own_code_of` of the driver: what the trainer must have, too.
        user_folder: the folder of the user's own modules.
        device: "cpu" or "cuda": what trials train on.
    """

    where: str
    sign: str
    study: Study
    content: str
    hints: dict[str, Any]
    own_code: dict[str, str]
    user_folder: str | None = None
    device: str = "cpu"


@contextlib.contextmanager
def needs(folder: Path, study: Study, trainer: Trainer, device: str = "cpu") -> Iterator[Needs]:
    """Yield what the machines need; meanwhile the driver's sign is in the folder.

    The caller holds the folder's lock. Raises StorageError where the folder cannot be written.
    """
    remove_signs(folder)  # of a driver that was killed
    hints = trainer.hints()
    sign = f"{SIGNS}/{uuid.uuid4().hex}"
    stores.store_for(folder).put(sign, b"the driver\n")
    try:
        yield Needs(
            where=stores.address(folder),
            sign=sign,
            study=study,
            content=trainer.content,
            hints=hints,
            own_code=trainer.own_code_of(study),
            user_folder=plugins.user_folder,
            device=device,
        )
    finally:
        remove_signs(folder, sign)  # another driver may have taken over


def remove_signs(folder: Path, sign: str = "") -> None:
    """Remove the files of a driver and of the machines that have found it; without `sign`, those of all drivers."""
    store = stores.store_for(folder)
    with contextlib.suppress(StorageError):
        for name in store.names(SIGNS):
            if f"{SIGNS}/{name}".startswith(sign):
                store.delete(f"{SIGNS}/{name}")
    with contextlib.suppress(OSError):
        (folder / SIGNS).rmdir()


def answer(needs: Needs) -> str:
    """Find the driver's sign on this machine, and return the name of a sign of its own. Raises NodeError."""
    see_folder(needs)
    sign = f"{needs.sign}-{uuid.uuid4().hex}"
    try:
        stores.store_for(needs.where).put(sign, b"a machine\n")
    except StorageError as error:
        raise NodeError(str(error)) from error
    return sign


def see_folder(needs: Needs) -> None:
    """Raise NodeError where this machine does not share the study's folder with the driver."""
    try:
        seen = appears(needs, needs.sign)
    except StorageError as error:
        raise NodeError(str(error)) from error
    if not seen:
        raise NodeError(f"does not see the study's folder {needs.where}; mount it there, or choose another folder")


def appears(needs: Needs, sign: str) -> bool:
    """Return whether the sign is there, or comes within the time that a network file system may take."""
    store, end = stores.store_for(needs.where), time.monotonic() + SIGN_SECONDS
    while store.get(sign) is None:
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
    return True


def trainer_here(needs: Needs) -> Trainer:
    """Return the study's trainer on this machine.

    Raises:
        NodeError: it cannot be opened, has other data, or cannot use the machine's GPUs.
    """
    plugins.add_folder(needs.user_folder)
    try:
        trainer = open_trainer(needs.study, cache_folder(), needs.hints)
        content = trainer.content
    except ValueError as error:
        raise NodeError(f"cannot read the study's data: {error}") from error
    if content != needs.content:
        folder = needs.study.data_options.get("dir")
        raise NodeError(f"has other data{f' in {folder}' if folder else ''} than the machine that runs the study")
    try:
        own_code = trainer.own_code_of(needs.study)
    except ValueError as error:
        raise NodeError(f"cannot import the study's own modules: {error}") from error
    for module, code in own_code.items():
        if needs.own_code.get(module) != code:
            raise NodeError(
                f"has another code of {module} than the study was started with; if it was edited since, start again in "
                "a new Python process"
            )
    try:
        trainer.check_device(needs.device)
    except ValueError as error:
        raise NodeError(str(error)) from error
    return trainer


_ready: tuple[Needs, Trainer] | None = None


def ready(needs: Needs) -> Trainer:
    """Return the study's trainer, opened once per process. Raises NodeError where this machine cannot take part."""
    global _ready
    if _ready is None or _ready[0] != needs:
        see_folder(needs)
        _ready = needs, trainer_here(needs)
    return _ready[1]

"""Returns the store for a path or URL. A store writes whole files, and lists and reads them.

A store is a local folder (`LocalStore`) or lies in an object store (`ObjectStore`). Each file is written whole under
its final name. Files are always read in a local folder: the study's own, or the mirror of a URL. The mirror is
updated first. So the rest of the software handles folders, and `store_for` finds out what a folder stands for.

    s3://bucket/prefix/runs/x.parquet  ->  CACHE/stores/prefix-<hash of the URL>/runs/x.parquet
"""

import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from study.storage.atomic import write_atomic
from study.storage.errors import StorageError
from study.storage.local import LocalStore
from study.storage.object_store import PROTOCOLS, ObjectStore

__all__ = ["LocalStore", "ObjectStore", "StorageError", "Store", "address", "cache_folder", "folder_of", "is_url"]
__all__ += ["probe", "publish", "store_for"]

Store = LocalStore | ObjectStore

PUBLISHED = (
    "report.html",
    "runs.parquet",
    "optuna.journal",
    "tables/*.csv",
    "tables/*.json",
    "tables/*.tex",
    "figures/*.png",
    "figures/paper/*",
)
"""Files computed from the record that people want to find in the object store too."""


def cache_folder() -> Path:
    """Return where converted data and mirrors are kept: $STUDY_CACHE, or the user's cache folder."""
    if own := os.environ.get("STUDY_CACHE"):
        os.environ["STUDY_CACHE"] = os.path.abspath(own)  # the current folder changes, in this process and workers
        return Path(os.environ["STUDY_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "learning-rate-edge"


def is_url(where: str) -> bool:
    """Return whether this is the URL of an object store. `file://` is a path."""
    return "://" in where and not where.startswith(("file://", "local://"))


def folder_of(where: str | Path) -> Path:
    """Return the local folder for a path or URL: the path itself, or the mirror of the URL. Contacts nothing.

    Raises:
        StorageError: the URL cannot hold a study, or its mirror cannot be created.
    """
    text = str(where)
    if text.startswith(("file://", "local://")):
        parts = urlsplit(text)
        if parts.query or parts.fragment:
            raise StorageError(f"a URL has %3F for ? and %23 for #, or give the path without {parts.scheme}://")
        return Path(unquote(parts.path))
    if isinstance(where, Path) or not is_url(where):
        return Path(where)
    url = _validate_url(where)
    mirror = _mirror_of(url)
    try:
        mirror.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(mirror / ".store", url.encode())
    except OSError as error:
        raise StorageError(f"cannot write to the cache folder {mirror} ({error.strerror})") from error
    return mirror


def address(folder: Path) -> str:
    """Return what users call a folder: its path, or the URL that it mirrors."""
    return _url_of(folder) or str(folder)


def store_for(where: Path | str) -> Store:
    """Return the store for a path or URL. A store for a URL reads without a mirror; one for its mirror has it."""
    if isinstance(where, str) and is_url(where):
        return ObjectStore(_validate_url(where))
    folder = folder_of(where)
    url = _url_of(folder)
    return ObjectStore(url, folder) if url else LocalStore(folder)


def probe(where: Path | str) -> None:
    """Write, read and delete a file. Raises StorageError if that fails."""
    store_for(where).probe()


def publish(folder: Path, patterns: Iterable[str] = PUBLISHED) -> None:
    """Upload the report and its tables and figures from a mirror to its object store."""
    store = store_for(folder)
    if isinstance(store, ObjectStore):
        for pattern in patterns:
            for path in sorted(folder.glob(pattern)):
                store.put(path.relative_to(folder).as_posix(), path.read_bytes())


def _validate_url(url: str) -> str:
    """Return the URL without a slash at its end. Raises StorageError if it cannot hold a study."""
    protocol, _, rest = url.partition("://")
    if "@" in rest.partition("/")[0] and protocol not in ("abfs", "abfss"):
        shown = f"{protocol}://{rest.rpartition('@')[2]}"
        raise StorageError(f"a URL must not hold a user or a password, since it would be recorded: {shown}")
    if protocol not in PROTOCOLS:
        known = ", ".join(f"{name}://" for name in PROTOCOLS[:-1])
        raise StorageError(f"{protocol}:// cannot hold a study: one of {known} or a path")
    if "?" in rest or "#" in rest or not rest.strip("/"):
        raise StorageError(f"need a URL such as s3://bucket/prefix, got {url}")
    return f"{protocol}://{rest.rstrip('/')}"


def _mirrors() -> Path:
    return cache_folder().resolve() / "stores"


def _mirror_of(url: str) -> Path:
    name = re.sub(r"[^\w.-]", "_", url.rpartition("/")[2]) or "study"
    return _mirrors() / f"{name}-{hashlib.sha256(url.encode()).hexdigest()[:16]}"


def _url_of(folder: Path) -> str | None:
    """Return the URL of a mirror. Only a folder at a mirror's own place is one, whatever `.store` in it says."""
    folder = folder.resolve()
    if folder.parent != _mirrors():
        return None
    try:
        url = (folder / ".store").read_text()
    except (OSError, ValueError):
        return None
    return url if is_url(url) and folder == _mirror_of(url) else None

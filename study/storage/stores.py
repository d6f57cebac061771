"""Where the files of a study lie: a folder, or an object store named by a URL. Writes whole files, and lists them.

Whoever writes, writes a whole file under its final name: on a file system beside it and renamed into place, on an
object store by one PUT. Whoever reads, reads a local folder: the study's own, or, for a URL, its mirror in the user's
cache folder, which is brought up to date first. So a folder is what the rest of the software knows; `at` finds out what
is behind it. The only file that knows fsspec.

    s3://bucket/prefix/runs/x.parquet  ->  CACHE/stores/prefix-<hash of the URL>/runs/x.parquet

What is mirrored was fetched once: it is fetched again where the store lists it with another size, time or ETag, and
removed where the store no longer has it. A mirror may be deleted at any time.
"""

import contextlib
import errno
import functools
import hashlib
import os
import re
import time
import uuid
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

WHOLE_PUTS = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "memory")
"""Protocols by which a file is there whole or not at all, and of which two writers of a new file only one succeeds."""

INSTALL = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "abfss": "adlfs", "az": "adlfs"}

FINAL = ("runs", "losses", "failures", "confirm", "set_aside")
"""Folders of a study that are mirrored: a file that is there does not change."""

PRODUCTS = ("report.html", "runs.parquet", "optuna.journal", "tables/*.csv", "figures/*.png")
"""Views of the record that are written beside it, and sent to the store for people."""

PROBE_BYTES = 2**16  # enough to find a full disk
HAVE_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
RETRY_SECONDS = (1, 2, 4, 8, 15, 30)
READ_AT_ONCE = 2**18
"""Bytes of a file that is read in part."""
AT_ONCE = 128
"""Files that are fetched together."""


class StorageError(ValueError):
    """A place that cannot be written or read, in words for its user."""


def cache_folder() -> Path:
    """Where converted data, and mirrors of object stores, are kept: $STUDY_CACHE, or the user's cache folder."""
    if own := os.environ.get("STUDY_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "learning-rate-edge"


def is_url(where: str) -> bool:
    """Whether this names an object store. `file://` is a way to write a path."""
    return "://" in where and not where.startswith(("file://", "local://"))


def folder_of(where: str | Path) -> Path:
    """The folder in which the files of a study are read: a path as it is, a URL's mirror. Contacts nothing."""
    text = str(where)
    if text.startswith(("file://", "local://")):
        return Path(urlsplit(text).path)
    if isinstance(where, Path) or not is_url(where):
        return Path(where)
    url = _checked(where)
    mirror = _mirror_of(url)
    try:
        mirror.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write_beside(mirror / ".store", url.encode())
    except OSError as error:
        raise StorageError(f"cannot write to the cache folder {mirror} ({error.strerror})") from error
    return mirror


def address(folder: Path) -> str:
    """What this folder is called everywhere: its path, or the URL of which it is a mirror."""
    return _url_of(folder) or str(folder)


def at(where: Path | str) -> "Folder | ObjectStore":
    """What is behind a folder, or an address, which a worker has that keeps no mirror."""
    if isinstance(where, str) and is_url(where):
        return ObjectStore(_checked(where))
    folder = folder_of(where)
    url = _url_of(folder)
    return ObjectStore(url, folder) if url else Folder(folder)


def probe(where: Path | str) -> None:
    """Write, read and delete a file. Raises StorageError, in one line, where that does not work here."""
    at(where).probe()


def publish(folder: Path, patterns: Iterable[str] = PRODUCTS) -> None:
    """Send what was written beside a mirrored record, the report above all, to its store. A folder has it already."""
    store = at(folder)
    if isinstance(store, ObjectStore):
        for pattern in patterns:
            for path in sorted(folder.glob(pattern)):
                store.put(path.relative_to(folder).as_posix(), path.read_bytes())


class Folder:
    """A folder of this machine, or of a network file system. Names are relative to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, name: str, content: bytes, *, patient: bool = True) -> None:
        """Write a whole file, in place of any that is there."""
        with self._said("write to"):
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_beside(path, content)

    def create(self, name: str, content: bytes) -> bool:
        """Write a file, unless there is one of this name: then False."""
        with self._said("write to"):
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.new")
            _write_beside(beside, content)
            try:
                os.link(beside, path)  # never in place of another, as renaming is
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in HAVE_NO_LINKS:
                    raise
                return self._create_slowly(path, content)
            finally:
                beside.unlink(missing_ok=True)
            return True

    def _create_slowly(self, path: Path, content: bytes) -> bool:
        """Where there are no links: a reader may see it before all of it is written."""
        try:
            file = path.open("xb")
        except FileExistsError:
            return False
        with file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        return True

    def get(self, name: str, most: int | None = None) -> bytes | None:
        """The content of a file, or no more of it than its first bytes; None where there is none."""
        with self._said("read"):
            try:
                with (self.folder / name).open("rb") as file:
                    return file.read(-1 if most is None else most)
            except FileNotFoundError:
                return None

    def opened(self, name: str) -> IO[bytes] | None:
        """A file to be read in part; None where there is none."""
        with self._said("read"):
            path = self.folder / name
            return path.open("rb") if path.is_file() else None  # a pipe would be waited for

    def names(self, kind: str) -> list[str]:
        """Names of the files in a folder of this one, sorted."""
        with self._said("read"):
            return sorted(path.name for path in (self.folder / kind).glob("[!.]*"))

    def delete(self, name: str) -> None:
        with self._said("write to"):
            (self.folder / name).unlink(missing_ok=True)

    def set_aside(self, path: Path, name: str) -> None:
        """Move a file, which does not read, to another name. Raises OSError where that cannot be done."""
        (self.folder / name).parent.mkdir(exist_ok=True)
        path.rename(self.folder / name)

    def refresh(self, *kinds: str) -> None:
        """What is to be read is here."""

    def fetch(self, names: Iterable[str], *, anew: bool = False) -> None:
        """What is to be read is here."""

    def probe(self) -> None:
        name, content = f".probe-{uuid.uuid4().hex}", os.urandom(PROBE_BYTES)
        self.put(name, content)
        self.delete(name)

    @contextlib.contextmanager
    def _said(self, doing: str) -> Iterator[None]:
        # Without the file's name: trials that cannot be recorded fail in the same words, and so stop the study.
        try:
            yield
        except OSError as error:
            raise StorageError(f"cannot {doing} {self.folder} ({error.strerror or error})") from error


class ObjectStore:
    """An object store below a URL. mirror: where its files are read; None for whoever only writes."""

    def __init__(self, url: str, mirror: Path | None = None) -> None:
        self.url, self.mirror = url, mirror

    def put(self, name: str, content: bytes, *, patient: bool = True) -> None:
        """One PUT of a whole file to its final key. A store that is away for a minute costs the patient that minute."""
        for wait in (*(RETRY_SECONDS if patient else ()), None):
            try:
                with self._said("write to") as (files, root):
                    files.pipe_file(f"{root}/{name}", content)
                break
            except StorageError as error:
                if wait is None or not _passes(error.__cause__):
                    raise
                time.sleep(wait)
        if self.mirror:
            self._mirrored(name, content)

    def create(self, name: str, content: bytes) -> bool:
        """A conditional PUT (If-None-Match: *): False where there is a file of this name. One that was repeated, since
        its answer was lost, knows its own content."""
        with self._said("write to") as (files, root):
            try:
                files.pipe_file(f"{root}/{name}", content, mode="create")
            except FileExistsError:
                return self.get(name) == content
            return True

    def get(self, name: str, most: int | None = None) -> bytes | None:
        with self._said("read") as (files, root):
            try:
                return files.cat_file(f"{root}/{name}", end=most)
            except FileNotFoundError:
                return None

    def opened(self, name: str) -> IO[bytes] | None:
        """A file of which only what is asked for is fetched, a little at a time; whatever fails later is not said in
        our words."""
        with self._said("read") as (files, root):
            try:
                return files.open(f"{root}/{name}", "rb", block_size=READ_AT_ONCE, cache_type="readahead")
            except FileNotFoundError:
                return None

    def names(self, kind: str) -> list[str]:
        return sorted(self._listed(kind))

    def delete(self, name: str) -> None:
        with self._said("write to") as (files, root), contextlib.suppress(FileNotFoundError):
            files.rm_file(f"{root}/{name}")
        if self.mirror:
            (self.mirror / name).unlink(missing_ok=True)

    def move(self, name: str, to: str) -> None:
        """Call a file otherwise, inside the store: it may be of any size."""
        with self._said("write to") as (files, root):
            files.copy(f"{root}/{name}", f"{root}/{to}")
        self.delete(name)

    def set_aside(self, path: Path, name: str) -> None:
        assert self.mirror
        original = path.relative_to(self.mirror).as_posix()
        if (content := self.get(original)) is not None:
            self.put(name, content)
        self.delete(original)

    def refresh(self, *kinds: str) -> None:
        """Bring files or folders of the mirror up to date. Rows come after their losses, as they are written."""
        assert self.mirror
        listed = {kind: self._listed(kind) for kind in kinds if kind in FINAL}
        for kind in reversed(kinds):
            if kind not in FINAL:
                self.fetch([kind], anew=True)
                continue
            folder = self.mirror / kind
            here = {path.name: path.stat() for path in folder.glob("[!.]*")} if folder.is_dir() else {}
            for name in here.keys() - listed[kind].keys():
                if self.get(f"{kind}/{name}") is None:  # written since it was listed?
                    (folder / name).unlink(missing_ok=True)
            self._download(
                {
                    f"{kind}/{name}": info
                    for name, info in listed[kind].items()
                    if name not in here or (here[name].st_size, here[name].st_mtime_ns) != _mark(info)
                }
            )

    def fetch(self, names: Iterable[str], *, anew: bool = False) -> None:
        """Bring these files to the mirror: those that it lacks, or all of them anew."""
        assert self.mirror
        wanted = [name for name in names if anew or not (self.mirror / name).exists()]
        found = {}
        with self._said("read") as (files, root):
            for name in wanted:
                try:
                    found[name] = files.info(f"{root}/{name}")
                except FileNotFoundError:
                    (self.mirror / name).unlink(missing_ok=True)
        self._download(found)

    def probe(self) -> None:
        name, content = f".probe-{uuid.uuid4().hex}", os.urandom(1024)
        if not self.create(name, content) or self.get(name) != content:
            raise StorageError(f"cannot write to {self.url} (what was written does not come back)")
        again = self.create(name, b"again")
        self.delete(name)
        if again:
            raise StorageError(f"{self.url} knows no conditional PUT (If-None-Match), on which a study's lock rests")

    def _listed(self, kind: str) -> dict[str, dict[str, Any]]:
        with self._said("read") as (files, root):
            try:
                found = files.find(f"{root}/{kind}", detail=True)
            except FileNotFoundError:
                return {}
        # Some stores write a leading slash where their root has none. A name may be anything, "../x" too.
        below = f"{root}/{kind}/".lstrip("/")
        names = {path.lstrip("/").removeprefix(below): info for path, info in found.items()}
        return {name: info for name, info in names.items() if re.fullmatch(r"[\w-][\w.-]*", name)}

    def _download(self, found: dict[str, dict[str, Any]]) -> None:
        """Fetch files, many at once, and give each the store's mark."""
        assert self.mirror
        names = list(found)
        for start in range(0, len(names), AT_ONCE):
            part = names[start : start + AT_ONCE]
            with self._said("read") as (files, root):
                contents = files.cat([f"{root}/{name}" for name in part], on_error="return")
            contents = {path.lstrip("/"): content for path, content in contents.items()}
            for name in part:
                content = contents[f"{root}/{name}".lstrip("/")]
                if isinstance(content, FileNotFoundError):
                    continue
                if isinstance(content, BaseException):
                    raise StorageError(f"cannot read {self.url} ({_one_line(content)})") from content
                self._mirrored(name, content, _mark(found[name])[1])

    def _mirrored(self, name: str, content: bytes, mtime_ns: int | None = None) -> None:
        assert self.mirror
        path = self.mirror / name
        try:
            path.parent.mkdir(exist_ok=True)
            _write_beside(path, content, mtime_ns)
        except OSError as error:
            raise StorageError(f"cannot write to the cache folder {self.mirror} ({error.strerror})") from error

    @contextlib.contextmanager
    def _said(self, doing: str) -> Iterator[tuple[Any, str]]:
        """The store's files and the root of ours; whatever goes wrong, in one line."""
        try:
            yield _opened(self.url, os.getpid())
        except (StorageError, FileExistsError):
            raise
        except Exception as error:  # each store has errors of its own
            raise StorageError(f"cannot {doing} {self.url} ({_one_line(error)})") from error


@functools.lru_cache(maxsize=8)
def _opened(url: str, _process: int) -> tuple[Any, str]:
    protocol = url.partition("://")[0]
    try:
        import fsspec

        files, root = fsspec.url_to_fs(url, use_listings_cache=False, skip_instance_cache=True)
    except ImportError as error:
        name = INSTALL.get(protocol, "fsspec")
        ours = "; pip install 'learning-rate-edge[s3]'" if name == "s3fs" else ""
        raise StorageError(f"{protocol}:// needs the package {name}{ours}, on every machine of the cluster") from error
    return files, root.rstrip("/")


def _checked(url: str) -> str:
    """The URL as it names one place. StorageError for one that cannot hold a study."""
    protocol, _, rest = url.partition("://")
    if "@" in rest.partition("/")[0] and protocol not in ("abfs", "abfss"):
        raise StorageError(f"a URL with a user or a password is kept nowhere: {protocol}://{rest.rpartition('@')[2]}")
    if protocol not in WHOLE_PUTS:
        raise StorageError(
            f"{protocol}:// cannot hold a study: one of {', '.join(f'{p}://' for p in WHOLE_PUTS[:-1])} or a path"
        )
    if "?" in rest or "#" in rest or not rest.strip("/"):
        raise StorageError(f"need a URL such as s3://bucket/prefix, got {url}")
    return f"{protocol}://{rest.rstrip('/')}"


def _mirror_of(url: str) -> Path:
    name = re.sub(r"[^\w.-]", "_", url.rpartition("/")[2]) or "study"
    return cache_folder().resolve() / "stores" / f"{name}-{hashlib.sha256(url.encode()).hexdigest()[:16]}"


def _url_of(folder: Path) -> str | None:
    """The URL of a mirror. Nobody's folder becomes one by a file in it: a mirror lies where we put it."""
    try:
        url = (folder / ".store").read_text()
    except (OSError, ValueError):
        return None
    return url if is_url(url) and folder.resolve() == _mirror_of(url) else None


def _mark(info: dict[str, Any]) -> tuple[int, int]:
    """By what a mirrored file is known: its size, and a time of change in nanoseconds. The second is the store's; what
    is below it, a hash of its ETag."""
    stamps = [info.get(key) for key in ("LastModified", "last_modified", "updated", "mtime", "created")]
    when = next((stamp for stamp in stamps if stamp is not None), 0)
    if isinstance(when, str):
        when = datetime.fromisoformat(when)
    seconds = int(when.timestamp() if isinstance(when, datetime) else when)
    tag = hashlib.sha256(repr((info.get("ETag") or info.get("etag"), when)).encode()).digest()
    return int(info["size"]), seconds * 10**9 + int.from_bytes(tag[:8], "big") % 10**9


def _write_beside(path: Path, content: bytes, mtime_ns: int | None = None) -> None:
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            if mtime_ns is None:  # what is mirrored can be fetched again
                os.fsync(file.fileno())
        if mtime_ns is not None:
            os.utime(beside, ns=(mtime_ns, mtime_ns))
        beside.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise


def _passes(cause: BaseException | None) -> bool:
    """Whether this may be over in a minute: what is forbidden or not there will be so then."""
    return not isinstance(cause, (PermissionError, FileNotFoundError, ImportError)) and not (
        isinstance(cause, OSError) and cause.errno in (errno.EINVAL, errno.ENOSPC)
    )


def _one_line(error: BaseException) -> str:
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return (text or type(error).__name__)[:300]

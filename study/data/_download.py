"""Downloads a data set's official archive, checks it, and only then unpacks it.

What arrives is kept as `.<file>.part` and goes on from there the next time. Nothing is unpacked before size and MD5
are right; nothing outside the target folder is written; the folder appears whole or not at all.
"""

import gzip
import hashlib
import http.client
import io
import shutil
import tarfile
import urllib.error
import urllib.parse
import urllib.request
import uuid
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import IO, cast

BLOCK = 1 << 18
TIMEOUT_SECONDS = 30
MOST_MEMBERS = 10_000
"""Files and folders of an archive."""

Progress = Callable[[int, int], None]
"""Called with the bytes that are here and the bytes that there are."""


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A `.tar.gz` on the web. size: bytes. folder: what it unpacks to. unpacked_limit: bytes; more is refused."""

    url: str
    size: int
    md5: str
    folder: str
    unpacked_limit: int = 2 << 30


ARCHIVES = {
    "kuairand": Archive(
        url="https://zenodo.org/records/10439422/files/KuaiRand-Pure.tar.gz",
        size=47_432_272,
        md5="0820331067a3784d9691136f772b35a7",
        folder="KuaiRand-Pure",
    )
}


def fetch(
    name: str,
    target: Path,
    *,
    url: str | None = None,
    archive: Archive | None = None,
    progress: Progress | None = None,
) -> Path:
    """The folder of a data set below `target`, downloaded and unpacked where it is not there yet.

    name: one of `ARCHIVES`. url: another place that has the same file. archive: another file altogether.
    Safe to repeat and to interrupt. Raises ValueError where the download fails, is not the expected file, or holds
    what an archive of data should not.
    """
    if archive is None:
        if name not in ARCHIVES:
            raise ValueError(f"nothing to fetch for {name!r}; there is {', '.join(ARCHIVES)}")
        archive = ARCHIVES[name]
    archive = replace(archive, url=url or archive.url)
    if urllib.parse.urlsplit(archive.url).scheme not in ("http", "https"):
        raise ValueError(f"need an http or https address, got {archive.url!r}")
    folder = target / archive.folder
    if folder.is_dir():
        return folder
    part = target / f".{archive.folder}.tar.gz.part"
    try:
        target.mkdir(parents=True, exist_ok=True)
        _download(archive, part, progress)
        _verify(archive, part)
        _unpack(archive, part, folder)
        part.unlink()
    except OSError as error:
        raise ValueError(f"cannot write to {target} ({error.strerror or error})") from error
    return folder


def _download(archive: Archive, part: Path, progress: Progress | None) -> None:
    """Append to what is there until it is whole; after a broken connection again, as long as something arrives."""
    while True:
        here = part.stat().st_size if part.exists() else 0
        if here > archive.size:
            part.unlink()
            here = 0
        if here == archive.size:
            return
        try:
            _receive(archive, part, here, progress)
            why = "the server closed the connection"
        except urllib.error.HTTPError as error:
            error.close()
            raise ValueError(f"{archive.url} answers {error.code} {error.reason}") from error
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            why = str(getattr(error, "reason", error)) or type(error).__name__
        arrived = part.stat().st_size if part.exists() else 0
        if arrived <= here:
            raise ValueError(
                f"the download of {archive.url} broke off at {arrived:,} of {archive.size:,} bytes ({why}); "
                "run it again to go on from there"
            )


def _receive(archive: Archive, part: Path, here: int, progress: Progress | None) -> None:
    request = urllib.request.Request(archive.url, headers={"Range": f"bytes={here}-"} if here else {})
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
        goes_on = response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {here}-")
        here = here if goes_on else 0
        with part.open("ab" if goes_on else "wb") as file:
            while block := response.read(BLOCK):
                here += len(block)
                if here > archive.size:
                    file.truncate(0)
                    raise ValueError(
                        f"{archive.url} is larger than the {archive.size:,} bytes of the file it should be"
                    )
                file.write(block)
                if progress is not None:
                    progress(here, archive.size)


def _verify(archive: Archive, part: Path) -> None:
    with part.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if digest != archive.md5:
        part.unlink()
        raise ValueError(
            f"{archive.url} is not the expected file: MD5 {digest}, should be {archive.md5}; it was removed"
        )


def _unpack(archive: Archive, part: Path, folder: Path) -> None:
    beside = folder.with_name(f".unpacking-{uuid.uuid4().hex}")
    beside.mkdir()
    try:
        with gzip.open(part) as packed:
            _unpack_members(_Limited(packed, archive.unpacked_limit), beside)
        top = beside / archive.folder
        try:
            (top if [p.name for p in beside.iterdir()] == [archive.folder] else beside).rename(folder)
        except OSError:
            if not folder.is_dir():  # else somebody else was faster, with the same files
                raise
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{archive.url} does not unpack ({error})") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _unpack_members(packed: io.RawIOBase, folder: Path) -> None:
    files = 0
    with tarfile.open(fileobj=cast(IO[bytes], packed), mode="r|") as tar:
        for count, member in enumerate(tar, 1):
            if count > MOST_MEMBERS:
                raise ValueError(f"the archive holds more than {MOST_MEMBERS:,} files; refused")
            at = folder.joinpath(*_safe_parts(member.name))
            if member.type == tarfile.DIRTYPE:
                at.mkdir(parents=True, exist_ok=True)
            elif member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not member.issparse():
                _write_member(tar, member, at)
                files += 1
            else:
                raise ValueError(f"the archive holds {member.name!r}, which is neither a file nor a folder; refused")
    if files == 0:
        raise ValueError("the archive holds no file")


def _write_member(tar: tarfile.TarFile, member: tarfile.TarInfo, at: Path) -> None:
    content = tar.extractfile(member)
    assert content is not None
    at.parent.mkdir(parents=True, exist_ok=True)
    try:
        file = at.open("xb")
    except FileExistsError as error:
        raise ValueError(f"the archive holds {member.name!r} twice; refused") from error
    with content, file:
        shutil.copyfileobj(content, file, BLOCK)


def _safe_parts(name: str) -> tuple[str, ...]:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or ":" in name:
        raise ValueError(f"the archive holds {name!r}, which would leave its folder; refused")
    return path.parts


class _Limited(io.RawIOBase):
    """Reads on until too much was read: the header of an archive may say anything, the bytes that come out do not."""

    def __init__(self, packed: gzip.GzipFile, limit: int) -> None:
        self.packed, self.limit, self.seen = packed, limit, 0

    def read(self, size: int = -1, /) -> bytes:
        assert size >= 0
        block = self.packed.read(size)
        self.seen += len(block)
        if self.seen > self.limit:
            raise ValueError(f"the archive unpacks to more than {self.limit:,} bytes; refused")
        return block

"""Downloads the official archive of a data set, verifies it, and unpacks it.

A partial download is kept as `.<folder>.tar.gz.part`, and the next call continues it. Nothing is unpacked before size
and MD5 are verified, and nothing is written outside the target folder. The folder appears complete or not at all.
"""

import gzip
import hashlib
import http.client
import tarfile
import urllib.error
import urllib.parse
import urllib.request
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from study.storage.atomic import rename_folder
from study.storage.scratch import scratch_folder

BLOCK = 1 << 18
TIMEOUT_SECONDS = 30

Progress = Callable[[int, int], None]
"""Called with the bytes received and the total."""


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A `.tar.gz` on the web.

    Args:
        url: its address.
        size: its bytes.
        md5: its MD5.
        folder: the folder that it unpacks to.
    """

    url: str
    size: int
    md5: str
    folder: str


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
    """Download and unpack a data set, unless it is there already. Can be repeated and interrupted.

    Args:
        name: one of `ARCHIVES`.
        target: the folder for the data set's folder.
        url: another address of the same file.
        archive: another archive.
        progress: called during the download.

    Returns:
        The folder of the data set.

    Raises:
        ValueError: the download fails, is not the expected file, or holds members that could be harmful.
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
    """Continue the partial download until it is complete. Reconnects as long as data arrive."""
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
    with scratch_folder(".unpacking-", folder.parent) as scratch:
        beside = scratch / "files"
        try:
            with tarfile.open(part, "r:gz") as tar:
                tar.extractall(beside, filter="data")
        except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{archive.url} does not unpack ({error})") from error
        top = beside / archive.folder
        try:
            rename_folder(top if [p.name for p in beside.iterdir()] == [archive.folder] else beside, folder)
        except OSError:
            if not folder.is_dir():  # else another process has unpacked the same files
                raise

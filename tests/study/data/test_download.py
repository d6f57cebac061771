"""Downloads from a server on loopback: complete, interrupted, wrong and harmful ones."""

import contextlib
import hashlib
import io
import re
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from flushes import note_flushes

from study.data import ARCHIVES, Archive, fetch

NOISE = np.random.default_rng(0).bytes(700_000)


@dataclass
class Server:
    """Serves one file. cuts: how many bytes each of the next answers sends before the connection closes."""

    content: bytes = b""
    ranges: bool = True
    cuts: list[int] = field(default_factory=list)
    asked: list[str | None] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path != "/file.tar.gz":
                self.send_error(404)
                return
            asked = self.headers.get("Range")
            state.asked.append(asked)
            match = re.fullmatch(r"bytes=(\d+)-", asked or "")
            start = int(match[1]) if match and state.ranges else 0
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(state.content) - 1}/{len(state.content)}")
            body = state.content[start:]
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                self.wfile.write(body[: state.cuts.pop(0)] if state.cuts else body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        state.url = f"http://127.0.0.1:{http.server_address[1]}/file.tar.gz"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield state
        http.shutdown()
        thread.join()


def member(name: str, content: bytes = b"x", kind: bytes = tarfile.REGTYPE, link: str = "") -> tuple:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(content) if kind == tarfile.REGTYPE else 0
    return info, io.BytesIO(content)


def packed(*members: tuple) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as tar:
        for info, content in members:
            tar.addfile(info, content)
    return made.getvalue()


GOOD = packed(
    member("Set/", kind=tarfile.DIRTYPE), member("Set/data/log.csv", b"a,b\n1,2\n"), member("Set/noise.bin", NOISE)
)


def archive(server: Server, content: bytes = GOOD, **changes) -> Archive:
    server.content = content
    values = {"url": server.url, "size": len(content), "md5": hashlib.md5(content).hexdigest(), "folder": "Set"}
    return Archive(**values | changes)


def test_an_archive_is_downloaded_with_progress(tmp_path, server):
    seen = []
    folder = fetch("set", tmp_path / "new", archive=archive(server), progress=lambda *at: seen.append(at))
    assert folder == tmp_path / "new" / "Set"
    assert (folder / "data" / "log.csv").read_bytes() == b"a,b\n1,2\n"
    assert (folder / "noise.bin").read_bytes() == NOISE
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["Set"]  # no temporary files
    assert seen[-1] == (len(GOOD), len(GOOD))
    assert [here for here, _ in seen] == sorted({here for here, _ in seen})
    fetch("set", tmp_path / "new", archive=archive(server))
    assert len(server.asked) == 1  # an existing folder is not fetched again


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="the system does not tell the path of an open file")
def test_files_are_flushed_before_their_folder_gets_its_name(tmp_path, server, monkeypatch):
    """After a power failure it would be there with empty files, and not be fetched again."""
    noted = note_flushes(monkeypatch)
    folder = fetch("set", tmp_path, archive=archive(server))
    at = noted.index(folder)
    assert {"log.csv", "data", "noise.bin", "Set"} <= {path.name for path in noted[:at]}
    assert noted[at + 1 :] == [tmp_path]


def test_a_broken_download_continues(tmp_path, server):
    server.cuts = [300_000, 200_000]
    folder = fetch("set", tmp_path, archive=archive(server))
    assert (folder / "noise.bin").read_bytes() == NOISE
    assert server.asked == [None, "bytes=300000-", "bytes=500000-"]


def test_the_next_call_continues_a_failed_download(tmp_path, server):
    server.cuts = [300_000, 0]
    with pytest.raises(ValueError, match=r"broke off at 300,000 of [\d,]+ bytes .*; run it again"):
        fetch("set", tmp_path, archive=archive(server))
    assert not (tmp_path / "Set").exists()
    assert (fetch("set", tmp_path, archive=archive(server)) / "noise.bin").read_bytes() == NOISE
    assert server.asked[-1] == "bytes=300000-"


@pytest.mark.parametrize(("part", "ranges"), [(GOOD[:1000], False), (GOOD + b"more", True)])
def test_a_part_that_cannot_be_continued_starts_again(tmp_path, server, part, ranges):
    server.ranges = ranges
    (tmp_path / ".Set.tar.gz.part").write_bytes(part)
    assert (fetch("set", tmp_path, archive=archive(server)) / "noise.bin").read_bytes() == NOISE


def test_a_part_of_another_file_is_detected_and_deleted(tmp_path, server):
    (tmp_path / ".Set.tar.gz.part").write_bytes(b"?" * 1000)
    with pytest.raises(ValueError, match="is not the expected file: MD5"):
        fetch("set", tmp_path, archive=archive(server))
    assert list(tmp_path.iterdir()) == []
    assert (fetch("set", tmp_path, archive=archive(server)) / "noise.bin").read_bytes() == NOISE


def test_a_wrong_archive_is_refused_before_unpacking(tmp_path, server):
    with pytest.raises(ValueError, match=f"MD5 {hashlib.md5(GOOD).hexdigest()}, should be {'0' * 32}"):
        fetch("set", tmp_path, archive=archive(server, md5="0" * 32))
    with pytest.raises(ValueError, match="larger than the 1,000 bytes"):
        fetch("set", tmp_path, archive=archive(server, size=1000))
    with pytest.raises(ValueError, match=r"broke off at [\d,]+ of 1,000,000 bytes"):
        fetch("set", tmp_path / "b", archive=archive(server, size=1_000_000))
    assert not (tmp_path / "Set").exists()
    assert not (tmp_path / "b" / "Set").exists()


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([member("Set/ok"), member("Set/../../evil")], "outside the destination"),
        ([member("Set/link", kind=tarfile.SYMTYPE, link="/etc")], "absolute path"),
        ([member("Set/link", kind=tarfile.SYMTYPE, link="../../../etc")], "outside the destination"),
        ([member("Set/link", kind=tarfile.LNKTYPE, link="/etc/passwd")], "absolute path"),
        ([member("Set/pipe", kind=tarfile.FIFOTYPE)], "special file"),
        ([member("Set/disk", kind=tarfile.BLKTYPE)], "special file"),
        ([member("Set/tty", kind=tarfile.CHRTYPE)], "special file"),
    ],
)
def test_harmful_archives_are_refused(tmp_path, server, members, message):
    target = tmp_path / "deep" / "target"
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        fetch("set", target, archive=archive(server, packed(*members)))
    assert "\n" not in str(error.value)
    assert [p.name for p in tmp_path.rglob("*") if p.is_file() and not p.name.endswith(".part")] == []
    assert [p.name for p in target.iterdir() if p.is_dir()] == []


def test_absolute_names_stay_inside_the_folder(tmp_path, server):
    folder = fetch("set", tmp_path, archive=archive(server, packed(member("/etc/evil"))))
    assert (folder / "etc" / "evil").is_file()
    assert not Path("/etc/evil").exists()


@pytest.mark.parametrize("content", [b"no archive at all", GOOD[: len(GOOD) // 2]])
def test_damaged_archives_are_refused(tmp_path, server, content):
    with pytest.raises(ValueError, match="does not unpack"):
        fetch("set", tmp_path, archive=archive(server, content))
    assert not (tmp_path / "Set").exists()


def test_an_archive_without_a_top_folder_gets_one(tmp_path, server):
    folder = fetch("set", tmp_path, archive=archive(server, packed(member("data/log.csv", b"a"), member("LICENSE"))))
    assert (folder / "data" / "log.csv").read_bytes() == b"a"


def test_wrong_names_and_addresses_are_refused(tmp_path, server):
    with pytest.raises(ValueError, match="nothing to fetch for 'movies'; there is kuairand"):
        fetch("movies", tmp_path)
    with pytest.raises(ValueError, match="need an http or https address"):
        fetch("kuairand", tmp_path, url="file:///etc/passwd")
    with pytest.raises(ValueError, match="answers 404"):
        fetch("set", tmp_path, archive=archive(server, url=server.url + "x"))
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot write to"):
        fetch("set", tmp_path / "file", archive=archive(server))


def test_the_official_archive_is_checked_at_any_address(tmp_path, server):
    server.content = bytes(1000)
    with pytest.raises(ValueError, match=r"broke off at 1,000 of 47,432,272 bytes"):
        fetch("kuairand", tmp_path, url=server.url)
    assert ARCHIVES["kuairand"].md5 == "0820331067a3784d9691136f772b35a7"
    assert not Path(tmp_path / "KuaiRand-Pure").exists()

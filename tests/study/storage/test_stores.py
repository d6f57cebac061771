"""Local and object stores behave alike. The object store is moto's S3 server, on loopback."""

import os
import threading
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from s3fs.errors import translate_boto_error
from stores import BUCKET, settings

from study.storage import object_store, stores
from study.storage.stores import LocalStore, ObjectStore, StorageError, Store


@pytest.fixture
def s3(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty place in the store."""
    for name, value in settings(server).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("STUDY_CACHE", str(tmp_path / "cache"))
    object_store.open_filesystem.cache_clear()
    return f"s3://{BUCKET}/{tmp_path.name}"


def client(server: str):
    return boto3.client(
        "s3",
        endpoint_url=server,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )


@pytest.fixture(params=["folder", "memory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("STUDY_CACHE", str(tmp_path / "cache"))
    if request.param == "folder":
        return stores.store_for(tmp_path / "study")
    url = request.getfixturevalue("s3") if request.param == "s3" else f"memory://tests/{tmp_path.name}"
    return stores.store_for(stores.folder_of(url))


def test_written_files_are_read_and_listed(store: Store) -> None:
    assert store.get("runs/a") is None
    store.put("runs/a", b"one")
    store.put("runs/a", b"two")
    store.put("runs/b", b"")
    store.put("runs.parquet", b"no part of runs/")
    assert store.get("runs/a") == b"two"
    assert store.names("runs") == ["a", "b"]
    assert store.names("losses") == []
    store.delete("runs/a")
    store.delete("runs/a")
    assert store.names("runs") == ["b"]
    store.probe()


def test_a_file_is_read_in_parts_and_moved(store: Store) -> None:
    content = bytes(range(256)) * 4000
    store.put("runs/a", content)
    assert store.get("runs/a", 300) == content[:300]
    assert store.get("runs/a", 10**9) == content
    assert store.open("runs/b") is None
    file = store.open("runs/a")
    assert file is not None
    with file:
        assert file.seek(-10, 2) == len(content) - 10
        assert file.read(100) == content[-10:]
        file.seek(5)
        assert file.read(7) == content[5:12]
    if isinstance(store, ObjectStore):
        store.move("runs/a", "set_aside/a")
        assert store.get("runs/a") is None
        assert store.get("set_aside/a") == content


def test_only_one_of_several_writers_creates_a_file(store: Store) -> None:
    created = []

    def create(i: int) -> None:
        if store.create("lease/1", f"{i}".encode()):
            created.append(i)

    threads = [threading.Thread(target=create, args=(i,)) for i in range(8)]
    if isinstance(store, ObjectStore) and store.url.startswith("memory"):
        threads = threads[:1]  # fsspec's memory looks first and then writes
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(created) == 1
    assert store.get("lease/1") == str(created[0]).encode()
    assert not store.create("lease/1", b"other")


def test_an_object_store_gets_each_file_in_one_put(s3: str, server: str) -> None:
    """No rename and no other name: the bucket's versions show all files that ever existed."""
    client(server).put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    try:
        store = stores.store_for(s3)
        store.put("losses/a.parquet", b"x" * 2**20)
        store.put("runs/a.parquet", b"y" * 2**20)
        versions = client(server).list_object_versions(Bucket=BUCKET, Prefix=s3.rpartition("/")[2])
    finally:
        client(server).put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Suspended"})
    assert "DeleteMarkers" not in versions
    keys = [version["Key"].partition("/")[2] for version in versions["Versions"]]
    assert sorted(keys) == ["losses/a.parquet", "runs/a.parquet"]


def test_a_mirror_fetches_only_what_changed(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = stores.store_for(s3)  # a worker, which has no mirror
    mirror = stores.folder_of(s3)
    store = stores.store_for(mirror)
    assert isinstance(store, ObjectStore)
    fetched: list[str] = []
    download = store._download
    monkeypatch.setattr(store, "_download", lambda found: (fetched.extend(found), download(found)))

    elsewhere.put("study.json", b"{}")
    elsewhere.put("losses/a.parquet", b"losses")
    elsewhere.put("runs/a.parquet", b"rows")
    store.refresh("study.json", "runs", "losses")
    assert fetched == ["losses/a.parquet", "runs/a.parquet", "study.json"]
    assert (mirror / "runs" / "a.parquet").read_bytes() == b"rows"

    fetched.clear()
    store.refresh("runs", "losses")
    assert fetched == []

    elsewhere.put("runs/a.parquet", b"ROWS")  # the same size, within the same second
    elsewhere.put("runs/b.parquet", b"more")
    store.refresh("runs", "losses")
    assert sorted(fetched) == ["runs/a.parquet", "runs/b.parquet"]
    assert (mirror / "runs" / "a.parquet").read_bytes() == b"ROWS"

    elsewhere.delete("runs/a.parquet")
    store.refresh("runs")
    assert [path.name for path in (mirror / "runs").iterdir()] == ["b.parquet"]

    (mirror / "runs" / "b.parquet").unlink()
    store.fetch(["runs/b.parquet", "runs/none.parquet"])
    assert [path.name for path in (mirror / "runs").iterdir()] == ["b.parquet"]


def test_a_changed_etag_is_another_version_within_the_same_second() -> None:
    """AWS lists times by the second; a file of the same size may be written twice in one."""
    one = {"size": 3, "LastModified": "2026-01-01T00:00:00+00:00", "ETag": "a"}
    assert object_store.mark_of(one) == object_store.mark_of(dict(one))
    assert object_store.mark_of(one) != object_store.mark_of(one | {"ETag": "b"})


def test_only_a_folder_at_a_mirrors_place_is_a_mirror(s3: str, tmp_path: Path) -> None:
    mirror = stores.folder_of(s3)
    assert stores.address(mirror) == s3
    assert stores.folder_of(f"{s3}/") == mirror
    assert stores.address(tmp_path) == str(tmp_path)
    other = tmp_path / "given by a stranger"
    other.mkdir()
    (other / ".store").write_text(s3)
    assert stores.address(other) == str(other)
    assert isinstance(stores.store_for(other), LocalStore)


def test_names_that_lead_out_of_the_mirror_are_ignored(s3: str, server: str) -> None:
    root = s3.rpartition("/")[2]
    for name in ("../../evil", "..", ".hidden", "sub/x", "a b", "good.parquet"):
        client(server).put_object(Bucket=BUCKET, Key=f"{root}/runs/{name}", Body=b"x")
    mirror = stores.folder_of(s3)
    stores.store_for(mirror).refresh("runs")
    assert [path.name for path in mirror.rglob("*") if path.is_file() and path.name[0] != "."] == ["good.parquet"]


def test_a_conflict_of_two_conditional_puts_is_tried_again(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """S3 answers 409 while another PUT or DELETE of the same key is under way."""
    monkeypatch.setattr(object_store, "RETRY_SECONDS", (0, 0))
    response: Any = {"Error": {"Code": "ConditionalRequestConflict", "Message": "At this time, it cannot be done."}}
    error = translate_boto_error(ClientError(response, "PutObject"))
    store = stores.store_for(s3)
    files, _ = object_store.open_filesystem(s3, os.getpid())
    put, conflicts = files.pipe_file, [error, error]

    def busy(*args: Any, **kwargs: Any) -> Any:
        if conflicts:
            raise conflicts.pop()
        return put(*args, **kwargs)

    monkeypatch.setattr(files, "pipe_file", busy)
    assert store.create("lease/1", b"mine")
    conflicts += [error]
    assert not store.create("lease/1", b"of another")
    conflicts += [error] * 3
    with pytest.raises(StorageError, match="ConditionalRequestConflict"):
        store.create("lease/2", b"mine")


def test_file_urls_are_paths(tmp_path: Path) -> None:
    assert stores.folder_of(f"file://{tmp_path}/x") == tmp_path / "x"
    assert stores.folder_of((tmp_path / "a b?%2F").as_uri()) == tmp_path / "a b?%2F"
    with pytest.raises(stores.StorageError, match="%3F"):
        stores.folder_of(f"file://{tmp_path}/a?b")
    assert stores.folder_of("results/x") == Path("results/x")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://key:secret@bucket/x", "password.*: s3://bucket/x"),
        ("http://host/x", "http:// .*s3://, s3a://, gs://, "),
        ("ftp://host/x", "ftp://"),
        ("nonsense://x", "nonsense://"),
        ("s3://", "s3://bucket/prefix, got s3://"),
        ("s3://bucket/x?versionId=3", "s3://bucket/prefix"),
        ("gs://bucket/x", "gs:// .*gcsfs"),
    ],
)
def test_bad_urls_are_refused_in_one_line(url: str, message: str, s3: str) -> None:
    with pytest.raises(StorageError, match=message) as error:
        stores.probe(stores.folder_of(url))
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_s3fs_names_the_package_to_install(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    def missing(*_args: object, **_kwargs: object) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "url_to_fs", missing)
    with pytest.raises(StorageError, match=r"s3fs; pip install 'learning-rate-edge\[s3\]'"):
        stores.probe(s3)


def test_an_error_of_the_store_is_one_line(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StorageError, match=r"^cannot write to s3://no-such-bucket/x \(.*bucket does not exist"):
        stores.probe("s3://no-such-bucket/x")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    object_store.open_filesystem.cache_clear()
    with pytest.raises(StorageError, match=rf"^cannot write to {s3} \(") as error:
        stores.probe(s3)
    assert "\n" not in str(error.value)


def test_a_store_without_conditional_puts_is_refused(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    plain = s3fs.S3FileSystem._pipe_file

    async def ignores(self, path, data, mode="overwrite", **kwargs):
        return await plain(self, path, data, **kwargs)

    monkeypatch.setattr(s3fs.S3FileSystem, "_pipe_file", ignores)
    with pytest.raises(StorageError, match=r"has no conditional PUT"):
        stores.probe(s3)


def test_a_put_is_retried_while_the_store_is_unavailable(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = stores.store_for(s3)
    assert isinstance(store, ObjectStore)
    files, _ = object_store.open_filesystem(store.url, os.getpid())
    put, waits = files.pipe_file, []

    def fails_twice(*args: object, **kwargs: object) -> None:
        if len(waits) < 2:
            raise ConnectionError("away")
        put(*args, **kwargs)

    monkeypatch.setattr(files, "pipe_file", fails_twice)
    monkeypatch.setattr(object_store.time, "sleep", waits.append)
    store.put("runs/a", b"x")
    assert waits == [1, 2]
    assert store.get("runs/a") == b"x"


def test_a_giant_in_an_object_store_is_not_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUDY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(object_store, "MAX_FILE_BYTES", 10)
    url = f"memory://giant/{tmp_path.name}"
    mirror = stores.folder_of(url)
    store = stores.store_for(url)
    store.put("runs/a.parquet", bytes(11))
    for read in (lambda: stores.store_for(mirror).refresh("runs"), lambda: store.get("runs/a.parquet")):
        with pytest.raises(StorageError, match=r"runs/a\.parquet has 11 bytes; the most is 10"):
            read()
    assert not (mirror / "runs").exists()
    assert store.get("runs/a.parquet", 4) == bytes(4)
    store.put("runs/none", b"")
    assert [store.get(name, 4) for name in ("runs/none", "runs/other")] == [b"", None]


def test_a_relative_cache_folder_stays_where_the_command_was_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUDY_CACHE", "cache")
    monkeypatch.chdir(tmp_path)
    stores.cache_folder()
    monkeypatch.chdir("/")
    assert stores.cache_folder() == tmp_path / "cache"

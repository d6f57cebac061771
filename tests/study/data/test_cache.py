"""Sources by name, and the cache: complete or absent, rebuilt if damaged, keyed by content."""

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flushes import note_flushes
from paths import HELPERS, ROOT
from small_log import IDS, LABELS, build_small

import study.data as data
from study.data import _cache
from study.data._cache import ArrayFile, cached, content_hash, file_hash
from study.data._dataset import Log, Task

ARRAYS = ("ids", "numbers", "labels")
OPTIONS = {"rows": 2000, "users": 200, "items": 100, "days": 4}


def only_folder(cache: Path) -> Path:
    (folder,) = [path for path in cache.iterdir() if path.is_dir()]
    return folder


def test_a_cached_log_is_memory_mapped_and_read_only(tmp_path):
    log = cached(tmp_path, "mine", "c", build_small)
    expected = {"ids": IDS, "numbers": np.zeros((6, 0), np.float32), "labels": LABELS[:, None]}
    for name in ARRAYS:
        array = getattr(log, name)
        np.testing.assert_array_equal(array, expected[name])
        assert array.dtype == expected[name].dtype
        assert array.flags.c_contiguous
        assert type(array) is np.ndarray
        assert isinstance(array.base, np.memmap)
        assert not array.flags.writeable
    built = build_small(tmp_path)
    assert log.tasks == built.tasks
    assert (log.vocabulary, log.id_names, log.facts) == (built.vocabulary, built.id_names, built.facts)


@pytest.mark.parametrize("columns", [0, 1, 3])
@pytest.mark.parametrize("rows", [1, 4, 5, 13])
def test_columns_are_transposed_for_any_block_size(tmp_path, monkeypatch, rows, columns):
    monkeypatch.setattr(_cache, "BLOCK_ROWS", 4)
    whole = np.random.default_rng(0).standard_normal((rows, columns)).astype(np.float32)
    with ArrayFile(tmp_path, "numbers", rows) as file:
        for column in whole.T:
            file.append(column)
    np.testing.assert_array_equal(file.read(), whole)
    assert [path.name for path in tmp_path.iterdir()] == ["numbers.npy"]
    np.save(tmp_path / "other.npy", whole)
    assert (tmp_path / "numbers.npy").read_bytes() == (tmp_path / "other.npy").read_bytes()


def test_a_failed_build_leaves_nothing(tmp_path):
    def build(into: Path) -> Log:
        with ArrayFile(into, "labels", 6) as file:
            file.append(LABELS)
            raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        cached(tmp_path, "mine", "c", build)
    assert list(tmp_path.iterdir()) == []


def fail(into: Path) -> Log:
    raise AssertionError("built although it is in the cache")


def test_a_cached_log_is_not_built_again(tmp_path):
    cached(tmp_path, "mine", "c", build_small)
    assert cached(tmp_path, "mine", "c", fail).train_rows == 4
    with pytest.raises(AssertionError, match="built although"):
        cached(tmp_path, "mine", "other", fail)


@pytest.mark.parametrize("name", ["ids.npy", "numbers.npy", "labels.npy", "log.json"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "empty", "garbage"])
def test_a_damaged_cache_is_built_again(tmp_path, name, damage):
    cached(tmp_path, "mine", "c", build_small)
    path = only_folder(tmp_path) / name
    whole = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"truncated": whole[: len(whole) - 5], "empty": b"", "garbage": b"{}"}[damage])
    log = cached(tmp_path, "mine", "c", build_small)
    np.testing.assert_array_equal(log.ids, IDS)
    assert path.read_bytes() == whole
    assert [p.name for p in tmp_path.iterdir()] == ["mine-c"]


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("labels", np.zeros((5, 1), dtype=np.float32)),
        ("ids", np.array([[{"code": "here"}] * 2] * 6, dtype=object)),  # pickled arrays are never loaded
    ],
)
def test_arrays_of_another_shape_or_type_are_built_again(tmp_path, name, array):
    cached(tmp_path, "mine", "c", build_small)
    np.save(only_folder(tmp_path) / f"{name}.npy", array, allow_pickle=True)
    log = cached(tmp_path, "mine", "c", build_small)
    assert (log.ids.dtype, len(log.labels)) == (np.int32, 6)


def test_a_kill_while_writing_leaves_no_log(tmp_path):
    script = (
        "import os, sys; from pathlib import Path; import study.data as data\n"
        "def killed(file):\n"
        "    (half,) = Path(sys.argv[1]).glob('.building-*')\n"
        "    os.truncate(half / 'log' / 'labels.npy', 1000); os._exit(9)\n"
        f"os.fsync = killed; data.load('synthetic', {OPTIONS!r}, Path(sys.argv[1]))"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, check=False)
    assert done.returncode == 9
    (half,) = tmp_path.glob(".building-*")
    assert (half / "log" / "labels.npy").stat().st_size == 1000
    assert len(data.load("synthetic", OPTIONS, tmp_path).labels) == 2000
    assert [path.name for path in tmp_path.iterdir()] == [only_folder(tmp_path).name]
    assert not half.exists()


def test_one_process_converts_while_the_others_wait(tmp_path):
    script = (
        "import sys, time; from pathlib import Path\n"
        "from study.data._cache import cached, folder_of_log; import small_log\n"
        "def build(into):\n"
        "    print('converts'); time.sleep(0.3)\n"
        "    return small_log.build_small(into)\n"
        "log = cached(Path(sys.argv[1]), 'mine', 'c', build)\n"
        "print(folder_of_log(log).name)"
    )
    words = [sys.executable, "-c", script, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(HELPERS)])}
    started = [subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = [child.communicate(timeout=60)[0].split() for child in started]
    assert sorted(map(len, printed)) == [1, 2]
    assert {words[-1] for words in printed} == {"mine-c"}
    assert [path.name for path in tmp_path.iterdir()] == ["mine-c"]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="the system does not tell the path of an open file")
def test_arrays_are_flushed_before_their_folder_gets_its_name(tmp_path, monkeypatch):
    """After a power failure they would be there with zeros, and be trained on."""
    log = build_small(tmp_path)
    in_memory = replace(log, ids=IDS.copy(), numbers=np.zeros((6, 0), np.float32), labels=LABELS[:, None].copy())
    noted = note_flushes(monkeypatch)
    _cache.store_log(tmp_path / "cache", "my_pkg.mine", in_memory)
    at = noted.index(tmp_path / "cache" / "my_pkg.mine-c")
    assert {"ids.npy", "numbers.npy", "labels.npy", "log.json", "log"} <= {path.name for path in noted[:at]}
    assert noted[at + 1 :] == [tmp_path / "cache"]


def test_arrays_in_memory_are_kept_and_mapped(tmp_path):
    log = build_small(tmp_path)
    in_memory = replace(log, ids=IDS.copy(), numbers=np.zeros((6, 0), np.float32), labels=LABELS[:, None].copy())
    kept = _cache.store_log(tmp_path / "cache", "my_pkg.mine", in_memory)
    assert _cache.folder_of_log(in_memory) is None
    assert _cache.folder_of_log(kept) == tmp_path / "cache" / "my_pkg.mine-c"
    np.testing.assert_array_equal(kept.ids, IDS)
    stamp = (tmp_path / "cache" / "my_pkg.mine-c").stat().st_mtime_ns
    assert _cache.store_log(tmp_path / "cache", "my_pkg.mine", in_memory).facts == log.facts
    assert (tmp_path / "cache" / "my_pkg.mine-c").stat().st_mtime_ns == stamp, "written once"
    assert _cache.store_log(tmp_path / "cache", "my_pkg.mine", kept) is kept
    other = replace(in_memory, labels=1 - in_memory.labels)
    np.testing.assert_array_equal(_cache.store_log(tmp_path / "cache", "my_pkg.mine", other).labels, other.labels)
    np.testing.assert_array_equal(kept.labels, log.labels)  # the mapped old arrays do not change


def test_a_cache_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot write to the cache"):
        cached(tmp_path / "file", "mine", "c", build_small)


def test_a_file_is_hashed_again_after_a_change(tmp_path):
    path, cache = tmp_path / "x", tmp_path / "cache"
    path.write_text("one")
    first = file_hash(path, cache)
    assert first == "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"  # printf one | sha256sum
    (cache / "file_hashes.json").write_text(
        json.dumps({k: [*v[:2], "known"] for k, v in json.loads((cache / "file_hashes.json").read_text()).items()})
    )
    assert file_hash(path, cache) == "known"  # not read twice
    path.write_text("three")
    assert file_hash(path, cache) not in ("known", first)
    (cache / "file_hashes.json").write_text("[broken")
    path.write_text("one")
    assert file_hash(path, cache) == first


def test_the_content_hash_ignores_the_order_of_keys():
    assert content_hash({"a": 1, "b": 2}) == content_hash({"b": 2, "a": 1})
    assert content_hash({"a": 1}) != content_hash({"a": 2})


def test_names_lists_the_sources():
    assert data.names() == ["kuairand", "synthetic", "table"]


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("kuairnd", {}, r"unknown data source 'kuairnd'; there are kuairand, synthetic, table"),
        ("log", {}, "unknown data source 'log'"),
        ("_cache", {}, "unknown data source '_cache'"),
        ("not_there.mine", {}, "unknown data source 'not_there.mine'"),
        (".mine", {}, "unknown data source '.mine'"),
        ("json.decoder", {}, "json.decoder defines no `load`"),
        ("synthetic", {"row": 5}, r"'synthetic' has no option row; its options are rows, days, seed"),
        ("kuairand", {}, "'kuairand' needs --data-dir; its options are --data-dir, "),
        ("table", {"dir": "x", "heldout": 1}, "has no option heldout; its options are --data-dir"),
    ],
)
def test_wrong_sources_and_options_are_refused_with_the_right_ones(tmp_path, source, options, message):
    with pytest.raises(ValueError, match=message) as error:
        data.load(source, options, tmp_path)
    assert "\n" not in str(error.value)


def test_a_users_module_is_a_source(tmp_path, monkeypatch):
    (tmp_path / "my_own_pkg").mkdir()
    (tmp_path / "my_own_pkg" / "mine.py").write_text(
        "from study.data import load as other\n"
        "def load(cache, *, rows=1500):\n"
        "    return other('synthetic', {'rows': rows, 'users': 50, 'items': 50}, cache)\n"
    )
    (tmp_path / "my_own_pkg" / "needy.py").write_text("import a_module_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert len(data.load("my_own_pkg.mine", {"rows": 1600}, tmp_path / "cache").labels) == 1600
    with pytest.raises(ValueError, match="needs the module 'a_module_that_is_not_there'"):
        data.load("my_own_pkg.needy", {}, tmp_path / "cache")


def test_a_bare_machine_can_load_data(tmp_path):
    script = (
        "import sys, study.data as data; from pathlib import Path\n"
        f"data.load('synthetic', {OPTIONS!r}, Path(sys.argv[1]))\n"
        "sys.exit(', '.join({'torch', 'ray', 'mlflow', 'optuna', 'scipy'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_describe_returns_json_about_the_log(tmp_path):
    log = data.load("synthetic", OPTIONS, tmp_path)
    said = json.loads(json.dumps(data.describe("synthetic", log), allow_nan=False))
    assert said["rows"] == said["train_rows"] + said["heldout_rows"] == 2000
    assert said["tasks"][3]["name"] == "play_time"
    assert Task(**said["tasks"][3]) == log.tasks[3]
    assert said["content"] == log.content
    assert set(said) == {
        *("source", "content", "rows", "train_rows", "heldout_rows", "id_names", "vocabulary"),
        *("number_names", "tasks", "facts"),
    }


def test_a_flush_that_fails_leaves_no_log(tmp_path, monkeypatch):
    """The next flush of the same file would succeed, though its content may be lost."""

    def broken(_descriptor: int) -> None:
        monkeypatch.undo()
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(ValueError, match="cannot write to the cache"):
        cached(tmp_path, "mine", "c", build_small)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []

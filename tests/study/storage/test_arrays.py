"""Files of arrays: what is written comes back, equal content has equal bytes, and older files are still read."""

import io
import json
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from study.storage import arrays, zip_arrays

RNG = np.random.default_rng(0)
ABOUT = {"b": 1, "a": [2, "größe"]}
ARRAYS = {
    "a/b": RNG.standard_normal((3, 5)),
    "fortran": np.asfortranarray(RNG.standard_normal((4, 2, 3)).astype(np.float32)),
    "strided": RNG.standard_normal((6, 4))[::2],
    "scalar": np.array(7),
    "none": np.zeros((0, 3), np.float32),
    "flags": np.array([True, False]),
}


def zip_of(about: object = ABOUT) -> bytes:
    """The file that an earlier version wrote for `ARRAYS`."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as parts:
        parts.writestr("about.json", json.dumps(about))
        for name, array in ARRAYS.items():
            with parts.open(f"{name}.npy", "w") as part:
                np.lib.format.write_array(part, array, allow_pickle=False)
    return file.getvalue()


def assert_equal(found: dict[str, np.ndarray]) -> None:
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found[name], array)
        assert found[name].flags.writeable


def test_arrays_and_their_description_come_back(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    arrays.write(path, ABOUT, ARRAYS)
    assert path.read_bytes() == arrays.to_bytes(ABOUT, dict(reversed(ARRAYS.items())))
    for source in (path, path.read_bytes()):
        about, found = arrays.read(source)
        assert about == ABOUT
        assert_equal(found)
    with path.open("rb") as file:
        assert arrays.describe(file) == ABOUT
    assert list(tmp_path.iterdir()) == [path]


def test_files_of_earlier_versions_are_read() -> None:
    about, found = zip_arrays.read(zip_of())
    assert about == ABOUT
    assert_equal(found)


@pytest.mark.parametrize("about", [[], "x" * 2**21])
def test_a_bad_description_in_an_old_file_is_refused(about: object) -> None:
    with pytest.raises(ValueError, match="description"):
        zip_arrays.read(zip_of(about))


def test_every_flipped_bit_is_found() -> None:
    content = arrays.to_bytes(ABOUT, ARRAYS)
    for bit in range(0, 8 * len(content), 7):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            about, found = arrays.read(bytes(flipped))
        except ValueError:
            continue
        assert about == ABOUT  # a space became another space, for instance
        assert_equal(found)


def test_reading_takes_no_more_memory_than_the_file_is_long(tmp_path: Path) -> None:
    arrays.write(tmp_path / "x", {}, {f"a{i}": np.zeros(10**6) for i in range(5)})
    tracemalloc.start()
    try:
        arrays.read(tmp_path / "x")
        assert tracemalloc.get_traced_memory()[1] < 50 * 10**6
    finally:
        tracemalloc.stop()


def test_a_failed_write_is_an_os_error_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        arrays.write(tmp_path / "none" / "x", ABOUT, ARRAYS)
    assert list(tmp_path.iterdir()) == []

"""Named arrays and a description of them as one file: a zip of `.npy`, stored as they are, beside `about.json`.

The same content gives the same bytes: nothing of the clock, the system or a compressor is in it. Reading runs no code:
arrays of plain numbers, no pickle. It takes no more memory than the file is long, for the arrays, and `MOST_BESIDE` for
what the file says of itself, whose size is looked at before it is read. Every part has a check sum.
"""

import json
import math
import zipfile
from collections.abc import Iterable, Mapping
from typing import IO, Any

import numpy as np

DESCRIPTION = "about.json"
MOST_DESCRIPTION = 2**20  # bytes
"""15,000 runs of a stack, or 10,000 features of weights."""

MOST_DIRECTORY = 2**22  # bytes
"""Of the zip's list of its parts: about 50,000 of ours. The largest stacks on a GPU, of a network whose runs each have
their own statistics, have 10,000."""

MOST_BESIDE = 96 * 2**20  # bytes
"""What a directory and a description of these sizes come to in memory, whatever they say."""

PLAIN = "biuf"
"""Kinds of numpy's types that are read: booleans, integers and floats."""


def write(file: IO[bytes], about: Mapping[str, Any], arrays: Iterable[tuple[str, np.ndarray]]) -> None:
    """about: JSON-able. arrays: names, in the order in which they will lie, and values; asked for one at a time."""
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(_member(DESCRIPTION), json.dumps(about, sort_keys=True))
        for name, array in arrays:
            with archive.open(_member(f"{name}.npy"), "w", force_zip64=True) as part:
                np.lib.format.write_array(part, array, allow_pickle=False)


def read(file: IO[bytes]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The description and the arrays, which may be written to. Raises whatever is wrong with the file: ValueError or an
    error of `zipfile`, json or the system, before any memory is taken for what the file does not hold."""
    size = file.seek(0, 2)
    with _opened(file) as archive:
        members = archive.infolist()
        if sum(member.file_size for member in members) > size:
            raise ValueError("its parts are larger than the whole")
        about, arrays = _description(archive), {}
        for member in members:
            name = member.filename.removesuffix(".npy")
            if member.filename == DESCRIPTION:
                continue
            if member.compress_type != zipfile.ZIP_STORED or name == member.filename:
                raise ValueError(f"{member.filename} is no array as it was")
            if name in arrays:
                raise ValueError(f"{name} is there twice")
            with archive.open(member) as part:
                arrays[name] = _array(name, part, member.file_size)
    return about, arrays


def describe(file: IO[bytes]) -> dict[str, Any]:
    """The description alone: nothing else is read. Raises as `read` does."""
    with _opened(file) as archive:
        return _description(archive)


def _opened(file: IO[bytes]) -> zipfile.ZipFile:
    return zipfile.ZipFile(_InParts(file))


class _InParts:
    """A file that is read in parts no longer than a directory of ours: zipfile reads that at once, however long the
    file says that it is."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int | None = -1) -> bytes:
        part = self.file.read(MOST_DIRECTORY + 1 if size is None or size < 0 else min(size, MOST_DIRECTORY + 1))
        if len(part) > MOST_DIRECTORY:
            raise ValueError(f"its list of parts, or one of them, is longer than {MOST_DIRECTORY:,} bytes")
        return part


def _description(archive: zipfile.ZipFile) -> dict[str, Any]:
    member = archive.getinfo(DESCRIPTION)
    if member.compress_type != zipfile.ZIP_STORED or max(member.file_size, member.compress_size) > MOST_DESCRIPTION:
        raise ValueError("its description is none of ours")
    about = json.loads(archive.read(member))
    if not isinstance(about, dict):
        raise ValueError("its description is none of ours")
    return about


def _member(name: str) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name)  # of 1980, as all are
    member.create_system, member.external_attr = 3, 0o644 << 16
    return member


def _array(name: str, part: IO[bytes], size: int) -> np.ndarray:
    """An array whose header tells the truth of its size."""
    version = np.lib.format.read_magic(part)
    if version != (1, 0):
        raise ValueError(f"{name} is in version {version} of numpy's format")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(part)
    if dtype.kind not in PLAIN or min(shape, default=0) < 0:
        raise ValueError(f"{name} holds no plain numbers")
    if part.tell() + dtype.itemsize * math.prod(shape) != size:
        raise ValueError(f"{name} is not of the size that it says")
    array = np.empty(shape[::-1] if fortran else shape, dtype)
    space = array.reshape(-1).view(np.uint8)
    done = 0
    while done < len(space):
        content = part.read(min(len(space) - done, 1 << 20))
        if not content:
            raise ValueError(f"{name} is cut off")
        space[done : done + len(content)] = np.frombuffer(content, np.uint8)
        done += len(content)
    part.read(1)  # at its end the check sum is looked at
    return array.T if fortran else array

"""Named arrays and a description of them as one file: a zip of `.npy`, stored as they are, beside `about.json`.

The same content gives the same bytes: nothing of the clock, the system or a compressor is in it. Reading runs no code:
arrays of plain numbers, no pickle, and no more memory than the file is long. Every part has a check sum.
"""

import json
import math
import zipfile
from collections.abc import Iterable, Mapping
from typing import IO, Any

import numpy as np

DESCRIPTION = "about.json"
MOST_DESCRIPTION = 2**24  # bytes
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
    file.seek(0)
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if sum(member.file_size for member in members) > size:
            raise ValueError("its parts are larger than the whole")
        about, arrays = describe(archive), {}
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


def describe(archive: zipfile.ZipFile) -> dict[str, Any]:
    """The description alone. Raises as `read` does."""
    member = archive.getinfo(DESCRIPTION)
    if member.compress_type != zipfile.ZIP_STORED or member.file_size > MOST_DESCRIPTION:
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

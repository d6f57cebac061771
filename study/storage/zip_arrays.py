"""Reads the files of arrays that earlier versions wrote: a zip of uncompressed `.npy` files and `about.json`.

A file may come from someone else: reading runs no code, and takes no memory for what the file does not hold.
"""

import io
import json
import math
import zipfile
from typing import IO, Any

import numpy as np

from study.storage.arrays import PLAIN_KINDS
from study.storage.untrusted_input import MAX_DESCRIPTION_BYTES

MAGIC = b"PK"
DESCRIPTION = "about.json"
MAX_PARTS = 100_000
UNREADABLE = (OSError, EOFError, KeyError, NotImplementedError, RuntimeError, SyntaxError, zipfile.BadZipFile)
"""What zipfile and numpy raise on a damaged file, beside ValueError."""


def read(content: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the description and the writeable arrays of a file. Raises ValueError if it is not such a file."""
    if content.count(b"PK\x01\x02") > MAX_PARTS:  # before zipfile makes an object of each
        raise ValueError(f"it holds more than {MAX_PARTS:,} files")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return _read(archive, len(content))
    except UNREADABLE as error:
        raise ValueError(str(error) or type(error).__name__) from error


def _read(archive: zipfile.ZipFile, size: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    members = archive.infolist()
    names = [member.filename for member in members]
    if sum(member.file_size for member in members) > size or len(set(names)) < len(names):
        raise ValueError("its parts are larger than the file, or one is there twice")
    arrays = {}
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{member.filename!r:.100} is compressed")
        if member.filename != DESCRIPTION:
            if not member.filename.endswith(".npy"):
                raise ValueError(f"{member.filename!r:.100} is no array")
            with archive.open(member) as part:
                arrays[member.filename.removesuffix(".npy")] = _array(member.filename, part, member.file_size)
    if archive.getinfo(DESCRIPTION).file_size > MAX_DESCRIPTION_BYTES:
        raise ValueError(f"its description has more than {MAX_DESCRIPTION_BYTES:,} bytes")
    try:
        about = json.loads(archive.read(DESCRIPTION))
    except RecursionError as error:
        raise ValueError("its description is nested too deep") from error
    if not isinstance(about, dict):
        raise ValueError("its description is no JSON object")
    return about, arrays


def _array(name: str, part: IO[bytes], size: int) -> np.ndarray:
    """Read one array, after checking that its header states the true size."""
    if (version := np.lib.format.read_magic(part)) != (1, 0):
        raise ValueError(f"{name!r:.100} has version {version} of numpy's format")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(part)
    if dtype.kind not in PLAIN_KINDS or min(shape, default=0) < 0:
        raise ValueError(f"{name!r:.100} holds no plain numbers")
    count = math.prod(shape)
    if part.tell() + dtype.itemsize * count != size:
        raise ValueError(f"{name!r:.100} does not have the size that it states")
    values = bytearray(part.read())  # reading to the end verifies the checksum
    array = np.frombuffer(values, dtype, count)
    return array.reshape(shape, order="F" if fortran else "C")

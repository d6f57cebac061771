"""Named arrays and a JSON description of them, as one safetensors file.

The metadata holds the description, and a CRC-32 of everything, since safetensors itself has no checksum. Equal content
gives equal bytes. A file may come from someone else: reading runs no code, and takes no more memory than
the file is long, beside a header of at most `MAX_HEADER_BYTES`.
"""

import errno
import io
import json
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from study.storage.atomic import atomic_path
from study.storage.untrusted_input import MAX_DESCRIPTION_BYTES

METADATA_KEY = "study"
"""The only key of the metadata: with several, their order and so the bytes could change."""

MAX_HEADER_BYTES = 2**23
"""Enough for 70,000 arrays; the largest stack has 24,000."""

PLAIN_KINDS = "biuf"
"""Kinds of numpy's types that are read: booleans, integers and floats."""


def write(path: Path, about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Write a file, whole or not at all. Contiguous arrays are not copied.

    Args:
        path: the file. Its folder must exist.
        about: the description, JSON-able.
        arrays: the arrays by name.

    Raises:
        OSError: the file cannot be written.
    """
    from safetensors.numpy import save_file

    with atomic_path(path) as temporary, _safetensors_errors():
        arrays = _contiguous(arrays)
        save_file(arrays, temporary, _metadata(about, arrays))


def to_bytes(about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return the content of a file with these arrays."""
    from safetensors.numpy import save

    arrays = _contiguous(arrays)
    return save(arrays, _metadata(about, arrays))


def read(source: bytes | Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the description and the writeable arrays of a file.

    Args:
        source: the content of a file, or its path.

    Raises:
        ValueError: it is not such a file.
        OSError: it cannot be read.
    """
    from safetensors import safe_open
    from safetensors.numpy import load

    if isinstance(source, Path):
        with source.open("rb") as file:
            about, checksum = _read_header(file)
        with _safetensors_errors(), safe_open(source, framework="numpy") as opened:
            arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - it is no mapping
    else:
        about, checksum = _read_header(io.BytesIO(source))
        with _safetensors_errors():
            arrays = load(source)
    for name, array in arrays.items():
        if array.dtype.kind not in PLAIN_KINDS:
            raise ValueError(f"{name!r:.100} has the unexpected type {array.dtype}")
    if checksum != _checksum(about, arrays):
        raise ValueError("its content has changed since it was written (CRC)")
    return about, arrays


def describe(file: IO[bytes]) -> dict[str, Any]:
    """Return the description of an open file. Reads only its header. Raises ValueError if it is not such a file."""
    return _read_header(file)[0]


def _read_header(file: IO[bytes]) -> tuple[dict[str, Any], Any]:
    """Return the description and the checksum."""
    size = int.from_bytes(file.read(8), "little")
    if size > MAX_HEADER_BYTES:
        raise ValueError(f"its header has more than {MAX_HEADER_BYTES:,} bytes, or it is not a safetensors file")
    try:
        text = json.loads(file.read(size))["__metadata__"][METADATA_KEY]
        if len(text) > MAX_DESCRIPTION_BYTES:
            raise ValueError(f"its description has more than {MAX_DESCRIPTION_BYTES:,} bytes")
        content = json.loads(text)
        about, checksum = content["about"], content["crc32"]
    except (KeyError, TypeError, RecursionError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError("it is not a safetensors file with a description of ours") from error
    if not isinstance(about, dict):
        raise ValueError("its description is no JSON object")
    return about, checksum


def _metadata(about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    content = {"about": about, "crc32": _checksum(about, arrays)}
    return {METADATA_KEY: json.dumps(content, sort_keys=True)}


def _checksum(about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> int:
    found = zlib.crc32(json.dumps(about, sort_keys=True).encode())
    for name, array in sorted(arrays.items()):
        found = zlib.crc32(f"{name} {array.dtype.str} {array.shape}".encode(), found)
        found = zlib.crc32(array.reshape(-1).view(np.uint8).data, found)
    return found


def _contiguous(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.require(array, requirements="C") for name, array in arrays.items()}


@contextmanager
def _safetensors_errors() -> Iterator[None]:
    """Turn errors of safetensors into ValueError, or into OSError if the system refused."""
    from safetensors import SafetensorError

    try:
        yield
    except (SafetensorError, KeyError, TypeError) as error:  # the last two: types that numpy does not have
        if found := re.search(r"\(os error (\d+)\)", str(error)):
            raise OSError(int(found[1]), os.strerror(int(found[1]))) from error
        if "I/O error" in str(error):
            raise OSError(errno.EIO, str(error)) from error
        raise ValueError(str(error) or type(error).__name__) from error

"""Reads and writes files of weights: a safetensors file, or the zip of arrays that earlier versions wrote.

The description holds the fields of `About` and the format. Equal weights give equal bytes.
"""

import dataclasses

from study.storage import arrays, zip_arrays
from study.storage.untrusted_input import MAX_FILE_BYTES
from study.training.weights import About, Weights, is_accumulator, validate

SUFFIX = ".safetensors"
OLD_SUFFIX = ".zip"

FORMAT = 2
SINCE_2 = {"options", "embeddings"}
"""Fields that format 1 does not have."""

UNREADABLE = (OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError, MemoryError)


def to_bytes(weights: Weights) -> bytes:
    """Return the content of a file with these weights."""
    return arrays.to_bytes({"format": FORMAT} | dataclasses.asdict(weights.about), weights.arrays)


def read(content: bytes) -> Weights:
    """Return the weights of a file.

    Args:
        content: of a file of this version or an earlier one.

    Raises:
        ValueError: it holds no weights that can be used. The message is one line.
    """
    if len(content) > MAX_FILE_BYTES:
        raise ValueError(f"it has more than {MAX_FILE_BYTES:,} bytes")
    try:
        is_zip = content.startswith(zip_arrays.MAGIC)
        about, found = zip_arrays.read(content) if is_zip else arrays.read(content)
        number = about.pop("format", None)
        if number not in (1, FORMAT):
            raise ValueError(f"it has format {number!r:.40}; this version reads formats 1 and {FORMAT}")
        if number == 1 and any(map(is_accumulator, found)):
            raise ValueError("it has format 1, which has no accumulators")
        known = {field.name for field in dataclasses.fields(About)} - (SINCE_2 if number == 1 else set())
        if about.keys() != known:
            raise ValueError(f"it lacks or adds {', '.join(sorted(about.keys() ^ known)[:3])}"[:200])
        return validate(About(**about), found)
    except UNREADABLE as error:
        raise ValueError(str(error) or type(error).__name__) from error

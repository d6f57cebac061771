"""Files of the record that know their own content: a bit that has flipped is found when they are read.

Each holds the SHA-256 of all its bytes, taken with zeros in the place of the hash. Parquet's own page checksums leave
out the footer, where the names of columns stand. Files from before have no hash, and read as they always did.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from study.config import canonical_json
from study.record import validation

KEY = "sha256"
OPEN = "sha256:" + 64 * "0"
HASH = re.compile(rb"sha256:[0-9a-f]{64}")


class BrokenError(ValueError):
    """A file that is not what was written."""


def parquet(table: pa.Table) -> bytes:
    """The table as a Parquet file."""
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, table.schema, compression="zstd") as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({KEY: OPEN})
    content = sink.getvalue().to_pybytes()
    at = content.rindex(OPEN.encode())
    return content[:at] + _hash(content).encode() + content[at + len(OPEN) :]


def read_parquet(content: bytes) -> pa.Table:
    """The table of such a file. Raises BrokenError, or what pyarrow raises, where it is not as it was written."""
    file = pq.ParquetFile(pa.BufferReader(content))
    validation.size_of_parquet(file)
    written = (file.metadata.metadata or {}).get(KEY.encode())
    if written is not None:
        at = content.rindex(written)
        if _hash(content[:at] + OPEN.encode() + content[at + len(written) :]).encode() != written:
            raise BrokenError("its content has changed since it was written")
    elif HASH.search(content):  # the key's own name has changed: it is no file from before
        raise BrokenError("its content has changed since it was written")
    return file.read()


def json_text(content: Mapping[str, Any]) -> bytes:
    """The content as JSON for people, with its hash."""
    sealed = {**content, KEY: _hash(canonical_json(dict(content)).encode())}
    return json.dumps(sealed, indent=1, sort_keys=True, allow_nan=False).encode() + b"\n"


def read_json(text: bytes | str) -> dict[str, Any]:
    """Raises ValueError where it is no JSON object, or not as it was written."""
    try:
        content = json.loads(text, parse_constant=_no_number)
    except RecursionError as error:
        raise BrokenError("nested too deep") from error
    if not isinstance(content, dict):
        raise BrokenError("not a JSON object")
    written = content.pop(KEY, None)
    if written is not None and written != _hash(canonical_json(content).encode()):
        raise BrokenError("its content has changed since it was written")
    return content


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is no number of JSON's")


def _hash(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"

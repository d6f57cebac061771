"""Files that hold their own SHA-256, so that a changed bit is found when they are read.

The hash covers all bytes of the file, with zeros in the place of the hash. (Parquet's own page checksums leave out the
footer, which holds the names of the columns.) Files of older records have no hash and are read without this check.
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
from study.storage.untrusted_input import json_object

KEY = "sha256"
PLACEHOLDER = "sha256:" + 64 * "0"
HASH = re.compile(rb"sha256:[0-9a-f]{64}")


class ChecksumError(ValueError):
    """The file differs from what was written."""


def parquet_bytes(table: pa.Table) -> bytes:
    """Return a table as a Parquet file that holds its hash."""
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, table.schema, compression="zstd") as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({KEY: PLACEHOLDER})
    content = sink.getvalue().to_pybytes()
    at = content.rindex(PLACEHOLDER.encode())
    return content[:at] + _hash(content).encode() + content[at + len(PLACEHOLDER) :]


def read_parquet(content: bytes) -> pa.Table:
    """Return the table of a Parquet file. Raises ChecksumError, or an error of pyarrow, if the file was changed."""
    file = pq.ParquetFile(pa.BufferReader(content))
    validation.validate_parquet_size(file)
    metadata = file.metadata.metadata or {}
    written = metadata.get(KEY.encode())
    if written is not None:
        at = content.rindex(written)
        if _hash(content[:at] + PLACEHOLDER.encode() + content[at + len(written) :]).encode() != written:
            raise ChecksumError("its content has changed since it was written")
    elif HASH.search(content) or b"ARROW:schema" not in metadata:
        # Older files hold no hash, but the schema that Arrow writes. Here the bits of the metadata have changed.
        raise ChecksumError("its content has changed since it was written")
    return file.read()


def json_bytes(content: Mapping[str, Any]) -> bytes:
    """Return the content as indented JSON that holds its hash."""
    with_hash = {**content, KEY: _hash(canonical_json(dict(content)).encode())}
    return json.dumps(with_hash, indent=1, sort_keys=True, allow_nan=False).encode() + b"\n"


def read_json(text: bytes | str) -> dict[str, Any]:
    """Return the content of a JSON file. Raises ValueError if it is no JSON object, or was changed."""
    content = json_object(text)
    written = content.pop(KEY, None)
    # Older files hold no hash. Where one stands under another name, the bits of its name have changed.
    has_hash = written is not None or any(isinstance(value, str) and _is_hash(value) for value in content.values())
    if has_hash and written != _hash(canonical_json(content).encode()):
        raise ChecksumError("its content has changed since it was written")
    return content


def _is_hash(text: str) -> bool:
    return HASH.fullmatch(text.encode(errors="replace")) is not None


def _hash(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"

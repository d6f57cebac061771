"""Files that hold their own hash: truncated files and flipped bits are found."""

import functools
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from study.record import checksums

UNREADABLE = (OSError, ValueError, KeyError, TypeError, pa.ArrowException)


@functools.cache
def table() -> pa.Table:
    rng = np.random.default_rng(0)
    return pa.table(
        {
            "run_id": [f"{i:04x}" for i in range(50)],
            "kept": rng.standard_normal(50),
            "outcome": ["completed", None] * 25,
            "loss": pa.array([rng.standard_normal(20).astype(np.float32) for _ in range(50)], pa.list_(pa.float32())),
        }
    )


def read_by_others(content: bytes) -> pa.Table:
    return pq.read_table(pa.BufferReader(content))


def test_a_file_with_a_hash_is_a_normal_parquet_file() -> None:
    content = checksums.parquet_bytes(table())
    assert read_by_others(content).equals(table())
    assert checksums.read_parquet(content).equals(table())
    assert checksums.parquet_bytes(table()) == content


def test_files_without_a_hash_are_read() -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(table(), sink, compression="zstd")
    assert checksums.read_parquet(sink.getvalue().to_pybytes()).equals(table())
    assert checksums.read_json(b'{"lr": 0.1}') == {"lr": 0.1}


@settings(max_examples=400)
@given(st.data())
def test_flipped_bits_of_parquet_are_found(data: st.DataObject) -> None:
    content = bytearray(checksums.parquet_bytes(table()))
    for at in data.draw(st.lists(st.integers(0, 8 * len(content) - 1), min_size=1, max_size=3, unique=True)):
        content[at // 8] ^= 1 << at % 8
    with pytest.raises(UNREADABLE):
        checksums.read_parquet(bytes(content))


def test_flipped_bits_of_the_hash_key_are_found() -> None:
    content = checksums.parquet_bytes(table())
    at = content.rindex(checksums.KEY.encode(), 0, content.rindex(b"sha256:"))
    for bit in range(8 * (at - 2), 8 * (at + len(checksums.KEY) + 2)):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(UNREADABLE):
            checksums.read_parquet(bytes(flipped))


def test_a_block_of_zeros_is_found_wherever_it_lies() -> None:
    """As a power failure leaves it. It can wipe the hash and its key, and leave a footer that parses."""
    content = checksums.parquet_bytes(table().slice(0, 2))
    for at in range(len(content)):
        zeroed = content[:at] + bytes(min(512, len(content) - at)) + content[at + 512 :]
        if zeroed != content:
            with pytest.raises(UNREADABLE):
                checksums.read_parquet(zeroed)


def test_parquet_without_a_hash_misses_flipped_bits() -> None:
    """Why there is a hash: without it, pyarrow reads other values, or a column of another name, and says nothing."""
    sink = pa.BufferOutputStream()
    pq.write_table(table(), sink, compression="zstd")
    content, unnoticed = sink.getvalue().to_pybytes(), 0
    for at in range(0, 8 * len(content), 997):
        flipped = bytearray(content)
        flipped[at // 8] ^= 1 << at % 8
        try:
            unnoticed += not read_by_others(bytes(flipped)).equals(table())
        except UNREADABLE:
            continue
    assert unnoticed > 0


@settings(max_examples=100)
@given(st.floats(0, 1, exclude_max=True))
def test_truncated_files_are_refused(share: float) -> None:
    content = checksums.parquet_bytes(table())
    with pytest.raises(UNREADABLE):
        checksums.read_parquet(content[: int(share * len(content))])


CONTENT = {"lrs": [0.1, 0.30000000000000004], "name": "edges", "options": {}, "none": None, "n": 3}


def test_json_with_a_hash_reads_back() -> None:
    text = checksums.json_bytes(CONTENT)
    assert checksums.read_json(text) == CONTENT
    assert json.loads(text)["name"] == "edges"


@settings(max_examples=400)
@given(st.data())
def test_flipped_bits_of_json_are_found_or_change_nothing(data: st.DataObject) -> None:
    """White space may flip to other white space, and the name of the hash to another: the content is the same."""
    content = bytearray(checksums.json_bytes(CONTENT))
    at = data.draw(st.integers(0, 8 * len(content) - 1))
    content[at // 8] ^= 1 << at % 8
    try:
        found = checksums.read_json(bytes(content))
    except ValueError:
        return
    assert {key: value for key, value in found.items() if key in CONTENT} == CONTENT


def test_json_whose_name_of_the_hash_has_changed_is_refused() -> None:
    text = checksums.json_bytes({"reason": "out of memory"}).replace(b'"sha256"', b'"sha257"').replace(b"out", b"nut")
    with pytest.raises(checksums.ChecksumError):
        checksums.read_json(text)


@pytest.mark.parametrize("text", ["[]", "3", "null", "", "{", '{"a": 1, "sha256": "sha256:0"}', "[" * 100_000])
def test_other_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - json's own among them
        checksums.read_json(text)

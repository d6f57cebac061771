"""A checkpoint may come from someone else, or be damaged: it is set aside, and its stack starts anew."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints as stacks
import numpy as np
import pytest

from study.storage import arrays as array_files
from study.training import trainer

About, Arrays = dict[str, Any], dict[str, np.ndarray]


class Malicious:
    """Leaves a file if it is unpickled."""

    def __reduce__(self) -> Any:
        return os.system, ("touch pwned",)


def described(**changes: Any) -> Callable[[About, Arrays], bytes]:
    return lambda about, arrays: array_files.to_bytes(about | changes, arrays)


def with_loss(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[About, Arrays], bytes]:
    return lambda about, arrays: array_files.to_bytes(about, arrays | {"loss": change(arrays["loss"])})


def with_array(name: str) -> Callable[[About, Arrays], bytes]:
    return lambda about, arrays: array_files.to_bytes(about, arrays | {name: np.zeros(3)})


def with_header(change: Callable[[dict[str, Any]], Any]) -> Callable[[About, Arrays], bytes]:
    """A file with another header before the same data."""

    def make(about: About, arrays: Arrays) -> bytes:
        content = array_files.to_bytes(about, arrays)
        end = 8 + int.from_bytes(content[:8], "little")
        header = change(json.loads(content[8:end]))
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        return len(text).to_bytes(8, "little") + text + content[end:]

    return make


def with_field(name: str, value: Any) -> Callable[[About, Arrays], bytes]:
    return with_header(lambda header: header | {"loss": header["loss"] | {name: value}})


def with_metadata(text: str) -> Callable[[About, Arrays], bytes]:
    return with_header(lambda header: header | {"__metadata__": {array_files.METADATA_KEY: text}})


CHECKPOINTS: dict[str, Callable[[About, Arrays], bytes]] = {
    "empty": lambda about, arrays: b"",
    "half": lambda about, arrays: array_files.to_bytes(about, arrays)[:5000],
    "without its last byte": lambda about, arrays: array_files.to_bytes(about, arrays)[:-1],
    "one byte longer": lambda about, arrays: array_files.to_bytes(about, arrays) + b"x",
    "text": lambda about, arrays: b"study: all is well\n" * 100,
    "a pickle": lambda about, arrays: pickle.dumps(Malicious()),
    "of an earlier version": lambda about, arrays: b"PK\x03\x04" + bytes(1000),
    "a header of 2 GB": lambda about, arrays: (2**31).to_bytes(8, "little") + b"{",
    "a header that is a list": with_header(lambda header: b"[1, 2]"),
    "a header that is too deep": with_header(lambda header: b"[" * 200_000),
    "a header that is no UTF-8": with_header(lambda header: b"\xff\xfe"),
    "no description": with_header(lambda header: {k: v for k, v in header.items() if k != "__metadata__"}),
    "a description that is a list": with_metadata("[]"),
    "a description that is too deep": with_metadata("[" * 200_000),
    "a description of 5 MB": with_metadata(" " * 5_000_000 + "{}"),
    "no checksum": with_metadata('{"about": {}}'),
    "another checksum": with_metadata('{"about": {}, "crc32": 1}'),
    "a shape of 4 PB": with_field("shape", [10**9, 10**6]),
    "a negative shape": with_field("shape", [-1]),
    "offsets outside the file": with_field("data_offsets", [0, 2**60]),
    "offsets of another array": with_field("data_offsets", [0, 8]),
    "an unknown type": with_field("dtype", "PICKLE"),
    "a type that numpy does not have": with_field("dtype", "BF16"),
    "runs of others": described(runs=["a" * 64] * 5),
    "runs in another order": lambda about, arrays: described(runs=about["runs"][::-1])(about, arrays),
    "an id that is a path": described(runs=["../../etc/passwd"] * 5),
    "runs that are a word": described(runs="all"),
    "steps that are NaN": described(steps=float("nan")),
    "negative steps": described(steps=-3),
    "steps after its end": described(steps=10**9),
    "steps of 400 digits": described(steps=10**400),
    "another shape": with_loss(lambda array: array[:, :-1]),
    "a flat array": with_loss(lambda array: array.ravel()),
    "another type": with_loss(lambda array: array.astype(np.float64 if array.dtype == np.float32 else np.float32)),
    "complex numbers": with_loss(lambda array: array.astype(np.complex64)),
    "an array is missing": lambda about, arrays: array_files.to_bytes(
        about, {k: v for k, v in arrays.items() if k != "loss"}
    ),
    "a name that leads out": with_array("../../pwned"),
    "an absolute name": with_array("/tmp/pwned"),
    "a name with an escape sequence": with_array("\x1b[31mred"),
}


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> tuple[About, Arrays]:
    """The content of a checkpoint."""
    return array_files.read(stacks.kept(tmp_path_factory.mktemp("kept"), stacks.RUNS))


def resume(tmp_path: Path, content: bytes) -> tuple[int, list[str]]:
    """Train with this checkpoint. Returns the step at which training began, and the notes."""
    (tmp_path / "checkpoints").mkdir()
    notes: list[str] = []
    keeper = stacks.make(stacks.Finishing, tmp_path, stacks.RUNS, note=notes.append)
    (tmp_path / keeper.name).write_bytes(content)
    trained = trainer.train(stacks.RUNS, stacks.LOG, checkpointer=keeper)
    assert stacks.bits(trained) == stacks.EXPECTED
    return keeper.began, notes


@pytest.mark.parametrize("wrong", CHECKPOINTS)
def test_a_bad_checkpoint_is_set_aside_and_its_stack_starts_anew(
    tmp_path: Path, content: tuple[About, Arrays], wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bad = CHECKPOINTS[wrong](*content)
    began, notes = resume(tmp_path, bad)
    assert began == 0
    (note,) = notes
    assert note.startswith("the checkpoint checkpoints/")
    assert note.isprintable()
    assert len(note) < 500
    (aside,) = (tmp_path / "set_aside").iterdir()
    assert aside.read_bytes() == bad
    assert not list(tmp_path.rglob("pwned*"))
    assert not Path("/tmp/pwned").exists()


def test_a_good_checkpoint_is_used(tmp_path: Path, content: tuple[About, Arrays]) -> None:
    assert resume(tmp_path, array_files.to_bytes(*content)) == (7, [])

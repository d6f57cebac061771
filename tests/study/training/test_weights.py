"""A bad weights file gives one line and exit code 2 before training, and runs no code."""

import dataclasses
import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stacks import LOG, make_run
from weight_files import ABOUT, GOOD, file_of, of_random

from study.cli.main import main
from study.trainers import warm_start, weights_file
from study.training import weights
from study.training.networks import network_of_weights, spec_of

OF_ADAGRAD = {weights._accumulator_of(name): np.full_like(array, 0.1) for name, array in GOOD.arrays.items()}


class Malicious:
    def __reduce__(self) -> Any:
        return os.system, ("touch proof",)


def header(shape: str, descr: str = "<f4") -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def torch_file() -> bytes:
    file = io.BytesIO()
    torch.save({"table/0": Malicious()}, file)
    return file.getvalue()


def without(name: str) -> dict[str, Any]:
    return {key: array for key, array in GOOD.arrays.items() if key != name}


def with_array(name: str, array: Any) -> dict[str, Any]:
    return GOOD.arrays | {name: array}


def accumulating(table: np.ndarray) -> dict[str, Any]:
    return GOOD.arrays | OF_ADAGRAD | {"table_accumulator/0": table}


def changed(**about: Any) -> dict[str, Any]:
    return ABOUT | about


def twice() -> bytes:
    file = io.BytesIO(file_of())
    with zipfile.ZipFile(file, "a") as parts, pytest.warns(UserWarning, match="Duplicate name"):
        parts.writestr("table/0.npy", header("(11, 4)") + bytes(176))
    return file.getvalue()


def flipped() -> bytes:
    content = bytearray(file_of())
    content[content.find(b"\x93NUMPY") + 200] ^= 4
    return bytes(content)


def overlapping() -> bytes:
    """Return a file with a thousand names for the same bytes, so that it unpacks to more than its size."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as parts:
        parts.writestr("about.json", json.dumps(ABOUT))
        parts.writestr("table/0.npy", header("(11, 4)") + bytes(10**5))
        one = parts.infolist()[1]
        for i in range(1000):
            again = zipfile.ZipInfo(f"table/{i + 1}.npy")
            for name in ("header_offset", "compress_size", "file_size", "CRC"):
                setattr(again, name, getattr(one, name))
            parts.filelist.append(again)
            parts.NameToInfo[again.filename] = again
    return content.getvalue()


ZERO = GOOD.arrays["table/0"]
NAN = np.where(np.arange(ZERO.size).reshape(ZERO.shape) == 7, np.nan, ZERO).astype(np.float32)

FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "not a safetensors file"),
    "text": (lambda: b"weights", "not a safetensors file"),
    "a pickle": (lambda: pickle.dumps(Malicious()), "not a safetensors file"),
    "a file of torch": (torch_file, "is no array"),
    "objects": (lambda: file_of(arrays=with_array("table/0", np.array([Malicious()], dtype=object))), "plain numbers"),
    "cut": (lambda: file_of()[:-300], "not a zip"),
    "a flipped bit": (flipped, "CRC"),
    "a bomb": (lambda: file_of(arrays=with_array("table/0", bytes(10**7)), compress=True), "larger than the file"),
    "overlapping parts": (overlapping, "larger than the file"),
    "compressed": (lambda: file_of("x" * 5, {"table/0": os.urandom(999)}, compress=True), "is compressed"),
    "a huge shape": (
        lambda: file_of(arrays=with_array("table/0", header("(1000000000, 1000000)"))),
        "does not have the size that it states",
    ),
    "a negative shape": (lambda: file_of(arrays=with_array("table/0", header("(-1, 4)"))), "plain numbers"),
    "a shape of words": (lambda: file_of(arrays=with_array("table/0", header("('a', 4)"))), ""),
    "a header that is code": (lambda: file_of(arrays=with_array("table/0", header("(__import__('os'), 4)"))), ""),
    "a part twice": (twice, "twice"),
    "a relative path": (lambda: file_of(arrays=with_array("../../evil", ZERO)), "no array of weights"),
    "an absolute path": (lambda: file_of(arrays=with_array("/etc/evil", ZERO)), "no array of weights"),
    "a path in a name": (lambda: file_of(arrays=with_array("parameter/../evil", ZERO)), "no array of weights"),
    "an unknown array": (lambda: file_of(arrays=with_array("table/9", ZERO)), "no array of weights"),
    "a table is missing": (lambda: file_of(arrays=without("table/1")), "table/1 is missing"),
    "a table of another shape": (lambda: file_of(arrays=with_array("table/0", ZERO[:5])), "shape (5, 4), not (11, 4)"),
    "a table of doubles": (lambda: file_of(arrays=with_array("table/0", ZERO.astype(float))), "float64, not float32"),
    "a table of integers": (lambda: file_of(arrays=with_array("table/0", ZERO.astype(int))), "int64, not float32"),
    "a big-endian table": (lambda: file_of(arrays=with_array("table/0", ZERO.astype(">f4"))), "not float32"),
    "NaN": (lambda: file_of(arrays=with_array("table/0", NAN)), "not finite"),
    "no description": (lambda: file_of(about=""), "Expecting value"),
    "a description that is a list": (lambda: file_of(about=[1]), "no JSON object"),
    "a deep description": (lambda: file_of(about="[" * 10**6), ""),
    "a description that is binary": (lambda: file_of(about=b"\xff\xfe\x00"), ""),
    "a future format": (lambda: file_of(changed(format=3)), "format 3; this version reads formats 1 and 2"),
    "no format": (lambda: file_of({k: v for k, v in ABOUT.items() if k != "format"}), "format None"),
    "an unknown field": (lambda: file_of(changed(run_me="rm")), "lacks or adds run_me"),
    "a missing field": (lambda: file_of({k: v for k, v in ABOUT.items() if k != "seen"}), "lacks or adds seen"),
    "a name with an escape sequence": (lambda: file_of(changed(model="\x1b[31msmall")), "control characters"),
    "a long name": (lambda: file_of(changed(method="x" * 10_000)), "10,000 characters"),
    "a model is a number": (lambda: file_of(changed(model=3)), "model is 3"),
    "an lr is NaN": (lambda: file_of(json.dumps(changed(lr=float("nan")))), "lr is nan"),
    "another precision": (lambda: file_of(changed(precision="float16")), "precision is 'float16'"),
    "a dim below 0": (lambda: file_of(changed(embedding_dim=-4)), "embedding_dim is -4"),
    "names are a word": (lambda: file_of(changed(id_names="abc")), "no list"),
    "a short vocabulary": (lambda: file_of(changed(vocabulary=[11, 4])), "not one positive size"),
    "a vocabulary of 0": (lambda: file_of(changed(vocabulary=[11, 0, 40])), "not one positive size"),
    "a huge vocabulary": (lambda: file_of(changed(vocabulary=[11, 4, 10**30])), "vocabulary"),
    "options are a list": (lambda: file_of(changed(options=[1])), "options is no mapping"),
    "an option is a list": (lambda: file_of(changed(options={"rel": [1]})), "the option rel is [1]"),
    "an option with an escape sequence": (lambda: file_of(changed(options={"norm": "\x1b[31m"})), "control characters"),
    "unknown training of tables": (lambda: file_of(changed(embeddings="sgd")), "embeddings is 'sgd'"),
    "a name without letters": (lambda: file_of(arrays=with_array("parameter/", ZERO)), "no array of weights"),
    "a name with a bell": (lambda: file_of(arrays=with_array("parameter/\x07", ZERO)), "no array of weights"),
    "a long array name": (lambda: file_of(arrays=with_array("parameter/" + "x" * 501, ZERO)), "no array of"),
    "half the accumulators": (
        lambda: file_of(arrays=GOOD.arrays | {k: x for k, x in OF_ADAGRAD.items() if k.startswith("table")}),
        "lacks or adds the accumulator 'accumulator/",
    ),
    "an accumulator is missing": (
        lambda: file_of(arrays=GOOD.arrays | {k: x for k, x in OF_ADAGRAD.items() if k != "table_accumulator/1"}),
        "lacks or adds the accumulator 'table_accumulator/1'",
    ),
    "an unknown accumulator": (
        lambda: file_of(arrays=GOOD.arrays | OF_ADAGRAD | {"accumulator/../evil": ZERO}),
        "lacks or adds the accumulator 'accumulator/../evil'",
    ),
    "an accumulator of another shape": (lambda: file_of(arrays=accumulating(ZERO[:5] + 1)), "the shape (5, 4), not"),
    "an accumulator of doubles": (lambda: file_of(arrays=accumulating(ZERO.astype(float))), "float64, not float32"),
    "an accumulator below 0": (lambda: file_of(arrays=accumulating(ZERO - np.float32(1e-9))), "values below 0"),
    "an accumulator is NaN": (lambda: file_of(arrays=accumulating(NAN)), "not finite"),
    "accumulators in format 1": (
        lambda: file_of(
            {k: v for k, v in changed(format=1).items() if k not in weights_file.SINCE_2}, GOOD.arrays | OF_ADAGRAD
        ),
        "format 1, which has no accumulators",
    ),
    "days are words": (lambda: file_of(changed(seen=["1-6"])), "no list"),
    "reversed days": (lambda: file_of(changed(seen=[[6, 1]])), "days 6 to 1"),
    "a day 0": (lambda: file_of(changed(seen=[[0, 1]])), "days 0 to 1"),
}


@pytest.mark.parametrize("wrong", FILES)
def test_bad_weights_files_are_refused_in_one_line(
    wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STUDY_CACHE", str(tmp_path / "cache"))
    make, message = FILES[wrong]
    (tmp_path / "w.zip").write_bytes(make())
    assert main(["run", "quick", "--set", "models=small", "--init-from", "w.zip", "--out", "out"]) == 2
    said = capsys.readouterr().err
    assert "w.zip holds no weights that can be used" in said
    assert message in said
    assert said.count("\n") == 1
    assert said[:-1].isprintable()
    assert len(said) < 600
    assert {path.name for path in tmp_path.iterdir()} <= {"w.zip", "cache"}


def test_the_unchanged_file_is_read() -> None:
    back = weights_file.read(file_of())
    assert back.content == GOOD.content
    assert back.about == GOOD.about
    assert len(FILES) > 40


@pytest.mark.parametrize("path", [".", "none.zip", "/dev/zero"])
def test_a_path_that_is_no_file_is_refused_in_one_line(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(weights_file, "MAX_FILE_BYTES", 1 << 20)
    assert main(["plan", "quick", "--init-from", path]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert path in said


NAME = "parameter/heads.weight" if "parameter/heads.weight" in GOOD.arrays else sorted(GOOD.arrays)[0]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (without(NAME), "lack or add the parameter"),
        (
            with_array("parameter/more.weight", ZERO),
            "parameter more.weight of a small network",
        ),
        (with_array("buffer/mean", ZERO), "lack or add the buffer mean"),
        (with_array(NAME, ZERO), r"is torch.float32 \(11, 4\); a small network has"),
        (of_random("large").arrays, "of a small network"),
    ],
)
def test_arrays_of_another_network_are_refused(arrays: dict[str, np.ndarray], message: str) -> None:
    other = weights.validate(GOOD.about, arrays)
    with pytest.raises(ValueError, match=message):
        network_of_weights("small", spec_of(LOG, make_run().recipe), other)


def test_a_file_of_format_1_reads_without_later_fields() -> None:
    old = {name: value for name, value in ABOUT.items() if name not in weights_file.SINCE_2} | {"format": 1}
    back = weights_file.read(file_of(old))
    assert back.content == GOOD.content
    assert (back.about.options, back.about.embeddings, back.about.curve) == (None, "", "none")
    with pytest.raises(ValueError, match="lacks or adds"):
        weights_file.read(file_of(ABOUT | {"format": 1}))


def test_unicode_names_and_infinite_masks_are_kept() -> None:
    mask = np.triu(np.full((3, 3), -np.inf, np.float32), 1)
    arrays = with_array("parameter/long-view.größe", ZERO) | {"buffer/attention.mask": mask}
    left = weights.validate(GOOD.about, arrays)
    back = weights_file.read(weights_file.to_bytes(left))
    assert back.content == left.content
    np.testing.assert_array_equal(back.arrays["buffer/attention.mask"], mask)
    with pytest.raises(ValueError, match="not finite"):
        weights.validate(GOOD.about, with_array("parameter/long-view", mask))


def test_weights_that_are_too_large_are_refused_on_writing_and_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    huge = dataclasses.replace(GOOD.about, vocabulary=(11, 4, 10**8))
    arrays = with_array("table/2", np.broadcast_to(np.zeros((), np.float32), (10**8, 4)))
    with pytest.raises(ValueError, match=r"1,600,0\d\d,\d+ bytes.* 1,073,741,824"):
        weights.check_form(huge, arrays)
    names = tuple(f"{i:0400}" for i in range(3000))
    with pytest.raises(ValueError, match=r"names.* more than 1,048,576 bytes"):
        weights.check_form(dataclasses.replace(GOOD.about, number_names=names), GOOD.arrays)
    monkeypatch.setattr(weights_file, "MAX_FILE_BYTES", 1 << 20)
    (tmp_path / "w.zip").write_bytes(bytes(5 << 20))
    with pytest.raises(ValueError, match="more than 1,048,576 bytes"):
        warm_start.opened(tmp_path / "w.zip")


def test_ranges_of_days_are_merged_and_abbreviated() -> None:
    every_day = dataclasses.replace(GOOD.about, seen=((8, 13), (1, 6), (7, 7), (5, 9)))
    assert every_day.seen == ((1, 13),)
    assert every_day.days_seen() == "days 1 to 13"
    gaps = dataclasses.replace(GOOD.about, seen=tuple((day, day) for day in range(1, 20_000, 2)))
    assert gaps.days_seen() == "days 1 and 3 and 5 and 9,997 more ranges, up to 19999"
    assert gaps.saw(19_999, 20_001)
    assert not gaps.saw(20_000, 20_001)


def test_accumulators_are_kept_and_have_their_own_hash() -> None:
    both = weights.validate(GOOD.about, GOOD.arrays | OF_ADAGRAD)
    back = weights_file.read(weights_file.to_bytes(both))
    assert (back.content, back.accumulators) == (GOOD.content, both.accumulators)
    assert both.accumulators != ""
    assert GOOD.accumulators == ""
    assert sorted(back.network("accumulator")) == sorted(back.network("parameter"))
    np.testing.assert_array_equal(back.table_accumulators[1], OF_ADAGRAD["table_accumulator/1"])
    other = weights.validate(GOOD.about, accumulating(ZERO))
    assert other.content == both.content
    assert other.accumulators != both.accumulators

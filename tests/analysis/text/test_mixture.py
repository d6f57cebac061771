"""What a report says of runs that were trained by different code, or on different processors."""

import json
import platform

import pandas as pd
import pytest

from analysis.text.mixture import mixture_notes
from study.trainers import protocol

OLD, NEW = "a" * 64, "b" * 64


def runs(codes: list[dict[str, str] | None], devices: list[str] | None = None) -> pd.DataFrame:
    texts = [code and json.dumps(code) for code in codes]
    return pd.DataFrame({"own_code": texts, "device": devices or ["cpu"] * len(codes)})


def test_runs_of_several_codes_are_counted_by_module() -> None:
    mixed = runs([{"m": NEW, "x": OLD}, {"m": OLD}, {"m": NEW}, {"x": OLD}, None])
    assert mixture_notes(mixed) == [f"m changed between the runs: 2 runs by code {NEW[:12]}, 1 run by code {OLD[:12]}."]
    assert mixture_notes(runs([{"m": OLD}, None])) == []
    assert mixture_notes(mixed[["device"]]) == [], "a record of an older version"


def test_runs_of_several_processors_are_counted() -> None:
    devices = ["AMD EPYC 7B13", "x86_64", "Intel(R) Xeon(R) @ 2.80GHz", "AMD EPYC 7B13"]
    (note,) = mixture_notes(runs([None] * 4, devices))
    assert "2 runs on AMD EPYC 7B13, 1 run on Intel(R) Xeon(R) @ 2.80GHz." in note
    assert mixture_notes(runs([None] * 2, devices[:2])) == [], "older records do not name their processor"


@pytest.mark.parametrize(
    ("cpuinfo", "name"),
    [
        ("processor\t: 0\nmodel\t\t: 49\nmodel name\t: AMD EPYC  7B12 \n\nmodel name\t: other\n", "AMD EPYC 7B12"),
        ("processor\t: 0\nBogoMIPS\t: 50.00\n", "Neoverse"),
        (None, "Neoverse"),
    ],
)
def test_a_processor_has_the_name_of_its_type(cpuinfo: str | None, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(path: object) -> str:
        if cpuinfo is None:
            raise FileNotFoundError
        return cpuinfo

    monkeypatch.setattr("pathlib.Path.read_text", read)
    monkeypatch.setattr(platform, "processor", lambda: "Neoverse")
    assert protocol.processor_name() == name
    monkeypatch.setattr(platform, "processor", lambda: "")
    assert protocol.processor_name() == (name if "AMD" in name else platform.machine())

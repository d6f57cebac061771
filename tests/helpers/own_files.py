"""What the tests of several folders share: files of a user's own, written by a test and imported by a dotted name."""

import itertools
import sys
from pathlib import Path

import pytest

NUMBERS = itertools.count()

NETWORK = """
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from torch.nn.utils.parametrizations import spectral_norm, weight_norm
from models import ranker


class Network(nn.Module):
    def __init__(self, spec):
        super().__init__()
        self.spec, tasks = spec, len(spec.head_bias)
        self.a, self.b = nn.Linear(spec.width, 16), nn.Linear(16, tasks)
        {init}

    def forward(self, x):
        {forward}


def build(spec):
    network = Network(spec)
    {build}
    return network
"""
"""A model of two layers, with a place for more."""


def write(folder: Path, text: str) -> str:
    """Return the dotted name of a new module with this text."""
    package = f"own{next(NUMBERS)}"
    (folder / package).mkdir()
    (folder / package / "mine.py").write_text(text)
    return f"{package}.mine"


def network(init: str = "pass", forward: str = "return self.b(self.a(x).relu())", build: str = "pass") -> str:
    """Return the text of a model; lines are separated by semicolons, or by line breaks for blocks."""

    def lines(text: str, indent: int) -> str:
        return ("\n" + " " * indent).join(text.replace("; ", "\n").splitlines())

    return NETWORK.format(init=lines(init, 8), forward=lines(forward, 8), build=lines(build, 4))


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose modules can be imported."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    return tmp_path

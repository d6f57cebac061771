"""No step, no judging and no checkpoint waits for a device: every method on every network, on one without numbers."""

import itertools

import pytest
import torch
from device_settings import AXES, Setting, all_pairs, every
from fake_device import DEVICE, arrays_like, computing_nothing, four_runs, trained, try_on_cpu
from stacks import LOG
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

from study.training import evaluation


def test_any_two_values_meet() -> None:
    for (i, one), (j, other) in itertools.combinations(enumerate(AXES), 2):
        assert {(row[i], row[j]) for row in all_pairs()} == set(itertools.product(one, other))


@pytest.mark.parametrize(
    "setting",
    [pytest.param(row, id="-".join(row), marks=[] if row in all_pairs() else pytest.mark.slow) for row in every()],
)
def test_no_method_on_any_network_waits(setting: Setting) -> None:
    runs = four_runs(*setting, options=setting.options)
    try_on_cpu(runs, LOG)
    with computing_nothing():
        training = trained(runs)
        found = [*evaluation.measured(training).values(), evaluation.finite(training), evaluation.moved(training)]
        training.load_state(arrays_like(training.state()))
    assert all(x.shape == (4,) and x.device == DEVICE for x in found)


def test_the_device_detects_waits() -> None:
    with computing_nothing():
        x = torch.ones(4, device=DEVICE)
        with pytest.raises(DataDependentOutputException):
            int(x.sum())
        with pytest.raises(DataDependentOutputException):
            bool(torch.allclose(x, x))
        with pytest.raises(DynamicOutputShapeException):
            x.nonzero()
        with pytest.raises(DynamicOutputShapeException):
            torch.unique_consecutive(x)
        with pytest.raises(RuntimeError, match="same device"):
            x + torch.ones(4)

"""The best constant predictor's loss: against scikit-learn's log loss and a direct search."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss

from study.loops.baseline import _on_device, constant_loss


@pytest.mark.parametrize("classes", [2, 3, 50])
def test_class_labels_have_the_entropy_of_their_frequencies(classes: int) -> None:
    labels = np.random.default_rng(classes).integers(classes, size=400)
    used, counts = np.unique(labels, return_counts=True)
    predicted = np.tile(counts / counts.sum(), (len(labels), 1))
    expected = log_loss(labels, predicted, labels=used)
    assert constant_loss(torch.tensor(labels)) == pytest.approx(expected)
    assert constant_loss(labels.reshape(20, 20).tolist()) == pytest.approx(expected), "the shape does not matter"
    assert float(_on_device(torch.tensor(labels))) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
def test_binary_labels_have_the_entropy_of_their_base_rate(dtype: torch.dtype) -> None:
    labels = torch.tensor([0, 0, 0, 1]).to(dtype)
    expected = log_loss([0, 0, 0, 1], [0.25] * 4)
    assert constant_loss(labels) == pytest.approx(expected)
    assert float(_on_device(labels)) == pytest.approx(expected)


def test_numbers_have_their_variance() -> None:
    targets = torch.tensor([0.0, 1.0, 5.0, -3.0])
    best = min(float(((targets - c) ** 2).mean()) for c in np.linspace(-3, 5, 8001))
    assert constant_loss(targets) == pytest.approx(best)
    assert float(_on_device(targets)) == pytest.approx(best)


def test_ignored_labels_do_not_count() -> None:
    labels = torch.tensor([0, 1, -100, -100, -100])
    assert constant_loss(labels) == pytest.approx(math.log(2))
    assert float(_on_device(labels)) == pytest.approx(math.log(2))


@pytest.mark.parametrize("targets", [[1, 1, 1], [True, True], [0.0, 0.0], [2.5, 2.5], torch.tensor([-100])])
def test_equal_targets_cost_nothing(targets: object) -> None:
    assert constant_loss(targets) == 0

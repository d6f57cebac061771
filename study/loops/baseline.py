"""The loss of the best constant predictor on a batch, from its targets.

    class labels or tokens (integers)    entropy of their frequencies, in nats
    0/1 labels (booleans, or floats)     entropy of their base rate, in nats
    other numbers                        their variance: the squared error of the mean

It is what a model without skill reaches on this very batch, so the difference from the model's loss holds little of the
batch's noise. A small batch of many classes has a lower entropy than its source, by about (classes - 1) / (2 labels).
"""

from typing import Any

import numpy as np

IGNORED = -100
"""Class label that torch's cross entropy ignores by default."""


def constant_loss(targets: Any) -> Any:
    """Return the loss of the best constant predictor.

    Args:
        targets: a tensor, an array or a list; of integers, booleans or floats.

    Returns:
        A float. For a tensor on another device than the CPU, a tensor there: nothing waits for the device.
    """
    if hasattr(targets, "detach") and targets.device.type != "cpu":
        return _on_device(targets.detach().reshape(-1))
    values = np.asarray(targets.detach().numpy() if hasattr(targets, "detach") else targets).reshape(-1)
    if values.dtype.kind in "iu":
        counts = np.unique(values[values != IGNORED], return_counts=True)[1]
        share = counts / max(counts.sum(), 1)
        return float(-(share * np.log(share)).sum()) + 0.0
    values = values.astype(np.float64)
    if not values.size:
        return 0.0
    if np.isin(values, (0.0, 1.0)).all():
        rate = float(values.mean())
        return 0.0 if rate in (0.0, 1.0) else float(-rate * np.log(rate) - (1 - rate) * np.log1p(-rate))
    return float(values.var())


def _on_device(values: Any) -> Any:
    """The same, by operations of fixed shapes: their results are not needed on the host."""
    import torch

    if not values.dtype.is_floating_point and values.dtype != torch.bool:
        ordered = values.sort().values
        count = torch.searchsorted(ordered, ordered, right=True) - torch.searchsorted(ordered, ordered)
        used = ordered != IGNORED
        total = used.sum().clamp(min=1)
        log_share = (count.to(torch.float32) / total).log()
        return -(torch.where(used, log_share, 0.0).sum() / total)
    values = values.to(torch.float32)
    rate = values.mean()
    entropy = -(torch.xlogy(rate, rate) + torch.xlogy(1 - rate, 1 - rate))
    return torch.where(((values == 0) | (values == 1)).all(), entropy, values.var(correction=0))

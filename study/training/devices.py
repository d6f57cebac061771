"""What a device asks of the code."""

import torch


def wants_few_operations(device: torch.device) -> bool:
    """Return whether a stack is computed as a whole, with few operations and no sizes that depend on numbers.

    On a GPU every operation costs its launch, and a size that is read back waits. On CPU, small operations stay in the
    cache.
    """
    return device.type != "cpu"


def takes_graphs(device: torch.device) -> bool:
    """Return whether the device can replay recorded operations: one launch in place of one for each."""
    return device.type == "cuda"

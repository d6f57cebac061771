"""The number of threads that torch uses, on which the bits of a run on CPU depend."""

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def one_thread_on_cpu(device: str) -> Iterator[None]:
    """Compute with one thread inside the block: more split sums over large tensors by the size of the stack."""
    threads = torch.get_num_threads()
    if device == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)

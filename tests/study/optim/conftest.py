"""Checks of sparse tensors."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def checked() -> Iterator[None]:
    with torch.sparse.check_sparse_tensor_invariants():
        yield

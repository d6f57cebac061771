"""One thread, and checks of sparse tensors."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.sparse.check_sparse_tensor_invariants():
        yield
    torch.set_num_threads(before)

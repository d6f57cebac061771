"""Studies of a module, with a home and cache of their own."""

import pytest
from studies import Studies


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Studies:
    return Studies(tmp_path_factory.mktemp("studies"))

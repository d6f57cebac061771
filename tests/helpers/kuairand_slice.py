"""What the tests of several folders share: kuairand slice."""

import pytest
from paths import KUAIRAND as SLICE

needs_slice = pytest.mark.skipif(not SLICE.is_dir(), reason=f"no slice of KuaiRand-Pure at {SLICE}")

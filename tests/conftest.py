"""What all tests share: a home folder of their own, one worker for all tests that start Ray, and an S3 server."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

hypothesis.settings.register_profile("tests", deadline=None)  # a time says nothing on a machine that is busy
hypothesis.settings.load_profile("tests")

HOME = tempfile.TemporaryDirectory(prefix="study-tests-", ignore_cleanup_errors=True)
# Before any library reads it: nothing of a test reaches the user's home, and nothing of it reaches a test.
os.environ |= {"HOME": HOME.name, "STUDY_CACHE": str(Path(HOME.name) / "cache")}
os.environ["RAY_AUTH_MODE"] = "token"  # ray reads it once: a test may import ray before one that starts it
# A worker of pytest-xdist has one core. More threads wait for each other, and took half of the CPU time of all tests.
os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

STARTS_PROCESSES = ("integration", "robustness", "study/tune", "benchmarks")
"""Tests in these folders start Ray or servers, and so do slow tests elsewhere. They run on one worker, in turn."""


@pytest.hookimpl(tryfirst=True)  # ahead of pytest-xdist, which reads the marker in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    root = Path(__file__).parent
    for item in items:
        where = item.path.relative_to(root).as_posix()
        slow = item.get_closest_marker("slow") and not where.startswith("analysis")
        if where.startswith(STARTS_PROCESSES) or slow:
            item.add_marker(pytest.mark.xdist_group("ray"))


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of an S3 server."""
    from stores import s3_server

    with s3_server() as address:
        yield address

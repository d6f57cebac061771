"""The environment of Ray is set before ray is imported, or the user is told."""

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
from local_ray import environment as variables

from study.tune import environment


def test_ray_imported_before_without_a_token_is_one_line_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setitem(sys.modules, "ray", types.SimpleNamespace(is_initialized=lambda: False))
    monkeypatch.delenv("RAY_AUTH_MODE")
    with pytest.raises(ValueError, match="ray was imported before study; set RAY_AUTH_MODE=token"):
        environment.prepare(None)
    assert environment.prepare("http://127.0.0.1:8265") == "http://127.0.0.1:8265"


def test_no_address_is_that_of_the_job_else_a_local_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"RAY_AUTH_MODE": "token"})
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    assert environment.prepare(None) == "local"
    os.environ["RAY_ADDRESS"] = "10.0.0.1:6379"
    assert environment.prepare(None) == "10.0.0.1:6379"


OWN = """
import ray
ray.init(address="local", num_cpus=3, include_dashboard=False, log_to_driver=False)
before = ray.get_runtime_context().get_node_id()
from study.tune import cluster
try:
    with cluster.connected("10.0.0.1:6379", workers=None, gpu_fraction=1.0):
        pass
except ValueError as error:
    print(error)
with cluster.connected(None, workers=None, gpu_fraction=1.0) as found:
    print(found.workers)
print(ray.get_runtime_context().get_node_id() == before)
"""


def test_a_connection_of_the_users_own_is_used_and_stays(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", OWN], env=variables(tmp_path), capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    refused, *rest = done.stdout.splitlines()
    assert refused.startswith("this process is connected to Ray at ")
    assert refused.endswith("; leave out --address, or call ray.shutdown() first")
    assert rest == ["3", "True"]

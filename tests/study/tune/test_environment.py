"""The environment of Ray is set before ray is imported, or the user is told."""

import os
import sys

import pytest

from study.tune import environment


def test_ray_imported_before_without_a_token_is_one_line_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setitem(sys.modules, "ray", sys)
    monkeypatch.delenv("RAY_AUTH_MODE")
    with pytest.raises(ValueError, match="ray was imported before study; set RAY_AUTH_MODE=token"):
        environment.prepare(None)
    assert environment.prepare("http://127.0.0.1:8265") == "http://127.0.0.1:8265"


def test_no_address_is_that_of_the_job_else_a_local_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"RAY_AUTH_MODE": "token"})
    assert environment.prepare(None) == "local"
    os.environ["RAY_ADDRESS"] = "10.0.0.1:6379"
    assert environment.prepare(None) == "10.0.0.1:6379"

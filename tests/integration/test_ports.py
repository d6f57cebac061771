"""Which ports of a Ray cluster in token mode answer a client without the token."""

import contextlib
import http.client
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray  # noqa: F401 - brings psutil

import psutil  # isort: skip
from faults import Nodes, Room
from processes import tree, wait_until
from ray_ports import METHODS, REFUSALS, grpc_answer

pytestmark = pytest.mark.long

PAGES = ("/", "/metrics", "/api/healthz", "/api/jobs/", "/get_runtime_envs_info", "/api/local_raylet_healthz")


def http_answer(address: str, page: str) -> int | None:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(f"http://{address}{page}", timeout=5) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, http.client.HTTPException):
        return None


def listening(root: int) -> Iterator[tuple[str, str]]:
    for pid in tree(root):
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            name = " ".join(process.cmdline())[:60] or process.name()
            for one in process.net_connections():
                if one.status == psutil.CONN_LISTEN:
                    ip = one.laddr.ip.removeprefix("::ffff:")
                    ip = {"0.0.0.0": "127.0.0.1", "::": "127.0.0.1"}.get(ip, ip)
                    yield name, f"{ip}:{one.laddr.port}"


OPEN_PAGES = {"/api/healthz", "/api/local_raylet_healthz"}
"""Health checks: they say only that a process lives."""


def test_no_service_of_a_cluster_answers_without_the_token(tmp_path: Path) -> None:
    room = Room(tmp_path)
    nodes = Nodes(room, count=1)
    grpcs: dict[tuple[str, str], dict[str, str]] = {}
    pages: dict[tuple[str, str], dict[str, int | None]] = {}
    try:
        assert nodes.head
        both = [nodes.head.pid, *(child.pid for child in nodes.nodes.values())]
        wait_until(lambda: all(any("Agent" in name for name, _ in listening(pid)) for pid in both), "both nodes are up")
        for where in sorted({found for pid in both for found in listening(pid)}):
            grpcs[where] = {method: grpc_answer(where[1], method) for method in METHODS}
            pages[where] = {page: http_answer(where[1], page) for page in PAGES}
    finally:
        nodes.close()
        room.end()
    answers = {(*where, method): said for where, of_port in grpcs.items() for method, said in of_port.items()}
    answered = {k: v for k, v in answers.items() if v not in REFUSALS}
    assert answered == {}
    refused = {method for (*_, method), said in answers.items() if said == "UNAUTHENTICATED"}
    elsewhere = {"RayletDriver/ClusterInfo", "ReporterService/GetTraceback", "LogService/ListLogs"}
    assert refused >= set(METHODS[:6]) | {f"ray.rpc.{method}" for method in elsewhere}
    for where, of_port in pages.items():
        given = {page for page, status in of_port.items() if status == 200}
        # A metrics server gives the same page for every path.
        assert given <= OPEN_PAGES or given == set(PAGES), where
        assert given == set(PAGES) or set(of_port.values()) <= {200, 401, 403, 404, None}, where
    assert sum(set(of_port.values()) == {200} for of_port in pages.values()) >= 1, "metrics are open"

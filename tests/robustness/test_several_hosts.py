"""A study over several hosts: a Ray cluster in token mode, MLflow on its own host, one shared folder.

Each host has its own network, processes, home and cache. Hosts join and are killed.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import hosts
import pandas as pd
import pytest
from hosts import Host
from paths import ROOT

from study.record import tables

WHY_NOT = hosts.why_not()
pytestmark = [pytest.mark.long, pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))]

CODE = ("study", "models", "search_spaces", "analysis")
SECONDS = 300  # far beyond what any of these takes
HEAD, TRACKING = "10.77.0.1", "10.77.0.9"
WORKERS = {"beta": "10.77.0.2", "gamma": "10.77.0.3"}
JOBS, CURVES = f"http://{HEAD}:8265", f"http://{TRACKING}:5000"

# A user's data source and model, which write the names of their hosts into the shared folder.
LOG = """
import os, socket, uuid
from pathlib import Path
from study import data

def load(cache):
    (Path({seen!r}) / f"load-{{socket.gethostname()}}-{{uuid.uuid4().hex}}").touch()
    if (Path.home() / "data-are-missing").exists():
        raise ValueError(f"no files in {{Path.home()}}")
    return data.load("synthetic", {{"rows": 30000, "users": 300, "items": 200, "days": 5}}, cache)
"""
MODEL = """
import socket
from pathlib import Path
import models.small

def build(spec):
    (Path({seen!r}) / f"train-{{socket.gethostname()}}").touch()
    return models.small.build(spec)
"""
STUDY = ["quick", "--data", "mine.log", "--seeds", "0-7", "--stack", "4"]
STUDY += [w for s in ("models=mine.model", "methods=none,clippy", "lr=0.1,0.4,1.6", "batch=128") for w in ("--set", s)]
CURVES_OF_STUDY, CELLS = 2, 6


class Site:
    """The hosts of a cluster and their shared folder. Each has its own file system at `own`, and none at `code`."""

    def __init__(self, root: Path) -> None:
        self.root, self.shared, self.own, self.code = root, root / "shared", root / "own", root / "code"
        self.seen = self.shared / "seen"
        for folder in (self.shared, self.own, self.seen, self.code / "mine"):
            folder.mkdir(parents=True)
        for package in CODE:
            shutil.copytree(ROOT / package, self.code / package, ignore=shutil.ignore_patterns("__pycache__"))
        (self.code / "mine" / "log.py").write_text(LOG.format(seen=str(self.seen)))
        (self.code / "mine" / "model.py").write_text(MODEL.format(seen=str(self.seen)))
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "STUDY_", "MLFLOW_", "XDG_"))}
        binaries = str(Path(sys.executable).parent)
        self.environment = kept | {
            "HOME": str(self.own),
            "PATH": os.pathsep.join([binaries, kept["PATH"]]),
            "PYTHONDONTWRITEBYTECODE": "1",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": "ab" * 32,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_raylet_start_wait_time_s": "120",  # a machine that is busy
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
        self.switch = Host("switch", None, None)
        self.hosts = {"switch": self.switch}

    def host(self, name: str, address: str, *, without: tuple[Path, ...] = ()) -> Host:
        """Add a host to the switch. without: folders that it does not have."""
        host = self.hosts[name] = Host(name, address, self.switch)
        host.run("mkdir -p /tmp/ray")
        for private in (Path("/tmp/ray"), self.own, *without):
            host.run(f"mount -t tmpfs tmpfs {private}")
        return host

    def start(self, host: str, *words: str | Path, cwd: Path | None = None) -> subprocess.Popen[str]:
        return self.hosts[host].start(*words, env=self.environment, cwd=cwd or self.own)

    def joins(self, name: str, address: str, cpus: int, *, without: tuple[Path, ...] = ()) -> subprocess.Popen[str]:
        """Start a host that joins the cluster."""
        self.host(name, address, without=(self.code, *without))
        where = (
            ["--address", f"{HEAD}:6379"] if address != HEAD else ["--head", "--port=6379", "--dashboard-host", HEAD]
        )
        rest = [f"--node-ip-address={address}", f"--num-cpus={cpus}", "--object-store-memory=100000000"]
        return self.start(name, "ray", "start", *where, *rest, "--disable-usage-stats")

    def submit(self, *words: str | Path, out: Path) -> subprocess.Popen[str]:
        """Run `study submit` on a machine outside the cluster."""
        where = ["--address", JOBS, "--working-dir", self.code, "--tracking-uri", CURVES, "--out", out]
        return self.start("tracking", sys.executable, "-m", "study", "submit", *STUDY, *where, *words, cwd=self.code)

    def seen_by(self, what: str) -> list[str]:
        """Return the hosts that converted data, or trained, once for each time."""
        return sorted(path.name.split("-")[1] for path in self.seen.glob(f"{what}-*"))

    def forget(self) -> None:
        for path in self.seen.iterdir():
            path.unlink()

    def close(self) -> None:
        for host in reversed(self.hosts.values()):
            host.kill()


def ended(child: subprocess.Popen[str], code: int = 0) -> str:
    """Wait for the end with this exit code; return the output."""
    try:
        printed, _ = child.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        printed, _ = child.communicate()
        raise AssertionError(f"has not ended: {printed}") from None
    assert child.returncode == code, printed
    return printed


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """A head that trains nothing, two nodes of two trials each, and an MLflow server."""
    root = Path(tempfile.mkdtemp(prefix="hosts-", dir="/tmp"))
    site = Site(root)
    try:
        site.host("tracking", TRACKING)
        place = [
            "--backend-store-uri",
            f"sqlite:///{site.own}/mlflow.db",
            "--artifacts-destination",
            site.own / "files",
        ]
        serve = ["mlflow", "server", "--host", TRACKING, "--workers", "1", *map(str, place)]
        site.start("tracking", "sh", "-c", 'exec "$@" >"$HOME/server.log" 2>&1', "sh", *serve)
        ended(site.joins("alpha", HEAD, cpus=0))
        for node in [site.joins(name, address, cpus=2) for name, address in WORKERS.items()]:
            ended(node)
        yield site
    finally:
        site.close()
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(scope="module")
def expected(site: Site) -> pd.DataFrame:
    """The table of the study, trained without a cluster."""
    folder = site.root / "here"
    folder.mkdir()
    environment = {k: v for k, v in site.environment.items() if not k.startswith("RAY_")} | {"HOME": str(folder)}
    words = [sys.executable, "-m", "study", "run", *STUDY, "--out", str(folder / "out")]
    done = subprocess.run(words, cwd=site.code, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return table(folder / "out")


def table(folder: Path) -> pd.DataFrame:
    return tables.read_runs(folder).drop(columns=["seconds", "device", "version"])


QUESTION = """
import json, sys, urllib.request
def ask(what, **fields):
    request = urllib.request.Request(sys.argv[1] + "/api/2.0/mlflow/" + what, json.dumps(fields).encode(),
                                     {"Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(request))
runs = [run for of in ask("experiments/search", max_results=9)["experiments"]
        for run in ask("runs/search", experiment_ids=[of["experiment_id"]], max_results=99).get("runs", [])]
print(json.dumps([{m["key"]: m["value"] for m in run["data"].get("metrics", [])} for run in runs]))
"""


def test_a_submitted_study_trains_on_every_node_and_equals_one_of_a_single_machine(
    site: Site, expected: pd.DataFrame
) -> None:
    site.forget()
    printed = ended(site.submit(out=site.shared / "submitted"))
    pd.testing.assert_frame_equal(table(site.shared / "submitted"), expected)
    assert ", 4 at a time" in printed
    assert set(WORKERS) <= set(site.seen_by("train"))
    assert [host for host in site.seen_by("load") if host in WORKERS] == sorted(WORKERS), (
        "data are converted once a node"
    )
    assert not (site.shared / "submitted" / "nodes").exists()
    assert f"MLflow: {CURVES_OF_STUDY} curves, {CELLS} cells, {len(expected)} training runs in {CURVES}" in printed
    said = site.start("tracking", sys.executable, "-c", QUESTION, CURVES)
    curves = [run for run in json.loads(ended(said)) if "divergence/rate" in run]
    assert len(curves) >= CURVES_OF_STUDY


def test_nodes_that_leave_and_join_change_no_result(site: Site, expected: pd.DataFrame) -> None:
    site.forget()
    folder = site.shared / "plain"
    words = ["python", "-m", "study", "run", *STUDY, "--out", str(folder), "--tracking-uri", CURVES]
    job = site.start("tracking", "ray", "job", "submit", "--address", JOBS, "--working-dir", site.code, "--", *words)
    end = time.monotonic() + SECONDS
    while len(list((folder / "runs").glob("*.parquet"))) < 2:
        assert job.poll() is None, ended(job)
        assert time.monotonic() < end
        time.sleep(0.2)
    new = site.joins("epsilon", "10.77.0.5", cpus=2)
    stranger = site.joins("zeta", "10.77.0.6", cpus=1, without=(site.shared,))
    site.hosts["gamma"].kill()
    ended(new)
    ended(stranger)
    ended(job)
    pd.testing.assert_frame_equal(table(folder), expected)
    assert not (folder / "failures").exists()

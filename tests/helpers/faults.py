"""Kills studies at random moments, resumes them until they are done, and compares them with undisturbed ones.

    python tests/helpers/faults.py [--kills 100] [--seed 2]      (make faults)

It kills the driver (at once, or stopped first, so that a trial is recorded that it never hears of), one of Ray's
workers, the raylet, its agent, the GCS, the process that follows in MLflow, the MLflow server, and a whole node of a
cluster. The clock jumps by up to three days. One seed, which is printed, draws all that is random: the moments, the
victims, and the workers and runs a stack of each life of the driver.
"""

import argparse
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from paths import ROOT
from processes import SECONDS, command, kill_tree, send, tree, wait_until
from studies import FIXED, losses, recorded, shown, table

from study.record.failures import read_failures

RAYS_LAST_WORDS = ("has been marked dead", "Worker will terminate", "Timeout (0:03:")
"""Of native code that ends the driver in place of our line (docs/operations.md)."""

DRIVER_SECONDS = 75.0
"""A driver whose Ray is dead must end within this time: Ray waits a minute for a cluster's head."""

TINY = [
    *FIXED,
    *("--data", "synthetic", "--set", "data.rows=12000", "--set", "batch=64", "--set", "window=500"),
    *("--set", "models=small", "--set", "steps=80", "--set", "warmup=5"),
]
SIX_CELLS = ["quick", *TINY, "--set", "methods=none,clippy", "--set", "lr=0.05,0.4,3.2"]
GRID = [*SIX_CELLS, "--seeds", "0-5"]
EDGES = ["edges", *TINY, "--set", "methods=none,layer_clip", "--set", "lr=0.1,0.4,1.6,6.4"]
EDGES += ["--precision", "1.3", "--budget", "30"]
QUALITY = ["best_quality", *TINY, "--set", "methods=none,clippy", "--set", "search.budget=24"]
QUALITY += ["--set", "search.batch=4", "--set", "search.judged=4", "--seeds", "0-1"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# What a study runs on ------------------------------------------------------------------------------------------------


class Room:
    """A home, a cache and a folder for Ray, with the processes that were started in them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "STUDY_", "MLFLOW_"))}
        # A path to a socket may have 107 letters.
        self.short = tempfile.TemporaryDirectory(prefix="faults-", ignore_cleanup_errors=True)
        self.environment = kept | {
            "HOME": str(folder),
            "STUDY_CACHE": str(folder / "cache"),
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder / "clock")]),
            "FAULTS_CLOCK": str(folder / "clock" / "seconds"),
            "RAY_TMPDIR": self.short.name,
            "RAY_USAGE_STATS_ENABLED": "0",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
        self.children: list[subprocess.Popen[bytes]] = []
        self.seen: set[int] = set()
        (folder / "clock").mkdir()
        (folder / "clock" / "sitecustomize.py").write_text(CLOCK)

    def set_clock(self, seconds: float) -> None:
        """Set every Python clock of the room off by so many seconds."""
        beside = self.folder / "clock" / "beside"
        beside.write_text(str(seconds))
        beside.replace(self.folder / "clock" / "seconds")

    def popen(
        self, words: Sequence[str | Path], log: Path, settings: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            child = subprocess.Popen(
                list(map(str, words)),
                cwd=self.folder,
                env=self.environment | dict(settings or {}),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.children.append(child)
        return child

    def note(self, pids: set[int]) -> None:
        """Remember processes to be ended, even if they outlive their parents."""
        self.seen |= pids

    def end(self) -> None:
        for child in self.children:
            if child.poll() is None:
                self.note(tree(child.pid))
                kill_tree(child.pid)
                child.wait(timeout=30)
        ours = [pid for pid in self.seen if self.short.name in command(pid) or str(self.folder) in command(pid)]
        orphans = [pid for pid in self.seen if command(pid).startswith("ray::") and Path(f"/proc/{pid}").exists()]
        for pid in {*ours, *orphans}:
            kill_tree(pid)
        self.short.cleanup()


class Local:
    """A local Ray, which each driver starts for itself."""

    words: tuple[str, ...] = ()
    heads: frozenset[int] = frozenset()
    """GCS processes at the last kill."""

    def victims(self, driver: int, kind: str) -> list[int]:
        return [pid for pid in tree(driver) if is_kind(kind, command(pid))]

    def strike(self, kind: str, rng: random.Random, driver: int) -> bool:
        self.heads = frozenset(self.victims(driver, "gcs"))
        pids = sorted(self.victims(driver, kind))
        if pids:
            send(rng.choice(pids), signal.SIGKILL)
        return bool(pids)

    def is_another(self, driver: int) -> bool:
        """Return whether the driver has started another Ray since the last kill."""
        return bool(frozenset(self.victims(driver, "gcs")) - self.heads)

    def mend(self) -> None:
        pass


def is_kind(kind: str, line: str) -> bool:
    first = line.split(" ")[0]
    return {
        "worker": line.startswith(("ray::ImplicitFunc", "ray::IDLE", "ray::_", "ray::Coordinator")),
        "agent": line.startswith(("ray::DashboardAgent", "ray::RuntimeEnvAgent")),
        "raylet": first.endswith("/raylet"),
        "gcs": first.endswith("/gcs_server"),
        "follower": "mirror_on_request" in line,
    }[kind]


NODE = {
    "RAY_AUTH_MODE": "token",  # in our home
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}
"""The cluster sees within three seconds that a node is gone, not fifteen."""


class Nodes:
    """A Ray cluster on loopback: a head without CPUs, and nodes of one CPU each, at an address of their own."""

    def __init__(self, room: Room, count: int = 2) -> None:
        self.room, self.port = room, free_port()
        self.words = ("--address", f"127.0.0.1:{self.port}")
        self.head: subprocess.Popen[bytes] | None = None
        self.nodes: dict[int, subprocess.Popen[bytes]] = {}
        self.count = count
        token = room.folder / ".ray" / "auth_token"
        token.parent.mkdir(exist_ok=True)
        token.write_text(uuid.uuid4().hex)
        token.chmod(0o600)
        self.mend()

    def mend(self) -> None:
        """Start again what has died, at new addresses."""
        if self.head and self.head.poll() is not None:
            self.close()
        if not self.head:
            ports = ["--port", str(self.port), "--num-cpus", "0", "--include-dashboard", "false"]
            self.head = self._start("head", 1, ["--head", *ports])
            wait_until(self._answers, "the head answers")
        for number in [n for n, child in self.nodes.items() if child.poll() is not None]:
            del self.nodes[number]
        while len(self.nodes) < self.count:
            number = max(self.nodes, default=1) + 1
            self.nodes[number] = self._start("node", number, ["--address", f"127.0.0.1:{self.port}", "--num-cpus", "1"])

    def _start(self, name: str, number: int, words: list[str]) -> subprocess.Popen[bytes]:
        ports = ["--min-worker-port", "0", "--max-worker-port", "0", "--dashboard-agent-listen-port", "0"]
        ports += ["--node-ip-address", f"127.0.0.{number}", "--disable-usage-stats", "--block"]
        ray = [Path(sys.executable).parent / "ray", "start", *words, *ports]
        return self.room.popen(ray, self.room.folder / f"{name}.log", NODE)

    def _answers(self) -> bool:
        assert self.head
        assert self.head.poll() is None, (self.room.folder / "head.log").read_text()
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            return True
        return False

    def strike(self, kind: str, rng: random.Random, driver: int) -> bool:
        if kind == "gcs" and self.head:
            pids = [pid for pid in tree(self.head.pid) if is_kind("gcs", command(pid))]
        elif kind == "node":
            pids = [child.pid for child in self.nodes.values()]
        elif kind == "follower":
            pids = [pid for pid in tree(driver) if is_kind(kind, command(pid))]
        else:
            pids = [pid for child in self.nodes.values() for pid in tree(child.pid) if is_kind(kind, command(pid))]
        if not pids:
            return False
        self.note()
        pid = rng.choice(sorted(pids))
        kill_tree(pid) if kind == "node" else send(pid, signal.SIGKILL)
        if kind == "gcs" and self.head:
            self.head.wait(timeout=SECONDS)  # `ray start --block` sees it, and ends what is left of the head
        return True

    def note(self) -> None:
        for child in [self.head, *self.nodes.values()]:
            if child:
                self.room.note(tree(child.pid))

    def close(self) -> None:
        self.note()
        for child in [self.head, *self.nodes.values()]:
            if child:
                kill_tree(child.pid)
                child.wait(timeout=30)
        self.head = None
        self.nodes.clear()


class MlflowServer:
    """An MLflow server on loopback, with a database of its own."""

    def __init__(self, room: Room, name: str) -> None:
        self.room, self.port = room, free_port()
        self.database = room.folder / f"{name}.db"
        self.uri = f"http://127.0.0.1:{self.port}"
        self.child: subprocess.Popen[bytes] | None = None

    def start(self, *, wait: bool = True) -> None:
        words = [sys.executable, "-P", "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        words += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self.database}"]
        words += ["--artifacts-destination", str(self.room.folder / "artifacts")]
        self.child = self.room.popen(words, self.room.folder / "mlflow-server.log")
        if wait:
            wait_until(self.answers, "the MLflow server answers")

    def answers(self) -> bool:
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with contextlib.suppress(urllib.error.URLError, OSError), direct.open(f"{self.uri}/health", timeout=2) as page:
            return page.status == 200
        return False

    def kill(self) -> None:
        if self.child:
            self.room.note(tree(self.child.pid))
            kill_tree(self.child.pid)
            self.child.wait(timeout=30)
            self.child = None


# Kills ---------------------------------------------------------------------------------------------------------------

# The follower writes every other second, not minute, so that kills interrupt its writing.
STUDY = (
    "import sys; from study.tracking import follower; follower.Follower.__init__.__defaults__ = (2.0, follower.AUTO); "
    "from study.cli import main; sys.exit(main.main())"
)

CLOCK = """
import os, time
_read, _path = time.time, os.environ.get("FAULTS_CLOCK")

def _time():
    try:
        with open(_path) as file:
            return _read() + float(file.read() or 0)
    except OSError:
        return _read()

if _path:
    time.time = _time
"""
"""A `sitecustomize`: a file says by how much the clock of each Python process is off, workers included."""

ENDS_THE_DRIVER = {"driver", "raylet", "agent", "gcs"}
MOST_RUNS_A_TRIAL = 3
WORKERS_OF_A_LIFE = 2
"""Limit of kills of workers and nodes per driver, since a stack that dies three times is given up."""


@dataclass(kw_only=True)
class Torment:
    """A study that is killed again and again; `kinds` says what is killed, in order."""

    room: Room
    words: Sequence[str]
    folder: Path
    kinds: Sequence[str]
    rng: random.Random
    runs: int
    ray: Local | Nodes = field(default_factory=Local)
    server: MlflowServer | None = None
    killed: Counter[str] = field(default_factory=Counter)
    lives: int = 0

    def until_done(self) -> None:
        """Do all kills, then let the study end."""
        waiting = list(self.kinds)
        while True:
            child, log = self._live()
            struck, kind = 0, None
            while can := [k for k in waiting if struck < WORKERS_OF_A_LIFE or k not in ("worker", "node")]:
                kind = self._strike(child, log, can[0], len(waiting))
                if kind is None:
                    break
                waiting.remove(kind)
                struck += kind in ("worker", "node")
                if kind == "driver" or (kind in ENDS_THE_DRIVER and not self._goes_on(child)):
                    break
            if self._ended(child, log, kind, alone=kind not in ENDS_THE_DRIVER):
                return

    def _live(self) -> tuple[subprocess.Popen[bytes], Path]:
        self.lives += 1
        self.ray.mend()
        command_line = ["resume", str(self.folder)]
        if not (self.folder / "study.json").exists():
            command_line = ["run", *self.words, "--out", str(self.folder)]
        workers, stack = self.rng.choice([2, 2, 3]), self.rng.choice([1, 1, 2, MOST_RUNS_A_TRIAL])
        command_line += ["--workers", str(workers), "--stack", str(stack), *self.ray.words]
        if self.server:
            command_line += ["--tracking-uri", self.server.uri]
        log = self.folder.with_name(f"{self.folder.name}-{self.lives}.log")
        return self.room.popen([sys.executable, "-c", STUDY, *command_line], log), log

    def _strike(self, child: subprocess.Popen[bytes], log: Path, kind: str, left: int) -> str | None:
        """Kill one of a kind at a random moment. Returns None if the study ends first. left: kills to come."""
        before = trials(self.folder)
        # On a machine with nothing else to do, all would be trained in a few such pauses.
        share = max(0, self.runs - len(recorded(self.folder))) // (2 * MOST_RUNS_A_TRIAL * left)
        files = self.rng.randint(0, min(3, share))
        pause = self.rng.uniform(0, 0.8) if files or trials(self.folder) else self.rng.uniform(0, 6)
        give_up = time.monotonic() + SECONDS
        while trials(self.folder) < before + files:
            if child.poll() is not None:
                return None
            assert time.monotonic() < give_up, f"training has stopped after {dict(self.killed)}"
            self.ray.mend()  # on a machine that is busy, a node may fail to start
            time.sleep(0.01)
        until = time.monotonic() + pause
        while time.monotonic() < until and child.poll() is None and trials(self.folder) <= before + files + share:
            time.sleep(0.01)
        if child.poll() is not None:
            return None
        self.room.note(tree(child.pid))
        unheard = kind == "driver" and self.rng.random() < 0.5
        if kind == "driver":
            if unheard:
                self._stop_until_recorded(child.pid)
            send(child.pid, signal.SIGKILL)
        elif kind == "clock":
            self.room.set_clock(self.rng.uniform(-1, 1) * 3 * 86_400)
        elif kind == "mlflow":
            assert self.server
            self.server.kill()
            self.server.start(wait=False)
        else:
            while not self._struck(kind, log, child.pid):
                if child.poll() is not None:
                    return None
                assert time.monotonic() < give_up, f"no {kind} to kill after {dict(self.killed)}"
                self.ray.mend()
                time.sleep(0.02)
        self.killed[kind] += 1
        how = " (stopped until a trial was recorded)" if unheard else ""
        print(
            f"  kill {sum(self.killed.values())}: {kind}{how}, {files} trials and {pause:.2f} s later, "
            f"in life {self.lives}, with {len(recorded(self.folder))} runs recorded",
            flush=True,
        )
        return kind

    def _struck(self, kind: str, log: Path, driver: int) -> bool:
        # While Ray starts, it waits for its first workers, for ever if one dies; the driver ends after minutes.
        if kind == "worker" and "record: " not in log.read_text():
            return False
        return self.ray.strike(kind, self.rng, driver)

    def _goes_on(self, child: subprocess.Popen[bytes]) -> bool:
        """Return whether the driver has started Ray once more, since the first one died as it started."""
        give_up = time.monotonic() + DRIVER_SECONDS
        while isinstance(self.ray, Local) and child.poll() is None and time.monotonic() < give_up:
            if self.ray.is_another(child.pid):
                return True
            time.sleep(0.05)
        return False

    def _stop_until_recorded(self, driver: int) -> None:
        """Stop the driver until a worker has recorded a trial of which the driver will never hear."""
        before, until = trials(self.folder), time.monotonic() + 3
        send(driver, signal.SIGSTOP)
        while trials(self.folder) == before and time.monotonic() < until:
            time.sleep(0.01)

    def _ended(self, child: subprocess.Popen[bytes], log: Path, kind: str | None, *, alone: bool) -> bool:
        """Wait for the driver's end; return whether the study is done."""
        give_up = time.monotonic() + (SECONDS if alone else DRIVER_SECONDS)
        while (status := child.poll()) is None:
            if alone:
                self.ray.mend()
            if time.monotonic() > give_up:
                self.room.note(tree(child.pid))
                kill_tree(child.pid)
                raise AssertionError(f"the driver hangs after {dict(self.killed)}:\n{log.read_text()[-3000:]}")
            time.sleep(0.05)
        if status == -signal.SIGKILL:
            return False
        if status == 0:
            return True
        give_up = time.monotonic() + 10
        while not (last := log.read_text().rstrip().rpartition("\n")[2]).startswith("study: "):
            if any(words in log.read_text() for words in RAYS_LAST_WORDS):
                last = "the driver was ended by Ray"
                break
            assert time.monotonic() < give_up, f"exit {status}:\n{log.read_text()[-5000:]}"
            time.sleep(0.05)
        print(f"  exit {status}: {last}", flush=True)
        return False


# What must be equal --------------------------------------------------------------------------------------------------


def trials(folder: Path) -> int:
    return len(list((folder / "runs").glob("*.parquet")))


def assert_same(folder: Path, whole: Path) -> None:
    """Fail if the record of a tormented study is not that of an undisturbed one."""
    ids = Counter(recorded(folder))
    lost = set(recorded(whole)) - set(ids)
    more = set(ids) - set(recorded(whole))
    assert not lost, f"{len(lost)} runs are lost"
    assert not more, f"{len(more)} runs are not the undisturbed study's"
    if twice := sum(times > 1 for times in ids.values()):
        # A worker of a cluster outlives its driver by seconds. The next driver may train the same.
        print(f"  {twice} runs stand in two files", flush=True)
    pd.testing.assert_frame_equal(table(folder), table(whole), check_exact=True)
    assert losses(folder) == losses(whole)
    assert not read_failures(folder)
    assert not (folder / "set_aside").exists()


def undisturbed(room: Room, words: Sequence[str], folder: Path) -> int:
    """Run a study without faults; return its number of runs."""
    log = folder.with_name(f"{folder.name}.log")
    child = room.popen([sys.executable, "-m", "study", "run", *words, "--out", folder, "--workers", "2"], log)
    try:
        assert child.wait(timeout=SECONDS) == 0, log.read_text()
    finally:
        kill_tree(child.pid)
    return len(recorded(folder))


# The studies ---------------------------------------------------------------------------------------------------------

STUDIES: dict[str, tuple[list[str], list[str]]] = {
    "grid": (GRID, ["driver", "driver", "worker", "worker", "raylet", "raylet", "gcs", "agent", "clock", "clock"]),
    "edges": (EDGES, ["driver", "driver", "driver", "worker", "worker", "follower", "mlflow", "mlflow", "raylet"]),
    "quality": (QUALITY, ["driver", "driver", "worker", "worker", "node", "node", "node", "gcs"]),
}
"""The studies and their kills. Grid and edges run on a local Ray, edges with an MLflow server, quality on two nodes."""


@contextlib.contextmanager
def _place(name: str, room: Room) -> Iterator[tuple[Local | Nodes, MlflowServer | None]]:
    server = MlflowServer(room, name) if name == "edges" else None
    nodes = Nodes(room) if name == "quality" else None
    try:
        if server:
            server.start()
        yield nodes or Local(), server
    finally:
        if server:
            server.kill()
        if nodes:
            nodes.close()


def torment(name: str, folder: Path, seed: int, whole: Path | None = None) -> Counter[str]:
    """Kill one study again and again, and compare it with the undisturbed one, at `whole` if it is there already.

    Returns how often each kind was killed.
    """
    words, kinds = STUDIES[name]
    rng = random.Random(f"{seed} {name}")
    folder.mkdir(parents=True)
    room = Room(folder)
    print(f"{name}: seed {seed}", flush=True)
    began = time.monotonic()
    try:
        if whole is None:
            whole = folder / "whole"
            undisturbed(room, words, whole)
        runs = len(recorded(whole))
        print(f"  undisturbed: {runs} runs, {time.monotonic() - began:.0f} s so far", flush=True)
        with _place(name, room) as (ray, server):
            one = Torment(
                room=room,
                words=words,
                folder=folder / "out",
                kinds=rng.sample(kinds, len(kinds)),
                rng=rng,
                runs=runs,
                ray=ray,
                server=server,
            )
            one.until_done()
        assert_same(folder / "out", whole)
        assert shown(server.database if server else folder / "out" / "mlflow.db") == shown(whole / "mlflow.db")
        said = ", ".join(f"{times} {kind}" for kind, times in sorted(one.killed.items()))
        print(f"  {sum(one.killed.values())} kills ({said}), {one.lives} lives: the same", flush=True)
        print(f"  {time.monotonic() - began:.0f} s", flush=True)
        return one.killed
    finally:
        room.end()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="go on until there were so many (default: 100)")
    parser.add_argument("--seed", type=int, default=2, help="of the first round; the next one has the next")
    parser.add_argument("--studies", default=",".join(STUDIES), help="which (default: all)")
    asked = parser.parse_args()
    total: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="faults-") as scratch:
        wholes: dict[str, Path] = {}
        seed = asked.seed
        while sum(total.values()) < asked.kills:
            for name in asked.studies.split(","):
                folder = Path(scratch) / f"{name}-{seed}"
                total += torment(name, folder, seed, wholes.get(name))
                wholes.setdefault(name, folder / "whole")
            seed += 1
    print(f"{sum(total.values())} kills, seeds {asked.seed} to {seed - 1}: {dict(total)}; all the same", flush=True)


if __name__ == "__main__":
    main()

"""Simulated hosts on this machine, as Linux namespaces on one switch that leads nowhere else. Needs root.

Each has its own network, processes, /tmp and /dev/shm, and ends with the process that holds it.
"""

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

BOUND = ("setpriv", "--pdeathsig", "KILL")
"""Prefix of a command that ends with the process that started it."""

NAMESPACES = ("--net", "--mount", "--pid", "--uts")


def why_not() -> str | None:
    """Return why simulated hosts are impossible here, or None."""
    if os.geteuid() != 0:
        return "simulated hosts need root"
    missing = [name for name in ("ip", "unshare", "nsenter", "setpriv", "mount") if not shutil.which(name)]
    if missing:
        return f"simulated hosts need {', '.join(missing)}"
    probe = "ip link add name s0 type bridge && ip link add v0 type veth peer name v1"
    done = subprocess.run(["unshare", *NAMESPACES[:2], "sh", "-c", probe], capture_output=True, text=True, check=False)
    return f"no network namespaces here ({done.stderr.strip()})" if done.returncode else None


class Host:
    """A host: a process that waits, whose namespaces others enter. It ends with this process."""

    def __init__(self, name: str, address: str | None, switch: "Host | None") -> None:
        self.name, self.address = name, address
        self.children: list[subprocess.Popen[str]] = []
        self.holder = subprocess.Popen(
            [*BOUND, "unshare", *NAMESPACES, "--fork", "--kill-child", "--mount-proc", "sleep", "infinity"],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.pid = self._first_process()
        self.run(f"hostname {name}; mount --make-rprivate /; ip link set lo up")
        self.run("mount -t tmpfs tmpfs /dev/shm && mkdir /dev/shm/etc")
        # A host resolves its own name; a look-up of any other fails at once.
        for file, text in {
            "hosts": f"127.0.0.1 localhost\n{address or '127.0.0.1'} {name}\n",
            "resolv.conf": "",
        }.items():
            own = f"/dev/shm/etc/{file}"
            self.run(f"printf %s {shlex.quote(text)} >{own} && mount --bind {own} $(readlink -f /etc/{file})")
        if switch is None:
            self.run("ip link add name switch type bridge && ip link set switch up")
            return
        switch.run(
            f"ip link add {name} type veth peer name eth0 netns {self.pid} && ip link set {name} master switch up",
            own_processes=False,
        )
        self.run(f"ip address add {address}/24 dev eth0 && ip link set eth0 up && ip route add default dev eth0")

    def _first_process(self) -> int:
        children = Path(f"/proc/{self.holder.pid}/task/{self.holder.pid}/children")
        for _ in range(200):
            if (found := children.read_text().split()) and Path(f"/proc/{found[0]}/comm").read_text() == "sleep\n":
                return int(found[0])
            time.sleep(0.05)
        raise AssertionError("unshare started nothing")

    def words(self, command: Sequence[str], *, own_processes: bool = True) -> list[str]:
        """Return the command line that runs the command on the host."""
        spaces = ["--net", "--mount", "--uts", *(["--pid"] if own_processes else [])]
        return ["nsenter", "--target", str(self.pid), *spaces, "--", *command]

    def run(self, shell: str, *, own_processes: bool = True) -> str:
        """Run a shell script on the host; return its output."""
        words = self.words(["sh", "-ec", shell], own_processes=own_processes)
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, f"{self.name}: {shell}\n{done.stdout}{done.stderr}"
        return done.stdout

    def start(self, *command: str | Path, env: Mapping[str, str], cwd: Path) -> subprocess.Popen[str]:
        """Start a command on the host; its output and errors go to one pipe."""
        there = ["sh", "-c", 'cd "$0" && exec "$@"', str(cwd)]  # a command enters a host at its root
        child = subprocess.Popen(
            self.words([*there, *map(str, command)]),
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.children.append(child)
        return child

    def kill(self) -> None:
        """Kill all of its processes at once, as a power failure does."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            self.holder.kill()
        self.holder.wait(timeout=30)
        for child in self.children:
            child.wait(timeout=30)
            assert child.stdout
            child.stdout.close()

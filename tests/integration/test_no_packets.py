"""A study sends no packets: it runs in a network namespace whose only way out counts them and leads nowhere."""

import os
import subprocess
import sys
from pathlib import Path

import hosts
import pytest
from paths import TESTS
from processes import SECONDS

WHY_NOT = hosts.why_not()
pytestmark = [pytest.mark.long, pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))]

NETWORK = """
ip link set lo up
ip link add out type veth peer name beyond
for end in out beyond; do # IPv6 announces itself
  [ ! -e /proc/sys/net/ipv6/conf/$end ] || echo 1 >/proc/sys/net/ipv6/conf/$end/disable_ipv6
done
ip link set beyond up
ip address add 10.77.1.1/24 dev out
ip link set out up
ip route add default dev out
ip neighbour add 10.77.1.2 lladdr 02:00:00:00:00:02 dev out
# Ray asks these two whether the machine is in a cloud, also with its reports off.
ip route add blackhole 169.254.169.254
mount --make-rprivate /
printf '127.0.0.1 localhost metadata.google.internal\n' >"$HOME/hosts"
mount --bind "$HOME/hosts" "$(readlink -f /etc/hosts)"
echo 'nameserver 10.77.1.2' >"$HOME/resolv.conf"
mount --bind "$HOME/resolv.conf" "$(readlink -f /etc/resolv.conf)"
code=0
"$@" || code=$?
awk '$1 == "out:" { print $11 }' /proc/net/dev >"$HOME/packets"
exit $code
"""
"""The name server lies beyond the way out, so a look-up counts too."""

TINY = ["quick", "--set", "models=small", "--set", "methods=none", "--set", "lr=0.1", "--seeds", "0"]
TINY += ["--set", "data.rows=2000", "--set", "batch=64", "--workers", "2"]


def packets_of(home: Path, *command: str) -> int:
    """Run the command to its end; return how many packets left."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "STUDY_", "MLFLOW_", "AWS_"))}
    done = subprocess.run(
        ["unshare", "--net", "--mount", "sh", "-e", "-c", NETWORK, "sh", *command],
        cwd=home,
        env=kept | {"HOME": str(home), "PYTHONPATH": str(TESTS.parent), "STUDY_CACHE": str(home / "cache")},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return int((home / "packets").read_text())


def test_packets_and_look_ups_are_counted(tmp_path: Path) -> None:
    ask = "import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('{}', 80))"
    assert packets_of(tmp_path, sys.executable, "-c", ask.format("10.77.1.2")) == 1
    name = "import contextlib, socket\nwith contextlib.suppress(OSError): socket.getaddrinfo('a.name.internal', 80)"
    assert packets_of(tmp_path, sys.executable, "-c", name) > 0
    assert packets_of(tmp_path, "true") == 0


def test_a_study_with_a_local_ray_sends_no_packet(tmp_path: Path) -> None:
    assert packets_of(tmp_path, sys.executable, "-m", "study", "run", *TINY, "--out", str(tmp_path / "out")) == 0
    assert (tmp_path / "out" / "report.html").is_file()

"""Runs a command and ends its whole process group once this program's standard input closes.

`python supervisor.py COMMAND ...` is started by a trial, which holds the other end of the pipe. When the trial dies, by
whatever signal, the system closes the pipe, and no process of the command stays behind.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading

GRACE_SECONDS = 5.0


def main(command: list[str]) -> int:
    """Run a command in a session of its own, and return its exit status, as a shell would."""
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)
        return 127
    threading.Thread(target=_end_with_the_pipe, args=(child,), daemon=True).start()
    status = child.wait()
    _kill(child.pid, signal.SIGKILL)  # what it left running
    return status if status >= 0 else 128 - status


def _end_with_the_pipe(child: "subprocess.Popen[bytes]") -> None:
    while os.read(0, 1024):
        pass
    _kill(child.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(GRACE_SECONDS)
    _kill(child.pid, signal.SIGKILL)


def _kill(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

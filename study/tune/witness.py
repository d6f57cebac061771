"""The last line of a study whose process is ended before it can say one: by `kill -9`, by the system for its memory, by
a library that aborts. A process beside it waits for its end, and then says what it was given."""

import contextlib
import subprocess
from collections.abc import Iterator

# Its input ends with the process that writes it, however that ends. An empty line takes back what was to be said.
SCRIPT = """
trap '' HUP INT QUIT TERM TTOU
last=
while IFS= read -r line; do last=$line; done
[ -z "$last" ] || printf '%s\\n' "$last" >&2
"""

_beside: subprocess.Popen[bytes] | None = None


@contextlib.contextmanager
def stands_by(last: str) -> Iterator[None]:
    """Inside, should this process end without leaving, `last` is said on its stderr once it has ended. One line."""
    global _beside
    assert _beside is None, "one last line a process"
    try:
        with contextlib.suppress(OSError):
            _beside = subprocess.Popen(
                ["/bin/sh", "-c", SCRIPT],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                cwd="/",
                process_group=0,  # what ends our whole group leaves it
            )
        says(last)
        yield
    finally:
        withdraw()
        if _beside:
            _beside.communicate()
        _beside = None


def says(last: str) -> None:
    """This is to be said in place of what was."""
    _give(" ".join(last.split()))


def withdraw() -> None:
    """Nothing is to be said: this process has said it."""
    _give("")


def _give(line: str) -> None:
    if _beside and _beside.stdin:
        with contextlib.suppress(OSError):
            _beside.stdin.write(f"{line}\n".encode())
            _beside.stdin.flush()

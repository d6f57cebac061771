"""Caches answers that need torch, such as a model's size, so that a second plan starts without torch.

    CACHE/answers.json    key -> answer; a key is the hash of the question, of the sources of `study` and `models`,
                          and of the versions of Python, torch and numpy

Answers about a user's own module are never cached, since such a module may depend on anything.
"""

import contextlib
import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from study import plugins
from study.config import canonical_json
from study.storage.atomic import write_atomic

FILE = "answers.json"
MOST = 1_000
"""Most answers that are kept; the oldest are dropped first."""

PACKAGES = ("study", "models")


def cached_call(cache: Path | None, question: Sequence[Any], find: Callable[[], Any], *, built_in: bool = True) -> Any:
    """Return the cached answer to a question, or else what `find` returns.

    Args:
        cache: a folder; None caches nothing, and so does a folder that cannot be read or written.
        question: JSON values that tell this answer from others.
        find: returns the answer as JSON values. Its exceptions are raised, and not cached.
        built_in: whether the answer depends on our own sources alone; if not, it is found each time.
    """
    if cache is None or not built_in:
        return find()
    key = hashlib.sha256(canonical_json([list(question), _depends_on()]).encode()).hexdigest()
    known = _read(cache / FILE)
    if key in known:
        return known[key]
    answer = find()
    newest = dict(list((_read(cache / FILE) | {key: answer}).items())[-MOST:])
    with contextlib.suppress(OSError):
        cache.mkdir(parents=True, exist_ok=True)
        write_atomic(cache / FILE, json.dumps(newest).encode(), sync=False)
    return answer


def is_built_in(package: str, name: str) -> bool:
    """Return whether a plugin is a file of our package, and no dotted name."""
    return name in plugins.names(package)


@functools.cache
def _depends_on() -> dict[str, str]:
    versions = {name: importlib.metadata.version(name) for name in ("torch", "numpy")}
    return versions | {"python": platform.python_version(), "machine": platform.machine(), "sources": _sources()}


def _sources() -> str:
    """SHA-256 of every Python file of our packages, wherever they are imported from."""
    content = hashlib.sha256()
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        assert spec is not None
        for folder in spec.submodule_search_locations or ():
            for path in sorted(Path(folder).rglob("*.py")):
                content.update(f"{package}/{path.relative_to(folder)}\0".encode())
                content.update(path.read_bytes() + b"\0")
    return content.hexdigest()


def _read(path: Path) -> dict[str, Any]:
    try:
        known = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return known if isinstance(known, dict) else {}

"""Answers that take torch to find, kept on disk beside the converted data: a plan that was made before needs no torch.

    CACHE/answers.json    key -> answer; a key is the hash of the question and of all that its answer rests on:
                          our sources of `study` and `models`, and the versions of Python, torch and numpy

What rests on a module of the user's own is found anew each time, since such a module may rest on anything.
"""

import contextlib
import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import platform
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from study import plugins
from study.config import canonical_json

FILE = "answers.json"
MOST = 1_000
"""Answers kept; the oldest are forgotten first."""

PACKAGES = ("study", "models")


def recalled(cache: Path | None, question: Sequence[Any], find: Callable[[], Any], *, ours: bool = True) -> Any:
    """The answer to a question: as it was found before, or else what `find` returns.

    question, answer: JSON-able. cache: a folder; None remembers nothing, and one that cannot be read or written is as
    good as none. ours: the answer rests on nothing but our own sources. Raises what `find` raises, which is not kept.
    """
    if cache is None or not ours:
        return find()
    key = hashlib.sha256(canonical_json([list(question), _rests_on()]).encode()).hexdigest()
    known = _read(cache / FILE)
    if key in known:
        return known[key]
    answer = find()
    newest = dict(list((_read(cache / FILE) | {key: answer}).items())[-MOST:])
    with contextlib.suppress(OSError):
        cache.mkdir(parents=True, exist_ok=True)
        beside = cache / f".answers.{uuid.uuid4().hex}"
        beside.write_text(json.dumps(newest))
        beside.replace(cache / FILE)
    return answer


def is_ours(package: str, name: str) -> bool:
    """Whether a plugin is a file of our package, and no dotted name of the user's."""
    return name in plugins.names(package)


@functools.cache
def _rests_on() -> dict[str, str]:
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
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}

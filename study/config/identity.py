"""The canonical JSON that the id of a run is the hash of."""

import dataclasses
import functools
import json
from typing import Any

RANKER = "ranker"
"""The built-in trainer."""


def canonical_json(value: Any) -> str:
    """Return the shortest JSON of a value, with sorted keys. Equal values give equal text."""
    return _CANONICAL.encode(value)


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def without_defaults(value: Any) -> dict[str, Any]:
    """Return the fields of a dataclass that differ from their defaults."""
    content = {}
    for name, default in _defaults(type(value)):
        item = getattr(value, name)
        if item is not default and item != default:
            content[name] = item
    return content


@functools.cache
def _defaults(kind: Any) -> tuple[tuple[str, Any], ...]:
    return tuple(
        (f.name, f.default if f.default_factory is dataclasses.MISSING else f.default_factory())
        for f in dataclasses.fields(kind)
    )


def as_one_number(value: Any) -> Any:
    """Return a value in which whole floats are integers: 1 and 1.0 are the same lr, but not the same JSON."""
    if isinstance(value, dict):
        return {key: as_one_number(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_one_number(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value

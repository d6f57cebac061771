"""Reads the small files beside the tables of a record: lock, lease, heartbeats, the id for MLflow.

Others may have damaged them, so each error names the file and says what is wrong with it.
"""

from typing import Any

from study.storage.errors import StorageError
from study.storage.stores import LocalStore, Store
from study.storage.untrusted_input import json_object


def read_text(store: Store, name: str) -> str:
    """Return a file's text; empty if there is no such file. Raises StorageError if it cannot be read."""
    try:
        return (store.get(name) or b"").decode()
    except ValueError as error:
        raise unreadable(store, name, error) from error


def read_object(store: Store, name: str) -> dict[str, Any]:
    """Return a file's JSON object; empty if it is empty or not there. Raises StorageError if it cannot be read."""
    text = read_text(store, name)
    try:
        return json_object(text) if text else {}
    except ValueError as error:
        raise unreadable(store, name, error) from error


def unreadable(store: Store, name: str, error: ValueError) -> StorageError:
    """Return the error that names the file which cannot be read."""
    why = getattr(error.__cause__, "strerror", None) or error
    return StorageError(f"{place(store)}/{name} cannot be read ({why})")


def place(store: Store) -> str:
    """Return the path or URL of a store."""
    return str(store.folder) if isinstance(store, LocalStore) else store.url

"""Errors of places that cannot be read, written or locked."""


class StorageError(ValueError):
    """A folder or an object store cannot be read or written. The message is one line for the user."""


class LockedError(StorageError):
    """Another driver holds the study, or has taken it over."""

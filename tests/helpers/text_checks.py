"""Checks of messages for users."""


def contains(text: str, *parts: str) -> None:
    """Assert that `text` contains each of `parts`."""
    missing = [part for part in parts if part not in text]
    assert not missing, f"{missing} not in: {text}"

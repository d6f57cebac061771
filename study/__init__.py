"""A study draws runs from search spaces, trains models, and records what became of each."""

__version__ = "0.1.0"

"""Sentences about curves, as a report says them first: each once, under the names of all models that share it."""

from collections.abc import Sequence
from typing import Any, TypeVar

Context = dict[str, Any]
"""The values of a template."""

Said = TypeVar("Said")
Answers = list[tuple[str, list[tuple[str, str]]]]
"""For each model: (curve, rest of its sentence) pairs."""


def once(of_models: list[tuple[str, Said]], models: Sequence[str]) -> list[tuple[str, Said]]:
    """Return what is said of each model, with what several have in common once: under all of their names.

    Args:
        of_models: Model, and what is said of it. A model may be there several times, or not at all.
        models: All that the page has.
    """
    said = list[tuple[list[str], Any]]()
    for model, words in of_models:
        alike = next((names for names, known in said if known == words), None)
        if alike is None:
            said.append(([model], words))
        else:
            alike.append(model)
    every = f"all {len(models)} models"
    return [(every if len(names) == len(models) > 1 else ", ".join(names), words) for names, words in said]


def split_answer(curve: str, line: str) -> tuple[str, str]:
    """Return the curve that a sentence starts with, and the rest of it."""
    return str(curve), line[len(str(curve)) :]

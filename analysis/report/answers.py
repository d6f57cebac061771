"""Sentences about curves, as a report says them first: each once, under the names of all models that share it."""

from collections.abc import Mapping, Sequence
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
    return [(_names(names, len(models)), words) for names, words in said]


def under_models(lines: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Return the lines of each model. A line of several stands once, behind the others, under all of their names."""
    models_of = dict[str, list[str]]()
    for model, own in lines.items():
        for line in own:
            models_of.setdefault(line, []).append(model)
    found = {model: list[str]() for model in lines}
    for line, models in models_of.items():
        found.setdefault(_names(models, len(lines)), []).append(line)
    return {names: own for names, own in found.items() if own}


def _names(models: Sequence[str], of: int) -> str:
    return f"all {of} models" if len(models) == of > 1 else ", ".join(models)


def split_answer(curve: str, line: str) -> tuple[str, str]:
    """Return the curve that a sentence starts with, and the rest of it."""
    return str(curve), line[len(str(curve)) :]

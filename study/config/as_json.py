"""Studies and runs as JSON values, and back."""

import dataclasses
import json
from typing import Any

from study.config.checks import need
from study.config.identity import RANKER, canonical_json
from study.config.recipe import Recipe
from study.config.rule import Rule
from study.config.runs import Arm, Run
from study.config.searches import SEARCHES, Search
from study.config.study import Study

NEWER: dict[str, Any] = {"search": None, "trainer": RANKER, "trainer_options": {}, "control_lrs": (), "compare": ()}
NEWER_OF_RECIPE = ("schedule", "final_factor", "decay_steps", "decay_factor", "embeddings_lr")
"""Fields that JSON leaves out at their default, so that older versions can read it, and plans keep their hash."""


def to_json(value: Any) -> dict[str, Any]:
    """Return a dataclass of this module as JSON values.

    Defaults are included, except those of fields that older versions do not know.
    """
    content = dataclasses.asdict(value)
    for name, default in NEWER.items():
        if name in content and content[name] == default:
            del content[name]
    if isinstance(value, Study):
        content["arms"] = [arm_to_json(arm) for arm in value.arms]
    recipe = content if isinstance(value, Recipe) else content.get("recipe", {})
    for name in NEWER_OF_RECIPE:
        if name in recipe and recipe[name] == getattr(Recipe, name):
            del recipe[name]
    if isinstance(value, Study) and value.search:
        content["search"] = {"kind": value.search.kind} | dataclasses.asdict(value.search)
    return json.loads(canonical_json(content))


def study_from_json(values: dict[str, Any]) -> Study:
    """Return a `Study` from its JSON values. Raises ValueError or TypeError for other values."""
    known = {f.name for f in dataclasses.fields(Study)}
    need(set(values) <= known, f"unknown fields in a study: {', '.join(sorted(set(values) - known))}")
    return Study(
        **values
        | {
            "models": tuple(values["models"]),
            "arms": tuple(_arm_from_json(arm) for arm in values["arms"]),
            "lrs": tuple(values["lrs"]),
            "seeds": tuple(values["seeds"]),
            "recipe": Recipe(**values["recipe"]),
            "rule": Rule(**values["rule"]),
            "search": _search_from_json(values.get("search")),
            "control_lrs": tuple(values.get("control_lrs", ())),
            "compare": tuple(values.get("compare", ())),
        }
    )


def arm_to_json(arm: Arm) -> dict[str, Any]:
    """Return an arm as JSON values, without `lrs` if it has none of its own."""
    return {"method": arm.method, "options": arm.options} | ({"lrs": list(arm.lrs)} if arm.lrs else {})


def _arm_from_json(values: dict[str, Any]) -> Arm:
    need(set(values) <= {"method", "options", "lrs"}, f"unknown fields in an arm: {', '.join(sorted(values))}")
    return Arm(method=values["method"], options=values.get("options"), lrs=values.get("lrs", ()))


def _search_from_json(values: dict[str, Any] | None) -> Search | None:
    if values is None:
        return None
    kind = values.get("kind")
    need(kind in SEARCHES, f"a search is one of {', '.join(SEARCHES)}; got {kind!r}")
    return SEARCHES[str(kind)](**{key: value for key, value in values.items() if key != "kind"})


def run_from_json(values: dict[str, Any]) -> Run:
    """Return a `Run` from its JSON values. Raises ValueError or TypeError for other values."""
    content: dict[str, Any] = values | {"recipe": Recipe(**values["recipe"])}
    return Run(**content)

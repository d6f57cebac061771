"""`--set key=value`: narrows or replaces an axis of a study, or sets an option of its recipe, rule or data."""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping
from typing import Any

from study import model_options, plugins
from study.config import Arm, QualitySearch, Recipe, Rule, Study

AXES = ("models", "methods", "lr", "seeds")


def apply(study: Study, settings: Iterable[str]) -> Study:
    """The study with every `key=value` applied, in order.

    models=small,large  methods=none,clippy  lr=0.1,0.2  seeds=0-7
    METHOD.PARAMETER=v1,v2  one arm for each value, e.g. clippy.rel=0.1,0.5 (two parameters: every combination)
    MODEL.OPTION=v1,v2  one model for each value, e.g. ranker.width=64,128 (two options: every combination)
    steps=300, batch=256 ...  the recipe;  rule.kept=0.5  the rule;  data.rows=50000  an option of the data source
    search.risk=0.01  of a study that searches. One for the best quality takes lr=0.1,10 and clippy.rel=0.1,1 as ranges

    Raises ValueError that lists the right keys.
    """
    parameters: dict[str, dict[str, list[Any]]] = {}
    sizes: dict[str, dict[str, list[Any]]] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        key, text = key.strip(), text.strip()
        if not equals or not key or not text:
            raise ValueError(f"--set takes key=value, got {setting!r}")
        head, dot, tail = key.rpartition(".")  # a method of the user's own has a dotted name
        if key in AXES:
            study = _with_axis(study, key, text)
        elif key in _recipe():
            recipe = dataclasses.replace(study.recipe, **{key: _field_value(Recipe, key, text)})
            study = dataclasses.replace(study, recipe=recipe)
        elif head == "rule" and dot:
            if tail not in _fields(Rule):
                raise ValueError(f"unknown key {key!r}; the rule has {', '.join(_fields(Rule))}")
            rule = dataclasses.replace(study.rule, **{tail: _field_value(Rule, tail, text)})
            study = dataclasses.replace(study, rule=rule)
        elif head == "search" and dot:
            study = _with_search(study, tail, text)
        elif head == "data" and dot:
            study = dataclasses.replace(study, data_options=study.data_options | {tail: _value(key, text)})
        elif dot and head in {arm.method for arm in study.arms} | set(plugins.names("study.methods")):
            parameters.setdefault(head, {})[tail] = [_value(key, v) for v in _split(text)]
        elif dot and head in _names_of_models(study) | set(plugins.names("models")):
            sizes.setdefault(head, {})[tail] = [model_options.number(key, v) for v in _split(text)]
        else:
            raise ValueError(f"unknown key {key!r}; there are {', '.join(_known())}")
    for method, values in parameters.items():
        if method not in {arm.method for arm in study.arms}:
            raise ValueError(f"{method}.{next(iter(values))} is set, but {method} is not among the study's methods")
        change = _with_ranges if isinstance(study.search, QualitySearch) else _with_parameters
        study = change(study, method, values)
    for model, values in sizes.items():
        if model not in _names_of_models(study):
            raise ValueError(f"{model}.{next(iter(values))} is set, but {model} is not among the study's models")
        study = _with_model_options(study, model, values)
    return study


def by_key(study: Study) -> dict[str, Any]:
    """What a study is, by the keys that change it here: models, methods (its arms), batch ..., rule.kept ..., data.rows
    ...; data, its source; search, whole."""
    return {
        "models": study.models,
        "methods": study.arms,
        "lr": study.lrs,
        "seeds": study.seeds,
        **{name: getattr(study.recipe, name) for name in _recipe()},
        **{f"rule.{name}": getattr(study.rule, name) for name in _fields(Rule)},
        "search": study.search,
        "data": study.data,
        **{f"data.{name}": value for name, value in study.data_options.items()},
    }


def key_of(setting: str) -> str:
    """The key of `by_key` that a setting changes."""
    key = setting.partition("=")[0].strip()
    head, dot, _ = key.rpartition(".")
    if head == "search":
        return head
    if head in plugins.names("models"):
        return "models"
    return "methods" if dot and head not in ("rule", "data") else key


def with_search(study: Study, wanted: Mapping[str, Any]) -> Study:
    """The study with options of its search replaced. Raises ValueError where it has no search with such an option."""
    if not wanted:
        return study
    if study.search is None:
        raise ValueError(f"--{next(iter(wanted))} is an option of a search, and {study.name} is a plan of fixed runs")
    known = _fields(type(study.search))
    for name in wanted:
        if name not in known:
            raise ValueError(f"{study.name} has no {name}: its search has {', '.join(known)}")
    return dataclasses.replace(study, search=dataclasses.replace(study.search, **wanted))


def seeds(text: str) -> tuple[int, ...]:
    """`0-7`, `3` or `0-3,8,10-11`."""
    found: list[int] = []
    for part in _split(text):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or (dash and int(last) < int(first)):
            raise ValueError(f"seeds are numbers and ranges such as 0-7 or 0-3,8; got {text!r}")
        if dash and int(last) - int(first) >= 10**6:
            raise ValueError(f"{text!r} asks for over a million seeds")
        found += range(int(first), int(last or first) + 1)
    return tuple(dict.fromkeys(found))


def _with_axis(study: Study, axis: str, text: str) -> Study:
    if axis == "models":
        return dataclasses.replace(study, models=tuple(_split(text)))
    if axis == "methods":
        arms = []
        for name in _split(text):
            arms += [arm for arm in study.arms if arm.method == name] or [Arm(method=name)]
        return dataclasses.replace(study, arms=tuple(arms))
    if axis == "lr":
        return dataclasses.replace(study, lrs=tuple(sorted(_number("lr", v) for v in _split(text))))
    return dataclasses.replace(study, seeds=seeds(text))


def _with_parameters(study: Study, method: str, values: dict[str, list[Any]]) -> Study:
    choices = [dict(zip(values, combination, strict=True)) for combination in itertools.product(*values.values())]
    arms = []
    for arm in study.arms:
        if arm.method == method:
            # Arms that differed only in what is set now are one.
            changed = [Arm(method=method, options=arm.options | choice) for choice in choices]
            arms += [new for new in changed if new not in arms]
        else:
            arms.append(arm)
    return dataclasses.replace(study, arms=tuple(arms))


def _names_of_models(study: Study) -> set[str]:
    return {model_options.parse(model)[0] for model in study.models}


def _with_model_options(study: Study, name: str, values: dict[str, list[Any]]) -> Study:
    """Replace each entry of a model by one for each combination of values."""
    combinations = [dict(zip(values, numbers, strict=True)) for numbers in itertools.product(*values.values())]
    models: list[str] = []
    for model in study.models:
        own = model_options.parse(model)[0] == name
        models += [model_options.with_options(model, c) for c in combinations] if own else [model]
    return dataclasses.replace(study, models=tuple(dict.fromkeys(models)))


def _with_ranges(study: Study, method: str, values: dict[str, list[Any]]) -> Study:
    """Each threshold's range: its ends, or the one value at which it is held."""
    search = study.search
    assert isinstance(search, QualitySearch)
    ranges = dict(search.ranges.get(method, {}))
    for name, ends in values.items():
        if len(ends) > 2 or not all(isinstance(end, int | float) for end in ends):
            raise ValueError(f"{method}.{name} is tuned: it takes a range, such as {method}.{name}=0.1,1")
        ranges[name] = (ends[0], ends[-1])
    return dataclasses.replace(study, search=dataclasses.replace(search, ranges={**search.ranges, method: ranges}))


def _with_search(study: Study, name: str, text: str) -> Study:
    if study.search is None:
        raise ValueError(f"search.{name} is set, but {study.name} searches for nothing")
    known = [field for field in _fields(type(study.search)) if field != "ranges"]
    if name not in known:
        raise ValueError(f"unknown key 'search.{name}'; the search has {', '.join(known)}")
    return with_search(study, {name: _field_value(type(study.search), name, text)})


def _known() -> list[str]:
    return [*AXES, *_recipe(), "METHOD.PARAMETER", "MODEL.OPTION", "rule.NAME", "search.NAME", "data.OPTION"]


def _recipe() -> list[str]:
    """What can be set of it by a word: weights come from a file, by --init-from."""
    return [name for name in _fields(Recipe) if name not in ("init_from", "init_accumulators")]


def _fields(kind: type) -> list[str]:
    return [f.name for f in dataclasses.fields(kind)]


def _field_value(kind: type, name: str, text: str) -> Any:
    declared = str({f.name: f.type for f in dataclasses.fields(kind)}[name])
    if "str" in declared:
        return text
    if "None" in declared and text == "None":
        return None
    number = _number(name, text)
    if "int" in declared:
        if number != int(number):
            raise ValueError(f"need a whole number, got {name}={text}")
        return int(number)
    return number


def _number(name: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise ValueError(f"need a number, got {name}={text}") from None
    if number != number or abs(number) == float("inf"):
        raise ValueError(f"need a finite number, got {name}={text}")
    return number


def _value(key: str, text: str) -> Any:
    """A value as people write it: a number, true or false, or a word."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            continue
        return _number(key, text) if kind is float else number
    return text


def _split(text: str) -> list[str]:
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise ValueError(f"an empty value in {text!r}")
    return parts

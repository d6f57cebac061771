"""`--set key=value`: replaces an axis of a study, or sets an option of its recipe, rule, search or data."""

import dataclasses
import difflib
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from study import plugins
from study.config import RANKER, Arm, QualitySearch, Recipe, Rule, Study, united_arms
from study.definition import model_options
from study.text.wording import quoted

AXES = ("models", "methods", "lr", "seeds", "control_lrs", "compare")


def apply(
    study: Study, settings: Iterable[str], option_values: Mapping[str, Sequence[Any]] = MappingProxyType({})
) -> Study:
    """Return the study with each `key=value` applied.

        models=small,large  methods=none,clippy  lr=0.1,0.2  seeds=0-7  control_lrs=0.01,0.02
        compare=agc               each other method is compared with agc
        METHOD.PARAMETER=v1,v2    one arm for each value (two parameters: every combination)
        METHOD.lrs=0.001,0.003    lrs of this method's arms alone
        MODEL.OPTION=v1,v2        one model for each value (two options: every combination)
        steps=300, schedule=cosine    the recipe (several values make a family: `study.definition.family.of_settings`)
        rule.kept=0.5  search.risk=0.01  data.rows=50000

    In a search for the best quality, lr=0.1,10 and clippy.rel=0.1,1 are ranges.

    Args:
        study: the study.
        settings: each is `key=value`.
        option_values: option of an arm -> its values in the study (`Trainer.option_values`). A new value must be of
            the kind of one of them. An option that is not in it takes any value.

    Raises:
        ValueError: a key is unknown (the message lists the keys), or a value is not valid.
    """
    of_recipe: dict[str, Any] = {}  # applied together, since some need each other
    parameters: dict[str, dict[str, list[Any]]] = {}
    sizes: dict[str, dict[str, list[Any]]] = {}
    grids: dict[str, list[float]] = {}
    compare, study = study.compare, dataclasses.replace(study, compare=())
    for setting in settings:
        key, equals, text = setting.partition("=")
        key, text = key.strip(), text.strip()
        if not equals or not key or not text:
            raise ValueError(f"--set takes key=value, got {setting!r}")
        head, dot, tail = key.rpartition(".")  # the name of a user's method has dots
        if key == "compare":
            compare = tuple(_split(text))
        elif key in AXES:
            study = _with_axis(study, key, text)
        elif key in recipe_keys():
            of_recipe[key] = _field(study.recipe, key, text)
        elif head == "rule":
            if tail not in _fields(Rule):
                raise ValueError(f"unknown key {key!r}; the rule has {', '.join(_fields(Rule))}")
            study = dataclasses.replace(study, rule=_with_field(study.rule, tail, text))
        elif head == "search":
            study = _with_search_field(study, tail, text)
        elif head == "data":
            options = study.data_options | {tail: model_options.parse_value(key, text)}
            study = dataclasses.replace(study, data_options=options)
        elif dot and head in _models(study) and study.trainer != RANKER:
            raise ValueError(
                f"{key} is set, but only models of rankers have options; those of a loop belong to its arms"
            )
        elif dot and head in _methods(study) | set(plugins.names("study.methods")):
            if tail == "lrs":
                grids[head] = [_number(key, v) for v in _split(text)]
                continue
            values = option_values.get(tail, ())
            parameters.setdefault(head, {})[tail] = [model_options.parse_like(key, v, values) for v in _split(text)]
        elif dot and head in _models(study) | set(plugins.names("models")):
            sizes.setdefault(head, {})[tail] = [model_options.number(key, v) for v in _split(text)]
        else:
            close = _close_key(study, head, tail) if dot else ""
            raise ValueError(f"unknown key {key!r}; there are {', '.join(_known_keys(study))}{close}")
    if of_recipe:
        study = dataclasses.replace(study, recipe=dataclasses.replace(study.recipe, **of_recipe))
    # Last, since the axes say which arms and models there are.
    for method, values in parameters.items():
        if method not in _methods(study):
            raise ValueError(f"{method}.{next(iter(values))} is set, but {method} is not among the study's methods")
        change = _with_ranges if isinstance(study.search, QualitySearch) else _with_parameters
        study = change(study, method, values)
    for method, lrs in grids.items():
        if method not in _methods(study):
            raise ValueError(f"{method}.lrs is set, but {method} is not among the study's methods")
        arms = [dataclasses.replace(arm, lrs=lrs) if arm.method == method else arm for arm in study.arms]
        study = dataclasses.replace(study, arms=tuple(arms))
    for model, values in sizes.items():
        if model not in _models(study):
            raise ValueError(f"{model}.{next(iter(values))} is set, but {model} is not among the study's models")
        study = _with_model_options(study, model, values)
    return dataclasses.replace(study, compare=compare)


def by_key(study: Study) -> dict[str, Any]:
    """Return the parts of a study by the key that changes them. `data` is the name of its source."""
    return {
        "models": study.models,
        "methods": study.arms,
        "lr": study.lrs,
        "seeds": study.seeds,
        "control_lrs": study.control_lrs,
        "compare": study.compare,
        **{name: getattr(study.recipe, name) for name in recipe_keys()},
        **{f"rule.{name}": getattr(study.rule, name) for name in _fields(Rule)},
        "search": study.search,
        "data": study.data,
        **{f"data.{name}": value for name, value in study.data_options.items()},
    }


def key_of(setting: str) -> str:
    """Return the key of `by_key` that a setting changes."""
    key = setting.partition("=")[0].strip()
    head, dot, _ = key.rpartition(".")
    if head == "search":
        return head
    if head in plugins.names("models"):
        return "models"
    return "methods" if dot and head not in ("rule", "data") else key


def varied_values(study: Study, setting: str) -> list[str]:
    """Return the values of a setting that gives several to a number or word of the recipe, or to a number of the data.

    One study has one of them: they make a family (`study.definition.family.of_settings`). Empty for other settings.
    """
    key, _, text = setting.partition("=")
    key = key.strip()
    of_data = key.removeprefix("data.")
    may_be_number = study.data == "synthetic" or of_data.startswith("only_")  # only_ids=9: the first nine
    is_number = may_be_number or isinstance(study.data_options.get(of_data), int | float)
    if "," not in text or not (key in recipe_keys() or (of_data != key and is_number)):
        return []
    values = _split(text)
    if of_data != key and any(isinstance(model_options.parse_value(key, value), str) for value in values):
        return []  # such as the names of columns
    return values


def with_search(study: Study, wanted: Mapping[str, Any]) -> Study:
    """Return the study with options of its search replaced. Raises ValueError if its search has no such option."""
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
    """Return the seeds of `0-7`, `3` or `0-3,8,10-11`. Raises ValueError for other text."""
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
        _known_only(study, axis, _split(text), set(study.models))
        return dataclasses.replace(study, models=tuple(_split(text)))
    if axis == "methods":
        _known_only(study, axis, _split(text), _methods(study) | set(plugins.names("study.methods")))
        arms = [[arm for arm in study.arms if arm.method == name] or [Arm(method=name)] for name in _split(text)]
        return dataclasses.replace(study, arms=tuple(itertools.chain(*arms)))
    if axis in ("lr", "control_lrs"):
        values = tuple(sorted(_number(axis, v) for v in _split(text)))
        return dataclasses.replace(study, **{"lrs" if axis == "lr" else axis: values})
    return dataclasses.replace(study, seeds=seeds(text))


def _known_only(study: Study, axis: str, names: Iterable[str], known: set[str]) -> None:
    """Raise ValueError for names that a loop does not have. A ranker's trainer checks its own."""
    if study.trainer == RANKER:
        return
    if unknown := [name for name in names if name not in known]:
        own = sorted(_methods(study)) if axis == "methods" else study.models
        raise ValueError(f"the study has no {axis} named {unknown[0]!r}; it has {quoted(own)}")


def _with_parameters(study: Study, method: str, values: dict[str, list[Any]]) -> Study:
    arms = []
    for arm in study.arms:
        choices = _combinations(values) if arm.method == method else [{}]
        arms += [(dataclasses.replace(arm, options=arm.options | one), study.lrs_of(arm)) for one in choices]
    # Arms that differed only in these parameters are one.
    return dataclasses.replace(study, arms=united_arms(arms, study.lrs))


def _with_model_options(study: Study, name: str, values: dict[str, list[Any]]) -> Study:
    models: list[str] = []
    for model in study.models:
        own = model_options.parse(model)[0] == name
        models += [model_options.with_options(model, choice) for choice in _combinations(values)] if own else [model]
    return dataclasses.replace(study, models=tuple(dict.fromkeys(models)))


def _with_ranges(study: Study, method: str, values: dict[str, list[Any]]) -> Study:
    """Set the range of each threshold, and the value of an option that is a word. One number fixes a threshold.

    A number of an option that is no threshold is told from a range by the trainer (`study.search.validation`).
    """
    search = study.search
    assert isinstance(search, QualitySearch)
    ranges, options = dict(search.ranges.get(method, {})), {}
    for name, ends in values.items():
        words = [isinstance(end, str | bool) for end in ends]
        if all(words) and name not in ranges:
            if len(ends) > 1:
                raise ValueError(f"{method}.{name} takes one value here: a search tunes thresholds alone")
            options[name] = ends
        elif len(ends) > 2 or any(words):
            raise ValueError(f"{method}.{name} is tuned: it takes a range, such as {method}.{name}=0.1,1")
        else:
            ranges[name] = (ends[0], ends[-1])
    changed = dataclasses.replace(search, ranges={**search.ranges, method: ranges} if ranges else search.ranges)
    return _with_parameters(dataclasses.replace(study, search=changed), method, options)


def _with_search_field(study: Study, name: str, text: str) -> Study:
    if study.search is None:
        raise ValueError(f"search.{name} is set, but {study.name} searches for nothing")
    known = [field for field in _fields(type(study.search)) if field != "ranges"]
    if name not in known:
        raise ValueError(f"unknown key 'search.{name}'; the search has {', '.join(known)}")
    return dataclasses.replace(study, search=_with_field(study.search, name, text))


def _combinations(values: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())]


def _methods(study: Study) -> set[str]:
    return {arm.method for arm in study.arms}


def _models(study: Study) -> set[str]:
    return {model_options.parse(model)[0] for model in study.models}


def _known_keys(study: Study) -> list[str]:
    if study.trainer != RANKER:
        arms = [f"{arm}.OPTION" for arm in sorted(_methods(study))] + ["METHOD.lrs"]
        return ["lr", "seeds", "control_lrs", "compare", "methods", *arms, "rule.NAME", "search.NAME"]
    return [
        *AXES,
        *recipe_keys(),
        "METHOD.PARAMETER",
        "METHOD.lrs",
        "MODEL.OPTION",
        "rule.NAME",
        "search.NAME",
        "data.OPTION",
    ]


def _close_key(study: Study, head: str, tail: str) -> str:
    """`. Did you mean my_models.mlp.width?` where a model or method has nearly the name before the dot."""
    own = sorted(_methods(study) | _models(study))
    if full := [name for name in own if name.endswith(f".{head}")]:
        return f". Did you mean {full[0]}.{tail}?"
    known = {*own, *plugins.names("study.methods"), *plugins.names("models"), "rule", "search", "data"}
    close = difflib.get_close_matches(head, sorted(known), n=1, cutoff=0.7)
    return f". Did you mean {close[0]}.{tail}?" if close else ""


def recipe_keys() -> list[str]:
    """All fields of the recipe but the weights, which --init-from sets."""
    return [name for name in _fields(Recipe) if name not in ("init_from", "init_accumulators")]


def _fields(kind: type) -> list[str]:
    return [f.name for f in dataclasses.fields(kind)]


def _with_field(value: Any, name: str, text: str) -> Any:
    """Return a dataclass with a field set from text."""
    return dataclasses.replace(value, **{name: _field(value, name, text)})


def _field(value: Any, name: str, text: str) -> Any:
    """Return what a field of a dataclass is set to by text, by the field's type."""
    kind = str({f.name: f.type for f in dataclasses.fields(value)}[name])
    return _typed(kind, name, text)


def _typed(kind: str, name: str, text: str) -> Any:
    if "str" in kind:
        return text
    if "None" in kind and text == "None":
        return None
    number = _number(name, text)
    if "int" not in kind:
        return number
    if number != int(number):
        raise ValueError(f"need a whole number, got {name}={text}")
    return int(number)


def _number(name: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise ValueError(f"need a number, got {name}={text}") from None
    if not math.isfinite(number):
        raise ValueError(f"need a finite number, got {name}={text}")
    return number


def _split(text: str) -> list[str]:
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise ValueError(f"an empty value in {text!r}")
    return parts

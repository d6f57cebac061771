"""A study and its arms in a few words, as `repr` and notebooks show them."""

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from study.config.identity import RANKER, without_defaults
from study.text.wording import count

if TYPE_CHECKING:
    from study.config.runs import Arm
    from study.config.study import Study

MOST = 8
"""Names that are listed."""


def code_html(value: Any) -> str:
    """Return the `repr` of a value as a notebook shows code: the `_repr_html_` of what has no table of its own."""
    return f"<code>{escape(repr(value))}</code>"


def arm_text(arm: "Arm") -> str:
    """Return `Arm('clippy', rel=0.5)`."""
    named = all(name.isidentifier() and name not in ("method", "options", "lrs") for name in arm.options)
    options = [f"{name}={value!r}" for name, value in arm.options.items()] if named else [repr(arm.options)]
    return f"Arm({', '.join([repr(arm.method), *options, *([f'lrs={arm.lrs}'] if arm.lrs else [])])})"


def study_text(study: "Study") -> str:
    """Return `<Study edges: small; 2 arms: none, clippy; 8 lrs from 0.02 to 3.2; 1 seed: 0; 16 runs on kuairand>`."""
    axes = "; ".join(text for name, text in study_rows(study).items() if name in ("models", "arms", "lrs", "seeds"))
    return f"<Study {study.name}: {axes}; {_size(study)}>"


def study_html(study: "Study") -> str:
    """Return a table of what the study is, without what is at its default."""
    rows = study_rows(study) | {"size": _size(study)}
    lines = (f"<tr><th>{escape(name)}</th><td>{escape(text)}</td></tr>" for name, text in rows.items())
    return f"<p>Study {escape(study.name)}</p><table>{''.join(lines)}</table>"


def study_rows(study: "Study") -> dict[str, str]:
    """Return what a study is, by part."""
    lrs = sorted({lr for arm in study.arms for lr in study.lrs_of(arm)})
    rows = {
        "models": _listed(study.models),
        "arms": f"{count(len(study.arms), 'arm')}: {_listed([arm_label(arm) for arm in study.arms])}",
        "lrs": f"{count(len(lrs), 'lr')}{_ends([f'{lr:g}' for lr in lrs])}",
        "seeds": f"{count(len(study.seeds), 'seed')}{_ends([str(seed) for seed in sorted(study.seeds)])}",
        "data": " ".join([study.data, *_options(study.data_options)]) if _is_ranker(study) else "",
        "recipe": ", ".join(_options(without_defaults(study.recipe))),
        "rule": ", ".join(_options(without_defaults(study.rule))),
        "search": "" if study.search is None else repr(study.search),
        "trainer": "" if _is_ranker(study) else " ".join([study.trainer, *_options(study.trainer_options)]),
        "compared with": ", ".join(study.compare),
    }
    return {name: text for name, text in rows.items() if text}


def _size(study: "Study") -> str:
    on = f"on {study.data}" if _is_ranker(study) else f"of the trainer {study.trainer}"
    if study.search is not None:
        return f"{type(study.search).__name__} {on}"
    return f"{count(study.cells * len(study.seeds), 'run')} {on}"


def arm_label(arm: "Arm") -> str:
    """Return `clippy rel=0.5`."""
    return " ".join([arm.method, *_options(arm.options)])


def _options(options: dict[str, Any]) -> list[str]:
    return [f"{name}={value}" for name, value in options.items()]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST:,} more" if len(names) > MOST else ""
    return ", ".join(names[:MOST]) + more


def _ends(values: Sequence[str]) -> str:
    """` from 0.02 to 3.2`, or `: 0.02`."""
    return f" from {values[0]} to {values[-1]}" if len(values) > 1 else f": {values[0]}" if values else ""


def _is_ranker(study: "Study") -> bool:
    return study.trainer == RANKER

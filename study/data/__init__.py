"""Data sources. A source is a file of this folder, or a dotted module, with `load(cache, **options) -> Log`.

The name of the file is the name of the source: `load("kuairand", {"dir": "data"}, cache)` calls
`study/data/kuairand.py`. Its options are the keywords of `load`; if `load` takes any, those of its class `Options`.
Options of every source select columns (`study.data._selection`). A source that also has
`days(cache, **options) -> Days`, and states their number in `facts["days"]` of its log, lets users select days
(`study.data._days`).
"""

import inspect
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from study import plugins
from study.data._cache import folder_of_log, open_cached, store_log
from study.data._dataset import Log, Task
from study.data._days import ONLY_DAYS, Days, days_in, holds_out_a_day, parse_days, select_days
from study.data._download import ARCHIVES, Archive, fetch
from study.data._selection import SELECTED, select_columns
from study.text import own_errors

__all__ = ["ARCHIVES", "Archive", "Days", "Log", "Rows", "Task", "check", "describe", "fetch", "load", "names"]
__all__ += ["common_options", "folder_of_log", "open_cached", "rows_of"]


def names() -> list[str]:
    """Return the names of the built-in sources."""
    return list(plugins.names(__name__))


def load(source: str, options: dict[str, Any], cache: Path) -> Log:
    """Return the log of a source, with read-only arrays that are memory-mapped from the cache.

    Args:
        source: one of `names()`, or a dotted module such as `my_pkg.my_source`.
        options: arguments of the source's `load`, and optionally only_ids, only_numbers and only_tasks (names of
            columns to keep, or how many, the first of the log) and only_days (days to keep, such as "8-14"). A
            selection is another log.
        cache: the folder for converted logs.

    Raises:
        ValueError: the source or an option is unknown, or the data cannot be used. The message is one line.
    """
    whole = _whole(source, options, cache)
    log = whole if ONLY_DAYS not in options else _some_days(whole, source, options, Path(cache))
    return select_columns(log, {name: value for name, value in options.items() if name in SELECTED}, Path(cache))


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Which rows of a whole log a log holds.

    Args:
        whole: content hash of the whole log, whose codes and scales the log has.
        first, last: first and last day of the log; the last is held out. None for a whole log whose source has no
            days, or does not hold out its last day.
    """

    whole: str
    first: int | None = None
    last: int | None = None


def rows_of(source: str, options: dict[str, Any], cache: Path) -> Rows:
    """Return which rows `load` returns. Raises as `load` does."""
    whole = _whole(source, options, cache)
    if ONLY_DAYS in options:
        first, last = parse_days(options[ONLY_DAYS], whole)
        return Rows(whole=whole.content, first=first, last=last)
    if hasattr(_module(source), "days") and holds_out_a_day(whole):
        return Rows(whole=whole.content, first=1, last=days_in(whole))
    return Rows(whole=whole.content)


def _whole(source: str, options: dict[str, Any], cache: Path) -> Log:
    """Return the log with all rows and columns."""
    load_source = _module(source).load
    check_options(source, options)
    own = _own(options)
    with own_errors.of_plugin(source, _module(source).__name__):
        log = load_source(Path(cache), **own)
    return store_log(Path(cache), source, log)


def _some_days(whole: Log, source: str, options: dict[str, Any], cache: Path) -> Log:
    module = _module(source)
    if not hasattr(module, "days"):
        raise ValueError(f"the data source {source!r} has no option {ONLY_DAYS}: it has no function `days`")
    return select_days(whole, options[ONLY_DAYS], lambda: module.days(cache, **_own(options)), cache)


def _module(source: str) -> Any:
    return plugins.load(__name__, source, "data source", "load")


def common_options(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that every source has: which columns and days to keep."""
    return {name: value for name, value in options.items() if name in {*SELECTED, ONLY_DAYS}}


def _own(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that only this source has."""
    return {name: value for name, value in options.items() if name not in common_options(options)}


def describe(source: str, log: Log) -> dict[str, Any]:
    """Return what a study's record holds about its data: plain JSON values."""
    return {
        "source": source,
        "content": log.content,
        "rows": len(log.labels),
        "train_rows": log.train_rows,
        "heldout_rows": len(log.labels) - log.train_rows,
        "id_names": list(log.id_names),
        "vocabulary": list(log.vocabulary),
        "number_names": list(log.number_names),
        "tasks": [asdict(task) for task in log.tasks],
        "facts": log.facts,
    }


def check(source: str, options: dict[str, Any], cache: Path) -> str:
    """Return a summary of a log: rows, days, rates, features, vocabularies, held-out rows. Raises as `load` does."""
    log = load(source, options, cache)
    rows, facts = len(log.labels), log.facts
    heldout_rows = rows - log.train_rows
    lines = [f"{source}: {rows:,} rows"]
    if "days" in facts:
        lines[0] += f", {facts['days']} days ({facts['first_day']} to {facts['last_day']})"
    if facts.get("duplicates_dropped"):
        lines[0] += f"; {facts['duplicates_dropped']:,} exact duplicates dropped"
    if facts.get("rows_left_out"):
        lines[0] += f"; {facts['rows_left_out']:,} rows left out by time_from and time_to"
    if "days_kept" in facts:
        first, last = facts["days_kept"]
        lines[0] += f"; days {first} to {last} of {facts['days_of_the_whole']}, with codes and scales of all"
    lines.append(f"training: {log.train_rows:,} rows; held out: {heldout_rows:,} rows ({_heldout(facts)})")
    lines.append("tasks:")
    for t, task in enumerate(log.tasks):
        share = float(np.mean(~np.isnan(log.labels[:, t])))
        lines.append(f"  {_task_line(task, log.labels[log.train_rows :, t])}")
        lines[-1] += f", labelled in {share:.1%} of the rows" if share < 1 else ""
    lines.append(f"{len(log.id_names)} id features (codes, share of held-out rows not seen in training):")
    for f, name in enumerate(log.id_names):
        span = log.spans[f]
        held = log.ids[log.train_rows :, span.start : span.stop]
        unseen = float(np.mean(held[held >= 0] == 0))
        lines.append(f"  {name}: {log.vocabulary[f]:,}, {unseen:.1%}")
        lines[-1] += f", lists of up to {len(span)} ids ({log.pools[f]})" if len(span) > 1 else ""
    lines.append(f"{len(log.number_names)} numbers: {', '.join(log.number_names) or 'none'}")
    lines += [f"warning: {warning}" for warning in facts.get("warnings", [])]
    lines.append(f"content: {log.content}")
    return "\n".join(lines)


def _heldout(facts: dict[str, Any]) -> str:
    return facts.get("heldout") or (f"the last day, {facts['last_day']}" if "last_day" in facts else "the last rows")


def _task_line(task: Task, heldout: np.ndarray) -> str:
    known = heldout[~np.isnan(heldout)]
    if task.kind == "binary":
        return f"{task.name}: binary, rate {task.base:.4g} (held out {float(np.mean(known)):.4g})"
    mean = task.base + task.scale * float(np.mean(known, dtype=np.float64))
    unit = f" {task.unit}" if task.unit else ""
    return (
        f"{task.name}: regression, mean {task.base:.4g}{unit}, standard deviation {task.scale:.4g} "
        f"(held-out mean {mean:.4g}, RMSE of the training mean {task.constant_rmse:.4g})"
    )


def check_options(source: str, options: dict[str, Any]) -> None:
    """Raise ValueError for options that a data source does not have, or needs. Reads no data."""
    module, options = _module(source), _own(options)
    parameters = list(inspect.signature(module.load).parameters.values())[1:]
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
        if not hasattr(module, "Options"):
            return
        parameters = list(inspect.signature(module.Options).parameters.values())
    known = [*(p.name for p in parameters), *SELECTED, *([ONLY_DAYS] if hasattr(module, "days") else [])]
    listed = f"its options are {_as_typed(known)}"
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(f"the data source {source!r} has no option {_as_typed(unknown)}; {listed}")
    missing = [p.name for p in parameters if p.default is inspect.Parameter.empty and p.name not in options]
    if missing:
        named = _as_typed(missing, "--set data.{}=")
        raise ValueError(f"the data source {source!r} needs {named}; {listed}")


def _as_typed(names: list[str], others: str = "{}") -> str:
    """Return names of options as on the command line."""
    return ", ".join("--data-dir" if name == "dir" else others.format(name) for name in names)

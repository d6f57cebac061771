"""Recommendations as text: a sentence a curve, the commands that confirm nominated lrs, and JSON."""

import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.loading import records
from analysis.stats.claims import CLAIMED, TOO_RISKY
from analysis.stats.edges import NOT_REACHED, REACHED
from analysis.stats.intervals import CONFIDENCE
from analysis.stats.nomination import LIKELY
from analysis.stats.recommend import PLANNED_IMPORT, RISK
from analysis.text.format import percent, quality_words, two_digits
from study.config import IMPORTED, EdgeSearch, QualitySearch
from study.text.wording import count


def sentences(table: pd.DataFrame) -> list[str]:
    """Return the text of each row of `recommend`."""
    return [sentence(row) for row in records(table)]


def sentence(row: Mapping[str, Any]) -> str:
    """Return the text of one row of `recommend`: its claim or why there is none, its quality, and the next step."""
    if row["status"] == CLAIMED:
        parts = [_claim(row), *_failed(row), *_missing_runs(row), *_quality_and_headroom(row)]
    else:
        parts = [_why(row)]
    parts += _next(row)
    return f"{row['curve']}: {' '.join(parts)}"


def why_no_claim(row: Mapping[str, Any]) -> str | None:
    """Return why a row of `recommend` claims no lr; None if it claims one."""
    return None if row["status"] == CLAIMED else _why(row)


def _why(row: Mapping[str, Any]) -> str:
    failed, unclaimed = _failed(row), _no_claim(row)
    if failed:
        unclaimed = unclaimed[0].upper() + unclaimed[1:]
    return " ".join([*failed, unclaimed, *_missing_runs(row)])


def _claim(row: Mapping[str, Any]) -> str:
    fresh = row["basis"] == "confirmation"
    stricter = row["tested_at"] > row["confidence"] + 1e-9
    test = f", tested at {100 * row['tested_at']:.4g}% because an earlier test failed" if stricter else ""
    return (
        f"at most {percent(row['risk'])} of the runs diverge within {row['steps']} steps {'at' if fresh else 'up to'} "
        f"lr {row['lr']:g}, with {_confidence(row)} ({_of(row['k'], row['n'])}{' fresh seeds' if fresh else ''} "
        f"diverged{test})."
    )


def _no_claim(row: Mapping[str, Any]) -> str:
    lowest = f"{_of(row['lowest_k'], row['lowest_n'])} diverged at lr {row['lr_min']:g}, the lowest tried"
    if row["status"] == TOO_RISKY:
        return f"even the lowest lr has a risk above {percent(row['risk'])}: {lowest} ({_confidence(row)})."
    seeds = f"cannot say with {count(row['seeds'], 'seed')}"
    if row["searched"] == EdgeSearch.kind:
        return f"{seeds}: the search chose its lrs by earlier outcomes, so its runs can only nominate an lr."
    if row["searched"] == IMPORTED:
        return (
            f"{seeds}: imported runs can only nominate an lr, since it is unknown how their lrs and seeds were chosen "
            "(if both were fixed beforehand: study import --planned, into another --out)."
        )
    tried, bound, n = lowest, row["lowest_bound"], row["lowest_n"]
    if row["nominated_n"] and row["nominated_bound"] > row["risk"]:
        n = row["nominated_n"]
        tried = f"{_of(row['nominated_k'], row['nominated_n'])} diverged at lr {row['nominated']:g}"
        bound = row["nominated_bound"]
    if math.isnan(bound):
        return f"{seeds}."
    seeds = f"cannot say with {count(n, 'seed')}"
    if bound <= row["risk"]:  # other sentences say what failed or is missing
        return f"{seeds}: {tried}."
    return f"{seeds}: {tried}, so the risk there may be up to {percent(bound)}."


def _failed(row: Mapping[str, Any]) -> list[str]:
    if not row["failed"]:
        return []
    last = "at" if row["failed"] == 1 else "the last at"
    return [
        f"{count(row['failed'], 'confirmation')} failed, {last} lr {row['failed_lr']:g}: "
        f"{_of(row['failed_k'], row['failed_n'])} diverged and {row['failed_allowed']:.0f} were allowed, so the next "
        "test is stricter."
    ]


def _missing_runs(row: Mapping[str, Any]) -> list[str]:
    """Return what missing runs mean for a claim."""
    parts = []
    if row["pending"]:
        are = "is" if row["pending"] == 1 else "are"
        how = "import" if row["searched"] in (IMPORTED, PLANNED_IMPORT) else "resume"
        parts.append(f"{count(row['pending'], 'run')} of a confirmation {are} missing: run study {how}.")
    if row["missing"]:
        parts.append(_missing(row))
    return parts


def _missing(row: Mapping[str, Any]) -> str:
    are = "is" if row["missing"] == 1 else "are"
    again = "" if row["searched"] in (IMPORTED, PLANNED_IMPORT) else " (study resume tries again)"
    return (
        f"{count(row['missing'], 'run')} {are} missing, the lowest at lr {row['missing_from']:g}: the study's own "
        f"runs claim nothing from there on{again}."
    )


def _quality_and_headroom(row: Mapping[str, Any]) -> list[str]:
    parts = []
    if math.isfinite(row["quality_median"]):
        words = quality_words(row["quality"])
        inside = (
            f"95% interval {row['quality_median_low']:.3f} to {row['quality_median_high']:.3f}"
            if math.isfinite(row["quality_median_low"])
            else f"{count(row['quality_n'], 'seed')}: too few for a 95% interval"
        )
        parts.append(f"Held-out {words} there: {row['quality_median']:.3f} ({inside}).")
    if headroom := headroom_text(row):
        parts.append(f"Headroom {headroom} (LR05 over the lr of best quality, {row['best_lr']:.3g}).")
    return parts


def _next(row: Mapping[str, Any]) -> list[str]:
    if math.isnan(row["nominated"]):
        return [] if row["status"] == CLAIMED else ["No lr is nominated: try lower ones."]
    seeds = f"{row['more_if_clean']:.0f} fresh seeds without divergence"
    tried = ""
    if row["status"] == CLAIMED and row["nominated_n"]:
        diverged = f"{_of(row['nominated_k'], row['nominated_n'])} diverged there"
        tried = f", not claimed: {diverged}"
        if row["nominated_bound"] > row["risk"]:
            tried += f", so its risk may be up to {percent(row['nominated_bound'])}"
    if row["nominated_k"] and not math.isnan(row["more_at_rate"]):
        seeds += f", or {row['more_at_rate']:.0f} that diverge at this rate"
    unlikely = "; a lower lr is likelier to pass" if row["chance"] < LIKELY else ""
    return [
        f"Nominated: lr {row['nominated']:g}{tried}. To claim it takes {seeds} "
        f"(chance {percent(row['chance'])} by the fitted curve{unlikely})."
    ]


def headroom_text(row: Mapping[str, Any]) -> str:
    """Return a headroom: `2.1`, `> 1.5` if LR05 was not reached, `< 0.8` if it is below the range, "" if unknown."""
    if math.isnan(row["best_lr"]):
        return ""
    if row["edge_status"] == NOT_REACHED:
        return f"> {two_digits(row['lr_max'] / row['best_lr'])}"
    if row["edge_status"] == REACHED:
        return two_digits(row["headroom"])
    return f"< {two_digits(row['lr_min'] / row['best_lr'])}"


def commands(table: pd.DataFrame, folder: str, study: str = "study") -> list[str]:
    """Return the commands that confirm the nominated lrs of curves.

    There is one for each lr and number of seeds, and none for a quality search, which judges its own winners.

    Args:
        table: `analysis.stats.recommend.recommend`.
        folder: The folder of the study, as the user types it in a shell.
        study: The command, as the user types it.
    """
    to_confirm: dict[tuple[float, float], list[dict[str, Any]]] = {}
    for row in records(table):
        if _can_be_confirmed(row):
            to_confirm.setdefault((row["nominated"], row["more_if_clean"]), []).append(row)
    several = len(set(table["model"])) > 1
    return [
        f"{study} {_confirm(rows, folder, several)}" for _, rows in sorted(to_confirm.items(), key=lambda it: it[0])
    ]


def _can_be_confirmed(row: Mapping[str, Any]) -> bool:
    return row["searched"] != QualitySearch.kind and not math.isnan(row["nominated"])


def _confirm(rows: Sequence[Mapping[str, Any]], folder: str, several: bool) -> str:
    """Return the words that confirm the nominated lr of rows. several: whether the study has several models."""
    words = ["--lr", f"{rows[0]['nominated']:g}"]
    words += ["--method", ",".join(dict.fromkeys(str(row["curve"]) for row in rows))]
    if several:
        words += ["--model", ",".join(dict.fromkeys(str(row["model"]) for row in rows))]
    for option in ("risk", "confidence"):
        if rows[0][option] != {"risk": RISK, "confidence": CONFIDENCE}[option]:
            words += [f"--{option}", f"{rows[0][option]:g}"]
    return f"confirm {folder} {shlex.join(words)}"


def json_records(table: pd.DataFrame, folder: str, study: str = "study") -> list[dict[str, Any]]:
    """Return the rows of `recommend` as JSON values; numbers that are not finite become null.

    Each also has `why` (why nothing is claimed, or null) and `confirm` (the command that confirms its nominated lr, or
    null).

    Args:
        table: `analysis.stats.recommend.recommend`.
        folder: The folder of the study, as the user types it in a shell.
        study: The command, as the user types it.
    """
    several = len(set(table["model"])) > 1
    found = []
    for row in records(table):
        confirm = f"{study} {_confirm([row], folder, several)}" if _can_be_confirmed(row) else None
        found.append({n: _json_value(v) for n, v in row.items()} | {"why": why_no_claim(row), "confirm": confirm})
    return found


def _json_value(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, float):
        return (int(value) if value.is_integer() else value) if math.isfinite(value) else None
    return None if value is pd.NA else value


def _confidence(row: Mapping[str, Any]) -> str:
    return f"{100 * row['confidence']:.4g}% confidence"


def _of(k: float, n: float) -> str:
    return f"{k:.0f} of {n:.0f}"

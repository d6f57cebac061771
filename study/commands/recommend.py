"""`study recommend`: the largest learning rate that can be claimed, from the record alone."""

import json
from dataclasses import dataclass
from pathlib import Path

from study.commands.paths import typed_command, typed_path
from study.record.confirmations import read_confirmations
from study.record.definition import read_definition
from study.record.tables import read_runs


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What to claim: P(divergence) <= risk with this confidence. quality: a column; None is that of the first task."""

    risk: float = 0.05
    confidence: float = 0.95
    quality: str | None = None


def recommend(folder: Path, claim: Claim, *, as_json: bool = False) -> str:
    """Return the largest lr that can be claimed for each curve, as sentences or as JSON."""
    import analysis
    from analysis.report.answers import under_models
    from analysis.stats.missing import failed_runs
    from analysis.stats.recommend import recommend as recommend_table
    from analysis.text import recommend as text
    from analysis.text.control import control_notes
    from analysis.text.report import failed_text

    runs, definition = analysis.load(folder), read_definition(folder)
    table = recommend_table(
        runs,
        definition,
        confirmations=read_confirmations(folder),
        risk=claim.risk,
        confidence=claim.confidence,
        quality=claim.quality,
        failed=failed_runs(folder, definition, runs),
    )
    if as_json:
        return json.dumps(text.json_records(table, typed_path(folder), typed_command()), indent=1, allow_nan=False)
    if table.empty:
        return "\n".join(["no runs recorded yet", *control_notes(definition, folder, read_runs(folder))])
    failed = failed_text(table)
    lines = [failed, ""] if failed else []
    said = {model: text.sentences(table.loc[table["model"] == model]) for model in dict.fromkeys(table["model"])}
    for models, sentences in under_models(said).items():
        lines += [f"{models}:", *(f"  {sentence}" for sentence in sentences), ""]
    if commands := text.commands(table, typed_path(folder), typed_command()):
        lines += [
            "A nominated lr is the largest that fresh seeds would probably claim, or else the likeliest.",
            "To claim it, with seeds that are named before they are trained:",
            *(f"  {command}" for command in commands),
        ]
    return "\n".join(lines).rstrip()

"""Train one recorded run again with everything observed, alone or beside other methods.

    DIR/replay/<run_id>/trace.parquet    one row a run, step and layer (`study.replay.probe`)
    DIR/replay/<run_id>/moments.json     what was replayed, whether the losses are the recorded ones, and the moments
    DIR/replay/<run_id>/*.png            the figures (`analysis.figures.replay`)

None of it is part of the record.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from study import methods
from study.config import Run, Study, to_json
from study.record.definition import read_definition
from study.record.tables import read_runs
from study.replay.probe import Probe, write_parquet
from study.replay.recorded_study import (
    RecordedStudy,
    bits_text,
    changed_code_text,
    find_run,
    first_difference,
    load_study,
    outcomes_of,
    recorded_losses,
    run_of,
    train_again,
)
from study.replay.sharpness import ALL
from study.text.wording import quoted
from study.training.trainer import Trained

CLOSE = 6
"""Steps on either side of a moment at which sharpness is computed at every step."""


def replay(folder: Path, prefix: str, cache: Path, *, compare: str | None = None, sharpness_every: int = 20) -> str:
    """Train a run again, and the same seed and lr with other methods, with everything observed.

    Args:
        folder: The folder of the study.
        prefix: How the run's id begins.
        cache: The folder of prepared data.
        compare: Methods of the study, such as "none,clippy", or "all"; None replays the run alone.
        sharpness_every: Steps between two computations of the sharpness, away from the moments.

    Returns:
        What a terminal prints.

    Raises:
        ValueError: If there is no such run or method, or the study cannot be trained again.
    """
    run_id = find_run(folder, prefix)
    row = read_runs(folder).set_index("run_id", drop=False).loc[run_id].to_dict()
    recorded = load_study(folder, cache, [row["model"]])
    run = run_of(row, recorded.study)
    others = _runs_to_compare(recorded.study, run, compare)
    out = folder / "replay" / run_id
    out.mkdir(parents=True, exist_ok=True)
    traces, facts, lines = [], [], []
    for one in (run, *others):
        trace, about = _replay_run(recorded, one, sharpness_every, first=facts[0] if facts else None)
        traces.append(trace)
        facts.append(about)
        lines.append(f"{one.method} at lr {one.lr:g}, seed {one.seed}: {_text(about)}")
    write_parquet(out / "trace.parquet", pd.concat(traces, ignore_index=True))
    versions = read_definition(folder).versions
    content = {"run_id": run_id, "tasks": recorded.tasks, "runs": facts, "versions": versions}
    (out / "moments.json").write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    from analysis.figures import replay as figures

    names = [path.name for path in figures.write(out)]
    if "sharpness.png" not in names and not methods.uses_base(run.method):
        names.append(f"no sharpness.png: {run.method} has a base of its own, whose scale of each gradient is unknown")
    return "\n".join([*lines, f"replay: {out}", *(f"  {name}" for name in names)])


def _runs_to_compare(study: Study, run: Run, compare: str | None) -> list[Run]:
    """The same run under other arms of the study."""
    if compare is None:
        return []
    known = list(dict.fromkeys(arm.method for arm in study.arms))
    wanted = known if compare == "all" else [name.strip() for name in compare.split(",")]
    if unknown := [name for name in wanted if name not in known]:
        raise ValueError(f"the study has no method {unknown[0]!r}; it has {quoted(known)}")
    arms = [arm for arm in study.arms if arm.method in wanted]
    runs = [dataclasses.replace(run, method=arm.method, options=methods.check(arm.method, arm.options)) for arm in arms]
    return [other for other in runs if other.id != run.id]


def _replay_run(
    recorded: RecordedStudy, run: Run, sharpness_every: int, first: Mapping[str, Any] | None
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return the trace of a run and the facts about it, as `moments.json` has them.

    `first` holds the facts of the run that others are compared with. These are observed closely at its moments, and
    without the sharpness of single layers.
    """
    row = recorded.runs.loc[recorded.runs["run_id"] == run.id]
    in_record = bool(len(row))
    if in_record:
        before_TK, constant_TK = recorded_losses(recorded.folder, run.id, recorded.tasks)
    else:
        plain = train_again([run], recorded.log, start=recorded.start)
        before_TK, constant_TK = plain.loss[0], plain.constant[0]
    found = recorded.moments(before_TK, constant_TK, run.model)
    own = None if found is None else dataclasses.asdict(found)
    near = ((own if first is None else first["moments"]) or {}).values()

    def sharpness_at(step: int) -> bool:
        return step % sharpness_every == 0 or any(abs(step - at) <= CLOSE for at in near)

    probe = Probe(recorded.log, sharpness_at=sharpness_at, blocks=first is None)
    trained = train_again([run], recorded.log, on_update=probe, start=recorded.start)
    outcome = outcomes_of(trained, recorded.log, recorded.references[run.model], recorded.study.rule)[0]
    differs = first_difference(before_TK, trained.loss[0])
    about = {
        "run_id": run.id,
        "run": to_json(run),
        "method": run.method,
        "outcome": outcome.outcome,
        "reason": outcome.reason,
        "diverged_at_step": outcome.diverged_at_step,
        "moments": own,
        "recorded": in_record,
        "same_bits": differs is None if in_record else None,
        "differs_from_step": differs,
        "recorded_by": f"{row['version'].iloc[0]} on {row['device'].iloc[0]}" if in_record else None,
        "changed_code": changed_code_text(row.iloc[0].to_dict(), recorded.study) if in_record else None,
    }
    return _with_losses(probe.table(), recorded, run, trained), about


def _with_losses(trace: pd.DataFrame, recorded: RecordedStudy, run: Run, trained: Trained) -> pd.DataFrame:
    """The trace with losses and gains in the rows of the whole network."""
    steps = trace["step"].to_numpy()
    of_run = trace["layer"] == ALL
    gain_T = recorded.gains(trained.loss, trained.constant, run.model)[0]
    by_step = {"loss": trained.loss[0].sum(1), "constant": trained.constant[0].sum(1), "gain": gain_T}
    by_step["control_gain"] = recorded.control[run.model][: len(gain_T)]
    by_step |= {f"loss_{task}": trained.loss[0][:, k] for k, task in enumerate(recorded.tasks)}
    columns = {name: np.where(of_run, values[steps], np.nan) for name, values in by_step.items()}
    return trace.assign(**columns, method=run.method)


def _text(about: Mapping[str, Any]) -> str:
    text = about["outcome"] if about["reason"] is None else f"{about['outcome']} ({about['reason']})"
    if at := about["moments"]:
        text += f", healthy at step {at['healthy']}, rising from {at['rising']}, gone at {at['gone']}"
    if not about["recorded"]:
        return f"{text}; not in the record"
    return f"{text}; {bits_text(about['differs_from_step'], about['recorded_by'], about['changed_code'])}"

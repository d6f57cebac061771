"""Rows are refused only where it is proved that they belong to another study."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from records import make_definition, make_losses, make_row

from study.config import Arm, Recipe, Run
from study.record import identity
from study.record.definition import Definition, open_study
from study.record.identity import Identity
from study.record.repair import set_bad_files_aside
from study.record.tables import recorded_ids, write_trial

MANY = {f"t{i}": i / 10 for i in range(1, 13)}
TEN = dict(list(MANY.items())[:10])


def own_study(*arms: dict[str, float]) -> Definition:
    return make_definition(arms=tuple(Arm("own", options) for options in arms))


def run_of(definition: Definition, options: dict[str, float], seed: int = 0) -> Run:
    return definition.study.run("c" * 64, "small", Arm("own", options), 0.1, seed)


def row_of(run: Run, thresholds: dict[str, float]) -> dict[str, Any]:
    return make_row(run.lr, run.seed, method="own", thresholds=json.dumps(thresholds), run_id=run.id)


def table_of(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows))


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The options of each choice that is tried."""
    options: list[dict[str, Any]] = []
    monkeypatch.setattr(identity, "Run", lambda **values: options.append(values["options"]) or Run(**values))
    return options


@pytest.mark.parametrize("named", [True, False])
def test_runs_of_a_method_of_many_thresholds_are_never_set_aside(tmp_path: Path, named: bool) -> None:
    changed = {name: MANY[name] for name in ("t2", "t7", "t11")}
    definition = open_study(tmp_path, own_study(changed if named else {"t1": 5.0}))
    run = run_of(definition, changed)
    write_trial(tmp_path, "a", [row_of(run, MANY)], make_losses({run.id: 0}))
    assert recorded_ids(tmp_path) == {run.id}
    assert len(set_bad_files_aside(tmp_path)) == 1
    assert not (tmp_path / "set_aside").exists()


def test_the_options_of_the_studys_arms_are_tried_first(tried: list[dict[str, Any]]) -> None:
    changed = {name: MANY[name] for name in ("t2", "t7", "t11")}
    definition = own_study(changed)
    Identity(definition).check(table_of(row_of(run_of(definition, changed), MANY)))
    assert tried == [changed]


def test_every_choice_is_tried_once_for_a_method_of_a_foreign_file(tried: list[dict[str, Any]]) -> None:
    theirs = make_definition(arms=(Arm("own"),), recipe=Recipe(steps=200))
    rows = [row_of(run_of(theirs, {}, seed), TEN | {"t1": 1.0 + seed // 5}) for seed in range(50)]
    with pytest.raises(ValueError, match="50 of its 50 runs belong to another study"):
        Identity(own_study({})).check(table_of(*rows))
    assert len(tried) < 3 * 1024


def test_runs_of_the_study_beside_foreign_ones_are_not_counted() -> None:
    ours, theirs = own_study({}), make_definition(arms=(Arm("own"),), recipe=Recipe(steps=200))
    rows = [row_of(run_of(theirs, {}, 0), TEN), row_of(run_of(ours, {}, 1), TEN | {"t1": 7.0})]
    with pytest.raises(ValueError, match="1 of its 2 runs"):
        Identity(ours).check(table_of(*rows))

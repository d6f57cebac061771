"""Fresh seeds of a confirmation are at one lr: they belong to the rate there, and to nothing that is over all lrs."""

from pathlib import Path

import pandas as pd
import pytest
from simulated_record import reference, simulated_definition, write_simulated_confirmation, write_simulated_study

import study
from analysis.loading import of_curves
from analysis.report.figures import report_figures
from analysis.report.tables import report_tables
from analysis.stats.horizon import last_doubling
from analysis.stats.rates import in_bins
from analysis.stats.table2 import table2
from analysis.stats.trajectories import diverged_by_step
from study.commands.horizon import outcomes_at
from study.config import Arm
from study.record.confirmations import Confirmation
from study.record.tables import read_losses

ARMS = (Arm("none"), Arm("agc"), Arm("agc", max_ratio=0.1))


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[study.Result, study.Result]:
    """A record, and the same with 20 fresh seeds at one lr of one curve."""
    made = []
    for name in ("plain", "confirmed"):
        folder = tmp_path_factory.mktemp(name)
        definition = simulated_definition(arms=ARMS, lrs=(0.2, 0.4, 0.8, 1.6), seeds=range(4), steps=60)
        write_simulated_study(folder, definition)
        made.append(folder)
    named = Confirmation(
        lr=0.4, seeds=tuple(range(100, 120)), models=("small",), arms=ARMS[1:2], number=0, study_seeds=4
    )
    write_simulated_confirmation(made[1], definition, named)
    return study.open(made[0]), study.open(made[1])


def tables_over_lrs(result: study.Result) -> dict[str, pd.DataFrame]:
    tables = report_tables(result.folder)
    losses = read_losses(result.folder)
    by_steps = outcomes_at(result.folder, tables.definition, tables.every, losses)
    half, full = (by_steps[steps] for steps in (30, 60))
    quality = [name for name in tables.contrasts if name.startswith(("difference", "best_lr"))]
    return {
        "across": result.across_models(),
        "across of the report": tables.across_models,
        "sensitivity": tables.sensitivity,
        "quality of contrasts": tables.contrasts[["model", "curve", "against", *quality]],
        "table2": table2(result.runs, tables.definition),
        "by step": diverged_by_step(result.runs),
        "last doubling": last_doubling(half, full),
    }


def test_a_confirmation_changes_no_table_over_lrs(both: tuple[study.Result, study.Result]) -> None:
    before, after = (tables_over_lrs(result) for result in both)
    for name, table in before.items():
        assert len(table), name
        pd.testing.assert_frame_equal(pd.DataFrame(table), pd.DataFrame(after[name]), obj=name)


def test_a_confirmation_counts_in_the_rate_at_its_lr(both: tuple[study.Result, study.Result]) -> None:
    cell = "model == 'small' and method == 'agc' and lr == 0.4 and n > 4"
    assert [result.rates().query(cell)["n"].tolist() for result in both] == [[], [24]]
    assert [int(result.runs["confirms"].sum()) for result in both] == [0, 20]
    assert len(of_curves(both[1].runs)) == len(both[0].runs)


def test_the_figure_of_when_runs_diverge_is_of_the_study_alone(both: tuple[study.Result, study.Result]) -> None:
    words = []
    for result in both:
        figures = report_figures(report_tables(result.folder), read_losses(result.folder), reference())
        words.append(figures["horizon"].get_label())
    assert words[0] == words[1]


def test_seeds_that_the_study_came_to_have_are_its_own(tmp_path: Path) -> None:
    definition = simulated_definition(arms=ARMS, lrs=(0.2, 0.4), seeds=range(4), steps=60)
    write_simulated_study(tmp_path, definition)
    named = Confirmation(lr=0.4, seeds=(4, 5), models=("small",), arms=ARMS[1:2], number=0, study_seeds=4)
    write_simulated_confirmation(tmp_path, definition, named)
    assert study.open(tmp_path).runs["confirms"].sum() == 2
    write_simulated_study(tmp_path, simulated_definition(arms=ARMS, lrs=(0.2, 0.4), seeds=range(6), steps=60))
    assert study.open(tmp_path).runs["confirms"].sum() == 0


def test_a_confirmation_leaves_the_bins_of_a_search() -> None:
    """With one run at each of a hundred lrs, cells of an lr say nothing; fresh seeds at one of them change that not."""
    search = pd.DataFrame({"lr": 10 ** (-2 + 0.02 * pd.Series(range(100))), "confirms": False})
    fresh = pd.DataFrame({"lr": [search["lr"][50]] * 299, "confirms": True})
    runs = pd.concat([search, fresh], ignore_index=True).assign(model="small", method="none", options="{}")
    assert set(in_bins(runs)["lr"]) == set(in_bins(search.assign(model="small", method="none", options="{}"))["lr"])

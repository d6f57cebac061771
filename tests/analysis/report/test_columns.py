"""Every column of every CSV file of a report is described beside it, and no other."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from simulated_record import simulated_definition, write_simulated_study
from watched import TABLE

import study
from analysis.loading import FamilyMember, threshold_columns
from analysis.report import family, page
from analysis.report.columns import THRESHOLD, described
from analysis.report.table_files import write_tables
from analysis.report.tables import report_tables
from analysis.stats.forest import fitted_members, forest_of
from analysis.stats.horizon import COLUMNS as OF_DOUBLING
from analysis.stats.interactions import gains, interactions
from analysis.stats.scale import exponents
from analysis.stats.signals import tables as signal_tables
from study.config import Arm

PUBLISHED = Path(__file__).parents[3] / "docs" / "results"


def holds(folder: Path, thresholds: set[str], at: str = "tables") -> dict:
    """The descriptions in a folder, if they are those of its files."""
    content = json.loads((folder / at / "columns.json").read_text())
    files = {path.name: list(pd.read_csv(path).columns) for path in (folder / at).glob("*.csv")}
    assert {name: list(table["columns"]) for name, table in content["tables"].items()} == files
    for table in content["tables"].values():
        assert table["what"].endswith(".")
        own = {name for name, of in table["columns"].items() if of["what"] == THRESHOLD[1]}
        assert own <= thresholds, "what is no option of a method has a description of its own"
        assert all(of["what"] and "{" not in of["what"] for of in table["columns"].values())
    return content


@pytest.mark.parametrize("name", ["lr_synthetic", "table2_synthetic_small", "best_quality"])
def test_the_tables_of_a_report_are_described(tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(PUBLISHED / name, tmp_path / name)
    tables = report_tables(folder)
    write_tables(folder, page._answers(tables))
    content = holds(folder, {*threshold_columns(tables.runs)})
    assert content["study"] == tables.definition.study.name
    assert content["version"] == tables.definition.versions["study"] == study.__version__
    cells = content["tables"]["cells.csv"]["columns"]
    assert cells["low"] == {"what": "lower end of the 95% interval of the rate (Wilson)", "unit": "probability"}
    assert list(cells)[:8] == ["model", "curve", "lr", "n", "k", "rate", "low", "high"]
    assert list(content["tables"]["edges.csv"]["columns"])[:6] == ["model", "curve", "edge", "low", "high", "status"]
    if name == "lr_synthetic":
        assert cells["auc_click_q10"]["what"].endswith("10% quantile over seeds, no interval")


def test_the_tables_of_signals_are_described(tmp_path: Path) -> None:
    write_tables(tmp_path, signal_tables(TABLE), at="signals")
    content = holds(tmp_path, set(), at="signals")
    assert list(content["tables"]) == ["auc.csv", "crossings.csv", "rules.csv"]


def test_the_tables_of_sizes_are_described() -> None:
    thresholds = {"floor", "max_norm", "max_ratio"}
    for folder in sorted(PUBLISHED.glob("scale_*")):
        points = pd.read_csv(folder / "scale_points.csv")
        names = {table: list(pd.read_csv(folder / f"{table}.csv")) for table in ("scale_points", "scale_predictions")}
        for table, columns in (
            {**names, "scale": [*exponents(points), "axis"]} | {"edges_over_steps": OF_DOUBLING}
        ).items():
            found = described(table, columns, {})["columns"]
            assert {name for name, of in found.items() if of["what"] == THRESHOLD[1]} <= thresholds


def test_the_tables_of_a_family_are_described_and_those_of_other_commands_stay(tmp_path: Path) -> None:
    arms = [Arm(method=name) for name in ("none", "clippy")]
    for label in ("a", "b"):
        definition = simulated_definition(models=("small",), arms=arms, name=label)
        write_simulated_study(tmp_path / label, definition, with_losses=False)
    members = [FamilyMember(label=label, words=label, against="a", folder=tmp_path / label) for label in ("a", "b")]
    fitted = fitted_members(members)
    of_methods = gains(fitted)
    write_tables(tmp_path, {"edges_over_steps": pd.DataFrame(columns=pd.Index(OF_DOUBLING))})
    family.write(tmp_path, "f", members, forest_of(fitted), None, of_methods, interactions(fitted, of_methods))
    content = holds(tmp_path, set())
    assert list(content["tables"]) == ["edges_over_steps.csv", "forest.csv", "gains.csv", "interactions.csv"]
    (tmp_path / "tables" / "gains.csv").unlink()
    (tmp_path / "tables" / "columns.json").write_text("[no json")
    write_tables(tmp_path, {"forest": forest_of(fitted)})
    assert list(json.loads((tmp_path / "tables" / "columns.json").read_text())["tables"]) == ["forest.csv"]

"""What `study report` writes for a paper, and where it is refused."""

from pathlib import Path

import pytest
from simulated_record import simulated_definition, write_simulated_study

import analysis
import study
from analysis.report import tables
from study.cli.main import main
from study.config import Arm
from study.storage import stores


def test_latex_and_figures_are_written_from_one_fit_and_uploaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STUDY_CACHE", str(tmp_path / "cache"))
    url = f"memory://tests/{tmp_path.name}"
    folder = stores.folder_of(url)
    arms = [Arm(method="none"), Arm(method="clippy")]
    write_simulated_study(folder, simulated_definition(models=("small",), arms=arms, lrs=(0.1, 0.6), seeds=range(4)))
    fits, fitted = tables.fits, []
    with monkeypatch.context() as patch:
        patch.setattr(tables, "fits", lambda runs: fitted.append(len(runs)) or fits(runs))
        patch.setattr(analysis, "load", lambda *_: pytest.fail("the record was read again"))
        assert main(["report", url, "--latex", "--figures", "pdf,svg"]) == 0
    assert fitted == [16]
    assert (
        f"LaTeX: {folder}/tables/edges.tex (LR50 and LR05; needs \\usepackage{{booktabs}})" in capsys.readouterr().out
    )
    result = study.open(folder)
    latex = (folder / "tables" / "edges.tex").read_text()
    assert latex == f"{result.latex(0.5)}\n\n{result.latex(0.05)}\n"
    store = stores.store_for(url)
    assert store.get("tables/edges.tex") == latex.encode()
    assert {"divergence.pdf", "divergence.svg", "kept.pdf"} <= set(store.names("figures/paper"))
    assert set(store.names("figures/paper")) == {path.name for path in (folder / "figures" / "paper").iterdir()}


def test_a_later_report_updates_the_latex_of_an_earlier_one(tmp_path: Path) -> None:
    definition = simulated_definition(models=("small",), arms=[Arm(method="none")], lrs=(0.1, 0.6), seeds=range(2))
    write_simulated_study(tmp_path, definition)
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "edges.tex").write_text("of fewer runs")
    assert main(["report", str(tmp_path)]) == 0
    result = study.open(tmp_path)
    assert (tmp_path / "tables" / "edges.tex").read_text() == f"{result.latex(0.5)}\n\n{result.latex(0.05)}\n"


def test_a_report_without_them_writes_neither(tmp_path: Path) -> None:
    write_simulated_study(tmp_path, simulated_definition(models=("small",), arms=[Arm(method="none")], lrs=(0.1, 0.6)))
    assert main(["report", str(tmp_path)]) == 0
    assert not (tmp_path / "figures" / "paper").exists()
    assert not (tmp_path / "tables" / "edges.tex").exists()

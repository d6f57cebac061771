"""The tables, figures and terminal text of `study signals`."""

from pathlib import Path

from analysis.figures.axes import figure_style
from analysis.figures.replay import DPI
from analysis.figures.signals import figures
from analysis.report.table_files import write_tables
from analysis.stats.signals import judged, tables, watched
from analysis.text.signals import sentences, skipped_text


def write(folder: Path) -> str:
    """Write tables and figures into `DIR/signals/` and return what a terminal prints.

    Raises:
        ValueError: If no run was observed.
    """
    table, skipped = judged(every := watched(folder))
    made = tables(table)
    where = folder / "signals"
    write_tables(folder, made, at=where.name, float_format="%.6g")
    with figure_style():
        drawn = figures(table, made["auc"])
        for name, figure in drawn.items():
            figure.savefig(where / f"{name}.png", format="png", dpi=DPI)
    return "\n".join(
        [*sentences(every, *made.values()), *(f"  {skipped_text(row)}" for row in skipped), f"signals: {where}"]
    )

"""Write the tables and figures of `study signals`, and return what a terminal shows."""

from pathlib import Path

from analysis.figures.axes import figure_style
from analysis.figures.replay import DPI
from analysis.figures.signals import figures
from analysis.stats.signals import judged, tables, watched
from analysis.text.signals import sentences, skipped_text


def write(folder: Path) -> str:
    """Draw the figures into `DIR/signals/`, and say in words what foretells divergence."""
    table, skipped = judged(every := watched(folder))
    made = tables(table)
    where = folder / "signals"
    for name, frame in made.items():
        frame.to_csv(where / f"{name}.csv", index=False, float_format="%.6g")
    with figure_style():
        drawn = figures(table, made["auc"])
        for name, figure in drawn.items():
            figure.savefig(where / f"{name}.png", format="png", dpi=DPI)
    return "\n".join(
        [*sentences(every, *made.values()), *(f"  {skipped_text(row)}" for row in skipped), f"signals: {where}"]
    )

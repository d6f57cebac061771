"""The figures of a report on the space `threshold_frontier`."""

from matplotlib.text import Text
from simulated_record import simulated_definition, write_simulated_study

import analysis
from analysis.figures.axes import figure_style, paper
from analysis.report.figures import report_figures
from analysis.report.tables import report_tables
from analysis.stats.frontier import frontier
from search_spaces.threshold_frontier import study as space
from study.config import Arm


def test_space_varies_each_threshold_over_two_decades():
    values: dict[tuple[str, str], list[float]] = {}
    for arm in space.arms:
        assert len(arm.options) <= 1
        for name, value in arm.options.items():
            values.setdefault((arm.method, name), []).append(value)
    clips = {("layer_clip", "max_norm"), ("agc", "max_ratio"), ("clippy", "rel"), ("clippy", "abs")}
    assert set(values) == clips | {("update_rms_clip", "d"), ("activation_clip", "limit")}
    assert all(max(own) / min(own) >= 100 for own in values.values())
    # The other arm of clippy is at its default, where its two lines cross; none is the reference.
    assert {arm.method for arm in space.arms if not arm.options} == {"none", "clippy"}


def test_report_of_the_space_has_its_lines_and_figures(tmp_path):
    thresholds = {"clippy": {"rel": 0.5, "abs": 0.01}}
    arms = [Arm(method=a.method, options=thresholds.get(a.method, {}) | a.options) for a in space.arms]
    definition = simulated_definition(models=("small",), arms=arms, lrs=(0.4, 0.8), seeds=(0, 1))
    write_simulated_study(tmp_path, definition, with_losses=False)
    table = frontier(analysis.load(tmp_path))
    assert table.groupby(["method", "threshold"]).size().to_dict() == {
        ("activation_clip", "limit"): 5,
        ("agc", "max_ratio"): 7,
        ("clippy", "abs"): 7,
        ("clippy", "rel"): 7,
        ("layer_clip", "max_norm"): 7,
        ("none", ""): 1,
        ("update_rms_clip", "d"): 5,
    }
    shown = report_figures(report_tables(tmp_path))
    assert list(shown)[:5] == ["divergence", "frontier", "threshold_map", "tradeoff", "kept"]
    assert [len(shown[name].axes) for name in ("divergence", "frontier", "tradeoff", "kept")] == [6, 6, 1, 6]


def test_letters_of_a_paper_have_8_points(tmp_path):
    write_simulated_study(tmp_path, simulated_definition(lrs=(0.2, 0.4, 0.8), seeds=range(3), steps=60))
    page = paper(3.3)
    with figure_style(page):
        figures = report_figures(report_tables(tmp_path), page=page)
        assert {"gallery", "tradeoff", "divergence"} <= set(figures)
        for name, figure in figures.items():
            texts = [text for text in figure.findobj(Text) if text.get_text()]
            assert {text.get_fontsize() for text in texts} == {8.0}, name

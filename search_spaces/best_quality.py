"""The best quality of the paper's five methods where at most 5% of the runs diverge: its Table 2, with intervals.

Lr and thresholds are tuned within the paper's grids, a decade wider at each end. 1,784 runs with the control: about ten
minutes on two cores.
"""

from search_spaces._arms import PAPER_FIVE
from study import QualitySearch, Study

study = Study(
    name="best_quality",
    data="kuairand",
    models=("small_dcn",),
    arms=PAPER_FIVE,
    lrs=(0.03, 30),
    seeds=(0, 1, 2, 3),
    search=QualitySearch(
        risk=0.05,
        budget=320,
        judged=32,
        ranges={
            "layer_clip": {"max_norm": (0.0001, 1)},
            "agc": {"max_ratio": (0.00001, 0.1)},
            "lamb": {"mu": (0.0001, 1)},
            "clippy": {"rel": (0.05, 5), "abs": (0.001, 0.1)},
        },
    ),
)

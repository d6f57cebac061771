"""P(divergence | lr) of the paper's five methods on the embedded stream: the main job, within two minutes."""

from search_spaces._arms import PAPER_FIVE
from study import Study

study = Study(
    name="quick",
    data="synthetic",
    models=("small_dcn",),
    arms=PAPER_FIVE,
    lrs=(0.02, 0.1, 0.3, 0.6, 0.85, 1.2, 1.7, 3.2),
    seeds=tuple(range(8)),
)

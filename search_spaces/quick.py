"""P(divergence | lr) of the paper's five methods on the embedded stream: the main job, within two minutes."""

from search_spaces._arms import PAPER_FIVE
from study.config import Study

study = Study(
    name="quick",
    data="synthetic",
    models=("small_dcn",),
    arms=PAPER_FIVE,
    lrs=(0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2),
    seeds=tuple(range(8)),
)

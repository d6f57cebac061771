"""P(divergence | lr) of the paper's five methods on three networks: the study of record on real data."""

from search_spaces._arms import PAPER_FIVE
from study import Study

study = Study(
    name="lr_curve",
    data="kuairand",
    models=("small", "large", "large_dcn"),
    arms=PAPER_FIVE,
    lrs=(0.02, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.2, 1.6, 3.2),
    seeds=tuple(range(16)),
)

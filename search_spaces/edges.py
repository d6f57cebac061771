"""The edge of each of the paper's five methods, found by training where it is uncertain."""

from search_spaces._arms import PAPER_FIVE
from study import EdgeSearch, Study

study = Study(
    name="edges",
    data="kuairand",
    models=("small_dcn",),
    arms=PAPER_FIVE,
    lrs=(0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2),
    seeds=(0,),
    search=EdgeSearch(),
)

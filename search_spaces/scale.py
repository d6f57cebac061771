"""The edge against the depth of a network, untreated and with two clips: small ones predict the edge of large ones.

`study scale results/scale --at ranker.depth=12,24` predicts. Run i of each curve has the i-th seed, so depths and
methods share seeds. Width is another axis: --set models=ranker --set ranker.width=16,32,64,128,256.
"""

from study import Arm, EdgeSearch, Study

DEPTHS = (1, 2, 3, 4, 6)

study = Study(
    name="scale",
    data="kuairand",
    models=tuple("ranker" if depth == 2 else f"ranker depth={depth}" for depth in DEPTHS),
    arms=(Arm("none"), Arm("layer_clip"), Arm("agc")),
    lrs=(0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2),
    seeds=(0,),
    search=EdgeSearch(),
)

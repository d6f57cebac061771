"""What Clippy adds to other optimizers than Adagrad: the edge of SGD, RMSProp and AdamW, with it and without.

Edges of different bases are far apart. So the ladder spans four decades, and each curve is then trained where it is
uncertain.
"""

from study import Arm, EdgeSearch, Study

BASES = ("adagrad", "sgd", "rmsprop", "adamw")

study = Study(
    name="bases",
    data="kuairand",
    models=("small_dcn",),
    arms=tuple(Arm(method=method, options={"base": base}) for base in BASES for method in ("none", "clippy")),
    lrs=(0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
    seeds=(0,),
    search=EdgeSearch(),
)

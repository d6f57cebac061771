"""The paper's Table 2: five methods on three networks, thresholds from the paper's grids, at learning rates 1x and 2x.

1x is the learning rate at which untreated `small` diverges with probability 0.95 within one pass of the KuaiRand slice,
found before any method was looked at: 0.79 (95% interval 0.72 to 1.2, 320 runs with a seed each) by `study run edges
--level 0.95 --set models=small --set methods=none`. AGC in both forms, per tensor and per output unit. The whole curve
of each method at its default is `lr_curve`.
"""

from study import Arm, Study

ONE_X = 0.8

study = Study(
    name="table2",
    data="kuairand",
    models=("small", "large", "large_dcn"),
    arms=(
        Arm(method="none"),
        *(Arm(method="layer_clip", options={"max_norm": value}) for value in (1e-1, 1e-2, 1e-3)),
        *(Arm(method="agc", options={"max_ratio": value}) for value in (1e-2, 1e-3, 1e-4)),
        *(Arm(method="agc", options={"max_ratio": value, "per": "unit"}) for value in (1e-2, 1e-3, 1e-4)),
        *(Arm(method="lamb", options={"mu": value}) for value in (1e-1, 1e-2, 1e-3)),
        Arm(method="clippy"),
    ),
    lrs=(ONE_X, 2 * ONE_X),
    seeds=tuple(range(16)),
)

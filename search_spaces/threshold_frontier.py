"""The edge of five clips as a threshold moves over two to three decades, beside `none`.

Clippy in both thresholds, each with the other at its default; its twin in L2, `update_rms_clip`; and the clamp of
hidden units. 2,432 runs: about a quarter of an hour on two cores.
"""

from study import Arm, Study

MAX_NORM = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
MAX_RATIO = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
REL = (0.02, 0.05, 0.2, 2.0, 5.0, 20.0)
ABS = (0.0003, 0.001, 0.003, 0.03, 0.1, 0.3)
RMS = (0.005, 0.015, 0.05, 0.15, 0.5)
UNIT_LIMIT = (0.2, 0.6, 2.0, 6.0, 20.0)

study = Study(
    name="threshold_frontier",
    data="kuairand",
    models=("small_dcn",),
    arms=(
        Arm(method="none"),
        *(Arm(method="layer_clip", options={"max_norm": value}) for value in MAX_NORM),
        *(Arm(method="agc", options={"max_ratio": value}) for value in MAX_RATIO),
        Arm(method="clippy"),  # rel 0.5, abs 0.01: where the two lines cross
        *(Arm(method="clippy", options={"rel": value}) for value in REL),
        *(Arm(method="clippy", options={"abs": value}) for value in ABS),
        *(Arm(method="update_rms_clip", options={"d": value}) for value in RMS),
        *(Arm(method="activation_clip", options={"limit": value}) for value in UNIT_LIMIT),
    ),
    lrs=(0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8),
    seeds=tuple(range(8)),
)

"""Every method on one network: the paper's five, their variants, and what else is done against divergence.

A threshold that is not named is at its method's default. 2,584 runs with the control.
"""

from study import Arm, Study

study = Study(
    name="methods",
    data="kuairand",
    models=("small_dcn",),
    arms=(
        Arm(method="none"),
        Arm(method="layer_clip"),
        Arm(method="global_clip"),
        Arm(method="agc"),
        Arm(method="agc", options={"per": "unit"}),
        Arm(method="lamb"),
        Arm(method="clippy"),
        Arm(method="clippy", options={"delayed": True}),
        Arm(method="clippy", options={"norm": "rms"}),
        Arm(method="update_rms_clip"),
        Arm(method="zclip"),
        Arm(method="adagc"),
        Arm(method="autoclip"),
        Arm(method="activation_clip"),
        Arm(method="rollback"),
        Arm(method="rollback_lower_lr"),
    ),
    lrs=(0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.2, 1.6, 3.2),
    seeds=tuple(range(16)),
)

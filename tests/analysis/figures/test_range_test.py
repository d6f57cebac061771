"""The figure of range tests."""

import numpy as np
import pandas as pd
from drawing import drawn

from analysis.figures.range_test import range_tests
from analysis.stats.range_tests import over_seeds, readings


def test_a_suggestion_below_the_ramp_lies_inside_the_axis() -> None:
    """A tenth of the lr of the lowest loss was once left of the axis, where the loss rises from the first step on."""
    lrs = np.geomspace(0.01, 10, 40)
    same = {"model": "small", "curve": "none", "method": "none", "lr_from": 0.01, "lr_to": 10.0, "lr_steps": 40}
    tests = pd.DataFrame([same | {"seed": seed, "step_lr": lrs, "loss": 1 + lrs} for seed in range(2)])
    rules = over_seeds(readings(tests))
    middle = rules.loc[rules["rule"] == "minimum", "middle"].item()
    assert middle < 0.01
    (ax,) = drawn(range_tests(tests, rules)).axes
    assert ax.get_xlim()[0] < middle < 0.01 < 10 < ax.get_xlim()[1]

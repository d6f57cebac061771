"""A simulated table of observed signals."""

import numpy as np
import pandas as pd

from analysis.stats.signals import prepared


def simulated(seeds: int = 40, steps: int = 60, seed: int = 0) -> pd.DataFrame:
    """Return signals of runs at two lrs; at the higher one, half of the seeds diverge from step 30 on.

    Sharpness rises two steps before the onset, the update ratio follows the lr alone, the gradient jumps one step after
    the onset; everything else is noise.
    """
    rng = np.random.default_rng(seed)
    parts = []
    for s in range(seeds):
        for lr in (0.3, 0.6):
            diverges = lr > 0.5 and s % 2 == 0
            t = np.arange(steps)
            noise = {name: rng.lognormal(sigma=0.3, size=steps) for name in ("a", "b", "c", "d", "e")}
            parts.append(
                pd.DataFrame(
                    {
                        "run_id": f"{lr}-{s}", "model": "small", "method": "none", "curve": "none", "lr": lr,
                        "seed": s, "step": t,
                        "outcome": "diverged" if diverges else "completed",
                        "onset": 30.0 if diverges else np.nan, "gone": 38.0 if diverges else np.nan,
                        "sharpness_share": noise["a"] * np.where(diverges & (t >= 28), 50.0, 1.0),
                        "largest_over_bound": noise["b"] * 10 * lr**3,
                        "largest_share": noise["c"],
                        "gradient_norm": noise["d"] * np.where(diverges & (t >= 31), 100.0, 1.0),
                        "activation_norm": noise["e"],
                        "dead_share": 0.0,
                        "loss": 1.0, "constant": 1.0,
                    }
                )
            )  # fmt: skip
    return prepared(pd.concat(parts))


TABLE = simulated()

"""The schedule of the lr in a recipe: the share of a run's lr, its peak, at each step.

    warm-up of w steps        (s + 1) / w                       steps s = 0 ... w - 1
    constant                  1                                 t = s - w = 0 ... n - 1 afterwards
    linear                    1 - (1 - f) * t / n               f: final_factor
    cosine                    f + (1 - f) * (1 + cos(pi * t / n)) / 2
    step                      decay_factor^(t // decay_steps)

They are LinearLR, CosineAnnealingLR and StepLR of `torch.optim.lr_scheduler`, after a warm-up by SequentialLR. The step
after the last one would have the share f. Cosine: Loshchilov & Hutter, 2017 (arXiv 1608.03983), without
restarts.
"""

import math

from study.config import Recipe


def lr_share(recipe: Recipe, steps: int, step: int) -> float:
    """Return the share of a run's lr at a step.

    Args:
        recipe: Of the run.
        steps: Of the whole run.
        step: From 0 to `steps` - 1.
    """
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    if recipe.schedule == "constant":
        return 1.0
    t, n = step - recipe.warmup, steps - recipe.warmup
    if recipe.schedule == "step":
        return recipe.decay_factor ** (t // _decay_steps(recipe, steps))
    left = 1 - t / n if recipe.schedule == "linear" else (1 + math.cos(math.pi * t / n)) / 2
    return recipe.final_factor + (1 - recipe.final_factor) * left


def words(recipe: Recipe, steps: int) -> str:
    """Return the schedule in words, such as `cosine to 0 after 20 steps of warm-up`."""
    how = ""
    if recipe.schedule in ("linear", "cosine"):
        how = f" to {recipe.final_factor:g}"
    elif recipe.schedule == "step":
        how = f", times {recipe.decay_factor:g} every {_decay_steps(recipe, steps)} steps,"
    return f"{recipe.schedule}{how} after {recipe.warmup} steps of warm-up"


def _decay_steps(recipe: Recipe, steps: int) -> int:
    return recipe.decay_steps or max(1, math.ceil((steps - recipe.warmup) / 3))

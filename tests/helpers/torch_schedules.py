"""The schedules of a recipe as `torch.optim.lr_scheduler` has them."""

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LambdaLR,
    LinearLR,
    LRScheduler,
    SequentialLR,
    StepLR,
)

from study.config import Recipe


def scheduler_of(recipe: Recipe, steps: int, optimizer: Optimizer) -> LRScheduler:
    """Return torch's scheduler: the warm-up, and the schedule from the step after it on."""
    warmup, after = recipe.warmup, max(1, steps - recipe.warmup)
    if recipe.schedule == "constant":
        return LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / warmup) if warmup else 1.0)
    if recipe.schedule == "linear":
        then = LinearLR(optimizer, 1.0, recipe.final_factor, total_iters=after)
    elif recipe.schedule == "cosine":
        lowest = recipe.final_factor * optimizer.param_groups[0]["lr"]  # of one peak lr
        then = CosineAnnealingLR(optimizer, T_max=after, eta_min=lowest)
    else:
        then = StepLR(optimizer, recipe.decay_steps or -(-after // 3), gamma=recipe.decay_factor)
    if not warmup:
        return then
    if warmup == 1:
        rise: LRScheduler = LambdaLR(optimizer, lambda _step: 1.0)
    else:
        rise = LinearLR(optimizer, 1 / warmup, 1.0, total_iters=warmup - 1)
    return SequentialLR(optimizer, [rise, then], milestones=[warmup])


def shares_of(recipe: Recipe, steps: int, lr: float = 1.0) -> list[float]:
    """Return the lr at each step over its peak."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    scheduler = scheduler_of(recipe, steps, optimizer)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"] / lr)
        optimizer.step()
        scheduler.step()
    return found

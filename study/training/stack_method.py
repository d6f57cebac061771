"""The method of a stack: learning rates and thresholds of all runs at any step.

Shape letters: R runs.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from study import methods
from study.config import Recipe, Run
from study.methods._rollback import RollbackOptions
from study.training.lr_schedule import lr_share
from study.training.rollback import where_resting
from study.transforms import Chain, Leaf


class StackMethod:
    """The method of a stack, with one lr and one value of each threshold per run.

    Args:
        runs: Runs of one method, whose options agree; thresholds may differ.
        recipe: The lr's warm-up and schedule, and the constants of Adagrad.
        steps: Steps of a run.
        ramp: The share of its lr that a run has at each step, in place of the recipe's warm-up and schedule. An lr of
            the embeddings that the recipe fixes is no part of it.

    Attributes:
        lr_share_R: A run's own share of its peak lr at this step, instead of the schedule's; set by rollbacks, and by a
            step that is replayed.
        resting_R: Runs that learn nothing from this step; set by rollbacks.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        recipe: Recipe,
        steps: int,
        dtype: torch.dtype,
        device: torch.device,
        ramp: Sequence[float] = (),
    ) -> None:
        self.name, self.recipe, self.steps, self.ramp = runs[0].method, recipe, steps, ramp
        self.options = methods.stack_options(self.name, [run.options for run in runs], dtype=dtype, device=device)
        self.peak_lr_R = torch.tensor([run.lr for run in runs], dtype=dtype, device=device)
        self.embeddings_peak_lr_R = self.peak_lr_R
        if recipe.embeddings_lr is not None:
            self.embeddings_peak_lr_R = torch.full_like(self.peak_lr_R, recipe.embeddings_lr)
        self.lr_share_R: Tensor | None = None
        self.resting_R: Tensor | None = None
        self._chains: dict[tuple[float, int | None], Chain] = {}

    def lr(self, step: int) -> Tensor:
        """Return the lr of each run (R,) at a step."""
        return self.peak_lr_R * self._share(step)

    def embeddings_lr(self, step: int) -> Tensor:
        """Return the lr of each run's embeddings (R,) at a step."""
        is_fixed = len(self.ramp) and self.recipe.embeddings_lr is not None
        return self.embeddings_peak_lr_R * (1.0 if is_fixed else self._share(step))

    def lr_share(self, step: int) -> float:
        """Return the share of its peak lr that each run has at a step, by the schedule or the ramp."""
        return self.ramp[step] if len(self.ramp) else lr_share(self.recipe, self.steps, step)

    def unit_limit(self) -> Tensor | None:
        """Return the limit of each run's hidden units (R,), or None if they are not clamped."""
        limit = methods.unit_limit(self.name, self.options)
        return None if limit is None else torch.ones_like(self.peak_lr_R) * limit

    def rollback_options(self) -> RollbackOptions | None:
        """Return when runs are rolled back, or None if the method never does so."""
        return methods.rollback_options(self.name, self.options)

    def chain(self, step: int, part: slice = slice(None)) -> Chain:
        """Return the method at this step, for a part of the runs."""
        share = self._share(step)
        if isinstance(share, Tensor):  # its numbers may change in place
            return self._chain(step, part)
        key = (share, part.start)
        if key not in self._chains:
            self._chains = {k: c for k, c in self._chains.items() if k[0] == key[0]}
            self._chains[key] = self._chain(step, part)
        return self._chains[key]

    def set_updates(self, step: int, leaves: Sequence[Leaf], part: slice = slice(None)) -> None:
        """Turn the gradient of each leaf into its update. Runs that rest get no update and keep their state."""
        if self.resting_R is None:
            self.chain(step, part).updates(leaves)
            return
        states = [{key: value.clone() for key, value in leaf.state.items()} for leaf in leaves]
        self.chain(step, part).updates(leaves)
        resting = self.resting_R[part]
        for leaf, state in zip(leaves, states, strict=True):
            leaf.update = where_resting(resting, torch.zeros_like(leaf.update), leaf.update)
            for key, value in state.items():
                leaf.state[key] = where_resting(resting, value, leaf.state[key])

    def _share(self, step: int) -> float | Tensor:
        return self.lr_share(step) if self.lr_share_R is None else self.lr_share_R

    def _chain(self, step: int, part: slice) -> Chain:
        return methods.build(
            self.name,
            self.lr(step)[part],
            {k: v[part] if isinstance(v, Tensor) else v for k, v in self.options.items()},
            initial_accumulator=self.recipe.initial_accumulator,
            eps=self.recipe.eps,
        )

"""What a user's loop is told of its run."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from study.loops.range_test import LrRamp


@dataclass(frozen=True, kw_only=True)
class LoopRun:
    """One run of a loop.

    Args:
        lr: learning rate.
        seed: seed; Python's, numpy's and torch's global generators are seeded with it before the loop is called.
        arm: name of the arm.
        options: options of the arm.
        model: name of the model, with its options.
        folder: an empty folder of the run's own. What a try leaves there is there in the next, after a crash.
        device: "cpu" or "cuda".
        ramp: of a range test (`study range-test`): `lr` is then that of its first step.
    """

    lr: float
    seed: int
    arm: str
    options: Mapping[str, Any] = field(default_factory=dict)
    model: str = ""
    folder: Path
    device: str = "cpu"
    ramp: "LrRamp | None" = field(default=None, repr=False, compare=False)

    def lr_at(self, step: int) -> float:
        """Return the lr of a step, from 0: the run's, or in a range test that of the step."""
        return self.lr if self.ramp is None else self.ramp.at(step)

    def optimizer(self, params: Any, **more: Any) -> Any:
        """Return the arm's method as a torch optimizer, with the run's lr. In a range test, `watch` raises it.

        The method is the option `optimizer` of the arm, or else the method of the arm's name. Options of the arm that
        the method knows are its thresholds and options, such as `rel` and `base`.

        Args:
            params: as `torch.optim.Optimizer` takes them.
            more: further arguments of `study.optim.MethodOptimizer`, such as `weight_decay`.

        Raises:
            ValueError: the arm names no method of `study.methods`, or an option is out of range.
        """
        from study import methods
        from study.optim import MethodOptimizer

        method = str(self.options.get("optimizer", self.arm))
        known = methods.signature(method).defaults
        own = {name: value for name, value in self.options.items() if name in known}
        optimizer = MethodOptimizer(params, self.lr, method, own, **more)
        if self.ramp is not None:
            self.ramp.add(optimizer)
        return optimizer

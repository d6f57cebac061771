"""The numbers in the definition of divergence."""

import dataclasses
import math
from dataclasses import dataclass

from study.config.checks import check_number, need, whole
from study.config.shown import code_html


@dataclass(frozen=True, kw_only=True)
class Rule:
    """The numbers in the definition of divergence (`study.outcomes.judge`).

    Most are shares of the reference gain G. `slow_rise_steps` is a share of the run's steps, and `median_steps` counts
    steps.
    """

    kept: float = 0.25
    once_had: float = 0.5
    slow_fall: float = 0.25
    slow_rise: float = 0.05
    slow_rise_steps: float = 0.25
    slow_loss: float = 2.0
    slow_moved: float = 0.5
    micro_fall: float = 0.5
    micro_recovery: float = 0.25
    spike: float = 1.0
    median_steps: int = 25
    control_fall: float = 0.25
    control_noise: float = 6.0
    learnable_errors: float = 3.0

    _repr_html_ = code_html

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            check_number(value, name)
            need(math.isfinite(value) and value > 0, f"need {name} > 0, got {name}={value}")
        object.__setattr__(self, "median_steps", whole(self.median_steps, "median_steps"))
        need(self.kept < 1, f"need kept < 1, got kept={self.kept}")
        need(self.median_steps % 2 == 1, f"need an odd median_steps, got median_steps={self.median_steps}")

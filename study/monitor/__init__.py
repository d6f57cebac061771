"""Watches for anyone's training loop."""

from study.monitor.divergence import Monitor
from study.monitor.gradient_alarm import GradientAlarm

__all__ = ["GradientAlarm", "Monitor"]

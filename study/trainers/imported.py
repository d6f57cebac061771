"""The trainer of imported runs (`study import`): their record can be read and added to, but not trained."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from study.config import Run, Study
from study.trainers import protocol
from study.trainers.protocol import Limits, TrainedRuns


class Trainer(protocol.Trainer):
    """Describes imported runs, and refuses to train.

    Args:
        study: `trainer_options` holds `content` and `tasks`, as `description` returns them, and how runs were imported.
    """

    def description(self) -> dict[str, Any]:
        return {name: self.study.trainer_options[name] for name in ("source", "content", "tasks")}

    def device_name(self, device: str) -> str:
        return "imported"

    def check_folder(self, folder: Path) -> None:
        _refuse()

    def limits(self, study: Study, device_bytes: int | None = None) -> Limits:
        _refuse()

    def train(self, runs: Sequence[Run], **_how: Any) -> TrainedRuns:
        _refuse()


def _refuse() -> NoReturn:
    raise ValueError("runs of an imported record cannot be trained; train them yourself and add them by `study import`")

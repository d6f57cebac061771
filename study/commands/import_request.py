"""What a user asked of `study import`."""

import math
from dataclasses import dataclass

MLFLOW = "mlflow"
"""The source that is no file."""

MISSING = "missing"


@dataclass(frozen=True, kw_only=True)
class ImportRequest:
    """The options of `study import`, as `study.cli.parser` describes them.

    Args:
        source: a file, or "mlflow".
        lr, step, loss, seed, curve, run: names of columns; of params and metrics of MLflow.
        baseline: a loss for each task; empty: see `baseline_column`.
        baseline_column: a column for each task; empty: the loss at initialization.
        horizon: steps after which runs are judged; None judges each at its end.
        ended: outcome of a run that was cut while healthy: "missing", or "completed" by its losses until then.
        planned: whether grid and seeds were fixed before the runs were trained.
        out: the study's folder, or a URL; None is results/NAME.
        name: of the study; None is that of the file or experiment.
        tracking_uri, experiment: of MLflow.
    """

    source: str
    lr: str
    loss: tuple[str, ...]
    step: str = "step"
    seed: str | None = None
    curve: tuple[str, ...] = ()
    run: str | None = None
    baseline: tuple[float, ...] = ()
    baseline_column: tuple[str, ...] = ()
    horizon: int | None = None
    ended: str = MISSING
    planned: bool = False
    out: str | None = None
    name: str | None = None
    tracking_uri: str | None = None
    experiment: str | None = None

    def __post_init__(self) -> None:
        for name in ("baseline", "baseline_column"):
            values = getattr(self, name)
            if values and len(values) != len(self.loss):
                flag = f"--{name.replace('_', '-')}"
                raise ValueError(f"{flag} is needed once for each --loss, got {len(values)} for {len(self.loss)}")
        if self.baseline and self.baseline_column:
            raise ValueError("--baseline and --baseline-column exclude each other")
        if wrong := [value for value in self.baseline if not (math.isfinite(value) and value > 0)]:
            raise ValueError(f"need --baseline > 0, got {wrong[0]:g}")
        if len(set(self.loss)) < len(self.loss):
            raise ValueError(f"--loss names a column twice: {', '.join(self.loss)}")
        once = [name for name in (self.lr, self.step, self.seed) if name]
        if both := [name for i, name in enumerate(once) if name in (*once[:i], *self.curve, *self.loss)]:
            raise ValueError(f"the column {both[0]} cannot be two of --lr, --step, --seed, --curve and --loss")
        if (self.source == MLFLOW) != (self.experiment is not None):
            raise ValueError("an MLflow import is `study import mlflow --experiment NAME ...`")

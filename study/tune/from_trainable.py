"""A Ray Tune function trainable as a loop, unchanged."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from unittest import mock

Trainable = Callable[[dict[str, Any]], Any]


def loop_from_trainable(
    trainable: Trainable,
    *,
    lr: str = "lr",
    seed: str = "seed",
    loss: str | Sequence[str] = "loss",
    step: str | None = None,
    config: Mapping[str, Any] | None = None,
) -> Callable[[Any, Any], dict[str, Any]]:
    """Return a loop `train(run, watch)` that calls a function trainable.

        train = loop_from_trainable(my_trainable, lr="learning_rate", loss="train_loss")
        study = Study(trainer=Loop("my_space:train"), ...)

    Each `tune.report(metrics)` gives the loss to `watch`. The last metrics are those of the run.

    Args:
        trainable: called with `config`, the run's lr and seed, and the options of its arm.
        lr, seed: their keys in the configuration.
        loss: key of the loss in what is reported; several are the tasks of the loop.
        step: key of the step, from 0; None counts reports.
        config: the rest of the configuration.

    Raises:
        ValueError: in training, if the loss is not among the reported metrics.
    """

    def train(run: Any, watch: Any) -> dict[str, Any]:
        import ray.train
        import ray.tune

        last: dict[str, Any] = {}

        def report(metrics: Mapping[str, Any], **_checkpoint: Any) -> None:
            last.update(metrics)
            names = [loss] if isinstance(loss, str) else list(loss)
            if missing := [name for name in [*names, *([step] if step else [])] if name not in metrics]:
                raise ValueError(f"the trainable does not report {missing[0]!r}; it reports {', '.join(metrics)}")
            value = metrics[loss] if isinstance(loss, str) else {name: metrics[name] for name in names}
            watch(value, step=metrics[step] if step else None)

        # The trainable looks `report` up when it calls it, and must not report to the trial that runs this loop.
        with mock.patch.object(ray.tune, "report", report), mock.patch.object(ray.train, "report", report):
            trainable({**(config or {}), **run.options, lr: run.lr, seed: run.seed})
        return last

    return train

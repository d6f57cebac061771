"""The loss of each task: logistic on logits (nats), squared error on standardized targets.

Shape letters: R runs, T tasks, B batch.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from study.data._dataset import Task


def losses(logits_RTB: Tensor, labels_RTB: Tensor, tasks: Sequence[Task]) -> Tensor:
    """Return the loss of every example (R, T, B)."""
    of_spans = []
    for start, stop, kind in _spans(tasks):
        logits, labels = logits_RTB[:, start:stop], labels_RTB[:, start:stop]
        if kind == "binary":
            of_spans.append(functional.binary_cross_entropy_with_logits(logits, labels, reduction="none"))
        else:
            of_spans.append((logits - labels).square())
    return torch.cat(of_spans, 1)


def mean_losses(
    logits_RTB: Tensor, labels_RTB: Tensor, tasks: Sequence[Task], share_RTB: Tensor | None = None
) -> Tensor:
    """Return the mean loss of each task on the batch (R, T): of its labelled rows, if `share_RTB` is given."""
    of_rows = losses(logits_RTB, labels_RTB, tasks)
    return of_rows.mean(2) if share_RTB is None else (of_rows * share_RTB).sum(2)


def labelled(labels_RTB: Tensor) -> tuple[Tensor, Tensor]:
    """Return labels with 0 in place of missing ones, and each row's share of its task's mean loss: 0 if missing."""
    known = ~labels_RTB.isnan()
    count = known.sum(2, keepdim=True).clamp_(min=1)
    return labels_RTB.masked_fill(~known, 0.0), known.to(labels_RTB.dtype) / count


class LossGradient:
    """The gradient of the training loss, the sum of the tasks' mean losses, by the logits."""

    def __init__(self, tasks: Sequence[Task], batch: int, dtype: torch.dtype, device: torch.device) -> None:
        self.binary = [slice(start, stop) for start, stop, kind in _spans(tasks) if kind == "binary"]
        slopes = [1.0 if task.kind == "binary" else 2.0 for task in tasks]
        self.batch = batch
        self.slope_T1 = torch.tensor(slopes, dtype=dtype, device=device).unsqueeze(1) / batch

    def __call__(self, logits_RTB: Tensor, labels_RTB: Tensor, share_RTB: Tensor | None = None) -> Tensor:
        """Return the gradient (R, T, B). Overwrites the logits. Takes `share_RTB` as `mean_losses` does."""
        for span in self.binary:
            logits_RTB[:, span].sigmoid_()
        by_row = logits_RTB.sub_(labels_RTB).mul_(self.slope_T1)
        return by_row if share_RTB is None else by_row.mul_(share_RTB * self.batch)


def _spans(tasks: Sequence[Task]) -> list[tuple[int, int, str]]:
    """Neighbouring tasks of one kind: (start, stop, kind)."""
    spans: list[tuple[int, int, str]] = []
    for t, task in enumerate(tasks):
        if spans and spans[-1][2] == task.kind:
            spans[-1] = (spans[-1][0], t + 1, task.kind)
        else:
            spans.append((t, t + 1, task.kind))
    return spans

"""A small convolutional network on scikit-learn's digits: SGD with momentum, with and without batch normalization."""

import functools

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from study import Arm, Loop, Study, log_grid

CHANNELS = 16
BATCH = 64
STEPS = 200
HELD_OUT = 397


def network(batch_norm: bool) -> nn.Module:
    """Return a network from images (B, 1, 8, 8) to logits of the ten digits."""

    def convolution(inputs: int, outputs: int) -> list[nn.Module]:
        normalized = [nn.BatchNorm2d(outputs)] if batch_norm else []
        return [nn.Conv2d(inputs, outputs, 3, padding=1), *normalized, nn.ReLU()]

    return nn.Sequential(
        *convolution(1, CHANNELS),
        *convolution(CHANNELS, 2 * CHANNELS),
        nn.MaxPool2d(2),
        *convolution(2 * CHANNELS, 2 * CHANNELS),
        nn.Flatten(),
        nn.Linear(2 * CHANNELS * 4 * 4, 10),
    )


@functools.cache
def digits() -> tuple[Tensor, Tensor]:
    """Return images (N, 1, 8, 8) between 0 and 1, and their labels (N,)."""
    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16, torch.tensor(labels)


def train(run, watch, *, batch_norm=False, momentum=0.9):
    images, labels = (part.to(run.device) for part in digits())
    model = network(batch_norm).to(run.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=run.lr, momentum=momentum)
    draws = torch.Generator().manual_seed(run.seed)
    for _ in range(STEPS):
        rows = torch.randint(len(labels) - HELD_OUT, (BATCH,), generator=draws).to(run.device)
        loss = F.cross_entropy(model(images[rows]), labels[rows])
        watch(loss, targets=labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        right = model(images[-HELD_OUT:]).argmax(1) == labels[-HELD_OUT:]
    return {"accuracy": right.float().mean().item()}


study = Study(
    name="digits_cnn",
    trainer=Loop(train, quality="accuracy"),
    arms=(Arm("plain"), Arm("batch_norm", batch_norm=True)),
    lrs=log_grid(0.03, 10, 10),
    seeds=range(8),
)

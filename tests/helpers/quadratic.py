"""A trainer of one screen: plain gradient descent on h w^2 / 2, which diverges at an lr above 2 / h."""

import hashlib

import numpy as np

from study.trainers import protocol
from study.trainers.protocol import TrainedRuns

STEPS = 60


class Trainer(protocol.Trainer):
    def description(self):
        curvature = self.study.trainer_options["curvature"]
        content = hashlib.sha256(f"quadratic {curvature}".encode()).hexdigest()
        return {"source": "quadratic", "content": content, "tasks": [{"name": "w", "kind": "loss", "constant_loss": 1}]}

    def train(self, runs, *, device, folder, on_step, checkpointer):
        curvature = self.study.trainer_options["curvature"]
        loss = np.empty((len(runs), STEPS, 1), np.float32)
        w = np.array([1 + 0.01 * np.random.default_rng(run.seed).standard_normal() for run in runs])
        for step in range(STEPS):
            with np.errstate(over="ignore"):
                loss[:, step, 0] = w**2
                w = w - np.array([run.lr for run in runs]) * curvature * w
            on_step(step)
        return TrainedRuns(loss=loss, baseline=np.ones_like(loss), finite=np.isfinite(w), seconds=0.01)
